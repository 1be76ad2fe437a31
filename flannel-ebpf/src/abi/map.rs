//! Values of the maps. Keys are IPv4 addresses as four octets.

use bytemuck::{Pod, Zeroable};

use crate::wire::{Headers, Vxlan, sum};

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
    /// Zero.
    pub reserved: u32,
}

/// How to reach a peer. Key: the address of its subnet.
///
/// The agent writes it whole when lease, route or neighbour change; nothing in the packet's way
/// learns or expires.
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
    /// Zero.
    pub reserved: u32,
}

impl Peer {
    /// A peer with the sum that belongs to its headers.
    #[must_use]
    pub fn new(headers: Headers, mtu: u32, ifindex: u32) -> Self {
        let ip_sum = sum(bytemuck::bytes_of(&headers.ip));
        Self {
            headers,
            ip_sum,
            mtu,
            ifindex,
            reserved: 0,
        }
    }
}

/// A node that may send to us. Key: its underlay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Remote {
    /// Address of its subnet.
    pub subnet: [u8; 4],
    /// Length of its subnet's prefix, bits.
    pub prefix_len: u32,
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
}

const _: () = assert!(size_of::<Config>() == 32 && size_of::<Peer>() == 80);
const _: () = assert!(size_of::<Remote>() == 8);
