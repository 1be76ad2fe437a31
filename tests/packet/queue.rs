//! The queue that received packets wait in behind those on the standard path: frames with a ticket,
//! which come out in `from_pod`.

use flannel_ebpf::abi::{FastPath, Flow};
use flannel_tests::frame::{ethernet, pod_packet};

use super::flows::{
    BRIDGE_MAC, FAST, INTERFACE, LONG_AGO, OTHER_INTERFACE, POD_MAC, hops, received, tcp_packet,
    to_us,
};
use super::program::{Context, KERNEL, REDIRECT};
use super::to_us::{KINDS, ticket};

#[test]
fn a_queued_frame_comes_out_whatever_has_become_of_its_admission() {
    let packet = hops(&tcp_packet(&to_us(6)), 1);
    let flow = Flow {
        queued: 3,
        dequeued: 1,
        ..received()
    };
    let states = [
        ("in force", flow, FAST),
        (
            "expired",
            Flow {
                expires: LONG_AGO,
                ..flow
            },
            FAST,
        ),
        (
            "of an earlier generation",
            Flow {
                generation: FAST.generation - 1,
                ..flow
            },
            FAST,
        ),
        ("off", flow, FastPath { bound: 0, ..FAST }),
    ];
    for (state, flow, fast) in states {
        // Where it has come from; where it goes; whether it counts as out.
        let now = flow.expires;
        let rows = [
            ("2 rounds", ticket(2, now), ticket(1, now), 0),
            ("1 round", ticket(1, now), BRIDGE_MAC, 1),
            ("2, earlier", ticket(2, now - 1), ticket(1, now - 1), 0),
            ("1, earlier", ticket(1, now - 1), BRIDGE_MAC, 0),
        ];
        for (row, source, expected, more) in rows {
            let name = format!("{row}, {state}");
            let mut programs = KINDS[0].admitted(&packet, flow);
            programs.set_fast_path(fast);
            let frame = ethernet(POD_MAC, source, 0x0800, &packet);
            let run = programs.run("from_pod", &frame, Context::default());
            assert_eq!(run.verdict, REDIRECT, "{name}");
            let expected = ethernet(POD_MAC, expected, 0x0800, &packet);
            assert_eq!(run.frame, expected, "{name}");
            assert!(run.counted.is_empty(), "{name}: {:?}", run.counted);
            let flow = Flow {
                dequeued: flow.dequeued + more,
                ..flow
            };
            assert_eq!(programs.flow(&packet), Some(flow), "{name}");
        }
    }
}

#[test]
fn what_was_not_queued_does_not_come_out() {
    let packet = tcp_packet(&to_us(6));
    let expires = received().expires;
    let rows = [
        ("another interface's", OTHER_INTERFACE, ticket(1, expires)),
        ("no rounds", INTERFACE, ticket(0, expires)),
        ("three rounds", INTERFACE, ticket(3, expires)),
        ("a pod's address", INTERFACE, POD_MAC),
    ];
    for (name, ifindex, source) in rows {
        let flow = Flow {
            ifindex,
            ..received()
        };
        let mut programs = KINDS[0].admitted(&packet, flow);
        let frame = ethernet(POD_MAC, source, 0x0800, &packet);
        let run = programs.run("from_pod", &frame, Context::default());
        assert_eq!((run.verdict, run.frame), (KERNEL, frame), "{name}");
        assert!(run.counted.is_empty(), "{name}: {:?}", run.counted);
        assert_eq!(programs.flow(&packet), Some(flow), "{name}");
    }
}

#[test]
fn a_flow_goes_straight_when_its_queue_has_run_empty() {
    let packet = pod_packet([10, 5, 1, 2], [10, 5, 2, 2], b"hello");
    for kind in &KINDS {
        let mut programs = kind.admitted(&packet, received());
        let mut queued = Vec::new();
        for _ in 0..3 {
            queued.push(kind.run(&mut programs, &packet).frame);
        }
        for frame in queued {
            assert_eq!(programs.flow(&packet).unwrap().queued, 3);
            let run = kind.run(&mut programs, &packet);
            assert!(run.counted.contains_key("fast queued"), "{}", kind.program);
            // Undone: this one only asked.
            let flow = programs.flow(&packet).unwrap();
            programs.admit(&packet, Flow { queued: 3, ..flow });
            let mut out = frame;
            for _ in 0..kind.rounds {
                out = programs.run("from_pod", &out, Context::default()).frame;
            }
            let inner = hops(&packet, kind.hops);
            assert_eq!(out, ethernet(POD_MAC, BRIDGE_MAC, 0x0800, &inner));
        }
        let run = kind.run(&mut programs, &packet);
        kind.assert_fast("after", &run, &packet, BRIDGE_MAC, "fast delivered");
    }
}
