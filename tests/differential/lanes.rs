//! One test for each lane.

use flannel_tests::cpu;
use flannel_tests::wire::Wire;

use crate::backend::VXLAN;
use crate::generate;
use crate::lane::Lane;
use crate::twin::Entrance;

/// What packets to peers can meet. Not here: `vlan`, which takes a VLAN device on top of the
/// tunnel's; `failed`, which nothing leads to.
const EGRESS: &[&str] = &[
    "encapsulated",
    "not_ipv4",
    "not_linear",
    "unknown_peer",
    "other_mac",
    "unresolved",
    "too_big",
];

/// What packets from peers can meet. Not here: `aggregate`, which has its own lanes; `no_room` and
/// `failed`, which nothing leads to.
const INGRESS: &[&str] = &[
    "decapsulated",
    "vlan",
    "other_host",
    "ip_options",
    "fragment",
    "truncated",
    "ip_checksum",
    "length",
    "other_address",
    "vxlan_flags",
    "other_vni",
    "inner_not_ipv4",
    "inner_mac",
    "unknown_sender",
    "udp_checksum",
    "ecn",
];

const FROM_POD: Lane = Lane {
    name: "vxlan, pod to wire",
    backend: VXLAN,
    entrance: Entrance::Pod,
    wire: Wire::Mtu1500,
    rp_filter: false,
    generate: generate::from_pod,
    packets: 200_000,
    direction: "egress",
    outcomes: &["encapsulated", "unresolved", "unknown_peer", "too_big"],
    carried: 50,
};

const FROM_DEVICE: Lane = Lane {
    name: "vxlan, device to wire",
    entrance: Entrance::Device,
    generate: generate::to_device,
    outcomes: EGRESS,
    ..FROM_POD
};

const AGGREGATES_FROM_POD: Lane = Lane {
    name: "vxlan, pod to a wire of aggregates",
    wire: Wire::SuperPacket,
    packets: 100_000,
    ..FROM_POD
};

const FROM_NESTED: Lane = Lane {
    name: "vxlan, tunnel in a pod to wire",
    entrance: Entrance::Nested,
    generate: generate::nested,
    packets: 20_000,
    outcomes: &["no_room"],
    carried: 0,
    ..FROM_POD
};

pub(crate) const FROM_WIRE: Lane = Lane {
    name: "vxlan, wire to pod",
    backend: VXLAN,
    entrance: Entrance::Wire,
    wire: Wire::Mtu1500,
    rp_filter: false,
    generate: generate::from_wire,
    packets: 300_000,
    direction: "ingress",
    outcomes: INGRESS,
    carried: 50,
};

const FROM_WIRE_FILTERED: Lane = Lane {
    name: "vxlan, wire to pod, rp_filter",
    rp_filter: true,
    packets: 150_000,
    ..FROM_WIRE
};

const AGGREGATES_FROM_WIRE: Lane = Lane {
    name: "vxlan, wire of aggregates to pod",
    wire: Wire::SuperPacket,
    generate: generate::aggregate_from_wire,
    packets: 50_000,
    outcomes: &["decapsulated", "aggregate"],
    carried: 0,
    ..FROM_WIRE
};

const FROM_PEER: Lane = Lane {
    name: "vxlan, device of a peer to pod",
    entrance: Entrance::Peer,
    wire: Wire::SuperPacket,
    generate: generate::from_peer,
    packets: 50_000,
    outcomes: &["decapsulated", "aggregate"],
    carried: 0,
    ..FROM_WIRE
};

/// Runs a lane on a core of its own: softirqs run where the sender does, and so in order.
fn run(lane: &Lane, core: usize) {
    cpu::pin(core % cpu::count()).expect("pin");
    if let Err(error) = lane.run() {
        panic!("{}: {error:#}", lane.name);
    }
}

#[test]
fn vxlan_from_pod() {
    run(&FROM_POD, 0);
}

#[test]
fn vxlan_from_device() {
    run(&FROM_DEVICE, 1);
}

#[test]
fn vxlan_aggregates_from_pod() {
    run(&AGGREGATES_FROM_POD, 0);
}

#[test]
fn vxlan_from_nested_tunnel() {
    run(&FROM_NESTED, 1);
}

#[test]
fn vxlan_from_wire() {
    run(&FROM_WIRE, 0);
}

#[test]
fn vxlan_from_wire_with_rp_filter() {
    run(&FROM_WIRE_FILTERED, 1);
}

#[test]
fn vxlan_aggregates_from_wire() {
    run(&AGGREGATES_FROM_WIRE, 0);
}

#[test]
fn vxlan_from_device_of_a_peer() {
    run(&FROM_PEER, 1);
}
