//! A packet that does not fit the overlay is answered, so that senders find the path MTU.

use flannel_tests::agent::Datapath;
use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::Cluster;
use flannel_tests::host::BRIDGE;
use flannel_tests::traffic::ping::{Fragmentation, Options, ping};
use flannel_tests::traffic::stream;

/// Pods whose own MTU is the underlay's: only the host knows that the overlay takes less.
fn cluster_of_large_pods(datapath: Datapath) -> Cluster {
    let cluster = Cluster::new(BedOptions::default(), &[datapath; 2]).expect("cluster");
    for host in &cluster.bed.hosts {
        let pod = &host.pods[0];
        let lines = format!("link set {BRIDGE} mtu 1500\nlink set {} mtu 1500", pod.veth);
        host.ns.ip(&lines).expect("MTU on the host");
        pod.ns.ip("link set eth0 mtu 1500").expect("MTU in the pod");
    }
    cluster
}

fn discovery_works(datapath: Datapath) {
    let cluster = cluster_of_large_pods(datapath);
    let (a, b) = (cluster.pod(0), cluster.pod(1));
    let forbidden = Options {
        size: 1472,
        fragmentation: Fragmentation::Forbidden,
        ..Options::default()
    };
    let answer = ping(&a.ns, b.address, forbidden).expect("ping");
    println!("{datapath}: {}", answer.text);
    assert_eq!(answer.received, 0, "1500 octets do not fit 1450");
    assert!(
        answer.text.contains("mtu = 1450") || answer.text.contains("mtu=1450"),
        "{}",
        answer.text
    );
    let allowed = Options {
        size: 1472,
        ..Options::default()
    };
    let answer = ping(&b.ns, a.address, allowed).expect("ping");
    assert!(answer.is_complete(), "fragments pass:\n{}", answer.text);
    stream::check(a, b, 4, 1 << 20).expect("TCP finds the path MTU");
    stream::check(b, a, 4, 1 << 20).expect("TCP finds the path MTU on the way back");
}

#[test]
fn is_found_through_the_kernel_path() {
    discovery_works(Datapath::Kernel);
}

#[test]
fn is_found_through_ebpf() {
    discovery_works(Datapath::Ebpf);
}

#[test]
fn is_known_to_pods_from_the_subnet_file() {
    let cluster = Cluster::new(BedOptions::default(), &[Datapath::Ebpf; 2]).expect("cluster");
    let (a, b) = (cluster.pod(0), cluster.pod(1));
    for (size, fits) in [(1422, true), (1423, false)] {
        let options = Options {
            size,
            fragmentation: Fragmentation::Forbidden,
            ..Options::default()
        };
        let answer = ping(&a.ns, b.address, options).expect("ping");
        assert_eq!(answer.is_complete(), fits, "size {size}:\n{}", answer.text);
    }
}
