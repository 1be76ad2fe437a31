//! The fast path: packets of admitted flows go from the pod's interface straight to the external
//! one, and from there straight into the pod, around routing and netfilter.
//!
//! ```text
//! from_pod ──▶ candidate ──▶ routing, netfilter ──▶ admit_sent ──▶ flow
//!     └── flow admitted ───────────────────────────▶ external interface
//!
//! *_decap ───▶ candidate ──▶ routing, netfilter ──▶ to_pod ──▶ flow
//!     └── flow admitted ───────────────────────────▶ pod
//! ```
//!
//! The rules in force are asked by sending packets past them: a flow is admitted when one of its
//! packets has come out of the standard path as it went in, for a bounded time. Then the next one
//! takes the standard path and renews the admission, or does not.
//!
//! *Order.* What a pod sends takes either way within one call, so nothing can overtake. A received
//! packet waits in the processor's backlog once or twice on the standard path (`enter` has where),
//! and a later one that went straight into the pod would be there before it. So the first packets
//! after an admission go through the same backlog as often, behind all others of their flow, until
//! the last of them has come out; see `enter`.
//!
//! | file | what |
//! |---|---|
//! | `admit` | who may be admitted, and the proof |
//! | `leave` | `from_pod`: what the pod sends |
//! | `enter` | what the pod receives |

mod admit;
mod enter;
mod leave;

use flannel_ebpf::abi::{FastPath, FlowKey};
use flannel_ebpf::fast::{TCP_FLAGS, Transport, flow_of};
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Ipv4};

pub(super) use self::admit::admit_sent;
pub(super) use self::enter::{entry, leave, leave_for_mark};
use crate::bytes::Bytes as _;
use crate::maps;
use crate::packet::{Packet, now};
use crate::table::Admission;

/// Link-layer, IPv4 and the start of the transport header.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Frame {
    ethernet: Ethernet,
    ip: Ipv4,
    transport: Transport,
}

impl Frame {
    /// Where the transport header starts, bytes.
    const TRANSPORT: usize = Ethernet::LEN + Ipv4::LEN;

    /// The headers of a frame on a pod's interface, if it holds IPv4.
    #[inline(always)]
    fn of(packet: &Packet) -> Option<&Self> {
        let frame: &Self = packet.header(0)?;
        (frame.ethernet.ethertype == ETHERTYPE_IPV4 && !packet.has_vlan_tag()).then_some(frame)
    }
}

/// How flows are spread over the table, and whether any may be on the fast path.
#[inline(always)]
fn table() -> Option<&'static FastPath> {
    maps::fast_path.get(0)
}

/// The same, if flows may be.
#[inline(always)]
fn settings() -> Option<&'static FastPath> {
    table().filter(|fast| fast.bound != 0)
}

/// Whether any flow may be on the fast path.
#[inline(always)]
pub(super) fn is_on() -> bool {
    settings().is_some()
}

/// The flow of a packet of which `len` bytes, from its IPv4 header on, are there; `offset` is where
/// its transport header starts.
#[inline(always)]
fn key(
    packet: &Packet,
    ip: &Ipv4,
    len: u32,
    transport: &Transport,
    offset: usize,
) -> Option<FlowKey> {
    flow_of(ip, len, transport, || {
        packet
            .header(offset + TCP_FLAGS)
            .copied()
            .or_else(|| packet.load(offset + TCP_FLAGS))
    })
}

/// Whether an admission lasts.
#[inline(always)]
fn lasts(settings: &FastPath, flow: &Admission) -> bool {
    flow.generation == settings.generation && flow.expires > now()
}
