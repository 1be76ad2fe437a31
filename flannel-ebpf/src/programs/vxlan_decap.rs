//! Ingress of the external interface: tunnel packets from peers go into the tunnel device, without
//! their way up the stack as UDP datagrams. Everything else on the interface passes by after one
//! comparison.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::{debug, trace};
use flannel_ebpf::abi::{Config, IngressOutcome};
use flannel_ebpf::decap::{self, Datagram, Frame, Mark};
use flannel_ebpf::wire::{ETHERTYPE_IPV4, Ethernet, Ipv4, PROTOCOL_UDP, Udp};

use crate::count::{self, Size};
use crate::maps;
use crate::packet::{Packet, Side, Verdict};

#[classifier]
pub(crate) fn vxlan_decap(context: TcContext) -> i32 {
    let packet = Packet::new(context);
    let Some(config) = maps::config.get(0) else {
        return Verdict::Kernel as i32;
    };
    if !is_for_port(&packet, config.udp_port) {
        return Verdict::Kernel as i32;
    }
    let size = Size::of(&packet);
    let (outcome, verdict) = match receive(&packet, config) {
        Ok(verdict) => {
            trace!(packet.context(), "decapsulated");
            (IngressOutcome::Decapsulated, verdict)
        }
        Err(IngressOutcome::Failed) => (IngressOutcome::Failed, Verdict::Dropped),
        Err(reason) => {
            debug!(packet.context(), "left to the kernel: {}", reason.name());
            (reason, Verdict::Kernel)
        }
    };
    count::ingress(outcome, size);
    verdict as i32
}

/// Whether this is UDP over IPv4 to the tunnel's port, however odd otherwise.
#[inline(always)]
fn is_for_port(packet: &Packet, port: [u8; 2]) -> bool {
    let Some(Datagram { ethernet, ip, udp }) = datagram(packet) else {
        return false;
    };
    if ethernet.ethertype != ETHERTYPE_IPV4 || ip.protocol != PROTOCOL_UDP || !ip.is_first() {
        return false;
    }
    if ip.version_ihl == Ipv4::VERSION_IHL {
        return udp.destination == port;
    }
    let options_len = usize::from(ip.version_ihl & 0xf).saturating_sub(5) * 4;
    let offset = Ethernet::LEN + Ipv4::LEN + options_len + core::mem::offset_of!(Udp, destination);
    packet.load(offset) == Some(port)
}

/// The headers as far as UDP. Some drivers leave all but the link-layer header outside the linear
/// part; the stack would fetch them next, so nothing is lost by doing it here. Not for aggregates:
/// their headers are always there, and fetching can upset chained ones.
#[inline(always)]
fn datagram(packet: &Packet) -> Option<&Datagram> {
    let headers = packet.header(0);
    if headers.is_some() || packet.gso_size() != 0 || !packet.is_ipv4() {
        return headers;
    }
    if !packet.pull(size_of::<Datagram>()) {
        return None;
    }
    packet.header(0)
}

#[inline(always)]
fn receive(packet: &Packet, config: &Config) -> Result<Verdict, IngressOutcome> {
    if packet.gso_size() != 0 {
        return Err(IngressOutcome::Aggregate);
    }
    if packet.has_vlan_tag() {
        return Err(IngressOutcome::Vlan);
    }
    if !packet.is_for_host() {
        return Err(IngressOutcome::OtherHost);
    }
    let frame = frame(packet)?;
    if frame.headers.ip.version_ihl != Ipv4::VERSION_IHL {
        return Err(IngressOutcome::IpOptions);
    }
    decap::check(frame, packet.len(), config)?;
    // SAFETY: an entry that is replaced or removed meanwhile is freed after an RCU grace period.
    let sender = unsafe { maps::remotes.get(frame.headers.ip.source) };
    sender.ok_or(IngressOutcome::UnknownSender)?;
    if frame.headers.udp.checksum != [0; 2] && !packet.is_checksum_verified() {
        return Err(IngressOutcome::UdpChecksum);
    }
    let mark = decap::inner_update(frame)?;
    let addresses = frame.headers.inner.addresses();

    if !packet.remove_room() {
        return Err(IngressOutcome::NoRoom);
    }
    packet.drop_checksum_level();
    // The outer link-layer header is in front of the inner packet now: make it the inner one (the
    // EtherType is the same).
    if !packet.store(0, &addresses) || !mark.is_none_or(|mark| write_mark(packet, mark)) {
        return Err(IngressOutcome::Failed);
    }
    Ok(packet.redirect(config.device_ifindex, Side::Ingress))
}

#[inline(always)]
fn frame(packet: &Packet) -> Result<&Frame, IngressOutcome> {
    if let Some(frame) = packet.header(0) {
        return Ok(frame);
    }
    if packet.len() < Frame::LEN as u32 || !packet.pull(Frame::LEN) {
        return Err(IngressOutcome::Truncated);
    }
    packet.header(0).ok_or(IngressOutcome::Truncated)
}

/// Writes the changed octets of the inner header. Its sum stays the same (the checksum makes up for
/// the mark), so checksums kept beside the packet stay right.
#[inline(always)]
fn write_mark(packet: &Packet, mark: Mark) -> bool {
    packet.store(Ethernet::LEN + core::mem::offset_of!(Ipv4, tos), &mark.tos)
        && packet.store(
            Ethernet::LEN + core::mem::offset_of!(Ipv4, checksum),
            &mark.checksum,
        )
}
