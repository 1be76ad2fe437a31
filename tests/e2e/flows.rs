//! Many flows at once, and pods without offloads.

use flannel_tests::agent::Datapath;
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::Cluster;
use flannel_tests::host::BRIDGE;
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::traffic::stream;
use flannel_tests::wire::Wire;

use flannel_tests::exercise;

#[test]
fn two_hundred_flows_of_each_protocol() {
    let cluster = Cluster::new(BedOptions::default(), &[Datapath::Ebpf; 2]).expect("cluster");
    let (a, b) = (cluster.pod(0), cluster.pod(1));
    let flows: Vec<Flow> = (0..200)
        .map(|_| Flow::start(a, b, 200, 10).expect("flow"))
        .collect();
    stream::check(a, b, 200, 128 << 10).expect("200 TCP streams");
    stream::check(b, a, 200, 128 << 10).expect("200 TCP streams back");
    exercise::wait_sent(&flows[199], 10);
    let tallies: Vec<_> = flows
        .into_iter()
        .map(|flow| flow.finish().expect("count"))
        .collect();
    let sent: u64 = tallies.iter().map(|tally| tally.sent).sum();
    let bad: Vec<_> = tallies
        .iter()
        .filter(|tally| !tally.is_lossless())
        .collect();
    println!(
        "400 TCP streams whole; {sent} datagrams in 200 flows, {} flows with loss",
        bad.len()
    );
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn tcp_without_offloads() {
    let cluster = Cluster::new(BedOptions::default(), &[Datapath::Ebpf; 2]).expect("cluster");
    let switch = |state: &str| {
        for host in &cluster.bed.hosts {
            let pod = &host.pods[0];
            let devices = [
                (&pod.ns, "eth0"),
                (&host.ns, pod.veth.as_str()),
                (&host.ns, BRIDGE),
            ];
            for (ns, device) in devices {
                let mut args = vec!["-K", device];
                for feature in ["tx", "tso", "gso", "gro"] {
                    args.extend([feature, state]);
                }
                ns.run("ethtool", &args).expect("ethtool");
            }
        }
    };
    for wire in [Wire::Mtu1500, Wire::SuperPacket] {
        cluster.bed.set_wire(wire).expect("wire mode");
        for state in ["off", "on"] {
            switch(state);
            let (a, b) = (cluster.pod(0), cluster.pod(1));
            stream::check(a, b, 2, 8 << 20).expect("TCP from a to b");
            stream::check(b, a, 2, 8 << 20).expect("TCP from b to a");
            println!("{wire}, pods with offloads {state}: 32 MiB checked");
        }
    }
}
