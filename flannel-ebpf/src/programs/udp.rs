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
use flannel_ebpf::decap::{self, UdpFrame};
use flannel_ebpf::encap;
use flannel_ebpf::ttl::{self, Hop};
use flannel_ebpf::wire::{Datagram, Ethernet, Ipv4, PROTOCOL_TCP};

use super::fast::{Arrival, NOBODY};
use super::{egress, fast, ingress};
use crate::bytes::Bytes as _;
use crate::count::Size;
use crate::packet::{Packet, Side, Verdict, random};

#[classifier]
pub(crate) fn udp_encap(context: TcContext) -> i32 {
    let mut packet = Packet::new(context);
    let size = Size::of(&packet);
    let sent = send(&mut packet);
    egress::finish(&packet, size, sent)
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
fn send(packet: &mut Packet) -> Result<Verdict, EgressOutcome> {
    if !packet.is_ipv4() {
        return Err(EgressOutcome::NotIpv4);
    }
    // Fragments and options need no care: the proxy does not look at them either.
    let ip: &Ipv4 = packet.header(0).ok_or(EgressOutcome::NotLinear)?;
    if !ip.fits(packet.len()) {
        return Err(EgressOutcome::NotIpv4);
    }
    let peer = egress::peer(ip.destination, Encap::Udp)?;
    egress::check_way(packet, peer, ip, 0, packet.len())?;
    egress::check_kinship(peer, ip)?;
    let hop = ttl::next_hop(ip).ok_or(EgressOutcome::Ttl)?;
    let _ = fast::admit_sent(packet, ip, 0);
    let [id @ .., _, _] = random().to_ne_bytes();
    let inner = encap::Packet {
        inner_len: packet.len(),
        inner_tos: ip.tos,
        id,
        source_port: peer.headers.udp.source,
    };
    // The step that the kernel may refuse comes first, while the packet is unchanged.
    if !packet.add_room(Encap::Udp) {
        return Err(EgressOutcome::NoRoom);
    }
    if !packet.add_link_header()
        || !egress::put_headers(packet, peer, Encap::Udp, inner)
        || !packet.write(Datagram::LEN + Hop::OFFSET, &hop)
    {
        return Err(EgressOutcome::Failed);
    }
    Ok(packet.redirect(peer.ifindex, Side::Egress))
}

#[inline(always)]
fn receive(
    packet: &mut Packet,
    config: &Config,
) -> Result<(IngressOutcome, Verdict), IngressOutcome> {
    ingress::check_arrival(packet)?;
    ingress::fetch::<UdpFrame>(packet)?;
    let frame: &UdpFrame = ingress::frame(packet)?;
    let UdpFrame { outer, inner } = frame;
    decap::check(outer, packet.len(), config)?;
    // Also by a datagram that is left to the socket.
    ingress::meet_sender(outer)?;
    decap::check_bare(frame).map_err(|reason| merged(packet, reason))?;
    if packet.gso_size() != 0 && inner.protocol != PROTOCOL_TCP {
        return Err(IngressOutcome::Aggregate);
    }
    ingress::check_checksum(packet, outer, &[], inner)?;
    let hop = ttl::next_hop(inner).ok_or(IngressOutcome::Ttl)?;
    let arrival = Arrival::of(packet, Encap::Udp, inner, Datagram::LEN);
    let flow = arrival.flow;
    if !flow.is_known() {
        fast::leave(packet, Encap::Udp, inner, Datagram::LEN, NOBODY, arrival);
    }
    let size = Size::of(packet);

    if !packet.remove_room(Encap::Udp) {
        return Err(IngressOutcome::NoRoom);
    }
    packet.drop_checksum_level();
    if flow.is_known() {
        let verdict =
            fast::deliver(packet, Encap::Udp, &flow, size).ok_or(IngressOutcome::Failed)?;
        return Ok((IngressOutcome::Fast, verdict));
    }
    if !packet.write(Ethernet::LEN + Hop::OFFSET, &hop) {
        return Err(IngressOutcome::Failed);
    }
    let verdict = packet.redirect(config.device_ifindex, Side::Ingress);
    Ok((IngressOutcome::Decapsulated, verdict))
}

/// The inner packet behind the outer link-layer header, or a whole aggregate of such.
#[inline(always)]
fn receive_stripped(packet: &mut Packet, config: &Config) -> Option<(IngressOutcome, Verdict)> {
    let is_there = packet.header::<Ipv4>(Ethernet::LEN).is_some();
    if !is_there && !packet.pull(Ethernet::LEN + Ipv4::LEN) {
        return None;
    }
    let ip: &Ipv4 = packet.header(Ethernet::LEN)?;
    let hop = ttl::next_hop(ip)?;
    let arrival = Arrival::of(packet, Encap::Udp, ip, Ethernet::LEN);
    let flow = arrival.flow;
    if flow.is_known() {
        let verdict = fast::deliver(packet, Encap::Udp, &flow, Size::of(packet))?;
        return Some((IngressOutcome::Fast, verdict));
    }
    fast::leave(packet, Encap::Udp, ip, Ethernet::LEN, NOBODY, arrival);
    if !packet.write(Ethernet::LEN + Hop::OFFSET, &hop) {
        return None;
    }
    let verdict = packet.redirect(config.device_ifindex, Side::Ingress);
    Some((IngressOutcome::Stripped, verdict))
}

/// An aggregate that is one TCP packet between pods, not split yet, can be taken as it is. One whose
/// datagrams GRO has merged is many, and only a socket can take it apart. And one that a pod's UDP
/// socket made keeps the kernel's note that it is in a tunnel, by which the receiving socket, which
/// has to cut it, would look for headers that are gone.
#[inline(always)]
fn merged(packet: &Packet, reason: IngressOutcome) -> IngressOutcome {
    if packet.gso_size() == 0 {
        reason
    } else {
        IngressOutcome::Aggregate
    }
}
