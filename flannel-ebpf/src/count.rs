//! Counting: one addition to the packets and one to the bytes of an outcome.

use flannel_ebpf::abi::{Counter, EgressOutcome, FastOutcome, IngressOutcome, Traffic};

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

/// Counts a packet between pods by what the fast path has made of it.
#[inline(always)]
pub(crate) fn fast(outcome: FastOutcome, size: Size) {
    if let Some(counters) = maps::fast.get_ptr_mut(0) {
        add(counters.cast(), outcome as usize, size);
    }
}

/// Counts a packet to a direct peer, and says whether that subnet is one's.
#[inline(always)]
pub(crate) fn sent(subnet: [u8; 4], size: Size) -> bool {
    traffic(subnet, core::mem::offset_of!(Traffic, sent), size)
}

/// Counts a packet from a direct peer, and says whether that subnet is one's.
#[inline(always)]
pub(crate) fn received(subnet: [u8; 4], size: Size) -> bool {
    traffic(subnet, core::mem::offset_of!(Traffic, received), size)
}

#[inline(always)]
fn traffic(subnet: [u8; 4], field: usize, size: Size) -> bool {
    let Some(traffic) = maps::traffic.get_ptr_mut(subnet) else {
        return false;
    };
    add(traffic.cast(), field / size_of::<Counter>(), size);
    true
}

/// What a packet adds to its counter. Taken before the packet is changed.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Length of the frame, bytes.
    pub(crate) len: u32,
    /// Payload bytes of each segment of an aggregate; zero for a single packet.
    pub(crate) gso_size: u32,
    /// Packets that it is on the wire.
    segments: u32,
}

impl Size {
    /// Size of a packet.
    #[inline(always)]
    pub(crate) fn of(packet: &Packet) -> Self {
        let len = packet.len();
        let gso_size = packet.gso_size();
        let segments = match gso_size {
            0 => 1,
            _ => packet.segments(len, gso_size),
        };
        Self {
            len,
            gso_size,
            segments,
        }
    }

    /// Of a packet that is counted once, however many segments it has.
    #[inline(always)]
    pub(crate) fn once(self) -> Self {
        Self {
            segments: 1,
            ..self
        }
    }

    /// Whether it is many packets in one.
    #[inline(always)]
    pub(crate) fn is_aggregate(self) -> bool {
        self.gso_size != 0
    }
}

#[inline(always)]
fn add(counters: *mut Counter, index: usize, size: Size) {
    // SAFETY: the value is an array of counters, in the order of the outcomes (asserted in
    // `abi::counter`) or of the fields of `Traffic`, and `index` is one of them.
    let counter = unsafe { counters.add(index) };
    // SAFETY: in bounds, and nobody else writes this CPU's copy: programs of one hook and direction
    // do not preempt each other.
    let counter = unsafe { &mut *counter };
    counter.packets += u64::from(size.segments);
    counter.bytes += u64::from(size.len);
}
