//! Each backend carries everything between a host of stock flannel and one of ours, on both data
//! paths, over wires of both kinds.

use flannel_tests::agent::Datapath::{Ebpf, Kernel};
use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::cluster::config;
use flannel_tests::exercise;
use flannel_tests::wire::Wire;

use crate::neighbours::{Neighbours, wait_for_answer};

/// A backend, as in the network config.
struct Row {
    backend: &'static str,
    underlay: Underlay,
    /// Whether our fast path carries packets to and from a host without one.
    is_fast: bool,
    /// Datagrams a second of a flow.
    rate: u32,
    /// What an operator has to do besides.
    prepare: fn(&Neighbours),
}

const VXLAN: Row = Row {
    backend: r#"{"Type":"vxlan"}"#,
    underlay: Underlay::Direct,
    is_fast: true,
    rate: 1000,
    prepare: |_| (),
};

#[test]
fn vxlan() {
    both_data_paths(&VXLAN);
}

#[test]
fn vxlan_with_other_settings() {
    both_data_paths(&Row {
        backend: r#"{"Type":"vxlan","VNI":1234567,"Port":4789,"MTU":1400,"GBP":true,"Learning":true}"#,
        ..VXLAN
    });
}

#[test]
fn vxlan_with_direct_routing_on_one_link() {
    both_data_paths(&Row {
        backend: r#"{"Type":"vxlan","DirectRouting":true}"#,
        underlay: Underlay::Switch,
        ..VXLAN
    });
}

#[test]
fn host_gw() {
    both_data_paths(&Row {
        backend: r#"{"Type":"host-gw"}"#,
        ..VXLAN
    });
}

#[test]
fn udp() {
    both_data_paths(&Row {
        backend: r#"{"Type":"udp"}"#,
        // What eBPF sends through virtual wires a proxy could not complete (B16).
        is_fast: false,
        rate: 200,
        prepare: |neighbours| exercise::bear_disorder(&neighbours.bed),
        ..VXLAN
    });
}

#[test]
fn extension() {
    both_data_paths(&Row {
        backend: r#"{"Type":"extension",
            "SubnetAddCommand":"ip route replace $SUBNET via $PUBLIC_IP",
            "SubnetRemoveCommand":"ip route del $SUBNET via $PUBLIC_IP"}"#,
        is_fast: false,
        ..VXLAN
    });
}

#[test]
fn alloc() {
    both_data_paths(&Row {
        backend: r#"{"Type":"alloc"}"#,
        is_fast: false,
        prepare: |neighbours| {
            let hosts = &neighbours.bed.hosts;
            for (host, peer) in [(&hosts[0], &hosts[1]), (&hosts[1], &hosts[0])] {
                let line = format!("route add {}/32 via {}", peer.pods[0].address, peer.address);
                host.ns.ip(&line).expect("the operator's route");
            }
        },
        ..VXLAN
    });
}

fn both_data_paths(row: &Row) {
    for datapath in [Ebpf, Kernel] {
        let options = BedOptions {
            underlay: row.underlay,
            ..BedOptions::default()
        };
        let neighbours = Neighbours::new(&config(row.backend), options, datapath);
        (row.prepare)(&neighbours);
        wait_for_answer(neighbours.pod(0), neighbours.pod(1));
        let status = neighbours.ours.status().expect("status");
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        for wire in [Wire::Mtu1500, Wire::SuperPacket] {
            neighbours.bed.set_wire(wire).expect("wire mode");
            exercise::between_at(row.rate, neighbours.pod(0), neighbours.pod(1));
            println!("{} on {wire}, ours by {datapath}", row.backend);
        }
        let fast = packets_on_the_fast_path(&neighbours);
        let is_fast = row.is_fast && datapath == Ebpf;
        assert_eq!(fast > 10_000, is_fast, "{fast} packets on the fast path");
    }
}

/// Of both directions.
fn packets_on_the_fast_path(neighbours: &Neighbours) -> u64 {
    let status = neighbours.ours.status().expect("status");
    exercise::packets(&status, "fast").0
}
