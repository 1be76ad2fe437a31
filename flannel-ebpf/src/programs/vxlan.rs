//! The vxlan backend. Egress of the tunnel device: the packet has passed routing and netfilter,
//! the kernel has put the inner link-layer header on, and all that is missing is the way over the
//! underlay. Ingress of the external interface: packets from peers go into the tunnel device,
//! without their way up the stack as UDP datagrams.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_ebpf::abi::{Config, EgressOutcome, Encap, IngressOutcome};
use flannel_ebpf::decap::{self, Mark};
use flannel_ebpf::encap;
use flannel_ebpf::flow;
use flannel_ebpf::wire::{
    ETHERTYPE_IPV4, Ethernet, Headers, IpFrame, Ipv4, PROTOCOL_UDP, VxlanFrame,
};

use super::ingress::Taken;
use super::{egress, fast, ingress};
use crate::bytes::Bytes as _;
use crate::count::Size;
use crate::packet::{Packet, Side, Verdict, random};

#[classifier]
pub(crate) fn vxlan_encap(context: TcContext) -> i32 {
    egress::run(&mut Packet::new(context), send)
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
fn send(packet: &mut Packet, size: Size) -> Result<Verdict, EgressOutcome> {
    if packet.has_vlan_tag() {
        return Err(EgressOutcome::Vlan);
    }
    let IpFrame { ethernet, ip } = packet.header(0).ok_or(EgressOutcome::NotLinear)?;
    if ethernet.ethertype != ETHERTYPE_IPV4 {
        return Err(EgressOutcome::NotIpv4);
    }
    let peer = egress::peer(ip.destination, Encap::Vxlan)?;
    // The kernel's own decision goes by the destination (it is the key of its FDB): follow it. The
    // source is ours unless a bridge or a raw socket is behind the device; the template has no other.
    if ethernet.addresses() != peer.headers.inner.addresses() {
        return Err(EgressOutcome::OtherMac);
    }
    egress::check_way(packet, peer, ip, Ethernet::LEN, size)?;
    let _ = fast::admit_sent(packet, ip, Ethernet::LEN);
    let [id @ .., _, _] = random().to_ne_bytes();
    let inner = encap::Packet {
        inner_len: size.len - Ethernet::LEN as u32,
        inner_tos: ip.tos,
        id,
        source_port: flow::source_port(egress::flow_hash(packet, ip, Ethernet::LEN)),
    };
    if !packet.add_room(Encap::Vxlan) {
        return Err(EgressOutcome::NoRoom);
    }
    if !egress::put_headers(packet, peer, Encap::Vxlan, inner, None) {
        return Err(EgressOutcome::Failed);
    }
    Ok(packet.redirect(peer.ifindex, Side::Egress))
}

#[inline(always)]
fn receive(packet: &mut Packet, config: &Config, size: Size) -> Result<Taken, IngressOutcome> {
    if size.is_aggregate() && !fast::is_on() {
        return Err(IngressOutcome::Aggregate);
    }
    ingress::check_arrival(packet)?;
    ingress::fetch::<VxlanFrame>(packet)?;
    let VxlanFrame { outer, shim, inner } = ingress::frame(packet)?;
    decap::check(outer, size.len, config)?;
    decap::check_shim(shim, config)?;
    ingress::check_checksum(packet, outer, bytemuck::bytes_of(shim), inner)?;
    let mark = decap::inner_mark(&outer.ip, inner)?;
    let sender = Some(outer.ip.source);
    // What a pod's socket has to cut stays with the kernel's device: the packet would go on being one in
    // a tunnel, and the socket would look for headers that are gone.
    let is_cut = size.is_aggregate() && inner.protocol == PROTOCOL_UDP;
    if mark.is_none()
        && !is_cut
        && let Some(entry) = fast::entry(packet, Encap::Vxlan, inner, Headers::LEN, size, sender)
    {
        ingress::take_off(packet, Encap::Vxlan)?;
        let verdict = entry.deliver(packet, Encap::Vxlan, size);
        return verdict.map(Taken::ByPod).ok_or(IngressOutcome::Failed);
    }
    ingress::check_sender(outer)?;
    match mark {
        None => fast::leave(packet, Encap::Vxlan, inner, Headers::LEN, size, sender),
        Some(_) => fast::leave_for_mark(packet, Encap::Vxlan, inner, Headers::LEN, size),
    }
    if size.is_aggregate() {
        return Err(IngressOutcome::Aggregate);
    }
    let addresses = shim.inner.addresses();
    ingress::take_off(packet, Encap::Vxlan)?;
    // The outer link-layer header is in front of the inner packet now: make it the inner one (the
    // EtherType is the same).
    if !packet.set_addresses(addresses) || !mark.is_none_or(|mark| write_mark(packet, mark)) {
        return Err(IngressOutcome::Failed);
    }
    Ok(Taken::ByDevice(
        packet.redirect(config.device_ifindex, Side::Ingress),
    ))
}

/// The inner frame, or a whole aggregate of them. A header outside the linear part is for the
/// standard path, which does not need it here.
#[inline(always)]
fn receive_stripped(packet: &mut Packet, config: &Config, size: Size) -> Option<Taken> {
    if let Some(IpFrame { ip, .. }) = packet.header(0) {
        if let Some(entry) = fast::entry(packet, Encap::Vxlan, ip, Ethernet::LEN, size, None) {
            // The device has taken it for somebody else's, by the inner link-layer address.
            packet.set_for_host();
            return entry.deliver(packet, Encap::Vxlan, size).map(Taken::ByPod);
        }
        fast::leave(packet, Encap::Vxlan, ip, Ethernet::LEN, size, None);
    }
    Some(Taken::ByDevice(
        packet.redirect(config.device_ifindex, Side::Ingress),
    ))
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
