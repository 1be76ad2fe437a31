//! `udp_encap`, on a real TUN device: the bytes on the wire, which are the proxy's, and every
//! reason to leave a packet to the proxy.

use flannel_ebpf::abi::{Encap, Peer};
use flannel_tests::raw::{IPV4, Offload};
use flannel_tests::wire::Wire;

use super::bed::{Bed, Out};
use super::program::{peer, udp_peer};
use flannel_tests::frame::{
    HOP_MAC, Ip, OWN_IP, PEER_IP, UDP_PORT, checksum, ethernet, filled, pod_packet, udp,
};

const POD: [u8; 4] = [10, 5, 2, 2];
const REMOTE_POD: [u8; 4] = [10, 5, 1, 2];

/// What the proxy would put on the wire for a packet; the identification is a free choice, taken
/// from the frame that came.
pub(crate) fn expected(packet: &[u8], frame: &[u8]) -> Vec<u8> {
    let ip = Ip {
        id: frame[18..20].try_into().unwrap(),
        fragment: [0x40, 0],
        ..Ip::new(OWN_IP, PEER_IP, 17)
    };
    let datagram = ip.packet(&udp(UDP_PORT, UDP_PORT, &one_hop_less(packet)));
    ethernet(HOP_MAC, [2, 0, 0, 0, 0, 12], 0x0800, &datagram)
}

/// The packet with one hop less, its header sum done from nothing.
pub(crate) fn one_hop_less(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[8] -= 1;
    packet[10..12].fill(0);
    let header_len = usize::from(packet[0] & 0xf) * 4;
    let sum = checksum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum);
    packet
}

fn pods(protocol: u8) -> Ip {
    Ip {
        ttl: 63,
        ..Ip::new(POD, REMOTE_POD, protocol)
    }
}

#[test]
fn packets_of_any_kind_are_on_the_wire_as_the_proxy_sends_them() {
    let tos = |tos| Ip { tos, ..pods(17) }.packet(&udp(1, 2, b"x"));
    let ttl = |ttl| Ip { ttl, ..pods(17) }.packet(&udp(1, 2, b"x"));
    let fragment = |fragment| {
        Ip {
            fragment,
            ..pods(17)
        }
        .packet(&[3; 64])
    };
    let options = Ip {
        options: vec![1; 12],
        ..pods(17)
    };
    let rows = [
        ("udp", pod_packet(POD, REMOTE_POD, b"hello")),
        ("as large as it gets", pods(6).packet(&[7; 1_452])),
        ("tcp", pods(6).packet(&[1; 20])),
        ("icmp", pods(1).packet(&[8, 0, 0, 0, 1, 2, 3, 4])),
        ("sctp", pods(132).packet(&[9; 32])),
        ("no payload", pods(59).packet(&[])),
        ("first fragment", fragment([0x20, 0])),
        ("later fragment", fragment([0x20, 0x20])),
        ("last fragment", fragment([0, 0x40])),
        ("don't fragment", fragment([0x40, 0])),
        ("options", options.packet(&udp(1, 2, b"x"))),
        ("DSCP", tos(0xb8)),
        ("ECT(1)", tos(1)),
        ("ECT(0)", tos(2)),
        ("congestion experienced", tos(3)),
        ("two hops left", ttl(2)),
        ("255 hops left", ttl(255)),
    ];
    let mut bed = Bed::new(Wire::Mtu1500);
    for (name, packet) in rows {
        let (out, counted) = bed.run(IPV4, &packet, Offload::default(), 1);
        let Out::Wire(frames) = out else {
            panic!("{name}: left: {counted:?}");
        };
        assert_eq!(frames, [expected(&packet, &frames[0])], "{name}");
        assert_eq!(
            counted.into_iter().collect::<Vec<_>>(),
            [("egress encapsulated", (1, packet.len() as u64))],
            "{name}"
        );
    }
}

#[test]
fn every_header_checksum_is_right_after_the_hop() {
    let mut bed = Bed::new(Wire::Mtu1500);
    // The high octet of the checksum runs through the carries at its end.
    for id in (0..=u16::MAX).step_by(255) {
        let packet = Ip {
            id: id.to_be_bytes(),
            ..pods(17)
        }
        .packet(&udp(1, 2, b"x"));
        let (out, _) = bed.run(IPV4, &packet, Offload::default(), 1);
        let Out::Wire(frames) = out else {
            panic!("left")
        };
        assert_eq!(frames, [expected(&packet, &frames[0])], "id {id}");
    }
}

#[test]
fn every_odd_packet_is_left_to_the_proxy_with_its_reason() {
    let good = pod_packet(POD, REMOTE_POD, b"hello");
    let ttl = |ttl| Ip { ttl, ..pods(17) }.packet(&udp(1, 2, b"x"));
    let to = |address| pod_packet(POD, address, b"x");
    let mtu = |mtu| Peer { mtu, ..udp_peer() };
    let direct = Peer {
        encap: Encap::Direct as u32,
        ..udp_peer()
    };
    let headed = |first: u8| [&[first][..], &good[1..]].concat();
    let large = pods(6).packet(&[7; 1_381]);
    let rows = [
        ("IPv6", 0x86dd, vec![0x60; 60], udp_peer(), "not_ipv4"),
        ("ends early", IPV4, headed(0x4f), udp_peer(), "not_ipv4"),
        ("no header", IPV4, headed(0x44), udp_peer(), "not_ipv4"),
        ("short", IPV4, vec![0x45; 19], udp_peer(), "not_linear"),
        (
            "no lease",
            IPV4,
            to([10, 5, 77, 2]),
            udp_peer(),
            "unknown_peer",
        ),
        (
            "elsewhere",
            IPV4,
            to([8, 8, 8, 8]),
            udp_peer(),
            "unknown_peer",
        ),
        ("by VXLAN", IPV4, good.clone(), peer(), "other_encap"),
        ("direct", IPV4, good.clone(), direct, "other_encap"),
        ("unresolved", IPV4, good.clone(), mtu(0), "unresolved"),
        ("last hop", IPV4, ttl(1), udp_peer(), "ttl"),
        ("no hop", IPV4, ttl(0), udp_peer(), "ttl"),
        ("one too many", IPV4, large, mtu(1_400), "too_big"),
    ];
    let mut bed = Bed::new(Wire::Mtu1500);
    for (name, protocol, packet, peer, outcome) in rows {
        bed.set_peer(peer);
        let (out, counted) = bed.run(protocol, &packet, Offload::default(), 1);
        assert_eq!(out, Out::Proxy(vec![packet.clone()]), "{name}: unchanged");
        assert_eq!(
            counted.into_iter().collect::<Vec<_>>(),
            [(
                format!("egress {outcome}").as_str(),
                (1, packet.len() as u64)
            )],
            "{name}"
        );
    }
}

#[test]
fn through_a_virtual_interface_only_kin_is_sent_to() {
    let virtual_way = Peer {
        needs_kin: 1,
        ..udp_peer()
    };
    let tcp = pods(6).packet(&[1; 20]);
    let udp = pod_packet(POD, REMOTE_POD, b"hello");
    let icmp = pods(1).packet(&[8, 0, 0, 0, 1, 2, 3, 4]);
    let sctp = pods(132).packet(&[9; 32]);
    let rows = [
        ("TCP to a stranger", &tcp, virtual_way, false, false),
        ("UDP to a stranger", &udp, virtual_way, false, false),
        ("ICMP to a stranger", &icmp, virtual_way, false, false),
        ("TCP to kin", &tcp, virtual_way, true, true),
        ("UDP to kin", &udp, virtual_way, true, true),
        ("ICMP to kin", &icmp, virtual_way, true, true),
        ("SCTP to kin", &sctp, virtual_way, true, false),
        ("TCP by a NIC", &tcp, udp_peer(), false, true),
        ("SCTP by a NIC", &sctp, udp_peer(), false, true),
    ];
    let mut bed = Bed::new(Wire::Mtu1500);
    for (name, packet, way, is_kin, is_carried) in rows {
        bed.set_peer(way);
        bed.programs.set_kin(is_kin);
        let (out, counted) = bed.run(IPV4, packet, Offload::default(), 1);
        let outcome = match &out {
            Out::Wire(frames) => {
                assert_eq!(*frames, [expected(packet, &frames[0])], "{name}");
                "egress encapsulated"
            }
            Out::Proxy(packets) => {
                assert_eq!(packets, std::slice::from_ref(packet), "{name}");
                "egress unproven"
            }
        };
        assert_eq!(matches!(out, Out::Wire(_)), is_carried, "{name}");
        let bytes = packet.len() as u64;
        assert_eq!(
            counted.into_iter().collect::<Vec<_>>(),
            [(outcome, (1, bytes))],
            "{name}"
        );
    }
}

/// A TCP packet of 3 000 octets, and how it is to be cut: a header of 20 and 32 octets, pieces of
/// `size`.
fn aggregate(size: u16) -> (Vec<u8>, Offload) {
    let mut segment = vec![0; 32];
    segment[4..8].copy_from_slice(&1_000_u32.to_be_bytes());
    segment[12] = 0x80;
    segment.extend((0..3_000).map(|place| (place % 251) as u8));
    // As a socket leaves it: the sum of the pseudo header, the rest is for a device.
    let packet = pods(6).packet(&segment);
    let packet = filled(&packet, false);
    let offload = Offload {
        flags: 1,
        kind: 1,
        header_len: 52,
        size,
        checksum_start: 20,
        checksum_offset: 16,
    };
    (packet, offload)
}

/// The pieces of [`aggregate`], as TCP segmentation cuts it.
fn pieces(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(52);
    let mut pieces = Vec::new();
    for (number, chunk) in payload.chunks(size).enumerate() {
        let mut segment = header[20..].to_vec();
        let sequence = 1_000 + (number * size) as u32;
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        segment.extend(chunk);
        let ip = Ip {
            id: (number as u16).to_be_bytes(),
            ..pods(6)
        };
        pieces.push(filled(&ip.packet(&segment), true));
    }
    pieces
}

#[test]
fn an_aggregate_is_cut_by_the_wire_into_packets_like_any() {
    let mut bed = Bed::new(Wire::Mtu1500);
    let (packet, offload) = aggregate(1_400);
    let (out, counted) = bed.run(IPV4, &packet, offload, 3);
    let Out::Wire(frames) = out else {
        panic!("left: {counted:?}");
    };
    for (frame, piece) in frames.iter().zip(pieces(&packet, 1_400)) {
        assert_eq!(*frame, expected(&piece, frame));
    }
    assert_eq!(
        counted.into_iter().collect::<Vec<_>>(),
        [("egress encapsulated", (3, packet.len() as u64))]
    );
}

#[test]
fn an_aggregate_crosses_a_virtual_wire_whole() {
    let mut bed = Bed::new(Wire::SuperPacket);
    let (packet, offload) = aggregate(1_400);
    let (out, counted) = bed.run(IPV4, &packet, offload, 1);
    let Out::Wire(frames) = out else {
        panic!("left: {counted:?}");
    };
    assert_eq!(frames, [expected(&packet, &frames[0])]);
}

#[test]
fn an_aggregate_is_measured_by_its_pieces() {
    let mut bed = Bed::new(Wire::Mtu1500);
    // 20 octets of IP, 32 of TCP: 1 420 of payload fill 1 472.
    for (size, is_carried) in [(1_420, true), (1_421, false)] {
        let (packet, offload) = aggregate(size);
        let count = 3_000_usize.div_ceil(size.into());
        let (out, counted) = bed.run(IPV4, &packet, offload, count);
        let outcome = if is_carried {
            "encapsulated"
        } else {
            "too_big"
        };
        assert_eq!(matches!(out, Out::Wire(_)), is_carried, "{size}");
        assert_eq!(
            counted.into_iter().collect::<Vec<_>>(),
            [(
                format!("egress {outcome}").as_str(),
                (count as u64, packet.len() as u64)
            )]
        );
    }
}

#[test]
fn an_aggregate_that_the_kernel_makes_no_room_in_is_left_whole() {
    let mut bed = Bed::new(Wire::Mtu1500);
    // One large datagram that a device is to send as fragments: the kernel adds no room to those.
    let packet = filled(&pods(17).packet(&udp(1, 2, &[5; 2_000])), false);
    let offload = Offload {
        flags: 1,
        kind: 3,
        header_len: 28,
        size: 1_440,
        checksum_start: 20,
        checksum_offset: 6,
    };
    let (out, counted) = bed.run(IPV4, &packet, offload, 2);
    let Out::Proxy(fragments) = out else {
        panic!("carried: {counted:?}");
    };
    let payload: Vec<u8> = fragments.iter().flat_map(|f| f[20..].to_vec()).collect();
    assert_eq!(payload.len(), 2_008);
    assert_eq!(payload[8..], [5; 2_000]);
    let outcomes: Vec<_> = counted.into_keys().collect();
    assert_eq!(outcomes, ["egress no_room"]);
}
