//! Completing the outer header of one packet from its peer's template.

use crate::abi::{Encap, Peer};
use crate::ecn;
use crate::wire::{Datagram, Ethernet, Ipv4, checksum};

/// What differs from packet to packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    /// Length of the inner IP packet, bytes. For an aggregate, all of it: segmentation rewrites
    /// the lengths of each piece.
    pub inner_len: u32,
    /// Type of service of the inner packet.
    pub inner_tos: u8,
    /// Identification of the outer datagram, in any byte order.
    pub id: [u8; 2],
    /// Source port of a VXLAN datagram, network order. Flannel's udp sends all flows from the
    /// template's port.
    pub source_port: [u8; 2],
}

/// Finishes the outer headers of a packet, which are a copy of its peer's template: lengths, ECN,
/// identification, checksum and port. In place, which is in the packet: a copy of headers on the
/// stack of a BPF program costs as much as all the rest, since the verifier wants it aligned.
///
/// A direct peer's are finished as they are and do not come here.
#[inline(always)]
pub fn complete(headers: &mut Datagram, peer: &Peer, encap: Encap, packet: Packet) {
    let Packet {
        inner_len,
        inner_tos,
        id,
        source_port,
    } = packet;
    let udp_len = inner_len + (encap.headers_len() - Ethernet::LEN - Ipv4::LEN) as u32;
    let total_len = ((udp_len + Ipv4::LEN as u32) as u16).to_be_bytes();
    let tos = match encap {
        Encap::Vxlan => ecn::encapsulate(inner_tos),
        // Stock flannel at the other end looks at no mark of the outer header, so the tunnel must
        // not call itself capable of any (the compatibility mode of RFC 6040 section 4.1).
        Encap::Udp | Encap::Direct => ecn::NOT_ECT,
    };

    headers.ip.tos = tos;
    headers.ip.total_len = total_len;
    headers.ip.id = id;
    headers.ip.checksum = checksum(
        peer.ip_sum
            + u32::from(u16::from_ne_bytes([0, tos]))
            + u32::from(u16::from_ne_bytes(total_len))
            + u32::from(u16::from_ne_bytes(id)),
    );
    if encap == Encap::Vxlan {
        headers.udp.source = source_port;
    }
    headers.udp.len = (udp_len as u16).to_be_bytes();
}

/// The largest packet that a piece of an aggregate becomes: its IP and transport headers and
/// `gso_size` bytes of payload.
#[inline(always)]
#[must_use]
pub const fn segment_len(ip_len: u32, transport_len: u32, gso_size: u32) -> u32 {
    ip_len + transport_len + gso_size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::tests::peer;
    use crate::wire::{Headers, fold, sum};

    fn complete(peer: &Peer, encap: Encap, packet: Packet) -> Headers {
        let mut headers = peer.headers;
        super::complete(headers.datagram_mut(), peer, encap, packet);
        headers
    }

    #[test]
    fn the_checksum_is_that_of_the_finished_header() {
        let peer = peer();
        for (inner_len, inner_tos, id) in [
            (20, 0, [0, 0]),
            (1450, 0xbb, [0xff, 0xff]),
            (9_000, 2, [0x12, 0x34]),
        ] {
            let packet = Packet {
                inner_len,
                inner_tos,
                id,
                source_port: [0x80, 1],
            };
            for encap in [Encap::Vxlan, Encap::Udp] {
                let headers = complete(&peer, encap, packet);
                assert_eq!(
                    fold(sum(bytemuck::bytes_of(&headers.ip))),
                    0xffff,
                    "{encap:?} {packet:?}"
                );
            }
        }
    }

    #[test]
    fn lengths_count_what_follows() {
        let packet = Packet {
            inner_len: 1450,
            inner_tos: 0,
            id: [0; 2],
            source_port: [0; 2],
        };
        let headers = complete(&peer(), Encap::Vxlan, packet);
        assert_eq!(u16::from_be_bytes(headers.ip.total_len), 1500);
        assert_eq!(u16::from_be_bytes(headers.udp.len), 1480);
        assert_eq!(headers.udp.checksum, [0, 0]);
        let headers = complete(&peer(), Encap::Udp, packet);
        assert_eq!(u16::from_be_bytes(headers.ip.total_len), 1478);
        assert_eq!(u16::from_be_bytes(headers.udp.len), 1458);
    }

    #[test]
    fn flannels_udp_has_one_port_and_no_marks() {
        let mut peer = peer();
        peer.headers.udp.source = [0x20, 0x5d];
        let packet = Packet {
            inner_len: 100,
            inner_tos: ecn::CE,
            id: [0; 2],
            source_port: [0x80, 1],
        };
        let headers = complete(&peer, Encap::Udp, packet);
        assert_eq!(headers.udp.source, [0x20, 0x5d]);
        assert_eq!(headers.ip.tos, 0);
        let headers = complete(&peer, Encap::Vxlan, packet);
        assert_eq!(headers.udp.source, [0x80, 1]);
        assert_eq!(headers.ip.tos, ecn::ECT_0);
    }

    #[test]
    fn all_else_is_the_template() {
        let peer = peer();
        let packet = Packet {
            inner_len: 100,
            inner_tos: 0,
            id: [0; 2],
            source_port: [0; 2],
        };
        let headers = complete(&peer, Encap::Vxlan, packet);
        assert_eq!(headers.outer, peer.headers.outer);
        assert_eq!(headers.inner, peer.headers.inner);
        assert_eq!(headers.vxlan, peer.headers.vxlan);
        assert_eq!(headers.ip.source, peer.headers.ip.source);
        assert_eq!(headers.ip.destination, peer.headers.ip.destination);
        assert_eq!(headers.udp.destination, peer.headers.udp.destination);
    }
}
