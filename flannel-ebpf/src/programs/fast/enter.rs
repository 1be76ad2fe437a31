//! What a pod receives.
//!
//! The standard path of a packet from the tunnel goes through the processor's backlog twice: into
//! the tunnel device, and through the pod's veth. That of a direct peer's packet goes through the
//! second one only. A packet that goes from the external interface straight into the pod overtakes
//! those that wait there. Therefore packets are queued as often after an admission: into the host's
//! end of the pod's veth, where `from_pod` finds them. The backlog is first in, first out, so these
//! come behind all of the standard path that came before them; and when as many have come out as
//! went in, nothing of the flow waits any more.
//!
//! In the place of its source address a queued frame has a [`Ticket`].

use flannel_ebpf::abi::{Encap, FastOutcome, FastPath, FlowKey};
use flannel_ebpf::fast::{MIN_TTL, Ticket, Transport, conversation, is_intact, service};
use flannel_ebpf::ttl::Hop;
use flannel_ebpf::wire::{Addresses, IpFrame, Ipv4};

use super::admit::{Start, note};
use super::{key, lasts, settings};
use crate::bytes::Bytes as _;
use crate::count::{self, Size};
use crate::maps;
use crate::packet::{Packet, Side, Verdict};
use crate::table::{self, Admission};

/// How many hops this host takes off a packet: its own, and where the tunnel counts as one, that.
#[inline(always)]
const fn own_hops(encap: Encap) -> u8 {
    match encap {
        Encap::Udp => 2,
        Encap::Vxlan | Encap::Direct => 1,
    }
}

/// What is left of its hops behind this host.
#[inline(always)]
pub(super) fn hops(encap: Encap, ip: &Ipv4) -> Option<Hop> {
    let hop = Hop::of(ip).next()?;
    match encap {
        Encap::Udp => hop.next(),
        Encap::Vxlan | Encap::Direct => Some(hop),
    }
}

/// What lets a received packet go straight into its pod.
pub(in super::super) struct Entry {
    flow: Admission,
    /// Its header behind this host.
    hop: Hop,
}

/// Whether a received packet may go straight into its pod; `offset` is where its inner IPv4 header
/// starts, `size` that of the frame as it came. `sender` is the underlay address of a peer that has
/// still to be looked up.
#[inline(always)]
pub(in super::super) fn entry(
    packet: &Packet,
    encap: Encap,
    ip: &Ipv4,
    offset: usize,
    size: Size,
    sender: Option<[u8; 4]>,
) -> Option<Entry> {
    let settings = settings()?;
    let key = received(packet, encap, ip, offset, size)?;
    let flow = table::admission(settings, key)?;
    // A flow that a pod of this host sends is not received, whoever uses its addresses.
    if !flow.is_received || flow.service != service(ip.tos) || !lasts(settings, &flow) {
        return None;
    }
    if let Some(sender) = sender
        && flow.beside != sender
    {
        maps::remote(sender)?;
    }
    let hop = hops(encap, ip)?;
    Some(Entry { flow, hop })
}

/// The flow of a received packet, if such a one may be on the fast path.
#[inline(always)]
fn received(
    packet: &Packet,
    encap: Encap,
    ip: &Ipv4,
    offset: usize,
    size: Size,
) -> Option<FlowKey> {
    let transport: &Transport = packet.header(offset + Ipv4::LEN)?;
    let len = size.len - offset as u32;
    let key = key(packet, ip, len, transport, offset + Ipv4::LEN)?;
    // It is looked up again with this host's hops off: in the queue, and where it enters the pod.
    (ip.ttl >= MIN_TTL + own_hops(encap) && is_intact(ip)).then_some(key)
}

/// Leaves a packet from `remote`, a peer's underlay address, to the standard path, where it may
/// admit its flow. The other parameters are those of [`entry`].
#[inline(always)]
pub(in super::super) fn leave(
    packet: &Packet,
    encap: Encap,
    ip: &Ipv4,
    offset: usize,
    size: Size,
    remote: Option<[u8; 4]>,
) {
    let Some(settings) = settings() else {
        return;
    };
    let key = received(packet, encap, ip, offset, size);
    let transport = packet.header::<Transport>(offset + Ipv4::LEN);
    let (Some(key), Some(transport)) = (key, transport) else {
        let ports = packet.load(offset + usize::from(ip.version_ihl & 0xf) * 4);
        if let Some(key) = ports.and_then(|ports| conversation(ip, ports)) {
            hold_back(settings, key);
        }
        count::fast(FastOutcome::Unfit, size);
        return;
    };
    let start = Start {
        ip: Ipv4 {
            // As the host's own hop will find it.
            ttl: ip.ttl + 1 - own_hops(encap),
            ..*ip
        },
        transport: transport.rest,
        addresses: Addresses::NONE,
        ifindex: 0,
        remote: remote.unwrap_or_default(),
        via: via(packet, encap),
    };
    let is_known = match table::admission(settings, key) {
        Some(flow) => {
            pass(settings, &flow, size);
            true
        }
        None => false,
    };
    note(packet, key, is_known, start);
    count::fast(FastOutcome::NotAdmitted, size);
}

/// A packet of a flow passes by the standard path. An aggregate goes by another queue than the one that
/// keeps order here, so none may follow straight until the like has come out.
#[inline(always)]
fn pass(settings: &FastPath, flow: &Admission, size: Size) {
    if !flow.is_received {
        return;
    }
    if size.is_aggregate() {
        flow.end();
    } else if lasts(settings, flow) {
        flow.start_over();
    }
}

/// [`Candidate::via`](flannel_ebpf::abi::Candidate::via).
#[inline(always)]
fn via(packet: &Packet, encap: Encap) -> u32 {
    match encap {
        Encap::Direct => packet.ifindex(),
        Encap::Udp | Encap::Vxlan => maps::config.get(0).map_or(0, |it| it.device_ifindex),
    }
}

/// Leaves a packet with a mark to be carried over to the standard path. The parameters are those of
/// [`entry`].
#[inline(always)]
pub(in super::super) fn leave_for_mark(
    packet: &Packet,
    encap: Encap,
    ip: &Ipv4,
    offset: usize,
    size: Size,
) {
    let Some(settings) = settings() else {
        return;
    };
    if let Some(key) = received(packet, encap, ip, offset, size) {
        hold_back(settings, key);
    }
    count::fast(FastOutcome::Mark, size);
}

/// Makes the packets behind one on the standard path wait for it.
#[inline(always)]
fn hold_back(settings: &FastPath, key: FlowKey) {
    match table::admission(settings, key) {
        Some(flow) if flow.is_received => flow.start_over(),
        _ => {}
    }
}

impl Entry {
    /// Sends a packet whose tunnel headers are off into its pod, straight or behind what of the flow
    /// is on the standard path; nothing if it could not be written. `size` is that of the frame as it
    /// came.
    #[inline(always)]
    pub(in super::super) fn deliver(
        self,
        packet: &mut Packet,
        encap: Encap,
        size: Size,
    ) -> Option<Verdict> {
        let Self { flow, hop } = self;
        let is_queued = !flow.is_drained();
        let mut addresses = flow.addresses;
        if is_queued {
            let rounds = match encap {
                Encap::Direct => 1,
                Encap::Udp | Encap::Vxlan => 2,
            };
            let admission = flow.number();
            addresses = Ticket { rounds, admission }.instead_of_source(addresses);
        }
        let frame: &mut IpFrame = packet.header_mut(0)?;
        frame.ethernet.set_addresses(addresses);
        hop.write(&mut frame.ip);
        if is_queued {
            flow.count_queued();
            count::fast(FastOutcome::Queued, size);
            return Some(packet.redirect(flow.ifindex, Side::Ingress));
        }
        count::fast(FastOutcome::Delivered, size);
        Some(packet.redirect_peer(flow.ifindex))
    }
}

/// A packet on the ingress of a pod's interface that belongs to a flow which the pod receives: it
/// has come out of the queue, whatever has become of the admission meanwhile. A pod that sends such
/// packets gets them itself; nothing, if this is not its flow.
#[inline(always)]
pub(super) fn dequeue(
    packet: &mut Packet,
    flow: &Admission,
    addresses: Addresses,
) -> Option<Result<Verdict, FastOutcome>> {
    let ifindex = packet.ifindex();
    if flow.ifindex != ifindex {
        return None;
    }
    let ticket = Ticket::of_source(addresses);
    let addresses = match ticket.rounds {
        1 => flow.addresses,
        2 => {
            let next = Ticket {
                rounds: 1,
                ..ticket
            };
            next.instead_of_source(addresses)
        }
        _ => return None,
    };
    if !packet.set_addresses(addresses) {
        return Some(Err(FastOutcome::Failed));
    }
    if ticket.rounds == 2 {
        return Some(Ok(packet.redirect(ifindex, Side::Ingress)));
    }
    // Those of an earlier admission were not counted under this one.
    if ticket.admission == flow.number() {
        flow.count_dequeued();
    }
    packet.set_for_host();
    Some(Ok(packet.redirect_peer(ifindex)))
}
