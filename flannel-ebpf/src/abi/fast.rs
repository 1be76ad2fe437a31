//! Values of the maps of the fast path.

use bytemuck::{Pod, Zeroable};

use crate::wire::{Addresses, Ipv4};

/// The only entry of `fast_path`: whether flows may leave the standard path, and for how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct FastPath {
    /// How long an admission lasts, nanoseconds. Zero: no flow is on the fast path.
    pub bound: u64,
    /// Admissions of an earlier generation are over. The agent counts it up whenever something that
    /// a packet's way depends on has changed.
    pub generation: u32,
    /// Zero.
    pub reserved: u32,
}

/// One direction of a conversation between two pods. Key of `flows` and of `candidates`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// Address of the pod that sends.
    pub source: [u8; 4],
    /// Address of the pod that receives.
    pub destination: [u8; 4],
    /// Ports of both, as they follow each other in the header.
    pub ports: [u8; 4],
    /// Number of TCP or UDP.
    pub protocol: u32,
}

/// An admitted flow, in whichever direction: this host has the pod at one of its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Flow {
    /// End of the admission, on the kernel's coarse monotonic clock, nanoseconds.
    pub expires: u64,
    /// Packets to the pod that have been queued behind those of the standard path, since the
    /// admission.
    pub queued: u64,
    /// Of these, those that have come out of the queue.
    pub dequeued: u64,
    /// [`FastPath::generation`] at the time of the admission.
    pub generation: u32,
    /// The pod's interface, its end on the host.
    pub ifindex: u32,
    /// Link-layer addresses that packets of the flow have on that interface.
    pub addresses: Addresses,
    /// 1: the pod receives. 0: it sends.
    pub is_received: u32,
    /// Zero.
    pub reserved: u32,
}

/// A packet on its way through routing and netfilter, by which its flow may be admitted at the end
/// of that way if it comes out as it went in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Candidate {
    /// When it was noted, on the kernel's coarse monotonic clock, nanoseconds.
    pub noted: u64,
    /// Its IPv4 header, as it will be at the end but for the hop of the host itself.
    pub ip: Ipv4,
    /// Octets 4 to 7 of the transport header: TCP's sequence number, UDP's length and checksum.
    pub transport: [u8; 4],
    /// Link-layer addresses on the pod's interface; zero for a packet that comes from a peer.
    pub addresses: Addresses,
    /// The pod's interface; zero for a packet that comes from a peer.
    pub ifindex: u32,
    /// 1: the flow's first packet, by which nothing is admitted.
    pub is_first: u32,
    /// 1: an aggregate.
    pub is_aggregate: u32,
    /// Zero.
    pub reserved: u32,
}

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya's own Pod trait cannot be derived")]

    // SAFETY: `repr(C)` without padding, valid for any bytes: both checked by bytemuck's derive.
    unsafe impl aya::Pod for super::FastPath {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Candidate {}
}

const _: () = assert!(size_of::<FastPath>() == 16 && size_of::<FlowKey>() == 16);
const _: () = assert!(size_of::<Flow>() == 56 && size_of::<Candidate>() == 64);
