//! The fast path: flows between pods go around the stack, and the rules in force still hold.

mod carry;
mod devices;
mod leave;
mod limits;
mod nat;
mod pods;
mod programs;
mod queues;
mod routes;
mod row;
mod scans;
mod shown;
mod state;
mod switch;
mod verdicts;

use std::time::Duration;

use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::wait;

const HOST_GW: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#;
const UDP: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}"#;

/// Two hosts with a pod each, of a network with vxlan.
fn cluster() -> Cluster {
    cluster_with(CONFIG, BedOptions::default(), &[])
}

/// As [`cluster`], of another network, bed or with more flags. The agents accept nothing by rules of
/// their own, which they would keep in front of those of a test.
fn cluster_with(config: &str, options: BedOptions, flags: &[&str]) -> Cluster {
    let flags = [
        &["--fast-path=auto", "--iptables-forward-rules=false"],
        flags,
    ]
    .concat();
    let datapaths = vec![Datapath::Ebpf; options.hosts.into()];
    let cluster = Cluster::with_flags(config, options, &datapaths, &flags).expect("cluster");
    for agent in &cluster.agents {
        wait_for_pods(agent, 1);
    }
    cluster
}

/// Waits until so many pods of a host are on the fast path.
fn wait_for_pods(agent: &Agent, pods: usize) {
    wait::until("the fast path", Duration::from_secs(10), || {
        let status = agent.status()?.fast_path;
        anyhow::ensure!(status.pods == pods, "{status:?}");
        Ok(Some(()))
    })
    .expect("in use");
}

/// Packets by what the fast path made of them.
fn made_of(agent: &Agent, outcome: &str) -> u64 {
    let status = agent.status().expect("status");
    let mut counters = status.datapath.counters.iter();
    let found = counters.find(|it| it.direction == "fast" && it.outcome == outcome);
    found.expect("a counter").packets
}
