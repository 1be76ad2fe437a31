//! etcd goes away and comes back.

use flannel_tests::agent::Datapath;
use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::cluster::Cluster;
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::traffic::sequence::Flow;

use crate::exercise::{run_for, wait_sent};

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
