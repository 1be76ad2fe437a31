//! Values of the maps. Keys are IPv4 addresses as four octets.

use bytemuck::{Pod, Zeroable};

use super::Counter;
use crate::wire::{Ethernet, Headers, Ipv4, Udp, Vxlan, sum};

/// The only entry of `config`: what the programs know of their own node.
///
/// Written by the agent. The ingress program uses each field as a filter, so a packet that meets
/// a half-written entry is left to the kernel, never delivered wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Config {
    /// The VXLAN header of every packet that we take.
    pub vxlan: Vxlan,
    /// Mask of the network's subnets: a destination and this mask is the key of `peers`.
    pub subnet_mask: [u8; 4],
    /// Address on the external interface; the outer destination of packets for us.
    pub local_ip: [u8; 4],
    /// Link-layer address of the tunnel device.
    pub vtep_mac: [u8; 6],
    /// UDP port of the tunnel, network order. Zero takes no packet at all.
    pub udp_port: [u8; 2],
    /// Index of the tunnel device, which decapsulated packets enter.
    pub device_ifindex: u32,
    /// Link-layer address of the external interface.
    pub external_mac: [u8; 6],
    /// Zero.
    pub reserved: [u8; 6],
}

/// How to reach a peer. Key: the address of its subnet.
///
/// The agent writes it whole when lease, route or neighbour change; nothing in the packet's way
/// learns or expires, but for one word of [`Remote`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Peer {
    /// Headers for every packet to this peer; zero where [`encap::complete`] fills in.
    ///
    /// [`encap::complete`]: crate::encap::complete
    pub headers: Headers,
    /// Sum of the 16-bit words of `headers.ip`, see [`sum`].
    pub ip_sum: u32,
    /// Largest inner packet, bytes. Zero: leave this peer to the kernel path.
    pub mtu: u32,
    /// Index of the interface towards the peer.
    pub ifindex: u32,
    /// How its packets travel: the number of an [`Encap`]. A program for another kind leaves them
    /// to the kernel path.
    pub encap: u32,
    /// 1: packets are left to the kernel path while the peer is no kin, see [`Remote::is_kin`]. 0:
    /// they need not be, since the interface towards it completes their checksums.
    pub needs_kin: u32,
    /// Zero.
    pub reserved: u32,
}

impl Peer {
    /// A peer with the sum that belongs to its headers. Of `headers`, only as much as `encap` says
    /// is ever used; the rest should be zero.
    #[must_use]
    pub fn new(headers: Headers, encap: Encap, mtu: u32, ifindex: u32) -> Self {
        let ip_sum = sum(bytemuck::bytes_of(&headers.ip));
        Self {
            headers,
            ip_sum,
            mtu,
            ifindex,
            encap: encap as u32,
            needs_kin: 0,
            reserved: 0,
        }
    }
}

/// How packets travel to a peer. The number is the length of what stands in front of the packet
/// between pods, in bytes, and so a prefix of [`Headers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Encap {
    /// As they are, to the peer as next hop: host-gw, and vxlan with `DirectRouting`.
    Direct = Ethernet::LEN as u32,
    /// In UDP: flannel's udp backend.
    Udp = (Ethernet::LEN + Ipv4::LEN + Udp::LEN) as u32,
    /// In VXLAN.
    Vxlan = Headers::LEN as u32,
}

impl Encap {
    /// Bytes in front of the packet between pods.
    #[inline(always)]
    #[must_use]
    pub const fn headers_len(self) -> usize {
        self as usize
    }

    /// Bytes by which it makes an IP packet longer: all but the outer link-layer header.
    #[inline(always)]
    #[must_use]
    pub const fn overhead(self) -> usize {
        self.headers_len() - Ethernet::LEN
    }
}

/// The note that an XDP program leaves beside a frame whose tunnel headers it has taken off, in the
/// frame's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Stripped {
    /// By which it is told from the notes of others.
    pub magic: [u8; 4],
    /// Which headers: the number of an [`Encap`], in any byte order.
    pub encap: [u8; 4],
}

impl Stripped {
    /// The note for one kind of tunnel.
    #[inline(always)]
    #[must_use]
    pub const fn new(encap: Encap) -> Self {
        Self {
            magic: *b"fl\xf1\x01",
            encap: (encap as u32).to_ne_bytes(),
        }
    }
}

/// What went straight to a direct peer and came from it. Key: the address of its subnet.
///
/// One value per CPU. The agent makes and removes the entries; programs only add to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Traffic {
    /// Packets to the subnet that left by the external interface.
    pub sent: Counter,
    /// Packets from the subnet that came by the external interface.
    pub received: Counter,
}

/// A node that may send to us. Key: its underlay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Remote {
    /// Address of its subnet.
    pub subnet: [u8; 4],
    /// Length of its subnet's prefix, bits.
    pub prefix_len: u32,
    /// 1 if its last datagram of the udp backend had no UDP checksum, which is how nodes with these
    /// programs know each other: the socket of stock flannel always fills one in. The program that
    /// receives writes it; the agent only ever sets it to 0.
    pub is_kin: u32,
}

impl Remote {
    /// A node of which nothing has been received.
    #[must_use]
    pub const fn new(subnet: [u8; 4], prefix_len: u32) -> Self {
        Self {
            subnet,
            prefix_len,
            is_kin: 0,
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya's own Pod trait cannot be derived")]

    // SAFETY: `repr(C)` without padding, valid for any bytes: both checked by bytemuck's derive.
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Peer {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Remote {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Traffic {}
}

const _: () = assert!(size_of::<Config>() == 40 && size_of::<Peer>() == 88);
const _: () = assert!(size_of::<Remote>() == 12 && size_of::<Traffic>() == 32);
const _: () = assert!(Encap::Direct as u32 == 14 && Encap::Udp as u32 == 42);
const _: () = assert!(Encap::Vxlan as u32 == 64);
