//! `direct_egress` and `direct_ingress`: every packet goes its way; those of direct peers count.

use flannel_tests::frame::{HOP_MAC, HOST_MAC, ethernet, pod_packet, tunnel};

use super::program::{Context, KERNEL, Programs, Run};

const POD: [u8; 4] = [10, 5, 2, 2];
const REMOTE_POD: [u8; 4] = [10, 5, 1, 2];

fn run(programs: &mut Programs, program: &str, frame: &[u8], context: Context) -> Run {
    let run = programs.run(program, frame, context);
    assert_eq!((run.verdict, &run.frame[..]), (KERNEL, frame), "{program}");
    run
}

fn frame(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let packet = pod_packet(source, destination, b"hello");
    ethernet(HOST_MAC, HOP_MAC, 0x0800, &packet)
}

#[test]
fn packets_of_a_direct_peer_count_for_it() {
    let mut programs = Programs::load();
    programs.count_traffic();
    let (to, from) = (frame(POD, REMOTE_POD), frame(REMOTE_POD, POD));
    let len = to.len() as u64;
    let single = Context::default();
    let sent = run(&mut programs, "direct_egress", &to, single);
    assert_eq!(
        sent.counted.into_iter().collect::<Vec<_>>(),
        [("egress direct", (1, len))]
    );
    assert_eq!(programs.traffic(), [(1, len), (0, 0)]);
    let received = run(&mut programs, "direct_ingress", &from, single);
    assert_eq!(
        received.counted.into_iter().collect::<Vec<_>>(),
        [("ingress direct", (1, len))]
    );
    assert_eq!(programs.traffic(), [(1, len), (1, len)]);
    let aggregate = Context {
        gso_size: 2,
        gso_segs: 3,
        ..Context::default()
    };
    run(&mut programs, "direct_egress", &to, aggregate);
    assert_eq!(programs.traffic(), [(4, 2 * len), (1, len)]);
}

#[test]
fn all_other_packets_count_for_nobody() {
    let mut programs = Programs::load();
    programs.count_traffic();
    let rows = [
        ("direct_egress", "from the peer", frame(REMOTE_POD, POD)),
        ("direct_ingress", "to the peer", frame(POD, REMOTE_POD)),
        ("direct_egress", "elsewhere", frame(POD, [8, 8, 8, 8])),
        ("direct_ingress", "elsewhere", frame([8, 8, 8, 8], POD)),
        ("direct_egress", "next subnet", frame(POD, [10, 5, 0, 255])),
        (
            "direct_ingress",
            "inside a tunnel",
            tunnel(&pod_packet(REMOTE_POD, POD, b"x")).frame(),
        ),
        (
            "direct_egress",
            "IPv6",
            ethernet(HOST_MAC, HOP_MAC, 0x86dd, &[10, 5, 1, 2].repeat(10)),
        ),
        (
            "direct_ingress",
            "ARP",
            ethernet(HOST_MAC, HOP_MAC, 0x0806, &[10, 5, 1, 2].repeat(7)),
        ),
    ];
    for (program, name, frame) in rows {
        let run = run(&mut programs, program, &frame, Context::default());
        assert!(
            run.counted.is_empty(),
            "{program} {name}: {:?}",
            run.counted
        );
        assert_eq!(programs.traffic(), [(0, 0), (0, 0)], "{name}");
    }
}

#[test]
fn a_peer_that_is_not_direct_has_no_entry_to_count_in() {
    let mut programs = Programs::load();
    let run = run(
        &mut programs,
        "direct_egress",
        &frame(POD, REMOTE_POD),
        Context::default(),
    );
    assert!(run.counted.is_empty(), "{:?}", run.counted);
}
