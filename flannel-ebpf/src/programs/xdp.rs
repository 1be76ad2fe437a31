//! Takes a tunnel's headers off before there is a socket buffer, on NICs whose driver runs XDP.
//!
//! What GRO merges then are packets between pods, with no tunnel around them: the TC program on the
//! same interface hands the whole aggregate on, where it would have to leave one of tunnel packets
//! to the kernel's device. It tells such packets from all others by a note beside the frame, which
//! GRO compares: only packets with the same note are merged.
//!
//! All checks are those of the TC program. A frame that fails one goes on unchanged, and that program
//! finds the reason and counts it.

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use flannel_ebpf::abi::{Config, Encap, IngressOutcome, Stripped};
use flannel_ebpf::decap::{self, Mark};
use flannel_ebpf::ttl::next_hop;
use flannel_ebpf::wire::{
    Datagram, ETHERTYPE_IPV4, Ethernet, Ipv4, PROTOCOL_UDP, Udp, UdpFrame, VxlanFrame,
};

use super::ingress;
use crate::bytes::Bytes as _;
use crate::maps;
use crate::raw::{Raw, Verdict};

#[xdp(frags)]
pub(crate) fn xdp_vxlan(context: XdpContext) -> u32 {
    run(&mut Raw::new(context), strip_vxlan)
}

#[xdp(frags)]
pub(crate) fn xdp_udp(context: XdpContext) -> u32 {
    run(&mut Raw::new(context), strip_udp)
}

/// Why a frame is not stripped.
enum Left {
    /// It is as it was.
    Unchanged,
    /// It is not.
    Damaged,
}

impl From<IngressOutcome> for Left {
    fn from(_: IngressOutcome) -> Self {
        Self::Unchanged
    }
}

#[inline(always)]
fn run(raw: &mut Raw, strip: impl FnOnce(&mut Raw, &Config) -> Result<(), Left>) -> u32 {
    let verdict = match maps::config.get(0).map(|config| strip(raw, config)) {
        Some(Err(Left::Damaged)) => Verdict::Dropped,
        None | Some(_) => Verdict::Pass,
    };
    verdict as u32
}

#[inline(always)]
fn strip_vxlan(raw: &mut Raw, config: &Config) -> Result<(), Left> {
    let VxlanFrame { outer, shim, inner } = raw.header(0).ok_or(Left::Unchanged)?;
    check_arrival(outer, config)?;
    decap::check(outer, raw.len(), config)?;
    decap::check_shim(shim, config)?;
    ingress::check_sender(outer)?;
    check_checksum(raw, outer, bytemuck::bytes_of(shim), inner)?;
    let mark = decap::inner_mark(&outer.ip, inner)?;
    strip(raw, Encap::Vxlan)?;
    if mark.is_none_or(|mark| write_mark(raw, mark)) {
        Ok(())
    } else {
        Err(Left::Damaged)
    }
}

#[inline(always)]
fn strip_udp(raw: &mut Raw, config: &Config) -> Result<(), Left> {
    let frame: &UdpFrame = raw.header(0).ok_or(Left::Unchanged)?;
    let UdpFrame { outer, inner } = frame;
    check_arrival(outer, config)?;
    decap::check(outer, raw.len(), config)?;
    ingress::meet_sender(outer)?;
    decap::check_bare(frame)?;
    check_checksum(raw, outer, &[], inner)?;
    next_hop(inner).ok_or(IngressOutcome::Ttl)?;
    let addresses = outer.ethernet.addresses();
    strip(raw, Encap::Udp)?;
    // The link-layer header was in front of what is off now.
    let header: &mut Ethernet = raw.header_mut(0).ok_or(Left::Damaged)?;
    header.set_addresses(addresses);
    header.ethertype = ETHERTYPE_IPV4;
    Ok(())
}

/// Checks that this is a datagram for the tunnel's port on this host, and for its own link-layer
/// address: that of a frame for another is not told from it afterwards.
#[inline(always)]
fn check_arrival(outer: &Datagram, config: &Config) -> Result<(), IngressOutcome> {
    let Datagram { ethernet, ip, udp } = outer;
    let is_for_port = ethernet.ethertype == ETHERTYPE_IPV4
        && ip.protocol == PROTOCOL_UDP
        && udp.destination == config.udp_port;
    if is_for_port && ethernet.destination == config.external_mac {
        Ok(())
    } else {
        Err(IngressOutcome::OtherHost)
    }
}

/// As [`ingress::check_checksum`]; what the NIC knows of checksums is not told here.
#[inline(always)]
fn check_checksum(
    raw: &Raw,
    outer: &Datagram,
    shim: &[u8],
    inner: &Ipv4,
) -> Result<(), IngressOutcome> {
    if outer.udp.checksum == [0; 2] {
        return Ok(());
    }
    let inner_udp = Datagram::LEN + shim.len() + Ipv4::LEN;
    let inner_checksum: Option<&[u8; 2]> = match inner.protocol {
        PROTOCOL_UDP => raw.header(inner_udp + core::mem::offset_of!(Udp, checksum)),
        _ => None,
    };
    if decap::is_checksum_plausible(outer, shim, inner, *inner_checksum.unwrap_or(&[0; 2])) {
        Ok(())
    } else {
        Err(IngressOutcome::UdpChecksum)
    }
}

/// Takes the headers off. The steps that the kernel may refuse come first.
#[inline(always)]
fn strip(raw: &mut Raw, encap: Encap) -> Result<(), Left> {
    if !raw.set_note(&Stripped::new(encap)) {
        return Err(Left::Unchanged);
    }
    if raw.remove_front(encap.overhead()) {
        Ok(())
    } else {
        Err(Left::Damaged)
    }
}

#[inline(always)]
fn write_mark(raw: &mut Raw, mark: Mark) -> bool {
    raw.write(Ethernet::LEN + core::mem::offset_of!(Ipv4, tos), &mark.tos)
        && raw.write(
            Ethernet::LEN + core::mem::offset_of!(Ipv4, checksum),
            &mark.checksum,
        )
}
