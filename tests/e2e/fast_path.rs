//! The fast path: flows between pods go around the stack, and the rules in force still hold.

use std::time::{Duration, Instant};

use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use crate::exercise::{self, wait_sent};

/// Datagrams per second of each flow.
const RATE: u32 = 2_000;

fn cluster() -> Cluster {
    cluster_with(CONFIG)
}

fn cluster_with(config: &str) -> Cluster {
    let cluster = Cluster::with_config(config, BedOptions::default(), &[Datapath::Ebpf; 2]);
    let cluster = cluster.expect("cluster");
    for agent in &cluster.agents {
        let printed = agent.fast_path(&["on"]).expect("switch");
        assert!(printed.starts_with("on for 1 pods"), "{printed}");
    }
    cluster
}

/// Packets on the fast path: sent and received.
fn fast(agent: &Agent) -> [u64; 2] {
    let of = |outcome| made_of(agent, outcome);
    [of("sent"), of("delivered") + of("queued")]
}

const HOST_GW: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
const UDP: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#;

#[test]
fn carries_everything_of_vxlan() {
    carries_everything(&cluster(), 0.95);
}

#[test]
fn carries_everything_of_host_gw() {
    carries_everything(&cluster_with(HOST_GW), 0.95);
}

#[test]
fn carries_everything_of_udp() {
    carries_everything(&cluster_with(UDP), 0.95);
}

/// Packets by what the fast path made of them.
fn made_of(agent: &Agent, outcome: &str) -> u64 {
    let status = agent.status().expect("status");
    let mut counters = status.datapath.counters.iter();
    let found = counters.find(|it| it.direction == "fast" && it.outcome == outcome);
    found.expect("a counter").packets
}

/// With the shortest bound a flow leaves the fast path, and enters it again, a hundred times a
/// second at each end.
#[test]
fn a_thousand_transitions_keep_order() {
    for config in [CONFIG, HOST_GW, UDP] {
        let flags = ["--fast-path=auto", "--fast-path-bound=10"];
        let options = BedOptions::default();
        let cluster = Cluster::with_flags(config, options, &[Datapath::Ebpf; 2], &flags);
        let cluster = cluster.expect("cluster");
        for agent in &cluster.agents {
            wait::until("the fast path", Duration::from_secs(5), || {
                Ok((agent.status()?.fast_path.pods == 1).then_some(()))
            })
            .expect("in use");
        }
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

#[test]
fn switching_under_traffic_loses_nothing() {
    let cluster = cluster();
    let flows: Vec<Flow> = [(0, 1), (1, 0)]
        .map(|(from, to)| Flow::start(cluster.pod(from), cluster.pod(to), 200, RATE).expect("flow"))
        .into();
    for round in 0..10 {
        for (word, starts) in [("off", "off"), ("on", "on")] {
            let printed = cluster.agents[round % 2]
                .fast_path(&[word])
                .expect("switch");
            assert!(printed.starts_with(starts), "{printed}");
            wait_sent(&flows[0], 200);
        }
    }
    for flow in flows {
        let tally = flow.finish().expect("count datagrams");
        assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
    }
}

#[test]
fn a_rule_holds_within_the_bound() {
    let cluster = cluster();
    for (host, at) in [(0, "the sender"), (1, "the receiver")] {
        let flow = Flow::start(cluster.pod(0), cluster.pod(1), 100, RATE).expect("flow");
        wait_sent(&flow, 2_000);
        let ns = &cluster.host(host).ns;
        for line in [
            "add table ip probe",
            "add chain ip probe forward { type filter hook forward priority 10; }",
            "add rule ip probe forward ip protocol udp drop",
        ] {
            ns.run("nft", &[line]).expect("nft");
        }
        let inserted = Instant::now();
        let received = || flow.received();
        // Quiet for a quarter of a second: the rule holds.
        let (mut last, mut since) = (received(), Instant::now());
        let held = wait::until("the rule to hold", Duration::from_secs(5), || {
            let now = received();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            Ok((since.elapsed() > Duration::from_millis(250)).then_some(since))
        });
        let held = held.expect("the rule holds").duration_since(inserted);
        println!("{at}: held after {} ms", held.as_millis());
        assert!(held < Duration::from_millis(1_200), "{held:?}");
        ns.run("nft", &["delete table ip probe"]).expect("nft");
        let resumed = received();
        wait::until("packets again", Duration::from_secs(5), || {
            Ok((received() > resumed + 100).then_some(()))
        })
        .expect("the flow goes on");
        let _ = flow.finish();
    }
}

#[test]
fn a_program_of_somebody_else_sees_all_packets() {
    let cluster = cluster();
    let host = cluster.host(0);
    let veth = &host.pods[0].veth;
    let flow = Flow::start(cluster.pod(0), cluster.pod(1), 100, RATE).expect("flow");
    wait_sent(&flow, 1_000);
    // A shaper, as bandwidth plugins set one.
    let line = format!("qdisc add dev {veth} root tbf rate 1gbit burst 1mb latency 50ms");
    host.ns
        .run("tc", &line.split(' ').collect::<Vec<_>>())
        .expect("tc");
    wait::until("the pod to be left alone", Duration::from_secs(15), || {
        let status = cluster.agents[0].status()?.fast_path;
        Ok((status.pods == 0 && status.skipped.len() == 1).then_some(()))
    })
    .expect("status");
    let before = fast(&cluster.agents[0])[0];
    wait_sent(&flow, 1_000);
    assert_eq!(fast(&cluster.agents[0])[0], before, "no packet goes around");
    let tally = flow.finish().expect("count datagrams");
    assert!(tally.is_lossless(), "{tally:?}");
}
