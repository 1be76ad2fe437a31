//! Who is admitted: flows of which a packet has come out of the standard path as it went in.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use bytemuck::Zeroable;
use flannel_ebpf::abi::{Candidate, FastOutcome, FastPath, Flow, FlowKey};
use flannel_ebpf::fast::{Transport, is_awaited, is_unchanged, service};
use flannel_ebpf::wire::{Addresses, Ethernet, Ipv4};

use super::{Frame, key, settings};
use crate::bytes::Bytes as _;
use crate::count::{self, Size};
use crate::maps::{self, Noted};
use crate::packet::{Packet, Verdict, now};
use crate::table;

/// Where the standard path of a candidate starts.
#[derive(Clone, Copy)]
pub(super) struct Start {
    /// Its header as the host's own hop will find it.
    pub(super) ip: Ipv4,
    /// Octets 4 to 7 of its transport header.
    pub(super) transport: [u8; 4],
    /// Link-layer addresses on the pod's interface; zero for a packet that comes from a peer.
    pub(super) addresses: Addresses,
    /// The pod's interface; zero for a packet that comes from a peer.
    pub(super) ifindex: u32,
    /// Underlay address of the peer; zero for a packet that a pod sends, and where nobody knows.
    pub(super) remote: [u8; 4],
    /// [`Candidate::via`].
    pub(super) via: u32,
}

/// Notes a packet that is about to take the standard path as one that may admit its flow.
///
/// Not the first packet of a flow: a scan of ports, which is nothing but first packets, leaves the
/// table of flows alone; `is_known` says that the flow has been admitted before. Nor one behind
/// another that is still awaited: at full rate there is always a later one on its way, and none would
/// ever be the one that is expected. Aggregates are the exception: the kernel's own device takes them
/// by another queue than the one that keeps packets in order here, so only the last of them shows that
/// none is left there.
#[inline(always)]
pub(super) fn note(packet: &Packet, key: FlowKey, is_known: bool, start: Start) {
    let now = now();
    let is_aggregate = packet.gso_size() != 0;
    let earlier = maps::noted(key);
    if earlier.is_some_and(|earlier| is_awaited(earlier.read(), now) && !is_aggregate) {
        return;
    }
    let Start {
        ip,
        transport,
        addresses,
        ifindex,
        remote,
        via,
    } = start;
    let candidate = Candidate {
        noted: now,
        ip,
        transport,
        addresses,
        ifindex,
        is_first: (earlier.is_none() && !is_known).into(),
        is_aggregate: is_aggregate.into(),
        remote,
        via,
    };
    let _ = maps::candidates.insert(key, candidate, BPF_ANY.into());
}

/// At the end of the standard path to a peer: admits the flow of a packet that came from a pod as
/// it is now. `offset` is where its IPv4 header starts, bytes.
#[inline(always)]
pub(in super::super) fn admit_sent(packet: &Packet, ip: &Ipv4, offset: usize) -> Option<()> {
    let settings = settings()?;
    let transport: &Transport = packet.header(offset + Ipv4::LEN)?;
    let len = packet.len() - offset as u32;
    let key = key(packet, ip, len, transport, offset + Ipv4::LEN)?;
    let noted = maps::noted(key)?;
    let candidate = *noted.read();
    if candidate.ifindex != 0 && is_unchanged(&candidate, ip, transport) {
        let flow = Flow {
            beside: packet.mark().to_ne_bytes(),
            ..flow(settings, key, ip, candidate.ifindex, candidate.addresses)
        };
        admit(packet, settings, &flow, noted);
    }
    Some(())
}

/// Egress of a pod's interface, that is: what the pod gets by the standard path.
#[classifier]
pub(crate) fn to_pod(context: TcContext) -> i32 {
    let packet = Packet::new(context);
    // No reason to leave a packet changes what becomes of it.
    let _ = arrived(&packet);
    Verdict::Kernel as i32
}

#[inline(always)]
fn arrived(packet: &Packet) -> Option<()> {
    let settings = settings()?;
    let Frame {
        ethernet,
        ip,
        transport,
    } = Frame::of(packet)?;
    let len = packet.len() - Ethernet::LEN as u32;
    let key = key(packet, ip, len, transport, Frame::TRANSPORT)?;
    let noted = maps::noted(key)?;
    let candidate = *noted.read();
    if candidate.ifindex != 0 || !is_unchanged(&candidate, ip, transport) {
        return None;
    }
    // Anybody on the bridge can send the pod a packet like the one that is awaited.
    if candidate.via != packet.ingress_ifindex() {
        return None;
    }
    if candidate.is_settled() {
        came_before(packet, settings, key);
        return None;
    }
    let flow = Flow {
        is_received: 1,
        beside: candidate.remote,
        ..flow(settings, key, ip, packet.ifindex(), ethernet.addresses())
    };
    admit(packet, settings, &flow, noted);
    Some(())
}

/// A packet that has come out before. Where that was another pod's interface, the bridge does not
/// know the station and sends it everywhere: the flow is no single pod's, and its admission is over.
#[inline(always)]
fn came_before(packet: &Packet, settings: &FastPath, key: FlowKey) {
    match table::admission(settings, key) {
        Some(earlier) if earlier.is_received && earlier.ifindex != packet.ifindex() => {
            earlier.end();
        }
        _ => {}
    }
}

#[inline(always)]
fn flow(settings: &FastPath, key: FlowKey, ip: &Ipv4, ifindex: u32, addresses: Addresses) -> Flow {
    Flow {
        key,
        expires: now() + settings.bound,
        addresses,
        generation: settings.generation,
        ifindex,
        service: service(ip.tos),
        ..Zeroable::zeroed()
    }
}

/// One that finds no room is not asked for again while its candidate is waited for.
#[inline(always)]
fn admit(packet: &Packet, settings: &FastPath, flow: &Flow, noted: Noted) {
    let outcome = if table::admit(settings, flow) {
        noted.settle();
        FastOutcome::Admitted
    } else {
        FastOutcome::TableFull
    };
    count::fast(outcome, Size::of(packet).once());
}
