//! Delivery of what node A sends: the fast-path branches of `vxlan_decap`, `udp_decap` and
//! `direct_ingress`.

use flannel_ebpf::abi::{FastPath, Flow};
use flannel_tests::frame::{HOP_MAC, HOST_MAC, Ip, PEER_IP, Tunnel, ethernet, tunnel, udp_tunnel};

use super::flows::{
    ACK, BRIDGE_MAC, FAST, LONG_AGO, NEVER, POD_MAC, UNFIT, candidate, hops, received, sent, tcp,
    tcp_packet, to_us, udp_packet,
};
use super::program::{Context, KERNEL, Programs, REDIRECT, Run};

/// Of a frame as it came: verdict, frame and counter on the standard path.
type Standard = fn(&[u8]) -> (i32, Vec<u8>, &'static str);

/// A way by which node A's packets come.
pub(crate) struct Kind {
    pub(crate) program: &'static str,
    load: fn() -> Programs,
    /// The frame around a packet.
    frame: fn(&[u8]) -> Vec<u8>,
    /// Hops that it has behind it when it is in the pod.
    pub(crate) hops: usize,
    /// How often it goes through the backlog on the standard path.
    pub(crate) rounds: u8,
    /// The underlay address that its flow is admitted with.
    remote: [u8; 4],
    /// What the standard path makes of it: verdict, frame, outcome.
    standard: Standard,
}

pub(crate) const KINDS: [Kind; 3] = [
    Kind {
        program: "vxlan_decap",
        load: Programs::load,
        frame: |packet| tunnel(packet).frame(),
        hops: 1,
        rounds: 2,
        remote: PEER_IP,
        standard: |packet| {
            let frame = tunnel(packet).inner_frame();
            (REDIRECT, frame, "ingress decapsulated")
        },
    },
    Kind {
        program: "udp_decap",
        load: Programs::load_udp,
        frame: |packet| udp_tunnel(packet).frame(),
        hops: 2,
        rounds: 2,
        remote: [0; 4],
        standard: |packet| {
            let frame = super::udp_decap::delivered(&udp_tunnel(packet));
            (REDIRECT, frame, "ingress decapsulated")
        },
    },
    Kind {
        program: "direct_ingress",
        load: Programs::load_direct,
        frame: direct,
        hops: 1,
        rounds: 1,
        remote: [0; 4],
        standard: |packet| (KERNEL, direct(packet), "ingress direct"),
    },
];

fn direct(packet: &[u8]) -> Vec<u8> {
    ethernet(HOST_MAC, HOP_MAC, 0x0800, packet)
}

impl Kind {
    /// The programs, with the fast path on and the flow of a packet admitted.
    pub(crate) fn admitted(&self, packet: &[u8], flow: Flow) -> Programs {
        let mut programs = (self.load)().with_fast_path();
        programs.admit(packet, flow);
        programs
    }

    pub(crate) fn run(&self, programs: &mut Programs, packet: &[u8]) -> Run {
        programs.run(self.program, &(self.frame)(packet), Context::default())
    }

    /// Checks that a packet took the standard path, beside which the fast path counts as it says.
    fn assert_standard(&self, row: &str, run: &Run, packet: &[u8], fast: Option<&'static str>) {
        let name = format!("{} {row}", self.program);
        let (verdict, frame, outcome) = (self.standard)(packet);
        assert_eq!(run.verdict, verdict, "{name}: {:?}", run.counted);
        assert_eq!(run.frame, frame, "{name}");
        let size = (1, (self.frame)(packet).len() as u64);
        let expected = fast.into_iter().chain([outcome]).map(|it| (it, size));
        assert_eq!(run.counted, expected.collect(), "{name}");
    }

    /// Checks that a packet went to its pod, with this source address in its frame.
    pub(crate) fn assert_fast(
        &self,
        row: &str,
        run: &Run,
        packet: &[u8],
        source: [u8; 6],
        fast: &'static str,
    ) {
        let name = format!("{} {row}", self.program);
        assert_eq!(run.verdict, REDIRECT, "{name}: {:?}", run.counted);
        let expected = ethernet(POD_MAC, source, 0x0800, &hops(packet, self.hops));
        assert_eq!(run.frame, expected, "{name}");
        let size = (1, (self.frame)(packet).len() as u64);
        assert_eq!(run.counted, [(fast, size)].into(), "{name}");
    }
}

/// The ticket of a queued frame.
pub(crate) fn ticket(rounds: u8, expires: u64) -> [u8; 6] {
    let [a, b, c, d] = (expires as u32).to_ne_bytes();
    [rounds, 0, a, b, c, d]
}

#[test]
fn packets_are_queued_until_all_before_them_are_through() {
    // Queued and come out before; whether the packet goes straight into the pod.
    let rows = [
        (0, 0, false),
        (1, 0, false),
        (1, 1, true),
        (5, 4, false),
        (5, 5, true),
    ];
    let packets = [tcp_packet(&to_us(6)), udp_packet(&to_us(17))];
    for kind in &KINDS {
        for (packet, (queued, dequeued, is_straight)) in packets
            .iter()
            .flat_map(|packet| rows.map(|row| (packet, row)))
        {
            let row = format!("{queued} in, {dequeued} out");
            let flow = Flow {
                expires: NEVER - 0x1234_5678,
                queued,
                dequeued,
                ..received()
            };
            let mut programs = kind.admitted(packet, flow);
            let run = kind.run(&mut programs, packet);
            let (source, outcome, more) = if is_straight {
                (BRIDGE_MAC, "fast delivered", 0)
            } else {
                (ticket(kind.rounds, flow.expires), "fast queued", 1)
            };
            kind.assert_fast(&row, &run, packet, source, outcome);
            let flow = Flow {
                queued: queued + more,
                ..flow
            };
            assert_eq!(programs.flow(packet), Some(flow), "{row}");
            assert_eq!(programs.noted(packet), None, "{row}");
        }
    }
}

/// A sender without a lease, and flows admitted with it, with another and with none.
#[test]
fn a_sender_is_looked_up_unless_the_admission_names_it() {
    let stranger = [192, 168, 7, 99];
    let packet = tcp_packet(&to_us(6));
    let mut tunnel = tunnel(&packet);
    tunnel.ip.source = stranger;
    for (remote, is_delivered) in [(stranger, true), (PEER_IP, false), ([0; 4], false)] {
        let flow = Flow {
            beside: remote,
            ..received()
        };
        let run = KINDS[0].admitted(&packet, flow).run(
            "vxlan_decap",
            &tunnel.frame(),
            Context::default(),
        );
        let expected = if is_delivered {
            (REDIRECT, "fast queued")
        } else {
            (KERNEL, "ingress unknown_sender")
        };
        assert_eq!(run.verdict, expected.0, "{remote:?}: {:?}", run.counted);
        assert!(
            run.counted.contains_key(expected.1),
            "{remote:?}: {:?}",
            run.counted
        );
    }
}

#[test]
fn headers_at_the_edge_are_delivered() {
    let with = |ttl, tos, id| {
        let ip = Ip {
            ttl,
            tos,
            id,
            ..to_us(6)
        };
        tcp_packet(&ip)
    };
    let rows = |hops| {
        [
            ("five hops left in the pod", with(5 + hops, 0, [0; 2])),
            ("255 hops left", with(255, 0, [0; 2])),
            ("DSCP", with(63, 0xb8, [0; 2])),
            ("congestion experienced", with(63, 3, [0; 2])),
            ("large", to_us(6).packet(&tcp(ACK, &[7; 1_410]))),
        ]
    };
    for kind in &KINDS {
        for (row, packet) in &rows(kind.hops as u8) {
            let drained = Flow {
                queued: 1,
                dequeued: 1,
                ..received()
            };
            let mut programs = kind.admitted(packet, drained);
            let run = kind.run(&mut programs, packet);
            kind.assert_fast(row, &run, packet, BRIDGE_MAC, "fast delivered");
        }
    }
}

#[test]
fn a_packet_of_no_admission_in_force_takes_the_standard_path_and_is_noted() {
    let packet = tcp_packet(&to_us(6));
    let rows = [
        ("none", None),
        (
            "expired",
            Some(Flow {
                expires: LONG_AGO,
                ..received()
            }),
        ),
        (
            "of an earlier generation",
            Some(Flow {
                generation: FAST.generation - 1,
                ..received()
            }),
        ),
        // One that our pod sends: nobody at the other end has that address.
        ("of the other direction", Some(sent())),
    ];
    for kind in &KINDS {
        for (row, flow) in rows {
            let mut programs = (kind.load)().with_fast_path();
            if let Some(flow) = flow {
                programs.admit(&packet, flow);
            }
            let run = kind.run(&mut programs, &packet);
            kind.assert_standard(row, &run, &packet, Some("fast not_admitted"));
            assert!(programs.noted(&packet).is_some(), "{row}");
            assert_eq!(programs.flow(&packet), flow, "{row}");
        }
    }
}

#[test]
fn a_packet_is_noted_as_the_hosts_own_hop_finds_it() {
    for kind in &KINDS {
        // 255: one more would be none.
        for ttl in [5 + kind.hops as u8, 63, 255] {
            let ip = Ip { ttl, ..to_us(6) };
            let packet = tcp_packet(&ip);
            let mut programs = (kind.load)().with_fast_path();
            kind.run(&mut programs, &packet);
            let noted = programs.noted(&packet).unwrap();
            let mut expected = candidate(&packet, noted.noted);
            expected.ip.ttl = ttl - (kind.hops as u8 - 1);
            expected.is_first = 1;
            expected.remote = kind.remote;
            assert_eq!(noted, expected, "{} {ttl}", kind.program);
        }
    }
}

#[test]
fn every_unfit_packet_takes_the_standard_path() {
    for kind in &KINDS {
        for (row, edit) in UNFIT {
            let mut ip = to_us(6);
            let payload = edit(&mut ip);
            let packet = ip.packet(&payload);
            let mut programs = kind.admitted(&tcp_packet(&to_us(6)), received());
            let run = kind.run(&mut programs, &packet);
            kind.assert_standard(row, &run, &packet, Some("fast unfit"));
            assert_eq!(programs.noted(&packet), None, "{row}");
        }
    }
}

/// A packet on the standard path waits in the backlog: what comes behind it waits there, too.
#[test]
fn what_comes_behind_a_packet_that_is_left_is_queued() {
    let drained = Flow {
        expires: NEVER,
        queued: 3,
        dequeued: 3,
        ..received()
    };
    let over = Flow {
        expires: NEVER - 1,
        queued: 0,
        dequeued: 0,
        ..drained
    };
    for kind in &KINDS {
        for (row, edit) in UNFIT {
            let mut ip = to_us(6);
            let payload = edit(&mut ip);
            let has_ports = ip.protocol == 6 && ip.fragment[1] == 0;
            let mut programs = kind.admitted(&tcp_packet(&to_us(6)), drained);
            kind.run(&mut programs, &ip.packet(&payload));
            let flow = programs.flow(&tcp_packet(&to_us(6)));
            let expected = if has_ports { over } else { drained };
            assert_eq!(flow, Some(expected), "{} {row}", kind.program);
        }
    }
}

/// In the queue into the pod it would not be known any more, with the hops of this host off.
#[test]
fn a_packet_whose_hops_would_not_do_in_the_queue_takes_the_standard_path() {
    for kind in &KINDS {
        let ttl = 4 + kind.hops as u8;
        let packet = tcp_packet(&Ip { ttl, ..to_us(6) });
        let mut programs = kind.admitted(&packet, received());
        let run = kind.run(&mut programs, &packet);
        kind.assert_standard("four in the pod", &run, &packet, Some("fast unfit"));
        assert_eq!(programs.noted(&packet), None);
    }
}

#[test]
fn a_packet_whose_header_is_damaged_takes_the_standard_path() {
    for kind in &KINDS {
        let mut packet = tcp_packet(&to_us(6));
        packet[11] ^= 1;
        let mut programs = kind.admitted(&packet, received());
        let run = kind.run(&mut programs, &packet);
        assert!(run.counted.contains_key("fast unfit"), "{:?}", run.counted);
        assert!(
            ["fast delivered", "fast queued"]
                .iter()
                .all(|it| !run.counted.contains_key(it))
        );
        assert_eq!(programs.noted(&packet), None);
    }
}

#[test]
fn without_a_fast_path_all_take_the_standard_path() {
    let packet = tcp_packet(&to_us(6));
    for kind in &KINDS {
        let mut programs = kind.admitted(&packet, received());
        programs.set_fast_path(FastPath { bound: 0, ..FAST });
        let run = kind.run(&mut programs, &packet);
        kind.assert_standard("off", &run, &packet, None);
        assert_eq!(programs.noted(&packet), None);
    }
}

#[test]
fn a_mark_to_carry_over_is_the_standard_paths() {
    let ip = Ip { tos: 2, ..to_us(6) };
    let packet = tcp_packet(&ip);
    let mut marked = tunnel(&packet);
    marked.ip.tos = 3;
    let mut programs = KINDS[0].admitted(&packet, received());
    let frame = marked.frame();
    let run = programs.run("vxlan_decap", &frame, Context::default());
    let inner = tcp_packet(&Ip { tos: 3, ..ip });
    assert_eq!(run.verdict, REDIRECT);
    assert_eq!(run.frame, tunnel(&inner).inner_frame());
    let size = (1, frame.len() as u64);
    let expected = [("fast mark", size), ("ingress decapsulated", size)];
    assert_eq!(run.counted, expected.into());
    assert_eq!(programs.noted(&packet), None);
    let flow = programs.flow(&packet).unwrap();
    assert_eq!(flow.expires, received().expires - 1, "those behind it wait");
    // The udp backend carries none over.
    let packet = tcp_packet(&to_us(6));
    let mut programs = KINDS[1].admitted(&packet, received());
    let mut marked: Tunnel = udp_tunnel(&packet);
    marked.ip.tos = 3;
    let run = programs.run("udp_decap", &marked.frame(), Context::default());
    let source = ticket(2, received().expires);
    KINDS[1].assert_fast("mark", &run, &packet, source, "fast queued");
}

#[test]
fn a_direct_frame_for_another_station_is_only_counted() {
    let packet = tcp_packet(&to_us(6));
    let frame = ethernet(HOP_MAC, HOP_MAC, 0x0800, &packet);
    let mut programs = KINDS[2].admitted(&packet, received());
    let run = programs.run("direct_ingress", &frame, Context::default());
    assert_eq!((run.verdict, &run.frame), (KERNEL, &frame));
    let size = (1, frame.len() as u64);
    assert_eq!(run.counted, [("ingress direct", size)].into());
}

#[test]
fn an_aggregate_that_is_not_delivered_is_the_kernels() {
    let context = Context {
        gso_size: 400,
        gso_segs: 3,
        ..Context::default()
    };
    let packet = to_us(6).packet(&tcp(ACK, &[1; 1_000]));
    let frame = tunnel(&packet).frame();
    let mut programs = Programs::load().with_fast_path();
    let run = programs.run("vxlan_decap", &frame, context);
    assert_eq!((run.verdict, &run.frame), (KERNEL, &frame));
    let size = (3, frame.len() as u64);
    let expected = [("fast not_admitted", size), ("ingress aggregate", size)];
    assert_eq!(run.counted, expected.into());
    assert_eq!(programs.noted(&packet).unwrap().is_aggregate, 1);
}
