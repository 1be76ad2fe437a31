//! Deciding whether a received packet is ours to take, and what its inner header becomes.
//!
//! The order of the checks is the order of the kernel's receive path, so that the reason which is
//! counted is the first one that the kernel would meet as well.

use crate::abi::{Config, IngressOutcome};
use crate::ecn;
use crate::wire::{ETHERTYPE_IPV4, Ethernet, Headers, Ipv4, Udp, Vxlan, checksum, fold, sum};

use bytemuck::{Pod, Zeroable};

/// The outer headers as far as UDP: enough to tell tunnel packets from all others.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Datagram {
    /// Link-layer header.
    pub ethernet: Ethernet,
    /// IPv4 header.
    pub ip: Ipv4,
    /// UDP header, if the IPv4 header has no options.
    pub udp: Udp,
}

/// A whole tunnel packet as far as the inner IPv4 header.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Frame {
    /// Everything in front of the inner packet.
    pub headers: Headers,
    /// Inner IPv4 header, its fixed part.
    pub inner: Ipv4,
}

impl Frame {
    /// Bytes that must be readable.
    pub const LEN: usize = size_of::<Self>();
}

/// Checks the outer headers of a packet whose destination port is ours. `frame_len` is the length
/// of the whole frame, bytes.
///
/// # Errors
/// The reason why the packet is left to the kernel.
#[inline(always)]
pub fn check(frame: &Frame, frame_len: u32, config: &Config) -> Result<(), IngressOutcome> {
    let Frame {
        headers:
            Headers {
                outer: _,
                ip,
                udp,
                vxlan,
                inner,
            },
        inner: _,
    } = frame;
    if ip.is_fragment() {
        return Err(IngressOutcome::Fragment);
    }
    if fold(sum(bytemuck::bytes_of(ip))) != 0xffff {
        return Err(IngressOutcome::IpChecksum);
    }
    let total_len = u32::from(u16::from_be_bytes(ip.total_len));
    let udp_len = u32::from(u16::from_be_bytes(udp.len));
    // Equality, not a bound: the kernel trims trailers, and so leaves nothing for us to get wrong.
    if total_len + Ethernet::LEN as u32 != frame_len || udp_len + Ipv4::LEN as u32 != total_len {
        return Err(IngressOutcome::Length);
    }
    if ip.destination != config.local_ip {
        return Err(IngressOutcome::OtherAddress);
    }
    check_vxlan(vxlan, config)?;
    if inner.ethertype != ETHERTYPE_IPV4 {
        return Err(IngressOutcome::InnerNotIpv4);
    }
    // A frame that says it came from us is a loop: the kernel's device drops it.
    if inner.destination != config.vtep_mac || inner.source == config.vtep_mac {
        return Err(IngressOutcome::InnerMac);
    }
    Ok(())
}

#[inline(always)]
fn check_vxlan(vxlan: &Vxlan, config: &Config) -> Result<(), IngressOutcome> {
    if *vxlan == config.vxlan {
        return Ok(());
    }
    // Off the usual way: find out which half differs.
    if vxlan.vni == config.vxlan.vni {
        Err(IngressOutcome::VxlanFlags)
    } else {
        Err(IngressOutcome::OtherVni)
    }
}

/// The inner type of service and header checksum after decapsulation, `None` where both stay.
///
/// # Errors
/// The packet must be dropped by RFC 6040, which is left to the kernel.
#[inline(always)]
pub fn inner_update(frame: &Frame) -> Result<Option<Mark>, IngressOutcome> {
    let Some(tos) = ecn::decapsulate(frame.headers.ip.tos, frame.inner.tos) else {
        return Err(IngressOutcome::Ecn);
    };
    if tos == frame.inner.tos {
        return Ok(None);
    }
    // RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
    let old = u16::from_ne_bytes([frame.inner.version_ihl, frame.inner.tos]);
    let new = u16::from_ne_bytes([frame.inner.version_ihl, tos]);
    let sum =
        u32::from(!u16::from_ne_bytes(frame.inner.checksum)) + u32::from(!old) + u32::from(new);
    Ok(Some(Mark {
        tos,
        checksum: checksum(sum),
    }))
}

/// A changed congestion mark of the inner header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// New type of service.
    pub tos: u8,
    /// New header checksum.
    pub checksum: [u8; 2],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::tests::{config, peer};
    use crate::encap::{Packet, complete};

    /// A packet as a peer would send it: our own encapsulation, seen from the other side.
    fn frame(inner_tos: u8) -> (Frame, u32, Config) {
        let mut inner = Ipv4 {
            version_ihl: 0x45,
            tos: inner_tos,
            total_len: 100_u16.to_be_bytes(),
            ttl: 63,
            protocol: 17,
            source: [10, 5, 1, 2],
            destination: [10, 5, 2, 2],
            ..Ipv4::zeroed()
        };
        inner.checksum = checksum(sum(bytemuck::bytes_of(&inner)));
        let packet = Packet {
            inner_len: 100,
            inner_tos,
            id: [1, 2],
            source_port: [0x90, 0],
        };
        let frame = Frame {
            headers: complete(&peer(), packet),
            inner,
        };
        (frame, 164, config())
    }

    #[test]
    fn what_we_send_we_take() {
        let (frame, len, config) = frame(0);
        assert_eq!(check(&frame, len, &config), Ok(()));
        assert_eq!(inner_update(&frame), Ok(None));
    }

    #[test]
    fn each_odd_field_has_its_reason() {
        use IngressOutcome as R;
        type Edit = fn(&mut Frame);
        let table: [(Edit, R); 10] = [
            (|f| f.headers.ip.fragment = [0x20, 0], R::Fragment),
            (|f| f.headers.ip.ttl ^= 1, R::IpChecksum),
            (|f| f.headers.udp.len[1] += 1, R::Length),
            (|f| f.headers.vxlan.flags |= 0x80, R::VxlanFlags),
            (|f| f.headers.vxlan.reserved2 = 1, R::VxlanFlags),
            (|f| f.headers.vxlan.vni[2] += 1, R::OtherVni),
            (
                |f| f.headers.inner.ethertype = [0x86, 0xdd],
                R::InnerNotIpv4,
            ),
            (|f| f.headers.inner.destination = [0xff; 6], R::InnerMac),
            (
                |f| f.headers.inner.source = f.headers.inner.destination,
                R::InnerMac,
            ),
            // Swapped addresses keep the checksum right.
            (
                |f| core::mem::swap(&mut f.headers.ip.source, &mut f.headers.ip.destination),
                R::OtherAddress,
            ),
        ];
        for (row, (edit, reason)) in table.into_iter().enumerate() {
            let (mut frame, len, config) = frame(0);
            edit(&mut frame);
            assert_eq!(check(&frame, len, &config), Err(reason), "row {row}");
        }
        let (frame, len, config) = frame(0);
        assert_eq!(check(&frame, len + 4, &config), Err(R::Length), "trailer");
    }

    #[test]
    fn a_mark_keeps_the_inner_checksum_right() {
        for inner_tos in [1, 2, 0xb9, 0xba] {
            let (mut frame, ..) = frame(inner_tos);
            frame.headers.ip.tos = ecn::CE;
            let mark = inner_update(&frame).unwrap().unwrap();
            assert_eq!(mark.tos, inner_tos | ecn::CE);
            frame.inner.tos = mark.tos;
            frame.inner.checksum = mark.checksum;
            assert_eq!(fold(sum(bytemuck::bytes_of(&frame.inner))), 0xffff);
        }
    }

    #[test]
    fn a_mark_that_cannot_be_carried_goes_to_the_kernel() {
        let (mut frame, ..) = frame(0);
        frame.headers.ip.tos = ecn::CE;
        assert_eq!(inner_update(&frame), Err(IngressOutcome::Ecn));
    }
}
