//! Both data paths of every backend understand each other: each pairing of two hosts carries
//! everything, over wires of both kinds.

use flannel_agent::status::Status;
use flannel_tests::agent::Datapath::{self, Ebpf, Kernel};
use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::cluster::{Cluster, config};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wire::Wire;

use crate::look;
use flannel_tests::exercise::{self, packets, run_for};

/// Each differs from the one before by one agent, which starts again on what the other left.
const PAIRINGS: [[Datapath; 2]; 4] = [
    [Kernel, Kernel],
    [Kernel, Ebpf],
    [Ebpf, Ebpf],
    [Ebpf, Kernel],
];

/// What eBPF does for the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// It carries what is tunnelled.
    Carries,
    /// The same between two hosts with eBPF; over these wires, which are virtual, no others.
    CarriesForKin,
    /// It counts what the kernel's routes carry.
    Counts,
    /// Nothing: the backend has no programs.
    None,
}

/// A backend.
struct Row {
    /// Its object in the network config.
    backend: &'static str,
    underlay: Underlay,
    part: Part,
    /// Wires that every pairing is tried on.
    wires: &'static [Wire],
    /// What an operator has to do besides.
    prepare: fn(&Cluster),
}

const VXLAN: Row = Row {
    backend: r#"{"Type":"vxlan"}"#,
    underlay: Underlay::Direct,
    part: Part::Carries,
    wires: &[Wire::Mtu1500, Wire::SuperPacket],
    prepare: |_| (),
};

const UDP: Row = Row {
    backend: r#"{"Type":"udp"}"#,
    part: Part::CarriesForKin,
    prepare: |cluster| exercise::bear_disorder(&cluster.bed),
    ..VXLAN
};

#[test]
fn vxlan() {
    every_pairing(&VXLAN);
}

#[test]
fn vxlan_with_other_settings() {
    every_pairing(&Row {
        backend: r#"{"Type":"vxlan","VNI":1234567,"Port":4789,"MTU":1400,"GBP":true,"Learning":true}"#,
        ..VXLAN
    });
}

#[test]
fn vxlan_with_direct_routing_on_one_link() {
    every_pairing(&Row {
        backend: r#"{"Type":"vxlan","DirectRouting":true}"#,
        underlay: Underlay::Switch,
        part: Part::Counts,
        ..VXLAN
    });
}

#[test]
fn host_gw() {
    every_pairing(&Row {
        backend: r#"{"Type":"host-gw"}"#,
        part: Part::Counts,
        ..VXLAN
    });
}

#[test]
fn udp() {
    every_pairing(&UDP);
}

#[test]
fn udp_on_another_port() {
    every_pairing(&Row {
        backend: r#"{"Type":"udp","Port":7890}"#,
        ..UDP
    });
}

#[test]
fn extension() {
    every_pairing(&Row {
        backend: r#"{"Type":"extension",
            "SubnetAddCommand":"ip route replace $SUBNET via $PUBLIC_IP",
            "SubnetRemoveCommand":"ip route del $SUBNET via $PUBLIC_IP"}"#,
        part: Part::None,
        // The agent is ready when commands are under way.
        prepare: |cluster| {
            for host in &cluster.bed.hosts {
                let routes = || {
                    look::run(host, "ip route show root 10.5.0.0/16")
                        .lines()
                        .count()
                };
                look::until_equal("the pods' own route and that of the command", &2, routes);
            }
        },
        ..VXLAN
    });
}

#[test]
fn alloc() {
    every_pairing(&Row {
        backend: r#"{"Type":"alloc"}"#,
        part: Part::None,
        prepare: |cluster| {
            for (host, peer) in [(0, 1), (1, 0)] {
                let subnet = cluster.agents[peer].status().expect("status").lease.subnet;
                let line = format!("route add {subnet} via {}", cluster.host(peer).address);
                cluster
                    .host(host)
                    .ns
                    .ip(&line)
                    .expect("the operator's route");
            }
        },
        ..VXLAN
    });
}

fn every_pairing(row: &Row) {
    let options = BedOptions {
        underlay: row.underlay,
        ..BedOptions::default()
    };
    let config = config(row.backend);
    let mut cluster = Cluster::with_config(&config, options, &PAIRINGS[0]).expect("cluster");
    (row.prepare)(&cluster);
    for pairing in PAIRINGS {
        start_with(&mut cluster, pairing);
        for wire in row.wires {
            cluster.bed.set_wire(*wire).expect("wire mode");
            let before = statuses(&cluster);
            exercise::everything(&cluster);
            let after = statuses(&cluster);
            let is_among_kin = pairing == [Ebpf; 2];
            for ((datapath, before), after) in pairing.iter().zip(&before).zip(&after) {
                let part = match (datapath, row.part) {
                    (Ebpf, Part::CarriesForKin) if is_among_kin => Part::Carries,
                    (Ebpf, part) => part,
                    _ => Part::None,
                };
                println!("  {datapath}");
                assert_part(part, before, after);
                assert_proxied(
                    row.part == Part::CarriesForKin && part == Part::None,
                    before,
                    after,
                );
            }
            println!("{} on {wire}: {pairing:?}", row.backend);
        }
    }
}

/// Restarts the agents whose data path is another one.
fn start_with(cluster: &mut Cluster, pairing: [Datapath; 2]) {
    for (agent, datapath) in cluster.agents.iter_mut().zip(pairing) {
        if agent.datapath != datapath {
            agent.terminate().expect("SIGTERM");
            agent.datapath = datapath;
            agent.start().expect("start");
        }
    }
    cluster.wait_for_peers(1).expect("peers");
}

fn statuses(cluster: &Cluster) -> Vec<Status> {
    let statuses = cluster.agents.iter().map(|agent| agent.status());
    statuses.collect::<Result<_, _>>().expect("status")
}

/// What eBPF did of the traffic between two looks.
fn assert_part(part: Part, before: &Status, after: &Status) {
    let active = if part == Part::None { "kernel" } else { "ebpf" };
    assert_eq!(after.datapath.active, active, "{:?}", after.datapath);
    for direction in ["egress", "ingress"] {
        let (before, after) = (packets(before, direction), packets(after, direction));
        let (handled, all) = (after.0 - before.0, after.1 - before.1);
        println!("  {direction}: {handled} of {all} packets carried by eBPF");
        // Of direct peers' packets those on the fast path are.
        if part != Part::Counts {
            assert_eq!(handled > 0, part == Part::Carries, "carried by eBPF");
        }
    }
    let direct = |status: &Status| status.peers.direct.first().and_then(|peer| peer.traffic);
    assert_eq!(
        direct(after).is_some(),
        part == Part::Counts,
        "{:?}",
        after.peers
    );
    if let Some(after) = direct(after) {
        let before = direct(before).expect("counted before");
        let sent = after.sent_packets - before.sent_packets;
        let received = after.received_packets - before.received_packets;
        println!("  {sent} packets sent and {received} received directly");
        // The streams alone are 16 MiB each way: 11 000 packets of 1500 octets.
        assert!(sent.min(received) > 11_000, "{before:?}, then {after:?}");
    }
}

/// What the proxy carried between two looks: all, or what eBPF leaves.
fn assert_proxied(is_all: bool, before: &Status, after: &Status) {
    let (Some(before), Some(after)) = (before.proxy, after.proxy) else {
        assert_ne!(after.backend, "udp", "its proxy tells what it carries");
        return;
    };
    let sent = after.sent_packets - before.sent_packets;
    let received = after.received_packets - before.received_packets;
    println!("  {sent} packets sent and {received} received by the proxy");
    if is_all {
        assert!(sent.min(received) > 11_000, "{before:?}, then {after:?}");
    }
    let lost = after.send_failed + after.write_failed;
    assert_eq!(lost, before.send_failed + before.write_failed, "{after:?}");
}

#[test]
fn ebpf_carries_all_plain_packets() {
    let cluster = Cluster::new(BedOptions::default(), &[Ebpf; 2]).expect("cluster");
    let read = || {
        let statuses = statuses(&cluster);
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
