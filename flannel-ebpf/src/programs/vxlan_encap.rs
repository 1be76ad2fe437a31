//! Egress of the tunnel device: the packet has passed routing and netfilter, the kernel has put the
//! inner link-layer header on, and all that is missing is the way over the underlay.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::{debug, trace};
use flannel_ebpf::abi::{EgressOutcome, Peer};
use flannel_ebpf::encap::{self, complete, segment_len};
use flannel_ebpf::flow;
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Ipv4, PROTOCOL_TCP, PROTOCOL_UDP, Udp};

use crate::count::{self, Size};
use crate::maps;
use crate::packet::{Packet, Side, Verdict, random};

/// Inner link-layer and IPv4 header.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Inner {
    ethernet: Ethernet,
    ip: Ipv4,
}

#[classifier]
pub(crate) fn vxlan_encap(context: TcContext) -> i32 {
    let packet = Packet::new(context);
    let size = Size::of(&packet);
    let (outcome, verdict) = match send(&packet) {
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

#[inline(always)]
fn send(packet: &Packet) -> Result<Verdict, EgressOutcome> {
    if packet.has_vlan_tag() {
        return Err(EgressOutcome::Vlan);
    }
    let inner: &Inner = packet.header(0).ok_or(EgressOutcome::NotLinear)?;
    if inner.ethernet.ethertype != ETHERTYPE_IPV4 {
        return Err(EgressOutcome::NotIpv4);
    }
    let peer = peer_of(inner.ip.destination).ok_or(EgressOutcome::UnknownPeer)?;
    // The kernel's own decision goes by the destination (it is the key of its FDB): follow it. The
    // source is ours unless a bridge or a raw socket is behind the device; the template has no other.
    if inner.ethernet.addresses() != peer.headers.inner.addresses() {
        return Err(EgressOutcome::OtherMac);
    }
    if peer.mtu == 0 {
        return Err(EgressOutcome::Unresolved);
    }
    let inner_len = packet.len() - Ethernet::LEN as u32;
    if largest(packet, &inner.ip, inner_len)? > peer.mtu {
        return Err(EgressOutcome::TooBig);
    }
    let [id @ .., _, _] = random().to_ne_bytes();
    let headers = complete(
        peer,
        encap::Packet {
            inner_len,
            inner_tos: inner.ip.tos,
            id,
            source_port: flow::source_port(flow_hash(packet, &inner.ip)),
        },
    );
    if !packet.add_room() {
        return Err(EgressOutcome::NoRoom);
    }
    if !packet.write_headers(&headers) {
        return Err(EgressOutcome::Failed);
    }
    Ok(packet.redirect(peer.ifindex, Side::Egress))
}

#[inline(always)]
fn peer_of(destination: [u8; 4]) -> Option<&'static Peer> {
    let mask = u32::from_ne_bytes(maps::config.get(0)?.subnet_mask);
    let subnet = (u32::from_ne_bytes(destination) & mask).to_ne_bytes();
    // SAFETY: an entry that the agent replaces or removes meanwhile is freed after an RCU grace
    // period (the map is not preallocated), so it stays whole until this program ends.
    unsafe { maps::peers.get(subnet) }
}

/// Length of the largest inner packet that goes on the wire, bytes.
#[inline(always)]
fn largest(packet: &Packet, ip: &Ipv4, inner_len: u32) -> Result<u32, EgressOutcome> {
    let gso_size = packet.gso_size();
    if gso_size == 0 {
        return Ok(inner_len);
    }
    let ip_len = usize::from(ip.version_ihl & 0xf) * 4;
    let transport_len = match ip.protocol {
        PROTOCOL_TCP => {
            // Data offset: the high four bits of the 13th byte, in 32-bit words.
            let byte: u8 = packet
                .load(Ethernet::LEN + ip_len + 12)
                .ok_or(EgressOutcome::NotLinear)?;
            u32::from(byte >> 4) * 4
        }
        _ => Udp::LEN as u32,
    };
    Ok(segment_len(ip_len as u32, transport_len, gso_size))
}

/// The hash that chooses the outer source port: the one that the packet already has, as the
/// kernel's device would take it, else our own.
#[inline(always)]
fn flow_hash(packet: &Packet, ip: &Ipv4) -> u32 {
    match packet.hash() {
        0 => flow::hash(ip, ports(packet, ip)),
        hash => hash,
    }
}

#[inline(always)]
fn ports(packet: &Packet, ip: &Ipv4) -> [u8; 4] {
    let has_ports = matches!(ip.protocol, PROTOCOL_TCP | PROTOCOL_UDP)
        && ip.version_ihl == Ipv4::VERSION_IHL
        && !ip.is_fragment();
    if !has_ports {
        return [0; 4];
    }
    packet.header(size_of::<Inner>()).copied().unwrap_or([0; 4])
}
