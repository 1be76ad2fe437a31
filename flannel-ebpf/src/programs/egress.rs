//! What the programs that send have in common: whose packet it is, whether it fits, which flow it
//! belongs to, and the count at the edge.

use aya_log_ebpf::{debug, trace};
use flannel_ebpf::abi::{EgressOutcome, Encap, Peer};
use flannel_ebpf::encap::{self, complete, segment_len};
use flannel_ebpf::flow;
use flannel_ebpf::ttl::Hop;
use flannel_ebpf::wire::{
    Ipv4, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, Udp, UdpFrame, VxlanFrame,
};

use crate::bytes::Bytes as _;
use crate::count::{self, Size};
use crate::maps::{self, Sender};
use crate::packet::{Packet, Verdict};

/// Runs `send` on what leaves through the tunnel device, counts what became of it, and gives the
/// kernel its answer.
#[inline(always)]
pub(super) fn run(
    packet: &mut Packet,
    send: impl FnOnce(&mut Packet, Size) -> Result<Verdict, EgressOutcome>,
) -> i32 {
    let size = Size::of(packet);
    let sent = send(packet, size);
    let (outcome, verdict) = match sent {
        Ok(verdict) => {
            trace!(packet.context(), "encapsulated");
            (EgressOutcome::Encapsulated, verdict)
        }
        Err(EgressOutcome::Failed) => (EgressOutcome::Failed, Verdict::Dropped),
        Err(reason) => {
            debug!(packet.context(), "left to the kernel: {}", reason.name());
            (reason, Verdict::Kernel)
        }
    };
    count::egress(outcome, size);
    verdict as i32
}

/// The key of the peer maps for an address between pods.
#[inline(always)]
pub(super) fn subnet_of(address: [u8; 4]) -> Option<[u8; 4]> {
    let mask = u32::from_ne_bytes(maps::config.get(0)?.subnet_mask);
    Some((u32::from_ne_bytes(address) & mask).to_ne_bytes())
}

/// The peer that a destination belongs to, if its packets travel by `encap`.
#[inline(always)]
pub(super) fn peer(destination: [u8; 4], encap: Encap) -> Result<&'static Peer, EgressOutcome> {
    let subnet = subnet_of(destination).ok_or(EgressOutcome::UnknownPeer)?;
    // SAFETY: an entry that the agent replaces or removes meanwhile is freed after an RCU grace
    // period (the map is not preallocated), so it stays whole until this program ends.
    let peer = unsafe { maps::peers.get(subnet) }.ok_or(EgressOutcome::UnknownPeer)?;
    if peer.encap == encap as u32 {
        Ok(peer)
    } else {
        Err(EgressOutcome::OtherEncap)
    }
}

/// Checks that there is a way to the peer and that the packet fits through. `offset` is where its
/// IPv4 header starts, bytes.
#[inline(always)]
pub(super) fn check_way(
    packet: &Packet,
    peer: &Peer,
    ip: &Ipv4,
    offset: usize,
    size: Size,
) -> Result<(), EgressOutcome> {
    if peer.mtu == 0 {
        return Err(EgressOutcome::Unresolved);
    }
    let largest = match size.gso_size {
        0 => size.len - offset as u32,
        gso_size => largest_segment(packet, ip, offset, gso_size)?,
    };
    if largest > peer.mtu {
        return Err(EgressOutcome::TooBig);
    }
    Ok(())
}

/// Checks that what may still be missing in the packet will not be missed at the other end. SCTP's
/// checksum is none that a proxy of ours could complete, if the peer's programs leave it to one.
#[inline(always)]
pub(super) fn check_kinship(peer: &Peer, ip: &Ipv4) -> Result<(), EgressOutcome> {
    if peer.needs_kin == 0 {
        return Ok(());
    }
    let is_kin = maps::remote(peer.headers.ip.destination).is_some_and(Sender::is_kin);
    if is_kin && ip.protocol != PROTOCOL_SCTP {
        Ok(())
    } else {
        Err(EgressOutcome::Unproven)
    }
}

/// Length of the largest packet between pods that an aggregate is on the wire, bytes.
#[inline(always)]
fn largest_segment(
    packet: &Packet,
    ip: &Ipv4,
    offset: usize,
    gso_size: u32,
) -> Result<u32, EgressOutcome> {
    let ip_len = usize::from(ip.version_ihl & 0xf) * 4;
    let transport_len = match ip.protocol {
        PROTOCOL_TCP => {
            // Data offset: the high four bits of the 13th byte, in 32-bit words.
            let byte: u8 = packet
                .load(offset + ip_len + 12)
                .ok_or(EgressOutcome::NotLinear)?;
            u32::from(byte >> 4) * 4
        }
        _ => Udp::LEN as u32,
    };
    Ok(segment_len(ip_len as u32, transport_len, gso_size))
}

/// Writes the headers of a tunnel into the room made for them, in front of the packet, and what
/// hops of this host change in it; false if there is no room.
#[inline(always)]
pub(super) fn put_headers(
    packet: &mut Packet,
    peer: &Peer,
    encap: Encap,
    inner: encap::Packet,
    hop: Option<Hop>,
) -> bool {
    let template = &peer.headers;
    let ip = match encap {
        Encap::Vxlan => packet.header_mut(0).map(|frame: &mut VxlanFrame| {
            *frame.headers_mut() = *template;
            complete(&mut frame.outer, peer, encap, inner);
            &mut frame.inner
        }),
        Encap::Udp | Encap::Direct => packet.header_mut(0).map(|frame: &mut UdpFrame| {
            frame.outer = *template.datagram();
            complete(&mut frame.outer, peer, encap, inner);
            &mut frame.inner
        }),
    };
    match (ip, hop) {
        (Some(ip), Some(hop)) => hop.write(ip),
        (Some(_), None) => {}
        (None, _) => return false,
    }
    true
}

/// The hash that chooses the outer source port: the one that the packet already has, as the
/// kernel's device would take it, else our own.
#[inline(always)]
pub(super) fn flow_hash(packet: &Packet, ip: &Ipv4, offset: usize) -> u32 {
    match packet.hash() {
        0 => flow::hash(ip, ports(packet, ip, offset)),
        hash => hash,
    }
}

#[inline(always)]
fn ports(packet: &Packet, ip: &Ipv4, offset: usize) -> [u8; 4] {
    let has_ports = matches!(ip.protocol, PROTOCOL_TCP | PROTOCOL_UDP)
        && ip.version_ihl == Ipv4::VERSION_IHL
        && !ip.is_fragment();
    if !has_ports {
        return [0; 4];
    }
    packet.header(offset + Ipv4::LEN).copied().unwrap_or([0; 4])
}
