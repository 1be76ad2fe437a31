//! `udp_decap`: what enters the TUN device is what the proxy would write into it; every reason has
//! its row.

use flannel_tests::frame::{
    HOP_MAC, Ip, PEER_MAC, Tunnel, checksum, ethernet, pod_packet, udp, udp_tunnel,
};

use flannel_ebpf::abi::Remote;

use super::outer::{self, Damaged, Edit, Odd};
use super::program::{Context, KERNEL, Programs, REDIRECT, Run, assert_left, sender};

const PODS: ([u8; 4], [u8; 4]) = ([10, 5, 1, 2], [10, 5, 2, 2]);

fn inner() -> Vec<u8> {
    pod_packet(PODS.0, PODS.1, b"hello")
}

fn run(frame: &[u8]) -> Run {
    run_with(frame, Context::default())
}

fn run_with(frame: &[u8], context: Context) -> Run {
    Programs::load_udp().run("udp_decap", frame, context)
}

/// What the program hands on: the packet with one hop less, behind the link-layer header that the
/// TUN device, having none, will not see.
pub(crate) fn delivered(tunnel: &Tunnel) -> Vec<u8> {
    let mut packet = tunnel.inner.clone();
    packet[8] -= 1;
    packet[10..12].fill(0);
    let header_len = usize::from(packet[0] & 0xf) * 4;
    let sum = checksum(&packet[..header_len]);
    packet[10..12].copy_from_slice(&sum);
    ethernet(tunnel.ethernet_destination, HOP_MAC, 0x0800, &packet)
}

fn assert_taken(name: &str, tunnel: &Tunnel) {
    let run = run(&tunnel.frame());
    assert_eq!(run.verdict, REDIRECT, "{name}: {:?}", run.counted);
    assert_eq!(run.frame, delivered(tunnel), "{name}");
    let bytes = tunnel.frame().len() as u64;
    assert_eq!(
        run.counted.into_iter().collect::<Vec<_>>(),
        [("ingress decapsulated", (1, bytes))],
        "{name}"
    );
}

#[test]
fn inner_packets_of_any_kind_are_taken() {
    let ip = |protocol| Ip::new(PODS.0, PODS.1, protocol);
    let fragment = |fragment| Ip { fragment, ..ip(17) }.packet(&[7; 64]);
    let ttl = |ttl| Ip { ttl, ..ip(17) }.packet(&[7; 64]);
    let options = Ip {
        options: vec![1; 8],
        ..ip(6)
    };
    for (name, inner) in [
        ("udp", inner()),
        ("icmp", ip(1).packet(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0])),
        ("first fragment", fragment([0x20, 0])),
        ("later fragment", fragment([0x20, 0x10])),
        ("options", options.packet(&[0; 20])),
        ("no payload", ip(59).packet(&[])),
        ("large", pod_packet(PODS.0, PODS.1, &[0xaa; 1_444])),
        ("two hops left", ttl(2)),
        ("255 hops left", ttl(255)),
    ] {
        assert_taken(name, &udp_tunnel(&inner));
    }
}

#[test]
fn the_mark_of_the_outer_header_is_nobodys() {
    // Senders of the udp backend set none, so whatever stands there was not meant for the flow; the
    // proxy does not look at it.
    for outer in 0..4 {
        for inner_ecn in 0..4 {
            let inner = Ip {
                tos: 0xb8 | inner_ecn,
                ..Ip::new(PODS.0, PODS.1, 17)
            };
            let mut tunnel = udp_tunnel(&inner.packet(&udp(1, 2, b"marked")));
            tunnel.ip.tos = outer;
            assert_taken(&format!("outer {outer} inner {inner_ecn}"), &tunnel);
        }
    }
}

const CHECKSUM: [u8; 2] = [0x12, 0x34];

/// Whether the sender is kin before a datagram, and after.
const KIN: [(&str, bool, Edit, bool); 10] = [
    ("without checksum", false, |_| {}, true),
    ("again", true, |_| {}, true),
    ("with one", true, |t| t.udp_checksum = CHECKSUM, false),
    (
        "with one, again",
        false,
        |t| t.udp_checksum = CHECKSUM,
        false,
    ),
    // Left to the socket, and told by all the same.
    ("last hop", false, |t| t.inner[8] = 1, true),
    ("IPv6", false, |t| t.inner[0] = 0x60, true),
    (
        "merged by GRO, which merges none without checksum",
        true,
        |t| {
            t.inner = [t.inner.clone(), t.inner.clone()].concat();
            t.udp_checksum = CHECKSUM;
        },
        false,
    ),
    // Not known to be from the sender, or to be a datagram.
    ("fragment", false, |t| t.ip.fragment = [0x20, 0], false),
    (
        "to another address",
        false,
        |t| t.ip.destination = [192, 168, 7, 99],
        false,
    ),
    (
        "from somebody else",
        false,
        |t| t.ip.source = [192, 168, 7, 99],
        false,
    ),
];

#[test]
fn a_datagram_tells_whether_its_sender_is_kin() {
    assert_kin(|programs, frame| {
        programs.run("udp_decap", frame, Context::default());
    });
}

/// Checks what each row makes of the sender.
pub(crate) fn assert_kin(run: impl Fn(&mut Programs, &[u8])) {
    let mut programs = Programs::load_udp();
    for (name, before, edit, after) in KIN {
        programs.set_kin(before);
        let mut tunnel = udp_tunnel(&inner());
        edit(&mut tunnel);
        run(&mut programs, &tunnel.frame());
        let expected = Remote {
            is_kin: after.into(),
            ..sender()
        };
        assert_eq!(programs.sender(), expected, "{name}");
    }
}

/// What is odd about a packet behind its outer headers, and the reason why it is left.
pub(crate) const ODD: [Odd; 7] = [
    (
        "IPv6 inside",
        |t| t.inner[0] = 0x60,
        "ingress inner_not_ipv4",
    ),
    (
        "an Ethernet frame inside",
        |t| t.inner = ethernet(PEER_MAC, HOP_MAC, 0x0800, &t.inner),
        "ingress inner_not_ipv4",
    ),
    ("longer inside", |t| t.inner[3] += 1, "ingress inner_length"),
    (
        "shorter inside",
        |t| t.inner[3] -= 1,
        "ingress inner_length",
    ),
    (
        "two packets inside",
        |t| t.inner = [t.inner.clone(), t.inner.clone()].concat(),
        "ingress inner_length",
    ),
    ("last hop", |t| t.inner[8] = 1, "ingress ttl"),
    // The proxy would make 255 hops of it.
    ("no hop", |t| t.inner[8] = 0, "ingress ttl"),
];

#[test]
fn every_odd_packet_is_left_with_its_reason() {
    for (name, edit, outcome) in outer::ODD.into_iter().chain(ODD) {
        let mut tunnel = udp_tunnel(&inner());
        edit(&mut tunnel);
        let frame = tunnel.frame();
        assert_left(name, &run(&frame), &frame, outcome, 1);
    }
}

/// The same of a damaged frame.
pub(crate) const DAMAGED: [Damaged; 1] = [(
    "cut in the inner header",
    |f| f.truncate(61),
    "ingress truncated",
)];

#[test]
fn damaged_headers_are_left_with_their_reason() {
    let good = udp_tunnel(&inner()).frame();
    for (name, edit, outcome) in outer::DAMAGED.into_iter().chain(DAMAGED) {
        let mut frame = good.clone();
        edit(&mut frame);
        assert_left(name, &run(&frame), &frame, outcome, 1);
    }
}

#[test]
fn other_ports_are_not_even_counted() {
    let other = Tunnel {
        port: 8_472,
        ..udp_tunnel(&inner())
    };
    let frame = other.frame();
    let run = run(&frame);
    assert_eq!((run.verdict, &run.frame), (KERNEL, &frame));
    assert!(run.counted.is_empty(), "{:?}", run.counted);
}

#[test]
fn datagrams_that_gro_has_merged_are_the_sockets() {
    // Two datagrams of one flow as GRO leaves them: one outer header, whose length covers both.
    let first = pod_packet(PODS.0, PODS.1, &[1; 300]);
    let both = [&first[..], &pod_packet(PODS.0, PODS.1, &[2; 300])].concat();
    let frame = udp_tunnel(&both).frame();
    let context = Context {
        gso_size: first.len() as u32,
        gso_segs: 2,
        ..Context::default()
    };
    let run = run_with(&frame, context);
    assert_left("merged", &run, &frame, "ingress aggregate", 2);
}

#[test]
fn an_aggregate_that_the_kernel_cannot_unwrap_is_left() {
    // One inner packet, whole; but a test run's aggregates are of no type, and the kernel takes
    // headers off TCP's and UDP's only. Real ones: ring netns.
    let context = Context {
        gso_size: 400,
        gso_segs: 3,
        ..Context::default()
    };
    let tcp = Ip::new(PODS.0, PODS.1, 6).packet(&[1; 1_020]);
    let frame = udp_tunnel(&tcp).frame();
    let run = run_with(&frame, context);
    assert_left("no type", &run, &frame, "ingress no_room", 3);
    // A pod's socket could not cut it.
    let frame = udp_tunnel(&pod_packet(PODS.0, PODS.1, &[1; 1_000])).frame();
    let run = run_with(&frame, context);
    assert_left("datagrams", &run, &frame, "ingress aggregate", 3);
}
