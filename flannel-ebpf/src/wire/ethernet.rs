//! Ethernet header (IEEE 802.3), without VLAN tag: the kernel keeps tags in packet metadata.

use bytemuck::{Pod, Zeroable};

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// Ethernet header, 14 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ethernet {
    /// Receiver's link-layer address.
    pub destination: [u8; 6],
    /// Sender's link-layer address.
    pub source: [u8; 6],
    /// Protocol of the payload.
    pub ethertype: [u8; 2],
}

impl Ethernet {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Self>();

    /// Both addresses.
    #[inline(always)]
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        bytemuck::pod_read_unaligned(&bytemuck::bytes_of(self)[..Addresses::LEN])
    }

    /// Overwrites both.
    #[inline(always)]
    pub fn set_addresses(&mut self, addresses: Addresses) {
        bytemuck::bytes_of_mut(self)[..Addresses::LEN]
            .copy_from_slice(bytemuck::bytes_of(&addresses));
    }
}

/// The addresses of an Ethernet header as they follow each other there: receiver first, twelve octets
/// in three words. A BPF program may have such on its stack, where the verifier wants every access
/// aligned, and copies words, not octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Addresses([u32; 3]);

impl Addresses {
    /// Bytes of both.
    const LEN: usize = size_of::<Self>();
    /// All zero.
    pub const NONE: Self = Self([0; 3]);

    /// Of a frame between these.
    #[inline(always)]
    #[must_use]
    pub const fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = destination;
        let [g, h, i, j, k, l] = source;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
        ])
    }

    /// Receiver's link-layer address.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> [u8; 6] {
        let [[a, b, c, d], [e, f, ..], _] = self.octets();
        [a, b, c, d, e, f]
    }

    /// Sender's link-layer address.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> [u8; 6] {
        let [_, [.., a, b], [c, d, e, f]] = self.octets();
        [a, b, c, d, e, f]
    }

    #[inline(always)]
    const fn octets(self) -> [[u8; 4]; 3] {
        let Self([first, second, third]) = self;
        [
            first.to_ne_bytes(),
            second.to_ne_bytes(),
            third.to_ne_bytes(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stand_as_in_a_frame() {
        let frame: [u8; 14] = core::array::from_fn(|place| place as u8);
        let header: Ethernet = bytemuck::cast(frame);
        let addresses = header.addresses();
        assert_eq!(bytemuck::bytes_of(&addresses), &frame[..12]);
        assert_eq!(addresses.destination(), header.destination);
        assert_eq!(addresses.source(), header.source);
    }
}
