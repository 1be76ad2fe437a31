//! Direct peers: those of host-gw, and those of vxlan with `DirectRouting`. The kernel's plain
//! routes carry their packets, with nothing left to save without going around netfilter: on the
//! standard path these programs only count, per peer, and every other packet passes after one
//! look-up. Packets of flows on the fast path are delivered.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_ebpf::abi::{EgressOutcome, Encap, IngressOutcome};
use flannel_ebpf::wire::{Ethernet, IpFrame, Ipv4};

use super::egress::subnet_of;
use super::{fast, ingress};
use crate::bytes::Bytes as _;
use crate::count::{self, Size};
use crate::maps;
use crate::packet::{Packet, Verdict};

#[classifier]
pub(crate) fn direct_egress(context: TcContext) -> i32 {
    let packet = Packet::new(context);
    if packet.is_counted() {
        return Verdict::Kernel as i32;
    }
    if let Some(ip) = header(&packet)
        && let Some(subnet) = subnet_of(ip.destination)
    {
        let size = Size::of(&packet);
        if count::sent(subnet, size) {
            count::egress(EgressOutcome::Direct, size);
            let _ = admit(&packet, subnet);
        }
    }
    Verdict::Kernel as i32
}

/// Admits the flow of a packet that goes where the fast path would send it. A rule of the host's may
/// have sent it to another router than the peer's.
#[inline(always)]
fn admit(packet: &Packet, subnet: [u8; 4]) -> Option<()> {
    let IpFrame { ethernet, ip } = packet.header(0)?;
    // SAFETY: as in `egress::peer`.
    let peer = unsafe { maps::peers.get(subnet) }?;
    let is_on_way =
        peer.ifindex == packet.ifindex() && ethernet.addresses() == peer.headers.outer.addresses();
    is_on_way.then(|| fast::admit_sent(packet, ip, Ethernet::LEN))?
}

#[classifier]
pub(crate) fn direct_ingress(context: TcContext) -> i32 {
    let mut packet = Packet::new(context);
    let Some(ip) = header(&packet) else {
        return Verdict::Kernel as i32;
    };
    let size = Size::of(&packet);
    if !subnet_of(ip.source).is_some_and(|subnet| count::received(subnet, size)) {
        return Verdict::Kernel as i32;
    }
    if let Some(verdict) = receive(&mut packet, size) {
        return verdict as i32;
    }
    count::ingress(IngressOutcome::Direct, size);
    Verdict::Kernel as i32
}

/// Delivers a packet of an admitted flow; all others go on as they are.
#[inline(always)]
fn receive(packet: &mut Packet, size: Size) -> Option<Verdict> {
    ingress::check_arrival(packet).ok()?;
    let IpFrame { ip, .. } = packet.header(0)?;
    if let Some(entry) = fast::entry(packet, Encap::Direct, ip, Ethernet::LEN, size, None) {
        let verdict = entry.deliver(packet, Encap::Direct, size);
        return Some(verdict.unwrap_or(Verdict::Dropped));
    }
    fast::leave(packet, Encap::Direct, ip, Ethernet::LEN, size, None);
    None
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
