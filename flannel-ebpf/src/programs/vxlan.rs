//! The vxlan backend. Egress of the tunnel device: the packet has passed routing and netfilter,
//! the kernel has put the inner link-layer header on, and all that is missing is the way over the
//! underlay. Ingress of the external interface: packets from peers go into the tunnel device,
//! without their way up the stack as UDP datagrams.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_ebpf::abi::{Config, EgressOutcome, Encap, IngressOutcome};
use flannel_ebpf::decap::{self, Mark, VxlanFrame};
use flannel_ebpf::encap;
use flannel_ebpf::flow;
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Ipv4};

use super::fast::{Arrival, NOBODY};
use super::{egress, fast, ingress};
use crate::bytes::Bytes as _;
use crate::count::Size;
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
    let mut packet = Packet::new(context);
    let size = Size::of(&packet);
    let sent = send(&mut packet);
    egress::finish(&packet, size, sent)
}

#[classifier]
pub(crate) fn vxlan_decap(context: TcContext) -> i32 {
    let mut packet = Packet::new(context);
    if packet.is_stripped(Encap::Vxlan) {
        return ingress::run_stripped(&mut packet, receive_stripped);
    }
    ingress::run(&mut packet, receive)
}

#[inline(always)]
fn send(packet: &mut Packet) -> Result<Verdict, EgressOutcome> {
    if packet.has_vlan_tag() {
        return Err(EgressOutcome::Vlan);
    }
    let Inner { ethernet, ip } = packet.header(0).ok_or(EgressOutcome::NotLinear)?;
    if ethernet.ethertype != ETHERTYPE_IPV4 {
        return Err(EgressOutcome::NotIpv4);
    }
    let peer = egress::peer(ip.destination, Encap::Vxlan)?;
    // The kernel's own decision goes by the destination (it is the key of its FDB): follow it. The
    // source is ours unless a bridge or a raw socket is behind the device; the template has no other.
    if ethernet.addresses() != peer.headers.inner.addresses() {
        return Err(EgressOutcome::OtherMac);
    }
    let inner_len = packet.len() - Ethernet::LEN as u32;
    egress::check_way(packet, peer, ip, Ethernet::LEN, inner_len)?;
    let _ = fast::admit_sent(packet, ip, Ethernet::LEN);
    let [id @ .., _, _] = random().to_ne_bytes();
    let inner = encap::Packet {
        inner_len,
        inner_tos: ip.tos,
        id,
        source_port: flow::source_port(egress::flow_hash(packet, ip, Ethernet::LEN)),
    };
    if !packet.add_room(Encap::Vxlan) {
        return Err(EgressOutcome::NoRoom);
    }
    if !egress::put_headers(packet, peer, Encap::Vxlan, inner) {
        return Err(EgressOutcome::Failed);
    }
    Ok(packet.redirect(peer.ifindex, Side::Egress))
}

#[inline(always)]
fn receive(
    packet: &mut Packet,
    config: &Config,
) -> Result<(IngressOutcome, Verdict), IngressOutcome> {
    if packet.gso_size() != 0 && !fast::is_on() {
        return Err(IngressOutcome::Aggregate);
    }
    ingress::check_arrival(packet)?;
    ingress::fetch::<VxlanFrame>(packet)?;
    let VxlanFrame { outer, shim, inner } = ingress::frame(packet)?;
    decap::check(outer, packet.len(), config)?;
    decap::check_shim(shim, config)?;
    let arrival = Arrival::of(packet, Encap::Vxlan, inner, Headers::LEN);
    let flow = arrival.flow;
    ingress::check_sender(outer, &flow)?;
    ingress::check_checksum(packet, outer, bytemuck::bytes_of(shim), inner)?;
    let mark = decap::inner_mark(&outer.ip, inner)?;
    let is_fast = flow.is_known() && mark.is_none();
    if !is_fast {
        match mark {
            None => {
                let sender = outer.ip.source;
                fast::leave(packet, Encap::Vxlan, inner, Headers::LEN, sender, arrival);
            }
            Some(_) => fast::leave_for_mark(packet, &flow),
        }
        if packet.gso_size() != 0 {
            return Err(IngressOutcome::Aggregate);
        }
    }
    let size = Size::of(packet);
    let addresses = shim.inner.addresses();

    if !packet.remove_room(Encap::Vxlan) {
        return Err(IngressOutcome::NoRoom);
    }
    packet.drop_checksum_level();
    if is_fast {
        let verdict =
            fast::deliver(packet, Encap::Vxlan, &flow, size).ok_or(IngressOutcome::Failed)?;
        return Ok((IngressOutcome::Fast, verdict));
    }
    // The outer link-layer header is in front of the inner packet now: make it the inner one (the
    // EtherType is the same).
    if !packet.set_addresses(addresses) || !mark.is_none_or(|mark| write_mark(packet, mark)) {
        return Err(IngressOutcome::Failed);
    }
    let verdict = packet.redirect(config.device_ifindex, Side::Ingress);
    Ok((IngressOutcome::Decapsulated, verdict))
}

/// The inner frame, or a whole aggregate of them. A header outside the linear part is for the
/// standard path, which does not need it here.
#[inline(always)]
fn receive_stripped(packet: &mut Packet, config: &Config) -> Option<(IngressOutcome, Verdict)> {
    if let Some(Inner { ip, .. }) = packet.header(0) {
        let arrival = Arrival::of(packet, Encap::Vxlan, ip, Ethernet::LEN);
        if arrival.flow.is_known() {
            // The device has taken it for somebody else's, by the inner link-layer address.
            packet.set_for_host();
            let verdict = fast::deliver(packet, Encap::Vxlan, &arrival.flow, Size::of(packet))?;
            return Some((IngressOutcome::Fast, verdict));
        }
        fast::leave(packet, Encap::Vxlan, ip, Ethernet::LEN, NOBODY, arrival);
    }
    let verdict = packet.redirect(config.device_ifindex, Side::Ingress);
    Some((IngressOutcome::Stripped, verdict))
}

/// Writes the changed octets of the inner header. Its sum stays the same (the checksum makes up for
/// the mark), so checksums kept beside the packet stay right.
#[inline(always)]
fn write_mark(packet: &mut Packet, mark: Mark) -> bool {
    packet.store(Ethernet::LEN + core::mem::offset_of!(Ipv4, tos), &mark.tos)
        && packet.store(
            Ethernet::LEN + core::mem::offset_of!(Ipv4, checksum),
            &mark.checksum,
        )
}
