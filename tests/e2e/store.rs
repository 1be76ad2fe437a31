//! etcd goes away and comes back.

use std::time::Duration;

use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions, Underlay};
use flannel_tests::clock::Clock;
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use flannel_tests::exercise::{run_for, wait_sent};

#[test]
fn an_outage_costs_no_packet_and_no_later_peer() {
    let options = BedOptions {
        hosts: 3,
        underlay: Underlay::Switch,
        ..BedOptions::default()
    };
    let mut cluster = Cluster::new(options, &[Datapath::Ebpf; 2]).expect("cluster");
    let flow = Flow::start(cluster.pod(0), cluster.pod(1), 200, 1000).expect("flow");
    wait_sent(&flow, 200);
    cluster.bed.etcd.stop();
    wait_sent(&flow, 3000);
    cluster.bed.etcd.resume().expect("etcd again");
    cluster.join(Datapath::Ebpf).expect("another host");
    cluster
        .wait_for_peers(2)
        .expect("the new peer, on all hosts");
    let answer = ping(
        &cluster.pod(0).ns,
        cluster.pod(2).address,
        Options::default(),
    );
    let answer = answer.expect("ping");
    assert!(answer.is_complete(), "{}", answer.text);
    let tally = run_for(flow, 200);
    println!("3 s without etcd, then a new peer: {tally:?}");
    assert!(tally.is_lossless(), "{tally:?}");
}

/// One hour.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// etcd is stopped, and the clocks of the agents go from the moment before the renewal to long
/// after the end of their leases. etcd itself counts anew when it starts, so it holds the leases
/// still; what this shows is that no agent acts on its own clock.
fn thirty_hours_without_etcd(datapath: Datapath) {
    let bed = Bed::new(BedOptions::default()).expect("bed");
    bed.etcd
        .put(&format!("{PREFIX}/config"), CONFIG)
        .expect("config");
    let clocks: Vec<Clock> = bed
        .hosts
        .iter()
        .map(|host| Clock::new(host.ns.mounts(), &host.name).expect("clock"))
        .collect();
    let agents = bed.hosts.iter().zip(&clocks).map(|(host, clock)| {
        let mut agent = Agent::new(host, datapath).expect("agent");
        agent.clock = Some(clock.clone());
        agent.start().expect("start");
        agent
    });
    let mut cluster = Cluster {
        agents: agents.collect(),
        bed,
    };
    cluster.add_pod(0).expect("pod");
    cluster.add_pod(1).expect("pod");
    cluster.wait_for_peers(1).expect("peers");
    let prefix = format!("{PREFIX}/subnets/");
    let keys = cluster.bed.etcd.keys(&prefix).expect("keys");

    let flows = [(0, 1), (1, 0)].map(|(from, to)| {
        Flow::start(cluster.pod(from), cluster.pod(to), 200, 1000).expect("flow")
    });
    wait_sent(&flows[0], 200);
    cluster.bed.etcd.stop();
    let mut at = |hour: u32, words: &str| {
        for clock in &clocks {
            clock.move_to(HOUR * hour).expect("clock");
        }
        for agent in &mut cluster.agents {
            agent.wait_for_log(words).expect(words);
        }
    };
    // An hour before the end, and six hours after it.
    at(23, "the lease is not renewed");
    at(30, "left=Some(0ns)");
    wait_sent(&flows[0], 1000);

    cluster.bed.etcd.resume().expect("etcd again");
    for agent in &cluster.agents {
        let renewed = || {
            let status = agent.status()?;
            let left = status.lease.expires_in_secs.unwrap_or_default();
            let is_right = status.store.connected && left > 23 * 3600 && status.peers.total == 1;
            Ok(is_right.then_some(status))
        };
        let status = wait::until("the renewal", Duration::from_secs(60), renewed);
        let status = status.unwrap_or_else(|error| panic!("{error:#}: {}", agent.log_tail()));
        assert!(status.uptime_secs > 30 * 3600, "{}", status.uptime_secs);
    }
    assert_eq!(cluster.bed.etcd.keys(&prefix).expect("keys"), keys);
    for flow in flows {
        let tally = run_for(flow, 200);
        println!("{datapath}: 30 h without etcd: {tally:?}");
        assert!(tally.is_lossless(), "{tally:?}");
    }
}

#[test]
fn thirty_hours_without_etcd_cost_neither_packet_nor_subnet_on_ebpf() {
    thirty_hours_without_etcd(Datapath::Ebpf);
}

#[test]
fn thirty_hours_without_etcd_cost_neither_packet_nor_subnet_on_the_kernel_path() {
    thirty_hours_without_etcd(Datapath::Kernel);
}
