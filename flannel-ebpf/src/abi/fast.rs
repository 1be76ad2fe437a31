//! Values of the maps of the fast path.

use bytemuck::{Pod, Zeroable};

use crate::flow::mix;
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
    /// Slots of the table of flows, a power of two, less one.
    pub mask: u32,
    /// By which flows are spread over the table, so that nobody can choose ports that meet there. It
    /// stays as long as the table.
    pub seed: u64,
}

/// One direction of a conversation between two pods. Key of `candidates`, and in `flows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// Address of the pod that sends.
    pub source: [u8; 4],
    /// Address of the pod that receives.
    pub destination: [u8; 4],
    /// Ports of both, as they follow each other in the header.
    pub ports: [u8; 4],
    /// Number of TCP or UDP, never zero.
    pub protocol: u32,
}

impl FlowKey {
    /// The slots of the table that may hold the flow, in the order in which they are looked through:
    /// all [`WAYS`] of one set, which lie side by side.
    #[inline(always)]
    pub fn slots(&self, table: &FastPath) -> impl Iterator<Item = u32> + use<> {
        let [pods, rest] = self.words();
        set(mix(pods ^ table.seed, rest) & table.mask)
    }

    /// All of it in two words, which a program compares at once.
    #[inline(always)]
    #[must_use]
    pub fn words(&self) -> [u64; 2] {
        bytemuck::cast(*self)
    }
}

/// The slots of a flow whose first one is `first`.
#[inline(always)]
pub fn set(first: u32) -> impl Iterator<Item = u32> {
    (0..WAYS).map(move |way| first ^ way)
}

/// Slots of the table of flows that one flow may be in. With 100 000 flows in the default table one
/// of 400 finds no room.
pub const WAYS: u32 = 8;

/// An admitted flow, in whichever direction: this host has the pod at one of its ends. One slot of
/// the table, and one line of a processor's cache: all that a packet of the flow needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Flow {
    /// Which flow; all zero where there has been none.
    pub key: FlowKey,
    /// End of the admission, on the kernel's coarse monotonic clock, nanoseconds.
    pub expires: u64,
    /// Link-layer addresses that packets of the flow have on the pod's interface.
    pub addresses: Addresses,
    /// What its packets have beside their headers. Received: the underlay address of the peer, which was
    /// in the lease table at the admission, or zero, if it is to be looked up. Sent: the firewall mark
    /// that the host's rules have given them, in the host's byte order.
    pub beside: [u8; 4],
    /// [`FastPath::generation`] at the time of the admission.
    pub generation: u32,
    /// The pod's interface, its end on the host.
    pub ifindex: u32,
    /// Packets to the pod that have been queued behind those of the standard path, since the
    /// admission. It wraps.
    pub queued: u16,
    /// Of these, those that have come out of the queue.
    pub dequeued: u16,
    /// 1: the pod receives. 0: it sends.
    pub is_received: u8,
    /// Type of service of all its packets, without the bits of ECN: routes may go by it.
    pub service: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Odd while all that is above is being written.
    pub version: u32,
    /// Held by whoever writes.
    pub lock: bpf_spin_lock,
}

/// The kernel's spin lock, which the verifier knows by the name of its type (Linux 5.1). Only the
/// kernel's helpers touch it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct bpf_spin_lock {
    val: u32,
}

/// A packet on its way through routing and netfilter, by which its flow may be admitted at the end
/// of that way if it comes out as it went in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Candidate {
    /// When it was noted, on the kernel's coarse monotonic clock, nanoseconds; zero once it has come
    /// out of the standard path.
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
    /// [`Flow::beside`] of a packet that comes from a peer.
    pub remote: [u8; 4],
    /// The interface by which a packet that comes from a peer enters the stack: the tunnel device or, of
    /// a direct peer, the external one. Zero for a packet that a pod sends.
    pub via: u32,
}

impl Candidate {
    /// Whether it has come out of the standard path.
    #[inline(always)]
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.noted == 0
    }
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

const _: () = assert!(size_of::<FastPath>() == 24 && size_of::<FlowKey>() == 16);
const _: () = assert!(size_of::<Flow>() == 64 && size_of::<Candidate>() == 64);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn flow(number: u32) -> FlowKey {
        FlowKey {
            source: [10, 5, 1, 2],
            destination: [10, 5, 2, 2],
            ports: number.to_be_bytes(),
            protocol: 17,
        }
    }

    fn table(slots: u32, seed: u64) -> FastPath {
        FastPath {
            mask: slots - 1,
            seed,
            ..FastPath::default()
        }
    }

    #[test]
    fn a_set_is_eight_slots_side_by_side() {
        for number in 0..1_000 {
            let mut slots: Vec<_> = flow(number).slots(&table(256, 5)).collect();
            slots.sort_unstable();
            let expected: Vec<_> = (slots[0]..slots[0] + WAYS).collect();
            assert_eq!(slots, expected);
            assert!(slots[0].is_multiple_of(WAYS) && slots[7] < 256);
        }
    }

    #[test]
    fn nearly_all_of_a_hundred_thousand_flows_find_room() {
        for seed in [0, 1, u64::MAX] {
            let mut table_of = vec![false; 262_144];
            let without = (0..100_000).filter(|&number| {
                let mut slots = flow(number).slots(&table(262_144, seed));
                let free = slots.find(|&slot| !table_of[slot as usize]);
                if let Some(slot) = free {
                    table_of[slot as usize] = true;
                }
                free.is_none()
            });
            // Chance alone leaves out 270.
            let without = without.count();
            assert!(without < 400, "{without} with seed {seed}");
        }
    }

    #[test]
    fn another_seed_spreads_flows_in_another_way() {
        let first = |number, seed| flow(number).slots(&table(4_096, seed)).next();
        let met: Vec<_> = (0..4_096)
            .filter(|&it| first(it, 1) == first(0, 1))
            .collect();
        let still = met.iter().filter(|&&it| first(it, 2) == first(0, 2));
        assert!(still.count() <= 2, "{met:?}");
    }
}
