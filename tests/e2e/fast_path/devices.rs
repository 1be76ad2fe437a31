//! Ports, bridges and their MTU.

use std::time::{Duration, Instant};

use flannel_tests::traffic::pulse::Protocol;
use flannel_tests::wait;

use super::cluster;
use super::row::{Change, Flows, Table, hold};

const DOWN: Change = Change {
    name: "pod's port down",
    apply: &["ip link set veth0 down"],
    undo: &["ip link set veth0 up"],
};
const BLOCKED: Change = Change {
    name: "pod's port blocked by the bridge",
    apply: &["bridge link set dev veth0 state 0"],
    undo: &["bridge link set dev veth0 state 3"],
};
/// On the receiver only: what a pod sends to the bridge's address the host routes without a bridge,
/// too, since the bridge has taken the address of its only port.
const OUT: Change = Change {
    name: "pod's port out of the bridge",
    apply: &["ip link set veth0 nomaster"],
    undo: &["ip link set veth0 master cni0"],
};
const BRIDGE_DOWN: Change = Change {
    name: "bridge down",
    apply: &["ip link set cni0 down"],
    undo: &["ip link set cni0 up"],
};

#[test]
fn ports_of_the_sender_hold() {
    let (cluster, mut table) = (cluster(), Table::default());
    hold(&cluster, 0, &[DOWN, BLOCKED, BRIDGE_DOWN], &mut table);
    table.check();
}

#[test]
fn ports_of_the_receiver_hold() {
    let (cluster, mut table) = (cluster(), Table::default());
    hold(&cluster, 1, &[DOWN, BLOCKED, OUT, BRIDGE_DOWN], &mut table);
    table.check();
}

/// Where bridges can tell VLANs apart; minimal kernels are built without.
#[test]
fn vlans_of_the_bridge_hold() {
    let (cluster, mut table) = (cluster(), Table::default());
    for host in [0, 1] {
        let filter = "link set cni0 type bridge vlan_filtering 1";
        if cluster.host(host).ns.ip(filter).is_err() {
            println!("skipped: bridges of this kernel do not filter VLANs");
            return;
        }
        let change = Change {
            name: "pod's port out of the bridge's VLAN",
            apply: &["bridge vlan del dev veth0 vid 1"],
            undo: &["bridge vlan add dev veth0 vid 1 pvid untagged"],
        };
        hold(&cluster, host, &[change], &mut table);
    }
    table.check();
}

/// Payload of packets that fit before, and do not fit after.
const LARGE: usize = 1_350;

/// Where the MTU of an interface is lowered, the sender is told, and goes on with smaller packets.
#[test]
fn a_lower_mtu_is_told_to_the_sender() {
    let (cluster, mut table) = (cluster(), Table::default());
    // The receiver's port; and the sender's external interface, on whose change its agent starts over.
    for (host, interface, mtu, lower) in [(1, "veth0", 1_450, 1_000), (0, "eth0", 1_500, 1_300)] {
        let (from, to) = (cluster.pod(0), cluster.pod(1));
        let flows = Flows::sized(&cluster, LARGE);
        let ns = &cluster.host(host).ns;
        ns.ip(&format!("link set {interface} mtu {lower}"))
            .expect("MTU");
        let changed = Instant::now();
        let route = ["route", "get", &to.address.to_string()];
        wait::until("the sender to know", Duration::from_secs(5), || {
            let route = from.ns.run("ip", &route)?;
            anyhow::ensure!(route.contains(" mtu "), "{route}");
            Ok(Some(()))
        })
        .expect("told");
        let side = ["sender", "receiver"][host];
        let name = format!("sender told of {lower} on {interface} of the {side}");
        table.note(name, changed.elapsed());
        // Echo requests that are too long come to nothing, as with any sender that goes by no MTU.
        for pulse in flows
            .pulses
            .iter()
            .filter(|it| it.protocol != Protocol::Icmp)
        {
            let target = pulse.received() + 200;
            wait::until(pulse.protocol.name(), Duration::from_secs(15), || {
                Ok((pulse.received() >= target).then_some(()))
            })
            .expect("the flow goes on");
        }
        drop(flows);
        ns.ip(&format!("link set {interface} mtu {mtu}"))
            .expect("MTU");
        from.ns.ip("route flush cache").expect("forget");
    }
    table.check();
}
