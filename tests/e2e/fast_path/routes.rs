//! Routes and policies: what the host would send elsewhere, or nowhere, goes there.

use flannel_tests::bed::BedOptions;

use super::row::{Change, Table, hold};
use super::{HOST_GW, cluster, cluster_with};

const SENDER: [Change; 5] = [
    Change {
        name: "blackhole route",
        apply: &["ip route add blackhole {to}"],
        undo: &["ip route del blackhole {to}"],
    },
    Change {
        name: "unreachable route",
        apply: &["ip route add unreachable {to}"],
        undo: &["ip route del unreachable {to}"],
    },
    Change {
        name: "prohibiting rule",
        apply: &["ip rule add from {from} prohibit"],
        undo: &["ip rule del from {from} prohibit"],
    },
    Change {
        name: "rule towards another table",
        apply: &[
            "ip route add default via 10.200.0.1 dev mgmt0 table 77",
            "ip rule add from {from} lookup 77",
        ],
        undo: &[
            "ip rule del from {from} lookup 77",
            "ip route flush table 77",
        ],
    },
    Change {
        name: "forwarding off",
        apply: &["sysctl -qw net.ipv4.conf.cni0.forwarding=0"],
        undo: &["sysctl -qw net.ipv4.conf.cni0.forwarding=1"],
    },
];

const RECEIVER: [Change; 4] = [
    Change {
        name: "blackhole route",
        apply: &["ip route add blackhole {to}"],
        undo: &["ip route del blackhole {to}"],
    },
    Change {
        name: "removed route",
        apply: &["ip route del {subnet} dev cni0"],
        undo: &["ip route add {subnet} dev cni0"],
    },
    Change {
        name: "rule towards another table",
        apply: &[
            "ip route add default via 10.200.0.1 dev mgmt0 table 77",
            "ip rule add to {to} lookup 77",
        ],
        undo: &["ip rule del to {to} lookup 77", "ip route flush table 77"],
    },
    Change {
        name: "forwarding off",
        apply: &["sysctl -qw net.ipv4.conf.flannel/1.forwarding=0"],
        undo: &["sysctl -qw net.ipv4.conf.flannel/1.forwarding=1"],
    },
];

#[test]
fn routes_of_the_sender_hold() {
    let (cluster, mut table) = (cluster(), Table::default());
    hold(&cluster, 0, &SENDER, &mut table);
    table.check();
}

/// With host-gw the packet leaves by the same interface, through the same hooks, to another address.
const ROUTER: [Change; 1] = [Change {
    name: "rule towards another router",
    apply: &[
        "ip route add default via 192.168.7.77 dev eth0 onlink table 77",
        "ip neigh replace 192.168.7.77 lladdr 02:00:00:00:00:77 dev eth0",
        "ip rule add from {from} lookup 77",
    ],
    undo: &[
        "ip rule del from {from} lookup 77",
        "ip route flush table 77",
        "ip neigh del 192.168.7.77 dev eth0",
    ],
}];

#[test]
fn rules_towards_another_router_hold() {
    let cluster = cluster_with(HOST_GW, BedOptions::default(), &[]);
    let mut table = Table::default();
    hold(&cluster, 0, &ROUTER, &mut table);
    table.check();
}

#[test]
fn routes_of_the_receiver_hold() {
    let (cluster, mut table) = (cluster(), Table::default());
    hold(&cluster, 1, &RECEIVER, &mut table);
    table.check();
}
