//! The fast path: packets of admitted flows go from the pod's interface straight to the external
//! one, and from there straight into the pod, around routing and netfilter.
//!
//! ```text
//! from_pod ──▶ candidate ──▶ routing, netfilter ──▶ admit (egress of the tunnel) ──▶ flow
//!     └── flow admitted ───────────────────────────▶ external interface
//!
//! deliver ───▶ candidate ──▶ routing, netfilter ──▶ to_pod ──▶ flow
//!     └── flow admitted ───────────────────────────▶ pod
//! ```
//!
//! The rules in force are asked by sending packets past them: a flow is admitted when one of its
//! packets has come out of the standard path as it went in, for a bounded time. Then the next one
//! takes the standard path and renews the admission, or does not.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_ebpf::abi::{Candidate, EgressOutcome, Encap, FastPath, Flow, FlowKey, Peer};
use flannel_ebpf::encap::{self, complete};
use flannel_ebpf::fast::{TCP_FLAGS, Transport, flow_of, is_unchanged};
use flannel_ebpf::flow;
use flannel_ebpf::ttl::{self, Hop};
use flannel_ebpf::wire::{Addresses, ETHERTYPE_IPV4, Ethernet, Headers, Ipv4};

use super::egress;
use crate::count::{self, Size};
use crate::maps;
use crate::packet::{Packet, Side, Verdict, now, random};

/// Link-layer, IPv4 and the start of the transport header.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Frame {
    ethernet: Ethernet,
    ip: Ipv4,
    transport: Transport,
}

/// Ingress of a pod's interface, that is: what the pod sends.
#[classifier]
pub(crate) fn from_pod(context: TcContext) -> i32 {
    let packet = Packet::new(context);
    send(&packet).unwrap_or(Verdict::Kernel) as i32
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
fn settings() -> Option<&'static FastPath> {
    maps::fast_path.get(0).filter(|fast| fast.bound != 0)
}

#[inline(always)]
fn key(packet: &Packet, ip: &Ipv4, transport: &Transport, offset: usize) -> Option<FlowKey> {
    flow_of(ip, transport, || packet.load(offset + TCP_FLAGS))
}

/// The flow of a key, while its admission lasts.
#[inline(always)]
fn admitted(settings: &FastPath, key: FlowKey) -> Option<&'static Flow> {
    // SAFETY: an entry that is removed meanwhile is freed after an RCU grace period.
    let flow = unsafe { maps::flows.get(key) }?;
    (flow.generation == settings.generation && flow.expires > now()).then_some(flow)
}

#[inline(always)]
fn admit(settings: &FastPath, key: FlowKey, ifindex: u32, addresses: Addresses) {
    let flow = Flow {
        expires: now() + settings.bound,
        generation: settings.generation,
        ifindex,
        addresses,
        reserved: 0,
    };
    // A full table leaves the flow on the standard path.
    let _ = maps::flows.insert(key, flow, BPF_ANY.into());
}

#[inline(always)]
fn send(packet: &Packet) -> Option<Verdict> {
    let settings = settings()?;
    if packet.has_vlan_tag() {
        return None;
    }
    let Frame {
        ethernet,
        ip,
        transport,
    } = packet.header(0)?;
    if ethernet.ethertype != ETHERTYPE_IPV4 {
        return None;
    }
    let key = key(packet, ip, transport, Ethernet::LEN + Ipv4::LEN)?;
    let subnet = egress::subnet_of(ip.destination)?;
    // SAFETY: as for flows, see `admitted`.
    let peer = unsafe { maps::peers.get(subnet) }?;
    let (ifindex, addresses) = (packet.ifindex(), ethernet.addresses());
    match admitted(settings, key) {
        Some(flow) if flow.ifindex == ifindex && flow.addresses == addresses => {
            transmit(packet, peer, ip)
        }
        _ => {
            let candidate = Candidate {
                ip: *ip,
                transport: transport.rest,
                addresses,
                ifindex,
            };
            let _ = maps::candidates.insert(key, candidate, BPF_ANY.into());
            None
        }
    }
}

/// Sends the packet to the peer, as it would come out of the standard path.
#[inline(always)]
fn transmit(packet: &Packet, peer: &Peer, ip: &Ipv4) -> Option<Verdict> {
    const DIRECT: u32 = Encap::Direct as u32;
    const VXLAN: u32 = Encap::Vxlan as u32;
    match peer.encap {
        VXLAN => transmit_vxlan(packet, peer, ip),
        DIRECT => transmit_direct(packet, peer, ip),
        _ => None,
    }
}

/// To a direct peer nothing changes but the link-layer header and one hop.
#[inline(always)]
fn transmit_direct(packet: &Packet, peer: &Peer, ip: &Ipv4) -> Option<Verdict> {
    let len = packet.len() - Ethernet::LEN as u32;
    egress::check_way(packet, peer, ip, Ethernet::LEN, len).ok()?;
    let hop = ttl::next_hop(ip)?;
    let addresses = peer.headers.outer.addresses();
    let size = Size::of(packet);
    if !packet.write(0, &addresses) || !packet.write(Ethernet::LEN + Hop::OFFSET, &hop) {
        return Some(Verdict::Dropped);
    }
    count::egress(EgressOutcome::Fast, size);
    Some(packet.redirect(peer.ifindex, Side::Egress))
}

/// To a tunnelled peer the headers of its template come in front.
#[inline(always)]
fn transmit_vxlan(packet: &Packet, peer: &Peer, ip: &Ipv4) -> Option<Verdict> {
    let inner_len = packet.len() - Ethernet::LEN as u32;
    egress::check_way(packet, peer, ip, Ethernet::LEN, inner_len).ok()?;
    let hop = ttl::next_hop(ip)?;
    let [id @ .., _, _] = random().to_ne_bytes();
    let headers = complete(
        peer,
        Encap::Vxlan,
        encap::Packet {
            inner_len,
            inner_tos: ip.tos,
            id,
            source_port: flow::source_port(egress::flow_hash(packet, ip, Ethernet::LEN)),
        },
    );
    let size = Size::of(packet);
    if !packet.add_room(Encap::Vxlan) {
        return None;
    }
    if !packet.write(0, &headers) || !packet.write(Headers::LEN + Hop::OFFSET, &hop) {
        return Some(Verdict::Dropped);
    }
    count::egress(EgressOutcome::Fast, size);
    Some(packet.redirect(peer.ifindex, Side::Egress))
}

/// At the end of the standard path to a peer: admits the flow of a packet that came from a pod as
/// it is now. `offset` is where its IPv4 header starts, bytes.
#[inline(always)]
pub(super) fn admit_sent(packet: &Packet, ip: &Ipv4, offset: usize) -> Option<()> {
    let settings = settings()?;
    let transport: &Transport = packet.header(offset + Ipv4::LEN)?;
    let key = key(packet, ip, transport, offset + Ipv4::LEN)?;
    // SAFETY: as for flows, see `admitted`.
    let candidate = unsafe { maps::candidates.get(key) }?;
    if candidate.ifindex != 0 && is_unchanged(candidate, ip, transport) {
        admit(settings, key, candidate.ifindex, candidate.addresses);
    }
    Some(())
}

/// What `deliver` is to do with a received packet.
pub(super) struct Delivery {
    /// The pod's interface.
    ifindex: u32,
    /// Link-layer addresses there.
    addresses: Addresses,
    /// One hop less.
    hop: Hop,
}

/// Looks the flow of a received packet up; `offset` is where its inner IPv4 header starts. Where
/// there is none yet, the packet may make one.
#[inline(always)]
pub(super) fn delivery(packet: &Packet, ip: &Ipv4, offset: usize) -> Option<Delivery> {
    let settings = settings()?;
    let transport: &Transport = packet.header(offset + Ipv4::LEN)?;
    let key = key(packet, ip, transport, offset + Ipv4::LEN)?;
    if let Some(flow) = admitted(settings, key) {
        return Some(Delivery {
            ifindex: flow.ifindex,
            addresses: flow.addresses,
            hop: ttl::next_hop(ip)?,
        });
    }
    let candidate = Candidate {
        ip: *ip,
        transport: transport.rest,
        addresses: Addresses([[0; 6]; 2]),
        ifindex: 0,
    };
    let _ = maps::candidates.insert(key, candidate, BPF_ANY.into());
    None
}

/// Sends a packet whose tunnel headers are off into its pod.
#[inline(always)]
pub(super) fn deliver(packet: &Packet, delivery: &Delivery) -> Option<Verdict> {
    if !packet.write(0, &delivery.addresses)
        || !packet.write(Ethernet::LEN + Hop::OFFSET, &delivery.hop)
    {
        return None;
    }
    Some(packet.redirect_peer(delivery.ifindex))
}

#[inline(always)]
fn arrived(packet: &Packet) -> Option<()> {
    let settings = settings()?;
    if packet.has_vlan_tag() {
        return None;
    }
    let Frame {
        ethernet,
        ip,
        transport,
    } = packet.header(0)?;
    if ethernet.ethertype != ETHERTYPE_IPV4 {
        return None;
    }
    let key = key(packet, ip, transport, Ethernet::LEN + Ipv4::LEN)?;
    // SAFETY: as for flows, see `admitted`.
    let candidate = unsafe { maps::candidates.get(key) }?;
    if candidate.ifindex == 0 && is_unchanged(candidate, ip, transport) {
        admit(settings, key, packet.ifindex(), ethernet.addresses());
    }
    Some(())
}
