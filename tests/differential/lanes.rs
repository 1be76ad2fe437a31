//! One test for each lane.

use flannel_tests::wire::Wire;

use crate::backend::{HOST_GW, UDP, VXLAN};
use crate::generate::{self, Dice, stream};
use crate::lane::Lane;
use crate::pair::Pair;
use crate::socket::{Frame, Offload};
use crate::twin::{Entrance, Exit, Path};

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
    path: Path::Standard,
    model: Path::Kernel,
    entrance: Entrance::Pod,
    wire: Wire::Mtu1500,
    rp_filter: false,
    is_among_kin: false,
    has_real_peer: false,
    generate: generate::from_pod,
    core: 0,
    packets: 150_000,
    direction: "egress",
    outcomes: &["encapsulated", "unresolved", "unknown_peer", "too_big"],
    carried: 50,
};

const FROM_DEVICE: Lane = Lane {
    name: "vxlan, device to wire",
    core: 1,
    entrance: Entrance::Device,
    generate: generate::to_device,
    outcomes: EGRESS,
    ..FROM_POD
};

const AGGREGATES_FROM_POD: Lane = Lane {
    name: "vxlan, pod to a wire of aggregates",
    wire: Wire::SuperPacket,
    packets: 60_000,
    ..FROM_POD
};

const FROM_NESTED: Lane = Lane {
    name: "vxlan, tunnel in a pod to wire",
    core: 1,
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
    path: Path::Standard,
    model: Path::Kernel,
    entrance: Entrance::Wire,
    wire: Wire::Mtu1500,
    rp_filter: false,
    is_among_kin: false,
    has_real_peer: false,
    generate: generate::vxlan_from_wire,
    core: 0,
    packets: 250_000,
    direction: "ingress",
    outcomes: INGRESS,
    carried: 50,
};

const FROM_WIRE_FILTERED: Lane = Lane {
    name: "vxlan, wire to pod, rp_filter",
    rp_filter: true,
    core: 1,
    packets: 100_000,
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
    core: 1,
    entrance: Entrance::Peer,
    wire: Wire::SuperPacket,
    generate: generate::from_peer,
    packets: 50_000,
    outcomes: &["decapsulated", "aggregate"],
    carried: 0,
    ..FROM_WIRE
};

const UDP_FROM_POD: Lane = Lane {
    name: "udp, pod to wire",
    backend: UDP,
    is_among_kin: true,
    generate: generate::from_pod_to_proxy,
    packets: 50_000,
    ..FROM_POD
};

const UDP_FROM_DEVICE: Lane = Lane {
    name: "udp, device to wire",
    core: 1,
    entrance: Entrance::Device,
    generate: generate::to_bare_device,
    outcomes: &[
        "encapsulated",
        "unknown_peer",
        "unresolved",
        "too_big",
        "ttl",
    ],
    ..UDP_FROM_POD
};

pub(crate) const UDP_FROM_WIRE: Lane = Lane {
    name: "udp, wire to pod",
    backend: UDP,
    generate: generate::udp_from_wire,
    packets: 50_000,
    outcomes: &["decapsulated", "ttl"],
    ..FROM_WIRE
};

const DIRECT_FROM_POD: Lane = Lane {
    name: "host-gw, pod to wire",
    backend: HOST_GW,
    packets: 30_000,
    outcomes: &["direct"],
    carried: 0,
    ..FROM_POD
};

const DIRECT_FROM_WIRE: Lane = Lane {
    name: "host-gw, wire to pod",
    backend: HOST_GW,
    core: 1,
    generate: generate::direct_from_wire,
    packets: 30_000,
    outcomes: &["direct"],
    carried: 0,
    ..FROM_WIRE
};

/// What packets of streams can meet on their way out. Not here: `unresolved` and the like, which these
/// peers are not.
const FAST_EGRESS: &[&str] = &["sent", "not_admitted", "unfit", "other_place", "too_big"];

/// The same on their way in. Not here: `mark`, which vxlan alone carries over.
const FAST_INGRESS: &[&str] = &["delivered", "queued", "not_admitted", "unfit"];

const FAST_FROM_POD: Lane = Lane {
    name: "vxlan, streams of a pod around the stack",
    path: Path::Fast,
    model: Path::Standard,
    generate: stream::from_pod,
    packets: 200_000,
    direction: "fast",
    outcomes: FAST_EGRESS,
    // A packet of another type of service takes the admission over, and there are some in each stream.
    carried: 35,
    ..FROM_POD
};

const FAST_AGGREGATES_FROM_POD: Lane = Lane {
    name: "vxlan, streams of a pod around the stack, to a wire of aggregates",
    wire: Wire::SuperPacket,
    core: 1,
    packets: 60_000,
    ..FAST_FROM_POD
};

const FAST_FROM_WIRE: Lane = Lane {
    name: "vxlan, streams from the wire around the stack",
    path: Path::Fast,
    model: Path::Standard,
    core: 1,
    generate: stream::vxlan_from_wire,
    packets: 200_000,
    direction: "fast",
    outcomes: FAST_INGRESS,
    carried: 50,
    ..FROM_WIRE
};

const FAST_UDP_FROM_POD: Lane = Lane {
    name: "udp, streams of a pod around the stack",
    backend: UDP,
    is_among_kin: true,
    generate: stream::from_pod_to_proxy,
    packets: 60_000,
    ..FAST_FROM_POD
};

const FAST_UDP_FROM_WIRE: Lane = Lane {
    name: "udp, streams from the wire around the stack",
    backend: UDP,
    generate: stream::udp_from_wire,
    packets: 60_000,
    ..FAST_FROM_WIRE
};

const FAST_DIRECT_FROM_POD: Lane = Lane {
    name: "host-gw, streams of a pod around the stack",
    backend: HOST_GW,
    packets: 110_000,
    ..FAST_FROM_POD
};

const FAST_DIRECT_FROM_WIRE: Lane = Lane {
    name: "host-gw, streams from the wire around the stack",
    backend: HOST_GW,
    generate: stream::direct_from_wire,
    packets: 110_000,
    ..FAST_FROM_WIRE
};

const FAST_TO_FAR_POD: Lane = Lane {
    name: "vxlan, streams from pod to pod around both stacks",
    has_real_peer: true,
    generate: stream::to_far_pod,
    packets: 50_000,
    // Of both nodes.
    outcomes: &["sent", "delivered", "queued", "not_admitted", "unfit"],
    ..FAST_FROM_POD
};

const FAST_FROM_FAR_POD: Lane = Lane {
    name: "vxlan, streams from pod to pod around both stacks, back",
    core: 1,
    entrance: Entrance::FarPod,
    generate: stream::from_far_pod,
    ..FAST_TO_FAR_POD
};

const FAST_DIRECT_TO_FAR_POD: Lane = Lane {
    name: "host-gw, streams from pod to pod around both stacks",
    backend: HOST_GW,
    core: 1,
    ..FAST_TO_FAR_POD
};

const FAST_DIRECT_FROM_FAR_POD: Lane = Lane {
    name: "host-gw, streams from pod to pod around both stacks, back",
    backend: HOST_GW,
    core: 0,
    ..FAST_FROM_FAR_POD
};

/// The lanes of streams send a million packets together.
const _: () = {
    let sent = FAST_FROM_POD.packets
        + FAST_AGGREGATES_FROM_POD.packets
        + FAST_FROM_WIRE.packets
        + FAST_UDP_FROM_POD.packets
        + FAST_UDP_FROM_WIRE.packets
        + FAST_DIRECT_FROM_POD.packets
        + FAST_DIRECT_FROM_WIRE.packets
        + FAST_TO_FAR_POD.packets
        + FAST_FROM_FAR_POD.packets
        + FAST_DIRECT_TO_FAR_POD.packets
        + FAST_DIRECT_FROM_FAR_POD.packets;
    assert!(sent >= 1_000_000);
};

fn run(lane: &Lane) {
    if let Err(error) = lane.run() {
        panic!("{}: {error:#}", lane.name);
    }
}

#[test]
fn vxlan_from_pod() {
    run(&FROM_POD);
}

#[test]
fn vxlan_from_device() {
    run(&FROM_DEVICE);
}

#[test]
fn vxlan_aggregates_from_pod() {
    run(&AGGREGATES_FROM_POD);
}

#[test]
fn vxlan_from_nested_tunnel() {
    run(&FROM_NESTED);
}

#[test]
fn vxlan_from_wire() {
    run(&FROM_WIRE);
}

#[test]
fn vxlan_from_wire_with_rp_filter() {
    run(&FROM_WIRE_FILTERED);
}

#[test]
fn vxlan_aggregates_from_wire() {
    run(&AGGREGATES_FROM_WIRE);
}

#[test]
fn vxlan_from_device_of_a_peer() {
    run(&FROM_PEER);
}

#[test]
fn udp_from_pod() {
    run(&UDP_FROM_POD);
}

/// A process that receives a datagram cannot be told that a checksum inside is still to be made.
#[test]
fn udp_leaves_no_checksum_of_a_pod_to_the_receiver() {
    let lane = &Lane {
        is_among_kin: false,
        ..UDP_FROM_POD
    };
    let mut dice = Dice::new(1, lane.name, 0);
    let unfinished = |frame: &Frame| {
        frame.offload.flags & Offload::NEEDS_CHECKSUM != 0 && frame.offload.gso_type == 0
    };
    let frames: Vec<Frame> = std::iter::repeat_with(|| (lane.generate)(&mut dice))
        .filter(unfinished)
        .take(10)
        .collect();
    let mut pair = Pair::new(lane).expect("pair");
    let (ebpf, kernel) = pair.run(lane.entrance, &frames).expect("run");
    for (name, ran) in [("kernel", kernel), ("ebpf", ebpf)] {
        let wire = &ran.outputs[Exit::Wire as usize];
        assert!(!wire.is_empty(), "{name}: nothing came out");
        for seen in wire {
            let Offload {
                flags,
                checksum_start,
                ..
            } = seen.offload;
            // The outer UDP header is the kernel's to look after, on both ends.
            let is_finished = flags & Offload::NEEDS_CHECKSUM == 0 || checksum_start == 34;
            assert!(is_finished, "{name}: {:?}", seen.offload);
        }
    }
}

#[test]
fn udp_from_device() {
    run(&UDP_FROM_DEVICE);
}

#[test]
fn udp_from_wire() {
    run(&UDP_FROM_WIRE);
}

#[test]
fn host_gw_from_pod() {
    run(&DIRECT_FROM_POD);
}

#[test]
fn host_gw_from_wire() {
    run(&DIRECT_FROM_WIRE);
}

#[test]
fn fast_vxlan_from_pod() {
    run(&FAST_FROM_POD);
}

#[test]
fn fast_vxlan_aggregates_from_pod() {
    run(&FAST_AGGREGATES_FROM_POD);
}

#[test]
fn fast_vxlan_from_wire() {
    run(&FAST_FROM_WIRE);
}

#[test]
fn fast_udp_from_pod() {
    run(&FAST_UDP_FROM_POD);
}

#[test]
fn fast_udp_from_wire() {
    run(&FAST_UDP_FROM_WIRE);
}

#[test]
fn fast_host_gw_from_pod() {
    run(&FAST_DIRECT_FROM_POD);
}

#[test]
fn fast_host_gw_from_wire() {
    run(&FAST_DIRECT_FROM_WIRE);
}

#[test]
fn fast_vxlan_to_far_pod() {
    run(&FAST_TO_FAR_POD);
}

#[test]
fn fast_vxlan_from_far_pod() {
    run(&FAST_FROM_FAR_POD);
}

#[test]
fn fast_host_gw_to_far_pod() {
    run(&FAST_DIRECT_TO_FAR_POD);
}

#[test]
fn fast_host_gw_from_far_pod() {
    run(&FAST_DIRECT_FROM_FAR_POD);
}
