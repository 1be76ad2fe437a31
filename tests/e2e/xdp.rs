//! XDP takes tunnel headers off in front of TC: by force on veth, whose driver runs it.

use std::time::Duration;

use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use flannel_tests::exercise::{self, wait_sent};

const UDP: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#;

const NATIVE: &str = "--xdp=native";
const OFF: &str = "--xdp=off";

/// Two agents, each with its word on XDP, and the same on the fast path.
fn cluster(config: &str, xdp: [&str; 2], fast_path: &str) -> Cluster {
    let mut cluster =
        Cluster::with_config(config, BedOptions::default(), &[Datapath::Ebpf; 2]).expect("cluster");
    for (agent, xdp) in cluster.agents.iter_mut().zip(xdp) {
        restart(agent, &[xdp, fast_path]);
    }
    cluster
}

fn restart(agent: &mut Agent, flags: &[&str]) {
    agent.kill().expect("kill");
    agent.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    agent.start().expect("start");
    let is_wanted = flags.contains(&NATIVE);
    wait::until("XDP as wished", Duration::from_secs(10), || {
        let xdp = agent.status()?.datapath.xdp;
        Ok(xdp.is_some_and(|xdp| xdp.active == is_wanted).then_some(()))
    })
    .expect("status");
}

/// Packets received: stripped by XDP, all others that eBPF carried, and those that went straight
/// into a pod.
fn received(agent: &Agent) -> [u64; 3] {
    let status = agent.status().expect("status");
    ["stripped", "decapsulated", "fast"].map(|outcome| {
        let mut counters = status.datapath.counters.iter();
        let found = counters.find(|it| it.direction == "ingress" && it.outcome == outcome);
        found.expect("a counter").packets
    })
}

#[test]
fn carries_everything_beside_tc() {
    for config in [CONFIG, UDP] {
        for xdp in [[NATIVE, NATIVE], [NATIVE, OFF], [OFF, NATIVE], [OFF, OFF]] {
            let cluster = cluster(config, xdp, "--fast-path=off");
            if config == UDP {
                exercise::bear_disorder(&cluster.bed);
            }
            exercise::everything(&cluster);
            for (agent, xdp) in cluster.agents.iter().zip(xdp) {
                let [stripped, decapsulated, _] = received(agent);
                println!("{config} {xdp}: {stripped} stripped, {decapsulated} not");
                assert_eq!(stripped > 10_000, xdp == NATIVE, "{stripped}");
            }
        }
    }
}

#[test]
fn goes_with_the_fast_path() {
    for config in [CONFIG, UDP] {
        let cluster = cluster(config, [NATIVE; 2], "--fast-path=auto");
        if config == UDP {
            exercise::bear_disorder(&cluster.bed);
        }
        exercise::everything(&cluster);
        let before = received(&cluster.agents[1])[2];
        let flow = Flow::start(cluster.pod(0), cluster.pod(1), 100, 2_000).expect("flow");
        let tally = exercise::run_for(flow, 4_000);
        let fast = received(&cluster.agents[1])[2] - before;
        println!("{config}: {fast} of {} on the fast path", tally.sent);
        assert!(tally.is_lossless() && tally.reordered == 0, "{tally:?}");
        assert!(fast as f64 > tally.sent as f64 * 0.95, "{fast}");
    }
}

#[test]
fn coming_and_going_loses_nothing() {
    let mut cluster = cluster(CONFIG, [OFF; 2], "--fast-path=off");
    let flow = Flow::start(cluster.pod(0), cluster.pod(1), 100, 2_000).expect("flow");
    // The link goes up and down with its driver's rings: what this costs is the driver's.
    let mut restarts = 0;
    for xdp in [NATIVE, NATIVE, OFF, NATIVE] {
        restart(&mut cluster.agents[1], &[xdp, "--fast-path=off"]);
        restarts += 1;
        wait_sent(&flow, 500);
    }
    let printed = cluster.agents[1].switch(&["kernel"]).expect("switch");
    println!("{printed}");
    wait_sent(&flow, 500);
    let tally = flow.finish().expect("count datagrams");
    println!("{restarts} restarts: {tally:?}");
    assert!(tally.is_lossless(), "{tally:?}");
}
