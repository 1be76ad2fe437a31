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
    pub const fn addresses(&self) -> Addresses {
        Addresses::new(self.destination, self.source)
    }

    /// Overwrites both.
    #[inline(always)]
    pub const fn set_addresses(&mut self, addresses: Addresses) {
        self.destination = addresses.destination();
        self.source = addresses.source();
    }
}

/// The addresses of an Ethernet header, off the wire: receiver first, each in the first six octets of
/// a word. A BPF program may have such on its stack, where the verifier wants every access aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Addresses([u64; 2]);

impl Addresses {
    /// Of a frame between these.
    #[inline(always)]
    #[must_use]
    pub const fn new(destination: [u8; 6], source: [u8; 6]) -> Self {
        Self([word(destination), word(source)])
    }

    /// Receiver's link-layer address.
    #[inline(always)]
    #[must_use]
    pub const fn destination(self) -> [u8; 6] {
        octets(self.0[0])
    }

    /// Sender's link-layer address.
    #[inline(always)]
    #[must_use]
    pub const fn source(self) -> [u8; 6] {
        octets(self.0[1])
    }
}

#[inline(always)]
const fn word([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

#[inline(always)]
const fn octets(word: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = word.to_ne_bytes();
    [a, b, c, d, e, f]
}
