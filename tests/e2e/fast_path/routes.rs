//! Routes and policies: what the host would send elsewhere, or nowhere, goes there.

use super::cluster;
use super::row::{Change, Table, hold};

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

#[test]
fn routes_of_the_receiver_hold() {
    let (cluster, mut table) = (cluster(), Table::default());
    hold(&cluster, 1, &RECEIVER, &mut table);
    table.check();
}
