//! `vxlan_decap`: every reason has its row.

use super::outer::{self, Damaged, Odd};
use super::program::{Context, KERNEL, Programs, REDIRECT, Run, assert_left};
use flannel_tests::frame::{
    HOP_MAC, Ip, OWN_IP, OWN_MAC, PEER_IP, PEER_MAC, Tunnel, ethernet, pod_packet, tunnel, udp,
};

/// A packet between pods, from A to us.
fn inner() -> Vec<u8> {
    pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello")
}

fn run(frame: &[u8]) -> Run {
    run_with(frame, Context::default())
}

fn run_with(frame: &[u8], context: Context) -> Run {
    Programs::load().run("vxlan_decap", frame, context)
}

#[test]
fn a_packet_from_a_peer_enters_the_device() {
    let tunnel = tunnel(&inner());
    let run = run(&tunnel.frame());
    assert_eq!(run.verdict, REDIRECT);
    assert_eq!(run.frame, tunnel.inner_frame());
    let bytes = tunnel.frame().len() as u64;
    assert_eq!(
        run.counted.into_iter().collect::<Vec<_>>(),
        [("ingress decapsulated", (1, bytes))]
    );
}

#[test]
fn inner_packets_of_any_kind_are_taken() {
    let pods = ([10, 5, 1, 2], [10, 5, 2, 2]);
    let icmp = Ip::new(pods.0, pods.1, 1).packet(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    let fragment = Ip {
        fragment: [0x20, 0x10],
        ..Ip::new(pods.0, pods.1, 17)
    }
    .packet(&[7; 64]);
    let options = Ip {
        options: vec![1; 8],
        ..Ip::new(pods.0, pods.1, 6)
    }
    .packet(&[0; 20]);
    let bare = Ip::new(pods.0, pods.1, 59).packet(&[]);
    let large = pod_packet(pods.0, pods.1, &[0xaa; 1_400]);
    for (name, inner) in [
        ("icmp", icmp),
        ("fragment", fragment),
        ("options", options),
        ("no payload", bare),
        ("large", large),
    ] {
        let tunnel = tunnel(&inner);
        let run = run(&tunnel.frame());
        assert_eq!(
            (run.verdict, run.frame),
            (REDIRECT, tunnel.inner_frame()),
            "{name}"
        );
    }
}

/// What is odd about a packet behind its outer headers, and the reason why it is left.
pub(crate) const ODD: [Odd; 9] = [
    (
        "no VNI flag",
        |t| t.shim().vxlan[0] = 0,
        "ingress vxlan_flags",
    ),
    (
        "group policy",
        |t| t.shim().vxlan[0] = 0x88,
        "ingress vxlan_flags",
    ),
    (
        "reserved bits",
        |t| t.shim().vxlan[3] = 1,
        "ingress vxlan_flags",
    ),
    (
        "reserved octet",
        |t| t.shim().vxlan[7] = 1,
        "ingress vxlan_flags",
    ),
    (
        "other network",
        |t| t.shim().vxlan[6] = 2,
        "ingress other_vni",
    ),
    (
        "IPv6 inside",
        |t| t.shim().ethertype = 0x86dd,
        "ingress inner_not_ipv4",
    ),
    (
        "ARP inside",
        |t| t.shim().ethertype = 0x0806,
        "ingress inner_not_ipv4",
    ),
    (
        "for another VTEP",
        |t| t.shim().destination = PEER_MAC,
        "ingress inner_mac",
    ),
    (
        "from our own VTEP",
        |t| t.shim().source = OWN_MAC,
        "ingress inner_mac",
    ),
];

#[test]
fn every_odd_packet_is_left_with_its_reason() {
    for (name, edit, outcome) in outer::ODD.into_iter().chain(ODD) {
        let mut tunnel = tunnel(&inner());
        edit(&mut tunnel);
        let frame = tunnel.frame();
        assert_left(name, &run(&frame), &frame, outcome, 1);
    }
}

/// The same of a damaged frame.
pub(crate) const DAMAGED: [Damaged; 1] = [(
    "cut in the inner header",
    |f| f.truncate(83),
    "ingress truncated",
)];

#[test]
fn damaged_headers_are_left_with_their_reason() {
    let good = tunnel(&inner()).frame();
    for (name, edit, outcome) in outer::DAMAGED.into_iter().chain(DAMAGED) {
        let mut frame = good.clone();
        edit(&mut frame);
        assert_left(name, &run(&frame), &frame, outcome, 1);
    }
}

#[test]
fn what_is_not_for_the_tunnel_is_not_even_counted() {
    let pods = ([10, 5, 1, 2], [10, 5, 2, 2]);
    let tunnel = tunnel(&inner());
    let other_port = Tunnel {
        port: 4_789,
        ..tunnel.clone()
    }
    .frame();
    let tcp = Tunnel {
        ip: Ip::new(PEER_IP, OWN_IP, 6),
        ..tunnel.clone()
    }
    .frame();
    let ipv6 = ethernet([0; 6], HOP_MAC, 0x86dd, &[0x60; 80]);
    let later_fragment = Tunnel {
        ip: Ip {
            fragment: [0, 0xb9],
            ..tunnel.ip.clone()
        },
        ..tunnel.clone()
    }
    .frame();
    let port_where_options_are = ethernet(
        [0; 6],
        HOP_MAC,
        0x0800,
        &Ip {
            options: [&[0x90, 0x00][..], &8_472_u16.to_be_bytes(), &[0; 4]].concat(),
            ..Ip::new(pods.0, OWN_IP, 17)
        }
        .packet(&udp(1, 53, &[0; 60])),
    );
    let short = ethernet([0; 6], HOP_MAC, 0x0806, &[0; 4]);
    let bare_ethernet = ethernet([0; 6], HOP_MAC, 0x88cc, &[]);
    for (name, frame) in [
        ("other port", other_port),
        ("TCP", tcp),
        ("IPv6", ipv6),
        ("later fragment", later_fragment),
        ("options that look like our port", port_where_options_are),
        ("short", short),
        ("Ethernet only", bare_ethernet),
    ] {
        let run = run(&frame);
        assert_eq!((run.verdict, &run.frame), (KERNEL, &frame), "{name}");
        assert!(run.counted.is_empty(), "{name}: {:?}", run.counted);
    }
}

#[test]
fn aggregates_are_left_and_count_as_their_segments() {
    let frame = tunnel(&pod_packet([10, 5, 1, 2], [10, 5, 2, 2], &[1; 1_000])).frame();
    let known = Context {
        gso_size: 400,
        gso_segs: 3,
        ..Context::default()
    };
    assert_left(
        "aggregate",
        &run_with(&frame, known),
        &frame,
        "ingress aggregate",
        3,
    );
    // Not computed yet: whole frame over segment size, rounded up.
    let unknown = Context {
        gso_size: 400,
        gso_segs: 0,
        ..Context::default()
    };
    assert_left(
        "uncounted",
        &run_with(&frame, unknown),
        &frame,
        "ingress aggregate",
        3,
    );
}

/// Congestion marks: outer, inner, inner afterwards.
pub(crate) const MARKS: [(u8, u8, u8); 7] = [
    (3, 2, 3),
    (3, 1, 3),
    (3, 3, 3),
    (1, 2, 1),
    (2, 2, 2),
    (2, 0, 0),
    (0, 3, 3),
];

#[test]
fn congestion_marks_follow_rfc_6040() {
    for (outer, inner_ecn, expected) in MARKS {
        let pods = Ip {
            tos: 0xb8 | inner_ecn,
            ttl: 63,
            ..Ip::new([10, 5, 1, 2], [10, 5, 2, 2], 17)
        };
        let payload = udp(1, 2, b"marked");
        let mut tunnel = tunnel(&pods.packet(&payload));
        tunnel.ip.tos = outer;
        let run = run(&tunnel.frame());
        assert_eq!(run.verdict, REDIRECT, "{outer} {inner_ecn}");
        tunnel.inner = Ip {
            tos: 0xb8 | expected,
            ..pods
        }
        .packet(&payload);
        assert_eq!(
            run.frame,
            tunnel.inner_frame(),
            "outer {outer} inner {inner_ecn}"
        );
    }
    let mut unmarkable = tunnel(&inner());
    unmarkable.ip.tos = 3;
    let frame = unmarkable.frame();
    assert_left("CE over Not-ECT", &run(&frame), &frame, "ingress ecn", 1);
}

#[test]
fn without_a_configuration_nothing_is_taken() {
    let mut programs = Programs::load();
    programs.set_config(&bytemuck::Zeroable::zeroed());
    let frame = tunnel(&inner()).frame();
    let run = programs.run("vxlan_decap", &frame, Context::default());
    assert_eq!((run.verdict, run.frame), (KERNEL, frame));
}
