//! Headers as they follow each other in a frame.

use bytemuck::{Pod, Zeroable};

use super::{Ethernet, Ipv4, Udp, Vxlan};

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

/// A frame with an IPv4 packet, as far as its fixed header: 34 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct IpFrame {
    /// Link-layer header.
    pub ethernet: Ethernet,
    /// IPv4 header, its fixed part.
    pub ip: Ipv4,
}

/// A packet of the udp backend as far as the inner IPv4 header: the packet between pods is all that
/// the datagram holds.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct UdpFrame {
    /// Outer headers.
    pub outer: Datagram,
    /// Inner IPv4 header, its fixed part.
    pub inner: Ipv4,
}

/// A VXLAN packet as far as the inner IPv4 header.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct VxlanFrame {
    /// Outer headers.
    pub outer: Datagram,
    /// What is between them and the inner packet.
    pub shim: VxlanShim,
    /// Inner IPv4 header, its fixed part.
    pub inner: Ipv4,
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

impl VxlanFrame {
    /// All that stands in front of the inner packet, to be changed.
    #[inline(always)]
    #[must_use]
    pub fn headers_mut(&mut self) -> &mut Headers {
        bytemuck::from_bytes_mut(&mut bytemuck::bytes_of_mut(self)[..Headers::LEN])
    }
}

const _: () = assert!(Headers::LEN == 64 && Headers::OVERHEAD == 50 && Datagram::LEN == 42);
