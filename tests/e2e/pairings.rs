//! Both data paths understand each other: each pairing of two hosts carries everything.

use flannel_tests::agent::Datapath;
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::Cluster;

use crate::exercise::{self, packets, run_for};
use flannel_tests::traffic::sequence::Flow;

fn pair(a: Datapath, b: Datapath) {
    let cluster = Cluster::new(BedOptions::default(), &[a, b]).expect("cluster");
    exercise::everything(&cluster);
    for (agent, datapath) in cluster.agents.iter().zip([a, b]) {
        let status = agent.status().expect("status");
        assert_eq!(status.datapath.active, datapath.to_string());
        let (egress, ingress) = (packets(&status, "egress"), packets(&status, "ingress"));
        println!("{datapath}: carried by eBPF: egress {egress:?}, ingress {ingress:?}");
        for counter in &status.datapath.counters {
            if !counter.handled && counter.packets > 0 {
                println!(
                    "  {} {}: {}",
                    counter.direction, counter.outcome, counter.packets
                );
            }
        }
        if datapath == Datapath::Ebpf {
            assert!(egress.0 > 0, "eBPF carries packets: {status:?}");
            assert!(ingress.0 > 0, "eBPF carries packets: {status:?}");
        }
    }
}

#[test]
fn kernel_to_kernel() {
    pair(Datapath::Kernel, Datapath::Kernel);
}

#[test]
fn kernel_to_ebpf() {
    pair(Datapath::Kernel, Datapath::Ebpf);
}

#[test]
fn ebpf_to_kernel() {
    pair(Datapath::Ebpf, Datapath::Kernel);
}

#[test]
fn ebpf_to_ebpf() {
    pair(Datapath::Ebpf, Datapath::Ebpf);
}

#[test]
fn ebpf_carries_all_plain_packets() {
    let cluster = Cluster::new(BedOptions::default(), &[Datapath::Ebpf; 2]).expect("cluster");
    let read = || {
        let statuses = cluster
            .agents
            .iter()
            .map(|agent| agent.status().expect("status"));
        let statuses: Vec<_> = statuses.collect();
        [
            packets(&statuses[0], "egress"),
            packets(&statuses[1], "ingress"),
        ]
    };
    let before = read();
    let flow = Flow::start(cluster.pod(0), cluster.pod(1), 100, 2000).expect("flow");
    let tally = run_for(flow, 2000);
    let after = read();
    assert!(tally.is_lossless(), "{tally:?}");
    for (direction, (before, after)) in ["egress", "ingress"].iter().zip(before.iter().zip(after)) {
        let (handled, all) = (after.0 - before.0, after.1 - before.1);
        println!("{direction}: {handled} of {all} packets carried by eBPF");
        assert!(
            handled >= tally.sent,
            "{direction}: {handled} of {}",
            tally.sent
        );
        assert!(handled * 100 >= all * 99, "{direction}: {handled} of {all}");
    }
}
