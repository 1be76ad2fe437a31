//! The udp backend, which in stock flannel is a proxy between a TUN device and a UDP socket. The
//! same packets as the proxy's, byte for byte, without their way through user space: it is a hop
//! of its own at each end, and the datagram holds the packet between pods and nothing else.
//!
//! One difference shows on virtual wires (veth): a checksum that a socket has left to a device stays
//! left, also inside the tunnel. The kernel, `udp_decap` and our proxy know such a packet for what
//! it is; stock's proxy passes it on, and the pod finds a wrong checksum. So over such a wire a peer
//! has to show first that it is kin: its datagrams have no UDP checksum, where those of stock's
//! socket have one. Until then its packets are the proxy's, which completes checksums.
//!
//! The TUN device has no link-layer header. On its egress the packet starts with the inner IPv4
//! header, and a packet that is redirected into it loses its link-layer header on the way.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_ebpf::abi::{Config, EgressOutcome, Encap, IngressOutcome};
use flannel_ebpf::decap;
use flannel_ebpf::encap;
use flannel_ebpf::ttl::{self, Hop};
use flannel_ebpf::wire::{Datagram, Ethernet, IpFrame, Ipv4, PROTOCOL_TCP, UdpFrame};

use super::ingress::Taken;
use super::{egress, fast, ingress};
use crate::bytes::Bytes as _;
use crate::count::Size;
use crate::packet::{Packet, Side, Verdict, random};

#[classifier]
pub(crate) fn udp_encap(context: TcContext) -> i32 {
    egress::run(&mut Packet::new(context), send)
}

#[classifier]
pub(crate) fn udp_decap(context: TcContext) -> i32 {
    let mut packet = Packet::new(context);
    if packet.is_stripped(Encap::Udp) {
        return ingress::run_stripped(&mut packet, receive_stripped);
    }
    ingress::run(&mut packet, receive)
}

#[inline(always)]
fn send(packet: &mut Packet, size: Size) -> Result<Verdict, EgressOutcome> {
    if !packet.is_ipv4() {
        return Err(EgressOutcome::NotIpv4);
    }
    // Fragments and options need no care: the proxy does not look at them either.
    let ip: &Ipv4 = packet.header(0).ok_or(EgressOutcome::NotLinear)?;
    if !ip.fits(size.len) {
        return Err(EgressOutcome::NotIpv4);
    }
    let peer = egress::peer(ip.destination, Encap::Udp)?;
    egress::check_way(packet, peer, ip, 0, size)?;
    egress::check_kinship(peer, ip)?;
    let hop = ttl::next_hop(ip).ok_or(EgressOutcome::Ttl)?;
    let _ = fast::admit_sent(packet, ip, 0);
    let [id @ .., _, _] = random().to_ne_bytes();
    let inner = encap::Packet {
        inner_len: size.len,
        inner_tos: ip.tos,
        id,
        source_port: peer.headers.udp.source,
    };
    // The step that the kernel may refuse comes first, while the packet is unchanged.
    if !packet.add_room(Encap::Udp) {
        return Err(EgressOutcome::NoRoom);
    }
    if !packet.add_link_header() || !egress::put_headers(packet, peer, Encap::Udp, inner, Some(hop))
    {
        return Err(EgressOutcome::Failed);
    }
    Ok(packet.redirect(peer.ifindex, Side::Egress))
}

#[inline(always)]
fn receive(packet: &mut Packet, config: &Config, size: Size) -> Result<Taken, IngressOutcome> {
    ingress::check_arrival(packet)?;
    ingress::fetch::<UdpFrame>(packet)?;
    let frame: &UdpFrame = ingress::frame(packet)?;
    let UdpFrame { outer, inner } = frame;
    decap::check(outer, size.len, config)?;
    // Also by a datagram that is left to the socket.
    ingress::meet_sender(outer)?;
    decap::check_bare(frame).map_err(|reason| merged(size, reason))?;
    if size.is_aggregate() && inner.protocol != PROTOCOL_TCP {
        return Err(IngressOutcome::Aggregate);
    }
    ingress::check_checksum(packet, outer, &[], inner)?;
    if let Some(entry) = fast::entry(packet, Encap::Udp, inner, Datagram::LEN, size, None) {
        ingress::take_off(packet, Encap::Udp)?;
        let verdict = entry.deliver(packet, Encap::Udp, size);
        return verdict.map(Taken::ByPod).ok_or(IngressOutcome::Failed);
    }
    let hop = ttl::next_hop(inner).ok_or(IngressOutcome::Ttl)?;
    fast::leave(packet, Encap::Udp, inner, Datagram::LEN, size, None);
    ingress::take_off(packet, Encap::Udp)?;
    into_device(packet, config, hop).ok_or(IngressOutcome::Failed)
}

/// The inner packet behind the outer link-layer header, or a whole aggregate of such.
#[inline(always)]
fn receive_stripped(packet: &mut Packet, config: &Config, size: Size) -> Option<Taken> {
    let is_there = packet.header::<IpFrame>(0).is_some();
    if !is_there && !packet.pull(size_of::<IpFrame>()) {
        return None;
    }
    let IpFrame { ip, .. } = packet.header(0)?;
    if let Some(entry) = fast::entry(packet, Encap::Udp, ip, Ethernet::LEN, size, None) {
        return entry.deliver(packet, Encap::Udp, size).map(Taken::ByPod);
    }
    let hop = ttl::next_hop(ip)?;
    fast::leave(packet, Encap::Udp, ip, Ethernet::LEN, size, None);
    into_device(packet, config, hop)
}

/// Sends a packet whose tunnel headers are off into the tunnel device.
#[inline(always)]
fn into_device(packet: &mut Packet, config: &Config, hop: Hop) -> Option<Taken> {
    let frame: &mut IpFrame = packet.header_mut(0)?;
    hop.write(&mut frame.ip);
    Some(Taken::ByDevice(
        packet.redirect(config.device_ifindex, Side::Ingress),
    ))
}

/// An aggregate that is one TCP packet between pods, not split yet, can be taken as it is. One whose
/// datagrams GRO has merged is many, and only a socket can take it apart. And one that a pod's UDP
/// socket made keeps the kernel's note that it is in a tunnel, by which the receiving socket, which
/// has to cut it, would look for headers that are gone.
#[inline(always)]
fn merged(size: Size, reason: IngressOutcome) -> IngressOutcome {
    if size.is_aggregate() {
        IngressOutcome::Aggregate
    } else {
        reason
    }
}
