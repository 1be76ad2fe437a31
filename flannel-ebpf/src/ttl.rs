//! Hops that the dataplane counts in place of somebody else: flannel's udp proxy takes one off at
//! each end of its tunnel.

use crate::wire::Ipv4;

/// What a hop changes in an IPv4 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Hops left.
    pub ttl: u8,
    /// Header checksum.
    pub checksum: [u8; 2],
}

impl Hop {
    /// Writes it into its header.
    #[inline(always)]
    pub const fn write(self, ip: &mut Ipv4) {
        ip.ttl = self.ttl;
        ip.checksum = self.checksum;
    }

    /// That of a header.
    #[inline(always)]
    #[must_use]
    pub const fn of(ip: &Ipv4) -> Self {
        Self {
            ttl: ip.ttl,
            checksum: ip.checksum,
        }
    }

    /// What it becomes by one more hop; `None` where the packet ends here, or says that it already
    /// has.
    ///
    /// Of the two zeros of one's complement arithmetic the checksum takes the one that the kernel's
    /// `ip_decrease_ttl` and flannel's proxy take (RFC 1624, equation 3, in their short form).
    #[inline(always)]
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        if self.ttl <= 1 {
            return None;
        }
        // One hop less in the high octet of its word is one more there in the checksum.
        let sum = u16::from_ne_bytes(self.checksum) as u32 + u16::from_ne_bytes([1, 0]) as u32;
        let sum = (sum + (sum >= 0xffff) as u32) as u16;
        Some(Self {
            ttl: self.ttl - 1,
            checksum: sum.to_ne_bytes(),
        })
    }
}

/// [`Hop::next`] of a header.
#[inline(always)]
#[must_use]
pub const fn next_hop(ip: &Ipv4) -> Option<Hop> {
    Hop::of(ip).next()
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;
    use crate::wire::{checksum, fold, sum};

    /// A header with the given identification, its checksum right.
    fn header(ttl: u8, id: u16) -> Ipv4 {
        let mut ip = Ipv4 {
            version_ihl: Ipv4::VERSION_IHL,
            id: id.to_be_bytes(),
            ttl,
            protocol: 6,
            source: [10, 5, 1, 2],
            destination: [10, 5, 2, 2],
            ..Ipv4::zeroed()
        };
        ip.checksum = checksum(sum(bytemuck::bytes_of(&ip)));
        ip
    }

    #[test]
    fn the_checksum_stays_right_whatever_it_is() {
        for id in 0..=u16::MAX {
            let mut ip = header(64, id);
            next_hop(&ip).unwrap().write(&mut ip);
            assert_eq!((ip.ttl, ip.protocol), (63, 6));
            assert_eq!(fold(sum(bytemuck::bytes_of(&ip))), 0xffff, "id {id}");
        }
    }

    #[test]
    fn a_checksum_of_all_ones_never_comes_out() {
        // Every checksum, right or wrong, against the textbook's sum of three terms, which has
        // another zero for one of them.
        for old in 0..=u16::MAX {
            let mut ip = header(9, 0);
            ip.checksum = old.to_be_bytes();
            let new = u16::from_be_bytes(next_hop(&ip).unwrap().checksum);
            let sum = u32::from(!old) + u32::from(!0x0906_u16) + 0x0806;
            let folded = (sum & 0xffff) + (sum >> 16);
            let textbook = !(((folded & 0xffff) + (folded >> 16)) as u16);
            assert!(
                new == textbook || (new, textbook) == (0, 0xffff),
                "{old:#x}"
            );
            assert_ne!(new, 0xffff, "{old:#x}");
        }
    }

    #[test]
    fn the_last_hop_is_somebody_elses() {
        assert_eq!(next_hop(&header(1, 0)), None);
        assert_eq!(next_hop(&header(0, 0)), None);
        assert_eq!(next_hop(&header(2, 0)).unwrap().ttl, 1);
    }
}
