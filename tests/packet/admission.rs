//! Who is admitted: what is noted at the start of the standard path, and what proves at its end, in
//! `to_pod`, `vxlan_encap`, `udp_encap` and `direct_egress`, that a packet came through unchanged.

use flannel_ebpf::abi::{Candidate, FastPath, Flow, Peer};
use flannel_ebpf::fast::LINGER;
use flannel_tests::frame::{
    HOP_MAC, Ip, OWN_MAC, PEER_IP, PEER_MAC, ethernet, filled, tunnel, udp,
};
use flannel_tests::raw::{IPV4, Offload};
use flannel_tests::wire::Wire;

use super::bed::Bed;
use super::flows::{
    ACK, BRIDGE_MAC, FAST, INTERFACE, LONG_AGO, NEVER, POD_MAC, candidate, from_pod, hops, key,
    now, received, sent, sent_candidate, tcp, tcp_packet, to_peer, to_us, udp_packet,
};
use super::program::{Context, DEVICE, KERNEL, Programs, Run, config, peer};

/// An end of the standard path.
/// Our own address on the way to the next hop.
const NEXT_TO_HOP: [u8; 6] = [2, 0, 0, 0, 0, 12];

struct End {
    program: &'static str,
    load: fn() -> Programs,
    /// Header of packets that come there.
    ip: fn(u8) -> Ip,
    /// A packet there, in its frame.
    frame: fn(&[u8]) -> Vec<u8>,
    /// The candidate that admits it, and its admission.
    candidate: fn(&[u8], u64) -> Candidate,
    flow: fn() -> Flow,
}

const ENDS: [End; 3] = [
    End {
        program: "to_pod",
        load: Programs::load,
        ip: to_us,
        frame: |packet| ethernet(POD_MAC, BRIDGE_MAC, 0x0800, packet),
        candidate,
        flow: received,
    },
    End {
        program: "vxlan_encap",
        load: Programs::load,
        ip: to_peer,
        frame: |packet| ethernet(PEER_MAC, OWN_MAC, 0x0800, packet),
        candidate: sent_candidate,
        flow: sent,
    },
    End {
        program: "direct_egress",
        load: Programs::load_direct,
        ip: to_peer,
        frame: |packet| ethernet(HOP_MAC, NEXT_TO_HOP, 0x0800, packet),
        candidate: sent_candidate,
        flow: sent,
    },
];

impl End {
    /// The programs, with a packet noted.
    fn noted(&self, packet: &[u8]) -> Programs {
        let mut programs = (self.load)().with_fast_path();
        programs.note(packet, (self.candidate)(packet, NEVER));
        programs
    }

    fn run(&self, programs: &mut Programs, packet: &[u8]) -> Run {
        let context = Context {
            via: DEVICE,
            ..Context::default()
        };
        programs.run(self.program, &(self.frame)(packet), context)
    }
}

/// Checks an admission that has been made since `before`.
fn assert_admitted(name: &str, flow: Option<Flow>, expected: Flow, before: u64) {
    let flow = flow.unwrap_or_else(|| panic!("{name}: not admitted"));
    let bound = before + FAST.bound..=now() + FAST.bound;
    assert!(bound.contains(&flow.expires), "{name}: {}", flow.expires);
    let expected = Flow {
        expires: flow.expires,
        ..expected
    };
    assert_eq!(flow, expected, "{name}");
}

#[test]
fn the_first_packet_of_a_flow_admits_nothing_and_the_second_does() {
    for end in &ENDS[1..] {
        let packets = [1, 2].map(|id| {
            tcp_packet(&Ip {
                id: [0, id],
                ..to_peer(6)
            })
        });
        let mut programs = (end.load)().with_fast_path();
        for (packet, is_first) in packets.iter().zip([1, 0]) {
            let name = format!("{} first {is_first}", end.program);
            let before = now();
            programs.run("from_pod", &from_pod(packet), Context::default());
            let noted = programs.noted(packet).unwrap();
            assert!((before..=now()).contains(&noted.noted), "{name}");
            let expected = Candidate {
                is_first,
                ..sent_candidate(packet, noted.noted)
            };
            assert_eq!(noted, expected, "{name}");
            end.run(&mut programs, &hops(packet, 1));
            let flow = programs.flow(packet);
            if is_first == 1 {
                assert_eq!(flow, None, "{name}");
                continue;
            }
            assert_admitted(&name, flow, sent(), before);
            // Nothing is awaited any more.
            let settled = sent_candidate(packet, 0);
            assert_eq!(programs.noted(packet), Some(settled), "{name}");
        }
    }
}

#[test]
fn what_comes_from_a_peer_is_admitted_where_it_enters_the_pod() {
    let mut programs = Programs::load().with_fast_path();
    let packet = tcp_packet(&to_us(6));
    let before = now();
    for is_first in [1, 0] {
        programs.run("vxlan_decap", &tunnel(&packet).frame(), Context::default());
        let noted = programs.noted(&packet).unwrap();
        assert_eq!(noted.is_first, is_first);
        assert_eq!(programs.flow(&packet), None);
        ENDS[0].run(&mut programs, &hops(&packet, 1));
    }
    let admitted = Flow {
        beside: PEER_IP,
        ..received()
    };
    assert_admitted("to_pod", programs.flow(&packet), admitted, before);
}

#[test]
fn a_packet_that_comes_out_unchanged_is_admitted() {
    type Edit = fn(&mut Vec<u8>);
    // What may become of a packet on the way.
    let rows: [(&str, u8, Edit); 3] = [
        ("tcp", 6, |_| {}),
        ("udp", 17, |_| {}),
        ("udp, its checksum filled in", 17, |packet| {
            packet[26] ^= 0xff;
        }),
    ];
    for end in &ENDS {
        for (row, protocol, edit) in rows {
            let name = format!("{} {row}", end.program);
            let ip = (end.ip)(protocol);
            let packet = match protocol {
                6 => tcp_packet(&ip),
                _ => udp_packet(&ip),
            };
            let mut programs = end.noted(&packet);
            let mut out = hops(&packet, 1);
            edit(&mut out);
            let before = now();
            let run = end.run(&mut programs, &out);
            assert_admitted(&name, programs.flow(&packet), (end.flow)(), before);
            let settled = (end.candidate)(&packet, 0);
            assert_eq!(programs.noted(&packet), Some(settled), "{name}");
            let mut fast = run
                .counted
                .iter()
                .filter(|(key, _)| key.starts_with("fast"));
            let once = (1, out.len() as u64 + 14);
            assert_eq!(fast.next(), Some((&"fast admitted", &once)), "{name}");
            assert_eq!(fast.next(), None, "{name}");
            if end.program == "to_pod" {
                assert_eq!((run.verdict, run.frame), (KERNEL, (end.frame)(&out)));
                assert_eq!(run.counted.len(), 1, "{:?}", run.counted);
            }
        }
    }
}

#[test]
fn a_packet_that_comes_out_changed_is_not_admitted() {
    type Change = fn(&mut Ip, &mut Vec<u8>);
    let rows: [(&str, u8, Change); 10] = [
        ("DSCP", 6, |ip, _| ip.tos = 0xb8),
        ("congestion mark", 6, |ip, _| ip.tos = 3),
        ("no hop", 6, |ip, _| ip.ttl += 1),
        ("another hop", 6, |ip, _| ip.ttl -= 1),
        ("identification", 6, |ip, _| ip.id[1] ^= 1),
        ("may be fragmented", 6, |ip, _| ip.fragment = [0; 2]),
        ("longer", 6, |_, segment| segment.push(0)),
        ("sequence number", 6, |_, segment| segment[7] ^= 1),
        ("its high octet", 6, |_, segment| segment[4] ^= 1),
        ("length of a datagram", 17, |_, segment| segment[5] ^= 1),
    ];
    for end in &ENDS {
        for (row, protocol, change) in rows {
            let name = format!("{} {row}", end.program);
            let mut ip = (end.ip)(protocol);
            let mut segment = match protocol {
                6 => tcp(ACK, b"hello"),
                _ => udp(4_000, 5_000, b"hello"),
            };
            let packet = filled(&ip.packet(&segment), true);
            let mut programs = end.noted(&packet);
            ip.ttl -= 1;
            change(&mut ip, &mut segment);
            let out = ip.packet(&segment);
            assert_eq!(key(&out), key(&packet), "{name}");
            end.run(&mut programs, &out);
            assert_eq!(programs.flow(&packet), None, "{name}");
            let unsettled = (end.candidate)(&packet, NEVER);
            assert_eq!(programs.noted(&packet), Some(unsettled), "{name}");
        }
    }
}

#[test]
fn a_packet_that_proves_nothing_is_not_admitted() {
    type Change = fn(&mut Candidate);
    let rows: [(&str, Change); 2] = [
        ("a flow's first", |candidate| candidate.is_first = 1),
        ("of the other direction", |candidate| {
            candidate.ifindex ^= INTERFACE;
        }),
    ];
    for end in &ENDS {
        let packet = tcp_packet(&(end.ip)(6));
        for (row, change) in rows {
            let mut noted = (end.candidate)(&packet, NEVER);
            change(&mut noted);
            let mut programs = end.noted(&packet);
            programs.note(&packet, noted);
            end.run(&mut programs, &hops(&packet, 1));
            let name = format!("{} {row}", end.program);
            assert_eq!(programs.flow(&packet), None, "{name}");
            assert_eq!(programs.noted(&packet), Some(noted), "{name}");
        }
        let mut programs = end.noted(&packet);
        programs.set_fast_path(FastPath { bound: 0, ..FAST });
        end.run(&mut programs, &hops(&packet, 1));
        assert_eq!(programs.flow(&packet), None, "{} off", end.program);
    }
}

#[test]
fn what_the_tunnel_does_not_carry_is_not_admitted() {
    let packet = tcp_packet(&to_peer(6));
    let rows = [
        ("unresolved", Peer { mtu: 0, ..peer() }),
        ("too big", Peer { mtu: 44, ..peer() }),
    ];
    for (name, peer) in rows {
        let mut programs = ENDS[1].noted(&packet);
        programs.set_peer(&peer);
        ENDS[1].run(&mut programs, &hops(&packet, 1));
        assert_eq!(programs.flow(&packet), None, "{name}");
    }
    // Counted for nobody, so by no direct way.
    let mut programs = Programs::load().with_fast_path();
    programs.note(&packet, sent_candidate(&packet, NEVER));
    ENDS[2].run(&mut programs, &hops(&packet, 1));
    assert_eq!(programs.flow(&packet), None, "no direct peer");
}

#[test]
fn the_udp_tunnels_end_admits_as_the_others_do() {
    let packet = tcp_packet(&to_peer(6));
    let mut bed = Bed::new(Wire::Mtu1500);
    bed.programs.set_fast_path(FAST);
    bed.programs.note(&packet, sent_candidate(&packet, NEVER));
    let changed = tcp_packet(&Ip {
        tos: 0xb8,
        ttl: 63,
        ..to_peer(6)
    });
    bed.run(IPV4, &changed, Offload::default(), 1);
    assert_eq!(bed.programs.flow(&packet), None);
    let before = now();
    bed.run(IPV4, &hops(&packet, 1), Offload::default(), 1);
    assert_admitted("udp_encap", bed.programs.flow(&packet), sent(), before);
}

#[test]
fn a_candidate_gives_way_when_it_is_no_more_awaited() {
    let single = Context::default();
    let aggregate = Context {
        gso_size: 2,
        gso_segs: 3,
        ..single
    };
    // When the one before was noted, whether it was the flow's first; the later one; whether that
    // is noted in its place.
    let rows = [
        ("awaited", NEVER, 0, single, false),
        ("over", 0, 0, single, true),
        ("the first", NEVER, 1, single, true),
        ("behind an aggregate", NEVER, 0, aggregate, true),
    ];
    for (name, noted, is_first, context, is_noted) in rows {
        let earlier = Candidate {
            is_first,
            ..sent_candidate(&tcp_packet(&to_peer(6)), noted)
        };
        let later = tcp_packet(&Ip {
            id: [7; 2],
            ..to_peer(6)
        });
        let mut programs = Programs::load().with_fast_path();
        programs.note(&later, earlier);
        programs.run("from_pod", &from_pod(&later), context);
        let noted = programs.noted(&later).unwrap();
        let expected = if is_noted {
            Candidate {
                is_aggregate: u32::from(context.gso_size != 0),
                ..sent_candidate(&later, noted.noted)
            }
        } else {
            earlier
        };
        assert_eq!(noted, expected, "{name}");
    }
}

/// As when a bridge does not know where a station is: the last interface would get all of the flow.
#[test]
fn a_packet_that_comes_out_at_several_pods_is_nobodys() {
    let packet = tcp_packet(&to_us(6));
    let counts = Flow {
        queued: 3,
        dequeued: 1,
        ..received()
    };
    for (name, ifindex, is_over) in [
        ("again", INTERFACE, false),
        ("another", INTERFACE + 1, true),
    ] {
        let mut programs = ENDS[0].noted(&packet);
        programs.note(&packet, candidate(&packet, 0));
        let earlier = Flow { ifindex, ..counts };
        programs.admit(&packet, earlier);
        let before = now();
        ENDS[0].run(&mut programs, &hops(&packet, 1));
        let flow = programs.flow(&packet).unwrap();
        if is_over {
            assert!((before..=now()).contains(&flow.expires), "{name}");
            assert_eq!(flow.ifindex, ifindex, "{name}: of what is queued");
        } else {
            assert_eq!(flow, earlier, "{name}");
        }
    }
}

#[test]
fn a_flow_that_was_admitted_before_needs_no_first_packet() {
    // Whether its candidate is still known; one that gave way to others is not.
    for flow in [None, Some(0), Some(LONG_AGO)] {
        let packet = tcp_packet(&to_peer(6));
        let mut programs = Programs::load().with_fast_path();
        if let Some(expires) = flow {
            programs.admit(&packet, Flow { expires, ..sent() });
        }
        programs.run("from_pod", &from_pod(&packet), Context::default());
        let noted = programs.noted(&packet).unwrap();
        assert_eq!(noted.is_first, u32::from(flow.is_none()), "{flow:?}");
        let before = now();
        ENDS[1].run(&mut programs, &hops(&packet, 1));
        match flow {
            None => assert_eq!(programs.flow(&packet), None),
            Some(_) => assert_admitted("again", programs.flow(&packet), sent(), before),
        }
        // The same of a flow that a pod receives.
        let packet = tcp_packet(&to_us(6));
        if let Some(expires) = flow {
            let over = Flow {
                expires,
                ..received()
            };
            programs.admit(&packet, over);
        }
        programs.run("vxlan_decap", &tunnel(&packet).frame(), Context::default());
        let noted = programs.noted(&packet).unwrap();
        assert_eq!(noted.is_first, u32::from(flow.is_none()), "{flow:?}");
    }
}

/// What a table of one slot holds, and whether it gives way.
#[test]
fn a_flow_gives_way_some_time_after_the_end_of_its_admission() {
    let end = &ENDS[0];
    let packet = tcp_packet(&(end.ip)(6));
    let other = udp_packet(&(end.ip)(17));
    let rows = [
        ("in force", NEVER, false),
        ("just over", now() - 1, false),
        ("over for a while", now() - LINGER - 1, true),
    ];
    for (name, expires, is_admitted) in rows {
        let mut programs = Programs::load_for_flows(&config(), &peer(), 1).with_fast_path();
        let flow = Flow {
            expires,
            ..(end.flow)()
        };
        programs.admit(&other, flow);
        programs.note(&packet, (end.candidate)(&packet, NEVER));
        end.run(&mut programs, &hops(&packet, 1));
        assert_eq!(programs.flow(&packet).is_some(), is_admitted, "{name}");
        assert_eq!(programs.flow(&other).is_none(), is_admitted, "{name}");
    }
}

#[test]
fn a_slot_that_is_being_written_is_not_read() {
    let packet = tcp_packet(&to_peer(6));
    for (version, outcome) in [(0, "fast sent"), (1, "fast not_admitted"), (2, "fast sent")] {
        let mut programs = Programs::load().with_fast_path();
        let flow = Flow { version, ..sent() };
        programs.admit(&packet, flow);
        let run = programs.run("from_pod", &from_pod(&packet), Context::default());
        assert!(
            run.counted.contains_key(outcome),
            "{version}: {:?}",
            run.counted
        );
    }
}

#[test]
fn a_full_table_leaves_a_flow_on_the_standard_path() {
    for end in &ENDS {
        let packet = tcp_packet(&(end.ip)(6));
        let other = udp_packet(&(end.ip)(17));
        let mut programs = Programs::load_for_flows(&config(), &peer(), 1).with_fast_path();
        programs.count_traffic();
        programs.admit(&other, (end.flow)());
        programs.note(&packet, (end.candidate)(&packet, NEVER));
        let run = end.run(&mut programs, &hops(&packet, 1));
        let size = (1, packet.len() as u64 + 14);
        let full = run.counted.get("fast table_full");
        assert_eq!(full, Some(&size), "{}: {:?}", end.program, run.counted);
        assert_eq!(programs.flow(&packet), None, "{}", end.program);
        // It is awaited still: the next packets need not ask in vain.
        let noted = programs.noted(&packet).unwrap().noted;
        assert_eq!(noted, NEVER, "{}", end.program);
        // One that is in the table is renewed.
        programs.note(&other, (end.candidate)(&other, NEVER));
        let before = now();
        end.run(&mut programs, &hops(&other, 1));
        assert_admitted(end.program, programs.flow(&other), (end.flow)(), before);
    }
}

/// Another pod of the bridge may send one like the packet that is awaited.
#[test]
fn what_has_not_come_from_the_peer_is_not_admitted() {
    let end = &ENDS[0];
    let packet = tcp_packet(&to_us(6));
    let mut programs = end.noted(&packet);
    let out = hops(&packet, 1);
    let forged = Context {
        via: DEVICE + 1,
        ..Context::default()
    };
    programs.run(end.program, &(end.frame)(&out), forged);
    assert_eq!(programs.flow(&packet), None);
    end.run(&mut programs, &out);
    assert!(programs.flow(&packet).is_some(), "the peer's own");
}

/// A rule of the host's sends it to another router than the peer's.
#[test]
fn what_goes_another_way_than_the_fast_path_would_is_not_admitted() {
    let end = &ENDS[2];
    let packet = tcp_packet(&to_peer(6));
    let mut programs = end.noted(&packet);
    let out = hops(&packet, 1);
    let elsewhere = ethernet([2, 0, 0, 0, 0, 99], NEXT_TO_HOP, 0x0800, &out);
    programs.run(end.program, &elsewhere, Context::default());
    assert_eq!(programs.flow(&packet), None);
    end.run(&mut programs, &out);
    assert!(programs.flow(&packet).is_some(), "the peer's");
}

#[test]
fn an_admission_has_the_mark_that_rules_have_given() {
    for end in &ENDS[1..] {
        let packet = tcp_packet(&to_peer(6));
        let mut programs = end.noted(&packet);
        let context = Context {
            mark: 0x2a,
            ..Context::default()
        };
        programs.run(end.program, &(end.frame)(&hops(&packet, 1)), context);
        let flow = programs.flow(&packet).expect(end.program);
        assert_eq!(flow.beside, 0x2a_u32.to_ne_bytes(), "{}", end.program);
    }
}
