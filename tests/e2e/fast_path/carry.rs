//! Everything goes over the fast path, and a flow keeps its order when it enters or leaves it.

use std::time::Duration;

use flannel_tests::agent::Agent;
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;
use flannel_tests::wire::Wire;

use super::{HOST_GW, UDP, cluster, cluster_with, made_of};
use flannel_tests::exercise;

/// Datagrams per second of each flow.
const RATE: u32 = 2_000;

/// Packets on the fast path: sent and received.
fn fast(agent: &Agent) -> [u64; 2] {
    let of = |outcome| made_of(agent, outcome);
    [of("sent"), of("delivered") + of("queued")]
}

#[test]
fn carries_everything_of_vxlan() {
    carries_everything(&cluster(), 0.95);
}

#[test]
fn carries_everything_of_host_gw() {
    carries_everything(&cluster_with(HOST_GW, BedOptions::default(), &[]), 0.95);
}

#[test]
fn carries_everything_of_udp() {
    carries_everything(&cluster_with(UDP, BedOptions::default(), &[]), 0.95);
}

/// With the shortest bound a flow leaves the fast path, and enters it again, a hundred times a
/// second at each end.
#[test]
fn a_thousand_transitions_keep_order() {
    for config in [CONFIG, HOST_GW, UDP] {
        let cluster = cluster_with(config, BedOptions::default(), &["--fast-path-bound=10"]);
        // What udp does with a pod's own aggregates of datagrams is the proxy's.
        let at_a_time: &[usize] = if config == UDP { &[1] } else { &[1, 32] };
        for &segments in at_a_time {
            let [queued, delivered] = ["queued", "delivered"];
            let receiver = &cluster.agents[1];
            let before = [queued, delivered].map(|outcome| made_of(receiver, outcome));
            let flow = Flow::start_full(cluster.pod(0), cluster.pod(1), 100, segments, 0);
            let flow = flow.expect("flow");
            // At least one for each transition.
            wait::until("transitions", Duration::from_secs(90), || {
                Ok((made_of(receiver, "queued") >= before[0] + 1_000).then_some(()))
            })
            .expect("a thousand transitions");
            let tally = flow.finish().expect("count datagrams");
            let after = [queued, delivered].map(|outcome| made_of(receiver, outcome));
            let [queued, delivered] = [after[0] - before[0], after[1] - before[1]];
            println!(
                "{config}, {segments} at a time: {queued} queued, {delivered} delivered, {tally:?}"
            );
            assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
            assert!(delivered > tally.sent / 2, "{delivered} of {}", tally.sent);
        }
    }
}

/// What a pod sends as one, and a wire between virtual machines leaves as one, is for the receiving
/// socket to cut.
#[test]
fn aggregates_of_datagrams_arrive() {
    for config in [CONFIG, HOST_GW, UDP] {
        let cluster = cluster_with(config, BedOptions::default(), &[]);
        cluster.bed.set_wire(Wire::SuperPacket).expect("wire");
        let flow = Flow::start_full(cluster.pod(0), cluster.pod(1), 500, 10, 0).expect("flow");
        let tally = exercise::run_for(flow, 20_000);
        println!("{config}: {tally:?}");
        assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
    }
}

fn carries_everything(cluster: &Cluster, least: f64) {
    exercise::everything(cluster);
    let before = [fast(&cluster.agents[0])[0], fast(&cluster.agents[1])[1]];
    let flow = Flow::start(cluster.pod(0), cluster.pod(1), 100, RATE).expect("flow");
    let tally = exercise::run_for(flow, 4_000);
    let after = [fast(&cluster.agents[0])[0], fast(&cluster.agents[1])[1]];
    assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
    for (side, (before, after)) in ["sent", "received"].iter().zip(before.iter().zip(after)) {
        let share = (after - before) as f64 / tally.sent as f64;
        println!("{side}: {:.1} % on the fast path", share * 100.0);
        assert!(share >= least, "{side}: {share}");
    }
}
