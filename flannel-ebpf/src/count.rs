//! Counting: one addition to the packets and one to the bytes of an outcome.

use flannel_ebpf::abi::{EgressOutcome, IngressOutcome};

use crate::maps;
use crate::packet::Packet;

/// Counts a packet on its way to a peer.
#[inline(always)]
pub(crate) fn egress(outcome: EgressOutcome, size: Size) {
    if let Some(counters) = maps::egress.get_ptr_mut(0) {
        add(counters.cast(), outcome as usize, size);
    }
}

/// Counts a packet that came from a peer.
#[inline(always)]
pub(crate) fn ingress(outcome: IngressOutcome, size: Size) {
    if let Some(counters) = maps::ingress.get_ptr_mut(0) {
        add(counters.cast(), outcome as usize, size);
    }
}

/// What a packet adds to its counter. Taken before the packet is changed.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    packets: u64,
    bytes: u64,
}

impl Size {
    /// Size of a packet: its segments, and the bytes of the frame.
    #[inline(always)]
    pub(crate) fn of(packet: &Packet) -> Self {
        Self {
            packets: u64::from(packet.segments()),
            bytes: u64::from(packet.len()),
        }
    }
}

#[inline(always)]
fn add(counters: *mut flannel_ebpf::abi::Counter, index: usize, size: Size) {
    // SAFETY: the value is an array of counters in the order of the outcomes (asserted in
    // `abi::counter`), and `index` is one of them.
    let counter = unsafe { counters.add(index) };
    // SAFETY: in bounds, and nobody else writes this CPU's copy: programs of one hook and direction
    // do not preempt each other.
    let counter = unsafe { &mut *counter };
    counter.packets += size.packets;
    counter.bytes += size.bytes;
}
