//! What a pod receives.

use flannel_ebpf::abi::{Encap, FastOutcome};
use flannel_ebpf::fast::Transport;
use flannel_ebpf::ttl::Hop;
use flannel_ebpf::wire::{Addresses, Ethernet, Ipv4};

use super::admit::{Start, note};
use super::{admitted, key, settings};
use crate::count::{self, Size};
use crate::maps::{self, Admission};
use crate::packet::{Packet, Side, Verdict};

/// What [`deliver`] is to do with a received packet.
///
/// The standard path of a packet from the tunnel goes through the processor's backlog twice: into
/// the tunnel device, and through the pod's veth. That of a direct peer's packet goes through the
/// second one only. A packet that goes from the external interface straight into the pod overtakes
/// those that wait there. Therefore packets are queued as often after an admission: into the host's
/// end of the pod's veth, where `from_pod` finds them. The backlog is first in, first out, so these
/// come behind all of the standard path that came before them; and when as many have come out as
/// went in, nothing of the flow waits any more.
///
/// The source address of a frame that is queued twice is zero for the first time.
pub(in super::super) struct Delivery {
    flow: Admission,
    /// Link-layer addresses to write.
    addresses: Addresses,
    /// The hops of this host off.
    hop: Hop,
    is_queued: bool,
}

/// The hops that this host takes off a packet: its own, and where the tunnel counts as one, that.
#[inline(always)]
pub(super) fn hops(encap: Encap, ip: &Ipv4) -> Result<Hop, FastOutcome> {
    let hop = Hop::of(ip).next();
    let hop = match encap {
        Encap::Udp => hop.and_then(Hop::next),
        Encap::Vxlan | Encap::Direct => hop,
    };
    hop.ok_or(FastOutcome::Unfit)
}

/// Looks the flow of a received packet up; `offset` is where its inner IPv4 header starts. Where
/// there is none, the packet may make one.
#[inline(always)]
pub(in super::super) fn delivery(
    packet: &Packet,
    encap: Encap,
    ip: &Ipv4,
    offset: usize,
) -> Option<Delivery> {
    let settings = settings()?;
    let transport: &Transport = packet.header(offset + Ipv4::LEN)?;
    let len = packet.len() - offset as u32;
    let found = key(packet, ip, len, transport, offset + Ipv4::LEN)
        .zip(hops(encap, ip).ok())
        .ok_or(FastOutcome::Unfit);
    let reason = match found {
        Ok((key, hop)) => match admitted(settings, maps::admission(key)) {
            Some(flow) => return Some(way(encap, flow, hop)),
            None => {
                let start = Start {
                    ip: Ipv4 {
                        // As it was before the host's own hop.
                        ttl: hop.ttl + 1,
                        ..*ip
                    },
                    transport: transport.rest,
                    addresses: Addresses([[0; 6]; 2]),
                    ifindex: 0,
                };
                note(packet, key, start);
                FastOutcome::NotAdmitted
            }
        },
        Err(reason) => reason,
    };
    count::fast(reason, Size::of(packet));
    None
}

/// A packet with a mark to be carried over is for the standard path.
#[inline(always)]
pub(in super::super) fn left_for_mark(packet: &Packet) -> Option<Delivery> {
    if settings().is_some() {
        count::fast(FastOutcome::Mark, Size::of(packet));
    }
    None
}

/// Straight into the pod, or behind what of the flow is on the standard path.
#[inline(always)]
fn way(encap: Encap, flow: Admission, hop: Hop) -> Delivery {
    let is_queued = !flow.is_drained();
    let Addresses([destination, source]) = flow.addresses();
    let is_queued_twice = is_queued && !matches!(encap, Encap::Direct);
    let source = if is_queued_twice { [0; 6] } else { source };
    Delivery {
        flow,
        addresses: Addresses([destination, source]),
        hop,
        is_queued,
    }
}

/// Sends a packet whose tunnel headers are off on its way into its pod; nothing if it could not be
/// written.
#[inline(always)]
pub(in super::super) fn deliver(
    packet: &Packet,
    delivery: &Delivery,
    size: Size,
) -> Option<Verdict> {
    let Delivery {
        flow,
        addresses,
        hop,
        is_queued,
    } = delivery;
    if !packet.write(0, addresses) || !packet.write(Ethernet::LEN + Hop::OFFSET, hop) {
        return None;
    }
    if *is_queued {
        flow.count_queued();
        count::fast(FastOutcome::Queued, size);
        return Some(packet.redirect(flow.ifindex(), Side::Ingress));
    }
    count::fast(FastOutcome::Delivered, size);
    Some(packet.redirect_peer(flow.ifindex()))
}

/// A packet on the ingress of a pod's interface that belongs to a flow which the pod receives: it
/// has come out of the queue, whatever has become of the admission meanwhile. A pod that sends such
/// packets gets them itself.
#[inline(always)]
pub(super) fn dequeue(
    packet: &Packet,
    flow: Admission,
    addresses: Addresses,
) -> Option<Result<Verdict, FastOutcome>> {
    let ifindex = packet.ifindex();
    if flow.ifindex() != ifindex {
        return None;
    }
    let Addresses([destination, source]) = flow.addresses();
    if addresses == Addresses([destination, [0; 6]]) {
        if !packet.write(0, &Addresses([destination, source])) {
            return Some(Err(FastOutcome::Failed));
        }
        return Some(Ok(packet.redirect(ifindex, Side::Ingress)));
    }
    if addresses != Addresses([destination, source]) {
        return None;
    }
    flow.count_dequeued();
    packet.set_for_host();
    Some(Ok(packet.redirect_peer(ifindex)))
}
