//! What the programs that receive have in common: telling the tunnel's packets from all others,
//! access to their headers, sender and checksum, and the count at the edge.

use aya_log_ebpf::{debug, trace};
use bytemuck::AnyBitPattern;
use flannel_ebpf::abi::{Config, Encap, IngressOutcome};
use flannel_ebpf::decap;
use flannel_ebpf::wire::{Datagram, ETHERTYPE_IPV4, Ethernet, Ipv4, PROTOCOL_UDP, Udp};

use crate::bytes::Bytes as _;
use crate::count::{self, Size};
use crate::maps;
use crate::packet::{Packet, Verdict};

/// Where a packet went that was not left to the kernel.
pub(super) enum Taken {
    /// Into the tunnel device.
    ByDevice(Verdict),
    /// Into its pod: that is counted where it was done.
    ByPod(Verdict),
}

/// Runs `receive` on the tunnel's packets, counts what became of them, and gives the kernel its
/// answer. All other packets go by.
#[inline(always)]
pub(super) fn run(
    packet: &mut Packet,
    receive: impl FnOnce(&mut Packet, &Config, Size) -> Result<Taken, IngressOutcome>,
) -> i32 {
    let Some(config) = maps::config.get(0) else {
        return Verdict::Kernel as i32;
    };
    if !is_for_port(packet, config.udp_port) {
        return Verdict::Kernel as i32;
    }
    let size = Size::of(packet);
    let received = receive(packet, config, size);
    finish(packet, size, received, IngressOutcome::Decapsulated)
}

/// Runs `receive` on a packet whose tunnel headers an XDP program has taken off, after all checks.
/// What cannot be delivered now is lost: the headers are gone.
#[inline(always)]
pub(super) fn run_stripped(
    packet: &mut Packet,
    receive: impl FnOnce(&mut Packet, &Config, Size) -> Option<Taken>,
) -> i32 {
    let size = Size::of(packet);
    // A tag that is left belongs to a VLAN that this host is not in; its packets end here.
    let received = match maps::config.get(0) {
        Some(config) if packet.vlan_id() == 0 => receive(packet, config, size),
        _ => None,
    };
    let received = received.ok_or(IngressOutcome::Failed);
    finish(packet, size, received, IngressOutcome::Stripped)
}

/// Counts the outcome, which is `by_device` for what the tunnel device got, and gives the kernel its
/// answer.
#[inline(always)]
fn finish(
    packet: &Packet,
    size: Size,
    received: Result<Taken, IngressOutcome>,
    by_device: IngressOutcome,
) -> i32 {
    let (outcome, verdict) = match received {
        Ok(Taken::ByPod(verdict)) => return verdict as i32,
        Ok(Taken::ByDevice(verdict)) => {
            trace!(packet.context(), "{}", by_device.name());
            (by_device, verdict)
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
fn is_for_port(packet: &mut Packet, port: [u8; 2]) -> bool {
    fetch_datagram(packet);
    let Some(Datagram { ethernet, ip, udp }) = packet.header(0) else {
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

/// Brings the headers as far as UDP into the linear part. Some drivers leave all but the link-layer
/// header outside; the stack would fetch them next, so nothing is lost by doing it here. Not for
/// aggregates: their headers are always there, and fetching can upset chained ones.
#[inline(always)]
fn fetch_datagram(packet: &mut Packet) {
    if packet.header::<Datagram>(0).is_none() && packet.gso_size() == 0 && packet.is_ipv4() {
        // Where it fails, the header is not there.
        let _ = packet.pull(Datagram::LEN);
    }
}

/// Checks what the kernel keeps beside the packet: it came to this host, on no VLAN.
#[inline(always)]
pub(super) fn check_arrival(packet: &Packet) -> Result<(), IngressOutcome> {
    if packet.has_vlan_tag() {
        return Err(IngressOutcome::Vlan);
    }
    if !packet.is_for_host() {
        return Err(IngressOutcome::OtherHost);
    }
    Ok(())
}

/// Brings the headers as far as the inner IPv4 header into the linear part, or says why not. An
/// aggregate's are not fetched, see [`fetch_datagram`].
#[inline(always)]
pub(super) fn fetch<T: AnyBitPattern>(packet: &mut Packet) -> Result<(), IngressOutcome> {
    if packet.header::<T>(0).is_some() {
        return Ok(());
    }
    if packet.gso_size() != 0 {
        return Err(IngressOutcome::Aggregate);
    }
    if packet.len() < size_of::<T>() as u32 || !packet.pull(size_of::<T>()) {
        return Err(IngressOutcome::Truncated);
    }
    Ok(())
}

/// The headers that have been fetched.
#[inline(always)]
pub(super) fn frame<T: AnyBitPattern>(packet: &Packet) -> Result<&T, IngressOutcome> {
    packet.header(0).ok_or(IngressOutcome::Truncated)
}

/// Checks that the sender is in the lease table.
#[inline(always)]
pub(super) fn check_sender(outer: &Datagram) -> Result<(), IngressOutcome> {
    maps::remote(outer.ip.source)
        .map(drop)
        .ok_or(IngressOutcome::UnknownSender)
}

/// The same, and notes whether the sender is kin. That is written when it changes only: all CPUs
/// read it.
#[inline(always)]
pub(super) fn meet_sender(outer: &Datagram) -> Result<(), IngressOutcome> {
    let sender = maps::remote(outer.ip.source).ok_or(IngressOutcome::UnknownSender)?;
    let is_kin = decap::is_from_kin(outer);
    if sender.is_kin() != is_kin {
        sender.set_kin(is_kin);
    }
    Ok(())
}

/// Checks that there is no UDP checksum, or that the device has verified it, or that the headers
/// agree with it. `shim` is what stands between the UDP header and the inner packet.
#[inline(always)]
pub(super) fn check_checksum(
    packet: &Packet,
    outer: &Datagram,
    shim: &[u8],
    inner: &Ipv4,
) -> Result<(), IngressOutcome> {
    if outer.udp.checksum == [0; 2] || packet.is_checksum_verified() {
        return Ok(());
    }
    let inner_udp = Datagram::LEN + shim.len() + Ipv4::LEN;
    let inner_checksum = match inner.protocol {
        PROTOCOL_UDP => packet.load(inner_udp + core::mem::offset_of!(Udp, checksum)),
        _ => None,
    };
    if decap::is_checksum_plausible(outer, shim, inner, inner_checksum.unwrap_or([0; 2])) {
        Ok(())
    } else {
        Err(IngressOutcome::UdpChecksum)
    }
}

/// Takes the headers of a tunnel off, with what is known of their checksum.
#[inline(always)]
pub(super) fn take_off(packet: &mut Packet, encap: Encap) -> Result<(), IngressOutcome> {
    if !packet.remove_room(encap) {
        return Err(IngressOutcome::NoRoom);
    }
    packet.drop_checksum_level();
    Ok(())
}
