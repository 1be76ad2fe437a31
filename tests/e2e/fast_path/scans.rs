//! Scans of ports: many flows that come once cost those that stay nothing, also where the table is
//! full.

use std::net::UdpSocket;
use std::time::Duration;

use flannel_tests::bed::BedOptions;
use flannel_tests::cluster::{CONFIG, Cluster};
use flannel_tests::frame::{Ip, ethernet};
use flannel_tests::host::{BRIDGE, Pod, mac};
use flannel_tests::raw::{Offload, Raw};
use flannel_tests::wait;

use super::row::Flows;
use super::{cluster, cluster_with, made_of};

/// A datagram to each port of a pod, from each of two ports: 131 070 flows, `times` datagrams of
/// each.
fn scan_udp(from: &Pod, to: &Pod, times: usize) {
    let open = || UdpSocket::bind("0.0.0.0:0");
    for _ in 0..2 {
        let socket = from.ns.enter(open).expect("namespace").expect("socket");
        for port in 1..=u16::MAX {
            for _ in 0..times {
                socket.send_to(&[0; 8], (to.address, port)).expect("send");
            }
        }
    }
}

/// A SYN to each port of a pod.
fn scan_tcp(cluster: &Cluster) {
    let (from, to) = (cluster.pod(0), cluster.pod(1));
    let raw = Raw::open(&from.ns, "eth0").expect("packet socket");
    let gateway = mac(&cluster.host(0).ns, BRIDGE).expect("bridge");
    let own = from.mac().expect("pod");
    let ip = Ip::new(from.address.octets(), to.address.octets(), 6);
    for port in 1..=u16::MAX {
        let [high, low] = port.to_be_bytes();
        // Ports, sequence number, acknowledgment, header of five words, SYN, window. The checksum
        // is right or not: nobody is there to answer.
        let mut segment = [0_u8; 20];
        segment[..4].copy_from_slice(&[0x9c, 0x40, high, low]);
        segment[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]);
        let frame = ethernet(gateway, own, 0x0800, &ip.packet(&segment));
        raw.send(&frame, Offload::default()).expect("send");
    }
}

/// Scans while an admitted flow goes on, and gives what could not be admitted for want of room.
fn flows_stay_admitted(cluster: &Cluster, scan: impl Fn() + Send) -> u64 {
    let flows = Flows::start(cluster);
    let (from, to) = (flows.counts(), made_of(&cluster.agents[0], "table_full"));
    std::thread::scope(|scope| {
        scope.spawn(scan);
    });
    let after = flows.counts();
    let [sent, received, all] = [0, 1, 2].map(|it| after[it] - from[it]);
    println!("{sent} sent, {received} received on the fast path of {all} during the scan");
    // The scans' own second datagrams may be on it, too: that is not what is asked here.
    assert!(
        sent.min(received) * 10 >= all * 9,
        "{sent}, {received} of {all}"
    );
    flows.wait_received();
    made_of(&cluster.agents[0], "table_full") - to
}

#[test]
fn scans_leave_admitted_flows_alone() {
    let cluster = cluster();
    let (from, to) = (cluster.pod(0), cluster.pod(1));
    let full = flows_stay_admitted(&cluster, || scan_udp(from, to, 1));
    assert_eq!(full, 0, "first packets take room");
    flows_stay_admitted(&cluster, || scan_tcp(&cluster));
    // Of all that only those count that go on.
    let _flows = Flows::start(&cluster);
    let count = wait::until("a count of flows", Duration::from_secs(10), || {
        let flows = cluster.agents[0].status()?.fast_path.flows;
        Ok((2..100).contains(&flows).then_some(flows))
    });
    println!("{} flows on the fast path", count.expect("a few"));
}

#[test]
fn a_full_table_leaves_flows_on_the_standard_path() {
    let flags = ["--fast-path-flows=256"];
    let cluster = cluster_with(CONFIG, BedOptions::default(), &flags);
    let (from, to) = (cluster.pod(0), cluster.pod(1));
    let full = flows_stay_admitted(&cluster, || scan_udp(from, to, 2));
    println!("{full} packets found the table full");
    assert!(full > 0, "the table was never full");
}
