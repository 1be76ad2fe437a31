//! `vxlan_encap`: the bytes on the wire, and every reason.

use flannel_ebpf::abi::{Encap, Peer};

use super::program::{Context, Programs, REDIRECT, Run, assert_left, peer};
use flannel_tests::frame::{
    HOP_MAC, Ip, OWN_IP, OWN_MAC, PEER_IP, PEER_MAC, checksum, ethernet, pod_packet, udp,
};

const POD: [u8; 4] = [10, 5, 2, 2];
const REMOTE_POD: [u8; 4] = [10, 5, 1, 2];

/// A frame as the kernel hands it to the device: inner link-layer header in place.
fn frame(packet: &[u8]) -> Vec<u8> {
    ethernet(PEER_MAC, OWN_MAC, 0x0800, packet)
}

fn run(frame: &[u8]) -> Run {
    Programs::load().run("vxlan_encap", frame, Context::default())
}

/// The free choices of a sender, read from a frame: identification and source port.
struct Free {
    id: [u8; 2],
    source_port: u16,
}

/// What must be on the wire for an inner frame, given the free choices.
fn expected(inner_frame: &[u8], tos: u8, free: &Free) -> Vec<u8> {
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], inner_frame].concat();
    let ip = Ip {
        tos,
        id: free.id,
        ..Ip::new(OWN_IP, PEER_IP, 17)
    };
    let datagram = ip.packet(&udp(free.source_port, 8_472, &vxlan));
    ethernet(HOP_MAC, [2, 0, 0, 0, 0, 12], 0x0800, &datagram)
}

fn free(frame: &[u8]) -> Free {
    Free {
        id: frame[18..20].try_into().unwrap(),
        source_port: u16::from_be_bytes(frame[34..36].try_into().unwrap()),
    }
}

fn assert_sent(name: &str, inner_frame: &[u8], tos: u8) -> Free {
    let run = run(inner_frame);
    assert_eq!(run.verdict, REDIRECT, "{name}: {:?}", run.counted);
    let free = free(&run.frame);
    assert_eq!(
        run.frame,
        expected(inner_frame, tos, &free),
        "{name}: bytes on the wire"
    );
    assert_eq!(
        checksum(&run.frame[14..34]),
        [0, 0],
        "{name}: outer checksum"
    );
    assert!(
        (32_768..60_999).contains(&free.source_port),
        "{name}: port {}",
        free.source_port
    );
    let bytes = inner_frame.len() as u64;
    let counted: Vec<_> = run.counted.into_iter().collect();
    assert_eq!(
        counted,
        [("egress encapsulated", (1, bytes))],
        "{name}: counters"
    );
    free
}

#[test]
fn packets_of_any_kind_get_the_header_that_the_kernel_would_put_on() {
    let ip = |protocol| Ip {
        ttl: 63,
        ..Ip::new(POD, REMOTE_POD, protocol)
    };
    let rows = [
        ("udp", pod_packet(POD, REMOTE_POD, b"hello")),
        ("udp, empty", pod_packet(POD, REMOTE_POD, b"")),
        (
            "udp, as large as it gets",
            pod_packet(POD, REMOTE_POD, &[7; 1_422]),
        ),
        ("tcp", ip(6).packet(&[1; 20])),
        ("icmp", ip(1).packet(&[8, 0, 0, 0, 1, 2, 3, 4])),
        ("sctp", ip(132).packet(&[9; 32])),
        ("no payload", ip(59).packet(&[])),
        (
            "fragment",
            Ip {
                fragment: [0x20, 0x20],
                ..ip(17)
            }
            .packet(&[3; 64]),
        ),
        (
            "options",
            Ip {
                options: vec![1; 12],
                ..ip(17)
            }
            .packet(&udp(1, 2, b"x")),
        ),
        (
            "don't fragment",
            Ip {
                fragment: [0x40, 0],
                ..ip(6)
            }
            .packet(&[1; 20]),
        ),
    ];
    for (name, packet) in rows {
        assert_sent(name, &frame(&packet), 0);
    }
}

#[test]
fn ecn_is_copied_and_dscp_stays_inside() {
    for (inner, outer) in [(0xb8, 0), (0xb9, 1), (0xba, 2), (0xbb, 2)] {
        let packet = Ip {
            tos: inner,
            ..Ip::new(POD, REMOTE_POD, 17)
        }
        .packet(&udp(1, 2, b"x"));
        assert_sent(&format!("tos {inner:#x}"), &frame(&packet), outer);
    }
}

#[test]
fn a_flow_keeps_its_source_port_and_flows_spread() {
    let mut programs = Programs::load();
    let mut port = |source: u16| {
        let packet =
            Ip::new(POD, REMOTE_POD, 6).packet(&[&source.to_be_bytes()[..], &[0; 18]].concat());
        free(
            &programs
                .run("vxlan_encap", &frame(&packet), Context::default())
                .frame,
        )
        .source_port
    };
    assert_eq!(port(1), port(1));
    let ports: std::collections::BTreeSet<_> = (0..64).map(&mut port).collect();
    assert!(ports.len() > 60, "64 flows share {} ports", ports.len());
}

#[test]
fn identification_differs_from_packet_to_packet() {
    let mut programs = Programs::load();
    let frame = frame(&pod_packet(POD, REMOTE_POD, b"x"));
    let ids: std::collections::BTreeSet<_> = (0..64)
        .map(|_| {
            free(
                &programs
                    .run("vxlan_encap", &frame, Context::default())
                    .frame,
            )
            .id
        })
        .collect();
    assert!(
        ids.len() > 56,
        "64 packets share {} identifications",
        ids.len()
    );
}

#[test]
fn every_odd_packet_is_left_with_its_reason() {
    let good = pod_packet(POD, REMOTE_POD, b"hello");
    let rows = [
        (
            "IPv6",
            ethernet(PEER_MAC, OWN_MAC, 0x86dd, &[0x60; 60]),
            "egress not_ipv4",
        ),
        (
            "ARP",
            ethernet([0xff; 6], OWN_MAC, 0x0806, &[0; 46]),
            "egress not_ipv4",
        ),
        (
            "no lease",
            frame(&pod_packet(POD, [10, 5, 77, 2], b"x")),
            "egress unknown_peer",
        ),
        (
            "out of the network",
            frame(&pod_packet(POD, [8, 8, 8, 8], b"x")),
            "egress unknown_peer",
        ),
        (
            "another VTEP",
            ethernet(OWN_MAC, OWN_MAC, 0x0800, &good),
            "egress other_mac",
        ),
        (
            "broadcast",
            ethernet([0xff; 6], OWN_MAC, 0x0800, &good),
            "egress other_mac",
        ),
        (
            "from another station",
            ethernet(PEER_MAC, HOP_MAC, 0x0800, &good),
            "egress other_mac",
        ),
        (
            "one too many",
            frame(&pod_packet(POD, REMOTE_POD, &[7; 1_423])),
            "egress too_big",
        ),
        (
            "short",
            ethernet(PEER_MAC, OWN_MAC, 0x88cc, &[0x45; 19]),
            "egress not_linear",
        ),
    ];
    for (name, frame, outcome) in rows {
        assert_left(name, &run(&frame), &frame, outcome, 1);
    }
}

#[test]
fn an_unresolved_peer_is_left() {
    let mut programs = Programs::load();
    programs.set_peer(&Peer { mtu: 0, ..peer() });
    let frame = frame(&pod_packet(POD, REMOTE_POD, b"hello"));
    let run = programs.run("vxlan_encap", &frame, Context::default());
    assert_left("unresolved", &run, &frame, "egress unresolved", 1);
}

#[test]
fn a_peer_that_this_tunnel_does_not_lead_to_is_left() {
    let frame = frame(&pod_packet(POD, REMOTE_POD, b"hello"));
    for encap in [Encap::Direct, Encap::Udp] {
        let mut programs = Programs::load();
        programs.set_peer(&Peer {
            encap: encap as u32,
            ..peer()
        });
        let run = programs.run("vxlan_encap", &frame, Context::default());
        assert_left(&format!("{encap:?}"), &run, &frame, "egress other_encap", 1);
    }
}

#[test]
fn an_aggregate_is_measured_by_its_segments() {
    let tcp = [&[0; 12][..], &[0x80], &[0; 19]].concat();
    let packet = Ip::new(POD, REMOTE_POD, 6).packet(&[&tcp[..], &[5; 3_000]].concat());
    let frame = frame(&packet);
    // 20 bytes of IP, 32 of TCP: 1 398 bytes of payload fill 1 450, one more is too big. A test run
    // knows no TCP aggregates, so one that fits gets as far as the kernel's refusal to make room.
    for (gso_size, outcome) in [(1_399, "egress too_big"), (1_398, "egress no_room")] {
        let context = Context {
            gso_size,
            gso_segs: 3,
        };
        let run = Programs::load().run("vxlan_encap", &frame, context);
        assert_left(&format!("{gso_size}"), &run, &frame, outcome, 3);
    }
}
