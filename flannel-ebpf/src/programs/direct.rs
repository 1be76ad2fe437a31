//! Direct peers: those of host-gw, and those of vxlan with `DirectRouting`. The kernel's plain
//! routes carry their packets, with nothing left to save without going around netfilter; these
//! programs only count them, per peer. Every other packet passes after one look-up.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_ebpf::abi::{EgressOutcome, IngressOutcome};
use flannel_ebpf::wire::{Ethernet, Ipv4};

use super::egress::subnet_of;
use crate::count::{self, Size};
use crate::packet::{Packet, Verdict};

#[classifier]
pub(crate) fn direct_egress(context: TcContext) -> i32 {
    let packet = Packet::new(context);
    if let Some(subnet) = header(&packet).and_then(|ip| subnet_of(ip.destination)) {
        let size = Size::of(&packet);
        if count::sent(subnet, size) {
            count::egress(EgressOutcome::Direct, size);
        }
    }
    Verdict::Kernel as i32
}

#[classifier]
pub(crate) fn direct_ingress(context: TcContext) -> i32 {
    let packet = Packet::new(context);
    if let Some(subnet) = header(&packet).and_then(|ip| subnet_of(ip.source)) {
        let size = Size::of(&packet);
        if count::received(subnet, size) {
            count::ingress(IngressOutcome::Direct, size);
        }
    }
    Verdict::Kernel as i32
}

/// The IPv4 header of a frame, if that is what it holds. One outside the linear part is not worth
/// fetching for a count.
#[inline(always)]
fn header(packet: &Packet) -> Option<&Ipv4> {
    if !packet.is_ipv4() {
        return None;
    }
    packet.header(Ethernet::LEN)
}
