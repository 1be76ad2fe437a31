//! What a pod sends.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_ebpf::abi::{EgressOutcome, Encap, FastOutcome, FastPath, Peer};
use flannel_ebpf::encap;
use flannel_ebpf::fast::{is_intact, priority, service};
use flannel_ebpf::flow;
use flannel_ebpf::wire::{Ethernet, IpFrame, Ipv4};

use super::super::egress;
use super::admit::{Start, note};
use super::{Frame, enter, key, lasts};
use crate::bytes::Bytes as _;
use crate::count::{self, Size};
use crate::maps;
use crate::packet::{Packet, Side, Verdict, random};
use crate::table;

/// Ingress of a pod's interface: what the pod sends, and what is queued on its way into the pod.
#[classifier]
pub(crate) fn from_pod(context: TcContext) -> i32 {
    let mut packet = Packet::new(context);
    let size = Size::of(&packet);
    let Some(sent) = send(&mut packet, size) else {
        return Verdict::Kernel as i32;
    };
    let (outcome, verdict) = match sent {
        Ok(Sent::ToPod(verdict)) => return verdict as i32,
        Ok(Sent::ToPeer(verdict)) => (FastOutcome::Sent, verdict),
        Err(FastOutcome::Failed) => (FastOutcome::Failed, Verdict::Dropped),
        Err(reason) => (reason, Verdict::Kernel),
    };
    count::fast(outcome, size);
    verdict as i32
}

/// Where a packet went.
enum Sent {
    ToPeer(Verdict),
    ToPod(Verdict),
}

/// Sends a packet of an admitted flow; nothing, if it is not for a peer.
#[inline(always)]
fn send(packet: &mut Packet, size: Size) -> Option<Result<Sent, FastOutcome>> {
    let Frame {
        ethernet,
        ip,
        transport,
    } = Frame::of(packet)?;
    let table = super::table()?;
    let len = size.len - Ethernet::LEN as u32;
    if let Some(key) = key(packet, ip, len, transport, Frame::TRANSPORT)
        && let Some(flow) = table::admission(table, key)
    {
        let addresses = ethernet.addresses();
        if flow.is_received {
            return enter::dequeue(packet, &flow, addresses).map(|sent| sent.map(Sent::ToPod));
        }
        let is_here = flow.ifindex == packet.ifindex()
            && flow.addresses == addresses
            && flow.service == service(ip.tos);
        if is_here && table.bound != 0 && lasts(table, &flow) && is_intact(ip) {
            let (subnet, peer) = peer(ip)?;
            let mark = u32::from_ne_bytes(flow.beside);
            return Some(transmit(packet, size, peer, subnet, mark).map(Sent::ToPeer));
        }
    }
    keep(packet, table, size).map(Err)
}

/// Leaves a packet to the standard path, where it may admit its flow, and says why; nothing, if it is
/// not for a peer.
#[inline(always)]
fn keep(packet: &Packet, table: &FastPath, size: Size) -> Option<FastOutcome> {
    if table.bound == 0 {
        return None;
    }
    let Frame {
        ethernet,
        ip,
        transport,
    } = Frame::of(packet)?;
    peer(ip)?;
    let len = size.len - Ethernet::LEN as u32;
    let key = key(packet, ip, len, transport, Frame::TRANSPORT);
    let Some(key) = key.filter(|_| is_intact(ip)) else {
        return Some(FastOutcome::Unfit);
    };
    let (is_known, is_elsewhere) = match table::admission(table, key) {
        Some(flow) => (true, flow.service == service(ip.tos) && lasts(table, &flow)),
        None => (false, false),
    };
    let start = Start {
        ip: *ip,
        transport: transport.rest,
        addresses: ethernet.addresses(),
        ifindex: packet.ifindex(),
        remote: [0; 4],
        via: 0,
    };
    note(packet, key, is_known, start);
    Some(match is_elsewhere {
        true => FastOutcome::OtherPlace,
        false => FastOutcome::NotAdmitted,
    })
}

/// The peer that a packet is for, and the address of its subnet.
#[inline(always)]
fn peer(ip: &Ipv4) -> Option<([u8; 4], &'static Peer)> {
    let subnet = egress::subnet_of(ip.destination)?;
    // SAFETY: as in `egress::peer`.
    let peer = unsafe { maps::peers.get(subnet) }?;
    Some((subnet, peer))
}

/// Sends the packet to the peer, as it would come out of the standard path.
#[inline(always)]
fn transmit(
    packet: &mut Packet,
    size: Size,
    peer: &Peer,
    subnet: [u8; 4],
    mark: u32,
) -> Result<Verdict, FastOutcome> {
    const DIRECT: u32 = Encap::Direct as u32;
    const UDP: u32 = Encap::Udp as u32;
    const VXLAN: u32 = Encap::Vxlan as u32;
    let ip = header(packet)?;
    egress::check_kinship(peer, ip).map_err(reason)?;
    egress::check_way(packet, peer, ip, Ethernet::LEN, size).map_err(reason)?;
    let priority = priority(ip.tos);
    match peer.encap {
        VXLAN => transmit_in(Encap::Vxlan, packet, size, peer)?,
        UDP => transmit_in(Encap::Udp, packet, size, peer)?,
        DIRECT => transmit_direct(packet, size, peer, subnet)?,
        _ => return Err(FastOutcome::Unresolved),
    }
    packet.set_priority(priority);
    packet.set_mark(mark);
    Ok(packet.redirect(peer.ifindex, Side::Egress))
}

/// To a direct peer nothing changes but the link-layer header and one hop.
#[inline(always)]
fn transmit_direct(
    packet: &mut Packet,
    size: Size,
    peer: &Peer,
    subnet: [u8; 4],
) -> Result<(), FastOutcome> {
    let hop = enter::hops(Encap::Direct, header(packet)?).ok_or(FastOutcome::Unfit)?;
    let frame: &mut IpFrame = packet.header_mut(0).ok_or(FastOutcome::Failed)?;
    frame.ethernet.set_addresses(peer.headers.outer.addresses());
    hop.write(&mut frame.ip);
    count::sent(subnet, size);
    packet.set_counted();
    Ok(())
}

/// To a tunnelled peer the headers of its template come in front of the packet.
#[inline(always)]
fn transmit_in(
    encap: Encap,
    packet: &mut Packet,
    size: Size,
    peer: &Peer,
) -> Result<(), FastOutcome> {
    let ip = header(packet)?;
    let hop = enter::hops(encap, ip).ok_or(FastOutcome::Unfit)?;
    let source_port = match encap {
        Encap::Vxlan => flow::source_port(egress::flow_hash(packet, ip, Ethernet::LEN)),
        Encap::Udp | Encap::Direct => peer.headers.udp.source,
    };
    let [id @ .., _, _] = random().to_ne_bytes();
    let inner = encap::Packet {
        inner_len: size.len - Ethernet::LEN as u32,
        inner_tos: ip.tos,
        id,
        source_port,
    };
    // The step that the kernel may refuse comes first, while the packet is unchanged.
    if !packet.add_room(encap) {
        return Err(FastOutcome::NoRoom);
    }
    if !egress::put_headers(packet, peer, encap, inner, Some(hop)) {
        return Err(FastOutcome::Failed);
    }
    Ok(())
}

/// The IPv4 header of a frame on a pod's interface.
#[inline(always)]
fn header(packet: &Packet) -> Result<&Ipv4, FastOutcome> {
    packet.header(Ethernet::LEN).ok_or(FastOutcome::Unfit)
}

/// Why a packet that the tunnel's own program would leave is left here.
#[inline(always)]
fn reason(outcome: EgressOutcome) -> FastOutcome {
    match outcome {
        EgressOutcome::TooBig => FastOutcome::TooBig,
        EgressOutcome::Unproven => FastOutcome::Unproven,
        EgressOutcome::Unresolved => FastOutcome::Unresolved,
        _ => FastOutcome::Unfit,
    }
}
