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

    /// Both addresses, as they stand at the start of the header.
    #[inline(always)]
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        Addresses([self.destination, self.source])
    }
}

/// The first 12 bytes of an Ethernet header, receiver first. Aligned, so that a copy on the stack
/// of a BPF program is one that the verifier accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(4))]
#[derive(bytemuck::Pod, bytemuck::Zeroable)]
pub struct Addresses(pub [[u8; 6]; 2]);
