//! Headers as they are on the wire.
//!
//! Every field is an octet array in network order, so a header has alignment 1, can be read at any
//! offset of a packet, and its `Debug` and its `bpftool` dump show the octets of an address as a
//! person writes them. Wide loads come from the BPF target's `allows-misaligned-mem-access`.

mod checksum;
mod ethernet;
mod ipv4;
mod udp;
mod vxlan;

use bytemuck::{Pod, Zeroable};

pub use self::checksum::{checksum, fold, sum};
pub use self::ethernet::{Addresses, ETHERTYPE_IPV4, Ethernet};
pub use self::ipv4::{
    Ipv4, MORE_FRAGMENTS, PROTOCOL_ICMP, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP,
};
pub use self::udp::Udp;
pub use self::vxlan::{VXLAN_FLAG_VNI, Vxlan};

/// All that stands in front of the inner IP packet of a VXLAN frame: 64 bytes.
///
/// Every tunnel that the dataplane speaks is a prefix of it: 14 bytes for a plain next hop,
/// 42 for flannel's udp, 64 for vxlan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Headers {
    /// Outer link-layer header.
    pub outer: Ethernet,
    /// Outer IPv4 header, without options.
    pub ip: Ipv4,
    /// Outer UDP header.
    pub udp: Udp,
    /// VXLAN header.
    pub vxlan: Vxlan,
    /// Inner link-layer header.
    pub inner: Ethernet,
}

/// The outer headers of every tunnel: 42 bytes, the first of [`Headers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Datagram {
    /// Link-layer header.
    pub ethernet: Ethernet,
    /// IPv4 header.
    pub ip: Ipv4,
    /// UDP header, if the IPv4 header has no options.
    pub udp: Udp,
}

/// What VXLAN puts between its UDP header and the inner IP packet: 22 bytes, the last of
/// [`Headers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct VxlanShim {
    /// VXLAN header.
    pub vxlan: Vxlan,
    /// Inner link-layer header.
    pub inner: Ethernet,
}

impl Datagram {
    /// Bytes of the headers.
    pub const LEN: usize = size_of::<Self>();
}

impl Headers {
    /// The outer headers.
    #[inline(always)]
    #[must_use]
    pub fn datagram(&self) -> &Datagram {
        bytemuck::from_bytes(&bytemuck::bytes_of(self)[..Datagram::LEN])
    }

    /// The same, to be changed.
    #[inline(always)]
    #[must_use]
    pub fn datagram_mut(&mut self) -> &mut Datagram {
        bytemuck::from_bytes_mut(&mut bytemuck::bytes_of_mut(self)[..Datagram::LEN])
    }

    /// Bytes in front of the inner IP packet.
    pub const LEN: usize = size_of::<Self>();
    /// Bytes by which encapsulation grows a frame: all but the link-layer header it already has.
    pub const OVERHEAD: usize = Self::LEN - Ethernet::LEN;
}

const _: () = assert!(Headers::LEN == 64 && Headers::OVERHEAD == 50 && Datagram::LEN == 42);
