//! `from_pod`, what a pod sends: every octet on the wire, and every reason to leave a packet to the
//! standard path.

use flannel_ebpf::abi::{FastPath, Flow, Peer};
use flannel_ebpf::fast::priority;
use flannel_ebpf::wire::{Addresses, checksum, sum};
use flannel_tests::frame::{HOP_MAC, Ip, OWN_MAC, PEER_MAC, ethernet, udp};

use super::flows::{
    ACK, FAST, LONG_AGO, OTHER_INTERFACE, POD, PUSH, UNFIT, direct_peer, from_pod, hops, received,
    sent, tcp, tcp_packet, to_peer, udp_packet,
};
use super::program::{Context, KERNEL, Programs, REDIRECT, Run, assert_left, peer, udp_peer};
use super::{udp_encap, vxlan_encap};

const FROM_POD: &str = "from_pod";

/// A kind of peer, and what a packet to it is on the wire; free choices are taken from the frame.
struct Kind {
    name: &'static str,
    load: fn() -> Programs,
    peer: fn() -> Peer,
    expected: fn(&[u8], &[u8]) -> Vec<u8>,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "vxlan",
        load: Programs::load,
        peer,
        expected: |packet, out| {
            let inner = ethernet(PEER_MAC, OWN_MAC, 0x0800, &hops(packet, 1));
            let ecn = [0, 1, 2, 2][usize::from(packet[1] & 3)];
            vxlan_encap::expected(&inner, ecn, &vxlan_encap::free(out))
        },
    },
    Kind {
        name: "udp",
        load: Programs::load_udp,
        peer: udp_peer,
        // The proxy takes the second hop off.
        expected: |packet, out| udp_encap::expected(&hops(packet, 1), out),
    },
    Kind {
        name: "direct",
        load: Programs::load_direct,
        peer: direct_peer,
        expected: |packet, _| ethernet(HOP_MAC, [2, 0, 0, 0, 0, 12], 0x0800, &hops(packet, 1)),
    },
];

impl Kind {
    /// The programs, with the fast path on and the flow of a packet admitted.
    fn admitted(&self, packet: &[u8]) -> Programs {
        let mut programs = (self.load)().with_fast_path();
        programs.admit(packet, sent());
        programs
    }
}

fn run(programs: &mut Programs, packet: &[u8]) -> Run {
    programs.run(FROM_POD, &from_pod(packet), Context::default())
}

#[test]
fn packets_of_an_admitted_flow_are_on_the_wire_as_by_the_standard_path() {
    let ip = to_peer(6);
    let header = |edit: fn(&mut Ip)| {
        let mut ip = ip.clone();
        edit(&mut ip);
        tcp_packet(&ip)
    };
    let rows = [
        ("tcp", tcp_packet(&ip)),
        ("udp", udp_packet(&to_peer(17))),
        ("udp, empty", to_peer(17).packet(&udp(4_000, 5_000, b""))),
        ("bare ACK", ip.packet(&tcp(ACK, b""))),
        ("push", ip.packet(&tcp(ACK | PUSH, b"x"))),
        ("urgent, congestion", ip.packet(&tcp(ACK | 0xe0, b"x"))),
        ("large", ip.packet(&tcp(ACK, &[7; 1_410]))),
        ("five hops left", header(|ip| ip.ttl = 5)),
        ("255 hops left", header(|ip| ip.ttl = 255)),
        ("may be fragmented", header(|ip| ip.fragment = [0; 2])),
        ("DSCP", header(|ip| ip.tos = 0xb8)),
        ("interactive", header(|ip| ip.tos = 0x10)),
        ("bulk", header(|ip| ip.tos = 0x08)),
        ("ECT(1)", header(|ip| ip.tos = 1)),
        ("ECT(0)", header(|ip| ip.tos = 2)),
        ("congestion experienced", header(|ip| ip.tos = 3)),
        // The checksum's carry: its high octet is 0xff, and 0xfe.
        ("checksum 0xff..", header(|ip| ip.id = [0xcc, 0x78])),
        ("checksum 0xfe..", header(|ip| ip.id = [0xcd, 0x78])),
    ];
    for kind in &KINDS {
        for (row, packet) in &rows {
            let name = format!("{} {row}", kind.name);
            let mut programs = kind.admitted(packet);
            let run = run(&mut programs, packet);
            assert_eq!(run.verdict, REDIRECT, "{name}: {:?}", run.counted);
            assert_eq!(run.frame, (kind.expected)(packet, &run.frame), "{name}");
            assert_eq!(run.priority, priority(packet[1]), "{name}");
            let len = packet.len() as u64 + 14;
            let counted: Vec<_> = run.counted.into_iter().collect();
            let expected = [("fast sent", (1, len))];
            assert_eq!(counted, expected, "{name}");
            assert_eq!(programs.flow(packet), Some(sent()), "{name}");
            assert_eq!(programs.noted(packet), None, "{name}");
        }
    }
}

#[test]
fn a_flow_keeps_its_source_port_on_the_fast_path() {
    let packet = tcp_packet(&to_peer(6));
    let mut programs = KINDS[0].admitted(&packet);
    let fast = run(&mut programs, &packet);
    let inner = ethernet(PEER_MAC, OWN_MAC, 0x0800, &hops(&packet, 1));
    let slow = programs.run("vxlan_encap", &inner, Context::default());
    let port = |run: &Run| vxlan_encap::free(&run.frame).source_port;
    assert_eq!(port(&fast), port(&slow));
}

#[test]
fn a_packet_to_a_direct_peer_counts_once() {
    let packet = tcp_packet(&to_peer(6));
    let mut programs = KINDS[2].admitted(&packet);
    let fast = run(&mut programs, &packet);
    let len = packet.len() as u64 + 14;
    assert_eq!(programs.traffic(), [(1, len), (0, 0)]);
    // The program at the interface towards the peer sees the same packet, with the note beside it.
    let context = Context {
        note: fast.note,
        ..Context::default()
    };
    let passed = programs.run("direct_egress", &fast.frame, context);
    assert_eq!((passed.verdict, passed.frame), (KERNEL, fast.frame));
    assert!(passed.counted.is_empty(), "{:?}", passed.counted);
    assert_eq!(programs.traffic(), [(1, len), (0, 0)]);
}

#[test]
fn every_unfit_packet_is_left() {
    for kind in &KINDS {
        for (row, edit) in UNFIT {
            let mut ip = to_peer(6);
            let payload = edit(&mut ip);
            let packet = ip.packet(&payload);
            let mut programs = kind.admitted(&tcp_packet(&to_peer(6)));
            let run = run(&mut programs, &packet);
            let name = format!("{} {row}", kind.name);
            assert_left(&name, &run, &from_pod(&packet), "fast unfit", 1);
            assert_eq!(programs.noted(&packet), None, "{name}");
        }
    }
}

#[test]
fn a_header_that_disagrees_is_unfit() {
    let good = tcp_packet(&to_peer(6));
    type Edit = fn(&mut Vec<u8>);
    let rows: [(&str, Edit); 5] = [
        ("wrong checksum", |packet| packet[11] ^= 1),
        ("checksum of zero", |packet| packet[10..12].fill(0)),
        ("trailer", |packet| packet.extend([0; 6])),
        ("longer than the frame", |packet| {
            // The checksum is right.
            packet[3] += 1;
            packet[5] -= 1;
        }),
        ("cut", |packet| packet.truncate(packet.len() - 1)),
    ];
    for (name, edit) in rows {
        let mut packet = good.clone();
        edit(&mut packet);
        let run = run(&mut KINDS[0].admitted(&good), &packet);
        assert_left(name, &run, &from_pod(&packet), "fast unfit", 1);
    }
}

#[test]
fn a_packet_of_no_admission_in_force_is_left_and_noted() {
    let packet = tcp_packet(&to_peer(6));
    let own = sent().addresses;
    let with = |destination, source| Flow {
        addresses: Addresses::new(destination, source),
        ..sent()
    };
    let rows = [
        ("none", None, "fast not_admitted"),
        (
            "expired",
            Some(Flow {
                expires: LONG_AGO,
                ..sent()
            }),
            "fast not_admitted",
        ),
        (
            "of an earlier generation",
            Some(Flow {
                generation: FAST.generation - 1,
                ..sent()
            }),
            "fast not_admitted",
        ),
        (
            "another interface's",
            Some(Flow {
                ifindex: OTHER_INTERFACE,
                ..sent()
            }),
            "fast other_place",
        ),
        (
            "another sender's",
            Some(with(own.destination(), HOP_MAC)),
            "fast other_place",
        ),
        (
            "to another station",
            Some(with(HOP_MAC, own.source())),
            "fast other_place",
        ),
    ];
    for kind in &KINDS {
        for (row, flow, outcome) in &rows {
            let name = format!("{} {row}", kind.name);
            let mut programs = (kind.load)().with_fast_path();
            if let Some(flow) = flow {
                programs.admit(&packet, *flow);
            }
            let run = run(&mut programs, &packet);
            assert_left(&name, &run, &from_pod(&packet), outcome, 1);
            assert!(programs.noted(&packet).is_some(), "{name}");
            assert_eq!(programs.flow(&packet), *flow, "{name}");
        }
    }
}

#[test]
fn an_admission_is_one_flows() {
    let admitted = tcp_packet(&to_peer(6));
    let mut programs = KINDS[0].admitted(&admitted);
    // Each octet of addresses and ports, but for those of the peer's subnet.
    for at in [15, 19, 20, 21, 22, 23] {
        let mut packet = admitted.clone();
        packet[at] ^= 4;
        packet[10..12].fill(0);
        let right = checksum(sum(&packet[..20]));
        packet[10..12].copy_from_slice(&right);
        let run = run(&mut programs, &packet);
        let name = format!("octet {at}");
        assert_left(&name, &run, &from_pod(&packet), "fast not_admitted", 1);
    }
    let datagram = udp_packet(&to_peer(17));
    let run = run(&mut programs, &datagram);
    assert_left("UDP", &run, &from_pod(&datagram), "fast not_admitted", 1);
}

#[test]
fn every_way_that_is_closed_leaves_the_packet() {
    type Close = fn(&mut Peer);
    let rows: [(&str, Close, &str); 4] = [
        ("no next hop", |peer| peer.mtu = 0, "fast unresolved"),
        ("unknown kind", |peer| peer.encap = 1, "fast unresolved"),
        ("one too many", |peer| peer.mtu = 44, "fast too_big"),
        ("stranger", |peer| peer.needs_kin = 1, "fast unproven"),
    ];
    let packet = tcp_packet(&to_peer(6));
    assert_eq!(packet.len(), 45);
    for kind in &KINDS {
        for (row, close, outcome) in rows {
            let mut programs = kind.admitted(&packet);
            let mut peer = (kind.peer)();
            close(&mut peer);
            programs.set_peer(&peer);
            let left = run(&mut programs, &packet);
            let name = format!("{} {row}", kind.name);
            assert_left(&name, &left, &from_pod(&packet), outcome, 1);
        }
        let mut programs = kind.admitted(&packet);
        let open = Peer {
            mtu: 45,
            needs_kin: 1,
            ..(kind.peer)()
        };
        programs.set_peer(&open);
        programs.set_kin(true);
        assert_eq!(
            run(&mut programs, &packet).verdict,
            REDIRECT,
            "{}",
            kind.name
        );
    }
}

#[test]
fn an_aggregate_is_measured_by_its_segments() {
    let packet = to_peer(6).packet(&tcp(ACK, &[5; 3_000]));
    for kind in &KINDS {
        let mtu = (kind.peer)().mtu;
        let mut programs = kind.admitted(&packet);
        let mut run = |gso_size| {
            let context = Context {
                gso_size,
                gso_segs: 3,
                ..Context::default()
            };
            programs.run(FROM_POD, &from_pod(&packet), context)
        };
        let name = kind.name;
        assert_left(name, &run(mtu - 39), &from_pod(&packet), "fast too_big", 3);
        let fitting = run(mtu - 40);
        if name == "direct" {
            // No headers to make room for.
            assert_eq!(fitting.frame, (kind.expected)(&packet, &[]));
            assert_eq!(fitting.counted["fast sent"].0, 3);
        } else {
            // A test run's aggregate is of no type, and the kernel refuses.
            assert_left(name, &fitting, &from_pod(&packet), "fast no_room", 3);
        }
    }
}

#[test]
fn what_is_not_for_a_peer_is_not_even_counted() {
    let to = |destination| {
        let ip = Ip {
            destination,
            ..to_peer(6)
        };
        from_pod(&tcp_packet(&ip))
    };
    let good = tcp_packet(&to_peer(6));
    let rows = [
        ("IPv6", ethernet(HOP_MAC, HOP_MAC, 0x86dd, &[0x60; 60])),
        ("ARP", ethernet(HOP_MAC, HOP_MAC, 0x0806, &[0; 46])),
        (
            "inside of a VLAN",
            ethernet(HOP_MAC, HOP_MAC, 0x8100, &good),
        ),
        ("out of the network", to([8, 8, 8, 8])),
        ("no lease", to([10, 5, 77, 2])),
        ("another pod of ours", to([10, 5, 2, 3])),
        ("short", from_pod(&good[..27])),
    ];
    for (name, frame) in rows {
        let mut programs = KINDS[0].admitted(&good);
        let run = programs.run(FROM_POD, &frame, Context::default());
        assert_eq!((run.verdict, run.frame), (KERNEL, frame), "{name}");
        assert!(run.counted.is_empty(), "{name}: {:?}", run.counted);
    }
}

#[test]
fn without_a_fast_path_every_packet_passes() {
    let packet = tcp_packet(&to_peer(6));
    for kind in &KINDS {
        let mut programs = kind.admitted(&packet);
        programs.set_fast_path(FastPath { bound: 0, ..FAST });
        let run = run(&mut programs, &packet);
        let out = (run.verdict, run.frame);
        assert_eq!(out, (KERNEL, from_pod(&packet)), "{}", kind.name);
        assert!(run.counted.is_empty(), "{}", kind.name);
        assert_eq!(programs.noted(&packet), None, "{}", kind.name);
    }
}

#[test]
fn a_flow_that_is_received_is_not_sent() {
    // The same addresses and ports, but admitted as what a pod of another interface receives.
    let packet = tcp_packet(&to_peer(6));
    let mut programs = Programs::load().with_fast_path();
    let elsewhere = Flow {
        ifindex: OTHER_INTERFACE,
        ..received()
    };
    programs.admit(&packet, elsewhere);
    let run = run(&mut programs, &packet);
    assert_eq!((run.verdict, run.frame), (KERNEL, from_pod(&packet)));
    assert!(run.counted.is_empty(), "{:?}", run.counted);
    assert_eq!(packet[12..16], POD);
}

#[test]
fn queues_see_the_mark_of_the_admission_and_the_stack_does_not() {
    let packet = tcp_packet(&to_peer(6));
    for kind in &KINDS {
        let mut programs = (kind.load)().with_fast_path();
        let marked = Flow {
            beside: 0x2a_u32.to_ne_bytes(),
            ..sent()
        };
        programs.admit(&packet, marked);
        let sent = run(&mut programs, &packet);
        assert_eq!((sent.verdict, sent.mark), (REDIRECT, 0x2a), "{}", kind.name);
        // Too large for the way: left to the standard path.
        let large = to_peer(6).packet(&tcp(ACK, &[7; 1_480]));
        let left = run(&mut programs, &large);
        assert_eq!((left.verdict, left.mark), (KERNEL, 0), "{}", kind.name);
    }
}

/// Routes may go by it.
#[test]
fn another_type_of_service_is_left_and_another_mark_of_ecn_is_not() {
    let with = |tos: u8| tcp_packet(&Ip { tos, ..to_peer(6) });
    for kind in &KINDS {
        let mut programs = kind.admitted(&with(0x48));
        for (tos, verdict) in [
            (0x48, REDIRECT),
            (0x4a, REDIRECT),
            (0, KERNEL),
            (0x40, KERNEL),
        ] {
            let run = programs.run(FROM_POD, &from_pod(&with(tos)), Context::default());
            assert_eq!(run.verdict, verdict, "{} {tos:#x}", kind.name);
        }
    }
}
