//! Deciding whether a received packet is ours to take, and what its inner header becomes.
//!
//! The order of the checks is the order of the kernel's receive path, so that the reason which is
//! counted is the first one that the kernel would meet as well.

use crate::abi::{Config, IngressOutcome};
use crate::ecn;
use crate::wire::{
    Datagram, ETHERTYPE_IPV4, Ethernet, Ipv4, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Udp,
    UdpFrame, Vxlan, VxlanShim, fold, sum,
};

/// Checks the outer headers of a packet whose destination port is ours. `frame_len` is the length
/// of the whole frame, bytes.
///
/// # Errors
/// The reason why the packet is left to the kernel.
#[inline(always)]
pub fn check(outer: &Datagram, frame_len: u32, config: &Config) -> Result<(), IngressOutcome> {
    let Datagram {
        ethernet: _,
        ip,
        udp,
    } = outer;
    if ip.version_ihl != Ipv4::VERSION_IHL {
        return Err(IngressOutcome::IpOptions);
    }
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
    Ok(())
}

/// Checks what VXLAN puts in front of the inner packet.
///
/// # Errors
/// As [`check`].
#[inline(always)]
pub fn check_shim(shim: &VxlanShim, config: &Config) -> Result<(), IngressOutcome> {
    let VxlanShim { vxlan, inner } = shim;
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

/// Checks that one IPv4 packet, and nothing else, is what the datagram of the udp backend holds.
/// Datagrams that GRO has merged show here: the first inner packet does not fill the whole.
///
/// # Errors
/// As [`check`].
#[inline(always)]
pub fn check_bare(frame: &UdpFrame) -> Result<(), IngressOutcome> {
    let UdpFrame { outer, inner } = frame;
    if inner.version_ihl >> 4 != 4 {
        return Err(IngressOutcome::InnerNotIpv4);
    }
    let inner_len = u32::from(u16::from_be_bytes(inner.total_len));
    if inner_len + Udp::LEN as u32 != u32::from(u16::from_be_bytes(outer.udp.len)) {
        return Err(IngressOutcome::InnerLength);
    }
    Ok(())
}

/// Whether a datagram of the udp backend tells that its sender is kin, see [`Remote::is_kin`].
///
/// [`Remote::is_kin`]: crate::abi::Remote::is_kin
#[inline(always)]
#[must_use]
pub const fn is_from_kin(outer: &Datagram) -> bool {
    matches!(outer.udp.checksum, [0, 0])
}

/// Whether a UDP checksum that is present agrees with all the headers that it covers, found out
/// without reading the payload.
///
/// The inner segment carries a checksum of its own, so when it is right its words sum to what its
/// pseudo header lacks, whatever they are; and when a device has still to fill it in (as on virtual
/// links) the sender has computed the outer checksum as if it were filled in (the kernel's local
/// checksum offload). Either way the outer checksum is right exactly if the headers in between and
/// the complement of the inner pseudo header make up for it. A damaged header fails here; a damaged
/// payload fails in the pod, by the inner checksum. (RFC 7348 section 4.1 leaves it to the receiver
/// whether to verify at all.)
///
/// `shim` is what stands between the UDP header and the inner packet. `inner_udp_checksum` is that
/// of an inner UDP header, if it is one; zero means that the payload has no other guard than the
/// outer checksum, which the kernel then has to verify.
#[inline(always)]
#[must_use]
pub fn is_checksum_plausible(
    outer: &Datagram,
    shim: &[u8],
    inner: &Ipv4,
    inner_udp_checksum: [u8; 2],
) -> bool {
    let Datagram {
        ethernet: _,
        ip,
        udp,
    } = outer;
    // The inner addresses stand in the inner header and in the pseudo header and so cancel out: the
    // inner header has to be right by itself.
    if inner.version_ihl != Ipv4::VERSION_IHL
        || inner.is_fragment()
        || fold(sum(bytemuck::bytes_of(inner))) != 0xffff
    {
        return false;
    }
    let inner_len = u16::from_be_bytes(inner.total_len);
    let encapsulation_len = (Udp::LEN + shim.len()) as u32;
    if u32::from(u16::from_be_bytes(udp.len)) != u32::from(inner_len) + encapsulation_len {
        return false;
    }
    let inner_rest = match inner.protocol {
        PROTOCOL_TCP => pseudo(
            inner,
            inner_len.wrapping_sub(Ipv4::LEN as u16).to_be_bytes(),
        ),
        PROTOCOL_UDP if inner_udp_checksum != [0; 2] => pseudo(
            inner,
            inner_len.wrapping_sub(Ipv4::LEN as u16).to_be_bytes(),
        ),
        // No pseudo header: the words of the message alone sum to nothing.
        PROTOCOL_ICMP => 0xffff,
        _ => return false,
    };
    let covered = pseudo(ip, udp.len) + sum(bytemuck::bytes_of(udp)) + sum(shim);
    fold(covered + u32::from(!fold(inner_rest))) == 0xffff
}

/// Sum of the pseudo header of TCP and UDP (RFC 768): addresses, protocol, length.
#[inline(always)]
fn pseudo(ip: &Ipv4, len: [u8; 2]) -> u32 {
    sum(&ip.source)
        + sum(&ip.destination)
        + u32::from(u16::from_ne_bytes([0, ip.protocol]))
        + u32::from(u16::from_ne_bytes(len))
}

/// The inner type of service and header checksum after decapsulation, `None` where both stay.
///
/// Not for the udp backend: its senders put no mark on the outer header, and what stands there
/// instead was never theirs.
///
/// # Errors
/// The packet must be dropped by RFC 6040, which is left to the kernel.
#[inline(always)]
pub fn inner_mark(outer: &Ipv4, inner: &Ipv4) -> Result<Option<Mark>, IngressOutcome> {
    let Some(tos) = ecn::decapsulate(outer.tos, inner.tos) else {
        return Err(IngressOutcome::Ecn);
    };
    if tos == inner.tos {
        return Ok(None);
    }
    // RFC 1624, equation 4: HC' = HC - ~m - m'. Of the two zeros of one's complement arithmetic it
    // gives the one that the kernel's additions to the checksum give.
    let old = u16::from_ne_bytes([inner.version_ihl, inner.tos]);
    let new = u16::from_ne_bytes([inner.version_ihl, tos]);
    let sum = u32::from(u16::from_ne_bytes(inner.checksum)) + u32::from(old) + u32::from(!new);
    Ok(Some(Mark {
        tos,
        checksum: fold(sum).to_ne_bytes(),
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
    use bytemuck::Zeroable as _;

    use super::*;
    use crate::abi::Encap;
    use crate::abi::tests::{config, peer};
    use crate::encap::{Packet, complete};
    use crate::wire::{Headers, VxlanFrame, checksum};

    fn inner(tos: u8) -> Ipv4 {
        let mut inner = Ipv4 {
            version_ihl: 0x45,
            tos,
            total_len: 100_u16.to_be_bytes(),
            ttl: 63,
            protocol: 17,
            source: [10, 5, 1, 2],
            destination: [10, 5, 2, 2],
            ..Ipv4::zeroed()
        };
        inner.checksum = checksum(sum(bytemuck::bytes_of(&inner)));
        inner
    }

    fn headers(encap: Encap, inner_tos: u8) -> Headers {
        let packet = Packet {
            inner_len: 100,
            inner_tos,
            id: [1, 2],
            source_port: [0x90, 0],
        };
        let peer = peer();
        let mut headers = peer.headers;
        complete(headers.datagram_mut(), &peer, encap, packet);
        headers
    }

    /// A packet as a peer would send it: our own encapsulation, seen from the other side.
    fn vxlan(inner_tos: u8) -> (VxlanFrame, u32) {
        let headers = headers(Encap::Vxlan, inner_tos);
        let frame = VxlanFrame {
            outer: *headers.datagram(),
            shim: VxlanShim {
                vxlan: headers.vxlan,
                inner: headers.inner,
            },
            inner: inner(inner_tos),
        };
        (frame, 164)
    }

    /// The same by the udp backend.
    fn udp() -> (UdpFrame, u32) {
        let frame = UdpFrame {
            outer: *headers(Encap::Udp, 0).datagram(),
            inner: inner(0),
        };
        (frame, 142)
    }

    fn check_all(frame: &VxlanFrame, len: u32) -> Result<(), IngressOutcome> {
        check(&frame.outer, len, &config())?;
        check_shim(&frame.shim, &config())
    }

    #[test]
    fn what_we_send_we_take() {
        let (frame, len) = vxlan(0);
        assert_eq!(check_all(&frame, len), Ok(()));
        assert_eq!(inner_mark(&frame.outer.ip, &frame.inner), Ok(None));
        let (frame, len) = udp();
        assert_eq!(check(&frame.outer, len, &config()), Ok(()));
        assert_eq!(check_bare(&frame), Ok(()));
    }

    #[test]
    fn each_odd_field_has_its_reason() {
        use IngressOutcome as R;
        type Edit = fn(&mut VxlanFrame);
        let table: [(Edit, R); 11] = [
            (|f| f.outer.ip.version_ihl = 0x46, R::IpOptions),
            (|f| f.outer.ip.fragment = [0x20, 0], R::Fragment),
            (|f| f.outer.ip.ttl ^= 1, R::IpChecksum),
            (|f| f.outer.udp.len[1] += 1, R::Length),
            (|f| f.shim.vxlan.flags |= 0x80, R::VxlanFlags),
            (|f| f.shim.vxlan.reserved2 = 1, R::VxlanFlags),
            (|f| f.shim.vxlan.vni[2] += 1, R::OtherVni),
            (|f| f.shim.inner.ethertype = [0x86, 0xdd], R::InnerNotIpv4),
            (|f| f.shim.inner.destination = [0xff; 6], R::InnerMac),
            (
                |f| f.shim.inner.source = f.shim.inner.destination,
                R::InnerMac,
            ),
            // Swapped addresses keep the checksum right.
            (
                |f| core::mem::swap(&mut f.outer.ip.source, &mut f.outer.ip.destination),
                R::OtherAddress,
            ),
        ];
        for (row, (edit, reason)) in table.into_iter().enumerate() {
            let (mut frame, len) = vxlan(0);
            edit(&mut frame);
            assert_eq!(check_all(&frame, len), Err(reason), "row {row}");
        }
        let (frame, len) = vxlan(0);
        assert_eq!(check_all(&frame, len + 4), Err(R::Length), "trailer");
    }

    #[test]
    fn a_datagram_holds_one_packet_and_nothing_else() {
        use IngressOutcome as R;
        type Edit = fn(&mut UdpFrame);
        let table: [(Edit, R); 4] = [
            (|f| f.inner.version_ihl = 0x65, R::InnerNotIpv4),
            (|f| f.inner.version_ihl = 0, R::InnerNotIpv4),
            (|f| f.inner.total_len[1] -= 1, R::InnerLength),
            (|f| f.inner.total_len[1] += 1, R::InnerLength),
        ];
        for (row, (edit, reason)) in table.into_iter().enumerate() {
            let (mut frame, _) = udp();
            edit(&mut frame);
            assert_eq!(check_bare(&frame), Err(reason), "row {row}");
        }
    }

    #[test]
    fn a_mark_keeps_the_inner_checksum_right() {
        for inner_tos in [1, 2, 0xb9, 0xba] {
            let (mut frame, _) = vxlan(inner_tos);
            frame.outer.ip.tos = ecn::CE;
            let mark = inner_mark(&frame.outer.ip, &frame.inner).unwrap().unwrap();
            assert_eq!(mark.tos, inner_tos | ecn::CE);
            frame.inner.tos = mark.tos;
            frame.inner.checksum = mark.checksum;
            assert_eq!(fold(sum(bytemuck::bytes_of(&frame.inner))), 0xffff);
        }
    }

    #[test]
    fn a_mark_leaves_the_zero_that_the_kernels_additions_leave() {
        // ECT(1) becomes CE: the kernel adds 0xfffd, end around.
        let (mut frame, _) = vxlan(1);
        frame.outer.ip.tos = ecn::CE;
        for (old, new) in [
            (0, 0xfffd),
            (1, 0xfffe),
            (2, 0xffff),
            (3, 1),
            (0xffff, 0xfffd),
        ] {
            frame.inner.checksum = u16::to_be_bytes(old);
            let mark = inner_mark(&frame.outer.ip, &frame.inner).unwrap().unwrap();
            assert_eq!(u16::from_be_bytes(mark.checksum), new, "{old:#x}");
        }
    }

    #[test]
    fn a_mark_that_cannot_be_carried_goes_to_the_kernel() {
        let (mut frame, _) = vxlan(0);
        frame.outer.ip.tos = ecn::CE;
        let mark = inner_mark(&frame.outer.ip, &frame.inner);
        assert_eq!(mark, Err(IngressOutcome::Ecn));
    }
}
