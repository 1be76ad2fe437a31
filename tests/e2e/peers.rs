//! Peers leave and come.

use std::time::Duration;

use flannel_tests::agent::{Datapath, PREFIX};
use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::cluster::Cluster;
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wait;

use flannel_tests::exercise::run_for;

fn answers(cluster: &Cluster, from: usize, to: usize) -> bool {
    let answer = ping(
        &cluster.pod(from).ns,
        cluster.pod(to).address,
        Options::default(),
    );
    answer.expect("ping").is_complete()
}

fn one_leaves_and_another_comes(datapath: Datapath) {
    let options = BedOptions {
        hosts: 4,
        underlay: Underlay::Switch,
        ..BedOptions::default()
    };
    let mut cluster = Cluster::new(options, &[datapath; 3]).expect("cluster");
    assert!(
        answers(&cluster, 0, 2) && answers(&cluster, 2, 1),
        "three hosts reach each other"
    );
    let bystanders = Flow::start(cluster.pod(0), cluster.pod(1), 100, 1000).expect("flow");

    let subnet = cluster.agents[2].status().expect("status").lease.subnet;
    cluster.agents[2].kill().expect("kill");
    let key = format!("{PREFIX}/subnets/{}", subnet.replace('/', "-"));
    assert!(
        !cluster.bed.etcd.get(&key).expect("get").is_empty(),
        "{key} holds the lease"
    );
    cluster.bed.etcd.delete(&key).expect("delete the lease");
    cluster.wait_for_peers(1).expect("peers after one left");
    for host in &cluster.bed.hosts[..2] {
        let gone = || {
            let routes = host.ns.run("ip", &["route", "show", &subnet])?;
            let fdb = host
                .ns
                .run("bridge", &["fdb", "show", "dev", "flannel.1"])?;
            let neighbours = host.ns.run("ip", &["neigh", "show", "dev", "flannel.1"])?;
            let one = |text: &str| text.lines().count() == 1;
            Ok((routes.is_empty() && one(&fdb) && one(&neighbours)).then_some(()))
        };
        wait::until(
            "the end of all entries of the peer",
            Duration::from_secs(5),
            gone,
        )
        .expect("no trace of the peer");
    }
    assert!(
        !answers(&cluster, 0, 2),
        "nothing leads to the peer that left"
    );

    cluster.join(datapath).expect("another host");
    cluster.wait_for_peers(2).expect("peers after one came");
    // A port of a new bridge forwards when its carrier is up, which takes a moment on a busy machine.
    wait::until(
        "the one that came is reached",
        Duration::from_secs(5),
        || Ok((answers(&cluster, 0, 3) && answers(&cluster, 3, 1)).then_some(())),
    )
    .expect("reached");
    let tally = run_for(bystanders, 100);
    println!("{datapath}: {subnet} left, another came; between the others: {tally:?}");
    assert!(tally.is_lossless(), "{tally:?}");
}

#[test]
fn leave_and_come_on_ebpf() {
    one_leaves_and_another_comes(Datapath::Ebpf);
}

#[test]
fn leave_and_come_on_the_kernel_path() {
    one_leaves_and_another_comes(Datapath::Kernel);
}
