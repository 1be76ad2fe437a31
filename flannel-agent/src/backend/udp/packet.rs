//! IPv4 packets as the proxy looks at them: one hop less, and which flow they are of.

use flannel_ebpf::wire::{Ipv4, PROTOCOL_TCP, PROTOCOL_UDP};

use super::checksum::{self, fold, sum};

/// Longest IPv4 header, bytes.
pub(super) const MAX_IP_HEADER: usize = 60;
/// Longest TCP header, bytes.
pub(super) const MAX_TCP_HEADER: usize = 60;

/// Why a packet does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reject {
    /// Less than an IPv4 header.
    TooShort,
    /// Another version of IP.
    NotIpv4,
    /// This was its last hop. Like stock flannel, the proxy says so to nobody.
    Ttl,
    /// Headers contradict each other.
    Malformed,
}

/// Header and header length of an IPv4 packet.
///
/// Nothing else is checked: what is between two stacks is theirs to judge.
pub(super) fn ipv4(packet: &[u8]) -> Result<(&Ipv4, usize), Reject> {
    let Some(header) = packet.first_chunk::<{ Ipv4::LEN }>() else {
        return Err(Reject::TooShort);
    };
    let header: &Ipv4 = bytemuck::cast_ref(header);
    if header.version_ihl >> 4 != 4 {
        return Err(Reject::NotIpv4);
    }
    let length = usize::from(header.version_ihl & 0xf) * 4;
    if length < Ipv4::LEN || length > packet.len() {
        return Err(Reject::Malformed);
    }
    Ok((header, length))
}

/// Whether the octets are one IPv4 packet and nothing else, by its length.
pub(super) fn is_whole(octets: &[u8]) -> bool {
    ipv4(octets).is_ok_and(|(ip, _)| usize::from(u16::from_be_bytes(ip.total_len)) == octets.len())
}

/// Takes one from the hop count and brings the header's checksum along (RFC 1624, equation 3). A
/// checksum that was wrong stays wrong.
pub(super) fn hop(packet: &mut [u8]) -> Result<(), Reject> {
    ipv4(packet)?;
    let Some(header) = packet.first_chunk_mut::<{ Ipv4::LEN }>() else {
        return Err(Reject::TooShort);
    };
    let header: &mut Ipv4 = bytemuck::cast_mut(header);
    // 0 is no number of hops, either; stock flannel takes it for 256.
    let ttl = header.ttl.saturating_sub(1);
    if ttl == 0 {
        return Err(Reject::Ttl);
    }
    let word = |ttl| u16::from_ne_bytes([ttl, header.protocol]);
    let old = !u16::from_ne_bytes(header.checksum);
    let sum = u64::from(old) + u64::from(!word(header.ttl)) + u64::from(word(ttl));
    header.checksum = checksum::checksum(sum);
    header.ttl = ttl;
    Ok(())
}

/// Writes the header's checksum anew; `header` is all of it.
pub(super) fn write_ip_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let value = checksum::checksum(sum(header));
    header[10..12].copy_from_slice(&value);
}

/// Whether the checksum of a TCP or UDP packet is right; `rest` is all behind the IP header.
pub(super) fn is_intact(ip: &Ipv4, rest: &[u8]) -> bool {
    let Ok(length) = u16::try_from(rest.len()) else {
        return false;
    };
    let pseudo = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, length);
    fold(pseudo + sum(rest)) == 0xffff
}

/// What belongs together and stays in order: addresses, protocol and ports. Ports are zero where a
/// packet has none, or hides them as a fragment does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) addresses: [[u8; 4]; 2],
    pub(super) protocol: u8,
    pub(super) ports: [u8; 4],
}

impl Flow {
    /// The flow of a packet; `rest` is all behind the IP header.
    pub(super) fn of(ip: &Ipv4, rest: &[u8]) -> Self {
        let has_ports = matches!(ip.protocol, PROTOCOL_TCP | PROTOCOL_UDP) && !ip.is_fragment();
        let ports = rest.first_chunk().filter(|_| has_ports);
        Self {
            addresses: [ip.source, ip.destination],
            protocol: ip.protocol,
            ports: ports.copied().unwrap_or_default(),
        }
    }

    /// Whether packets of the two may not overtake each other. A packet without ports may be of
    /// any flow between its addresses.
    pub(super) fn is_related(&self, other: &Self) -> bool {
        let is_vague = |flow: &Self| flow.ports == [0; 4];
        self == other || self.addresses == other.addresses && (is_vague(self) || is_vague(other))
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::tests::oracle;
    use super::*;

    fn packet(ttl: u8, words: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 20, 0, 1, 0, 0, ttl, 17, 0, 0];
        packet.extend(words);
        packet.extend([10, 5, 2, 3]);
        write_ip_checksum(&mut packet);
        packet
    }

    #[test]
    fn a_hop_less_keeps_the_checksum_right() {
        for ttl in 2..=255 {
            // Addresses that make the checksum run through its whole range.
            for high in 0..=255 {
                let mut packet = packet(ttl, [high, 0xfe, ttl, high.wrapping_mul(3)]);
                hop(&mut packet).unwrap();
                assert_eq!(packet[8], ttl - 1);
                assert_eq!(oracle(&packet), 0, "{packet:x?}");
            }
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut packet = packet(64, [10, 5, 1, 2]);
        packet[11] ^= 0x40;
        hop(&mut packet).unwrap();
        assert_ne!(oracle(&packet), 0);
    }

    #[test]
    fn what_cannot_go_on_is_rejected_by_reason() {
        for (packet, reason) in [
            (vec![], Reject::TooShort),
            (packet(64, [10, 5, 1, 2])[..19].to_vec(), Reject::TooShort),
            (packet(1, [10, 5, 1, 2]), Reject::Ttl),
            (packet(0, [10, 5, 1, 2]), Reject::Ttl),
            (vec![0x60; 40], Reject::NotIpv4),
            (vec![0x44; 40], Reject::Malformed),
            (vec![0x46; 20], Reject::Malformed),
        ] {
            let mut changed = packet.clone();
            assert_eq!(hop(&mut changed), Err(reason));
            assert_eq!(changed, packet, "a packet that is rejected is not changed");
        }
    }

    #[test]
    fn fragments_are_related_to_every_flow_of_their_addresses() {
        let mut bytes = packet(64, [10, 5, 1, 2]);
        let flow = |bytes: &[u8], ports: [u8; 4]| Flow::of(ipv4(bytes).unwrap().0, &ports);
        let (first, second) = (flow(&bytes, [1, 2, 3, 4]), flow(&bytes, [1, 2, 3, 5]));
        bytes[6] = 0x20;
        let fragment = flow(&bytes, [1, 2, 3, 4]);
        assert_eq!(fragment.ports, [0; 4]);
        assert!(!first.is_related(&second));
        assert!(fragment.is_related(&first) && second.is_related(&fragment));
        bytes[12] = 11;
        assert!(!fragment.is_related(&flow(&bytes, [1, 2, 3, 4])));
    }
}
