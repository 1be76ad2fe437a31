//! Ports, bridges and their MTU.

use std::time::{Duration, Instant};

use flannel_tests::traffic::pulse::Protocol;
use flannel_tests::wait;

use super::cluster;
use super::row::{BOUND, Change, Flows, Table, hold};

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

/// Where the MTU of an interface or of a path is lowered, the sender is told, and goes on with smaller
/// packets.
#[test]
fn a_lower_mtu_is_told_to_the_sender() {
    let (cluster, mut table) = (cluster(), Table::default());
    let path = format!("{}/32 dev eth0", cluster.host(1).address);
    // The receiver's port; the sender's external interface, on whose change its agent starts over; and
    // the way from there to the receiver.
    let rows = [
        (
            1,
            "veth0",
            "link set veth0 mtu 1000",
            "link set veth0 mtu 1450",
        ),
        (
            0,
            "eth0",
            "link set eth0 mtu 1300",
            "link set eth0 mtu 1500",
        ),
        (
            0,
            "the path",
            &format!("route add {path} mtu 1300"),
            &format!("route del {path}"),
        ),
    ];
    for (host, place, lower, undo) in rows {
        let (from, to) = (cluster.pod(0), cluster.pod(1));
        let flows = Flows::sized(&cluster, LARGE);
        let ns = &cluster.host(host).ns;
        ns.ip(lower).expect("MTU");
        let changed = Instant::now();
        let route = ["route", "get", &to.address.to_string()];
        wait::until("the sender to know", Duration::from_secs(5), || {
            let route = from.ns.run("ip", &route)?;
            anyhow::ensure!(route.contains(" mtu "), "{route}");
            Ok(Some(()))
        })
        .expect("told");
        let side = ["sender", "receiver"][host];
        let name = format!("sender told of a lower MTU of {place} of the {side}");
        table.note(name, changed.elapsed());
        wait_whoever_is_told(&flows);
        drop(flows);
        ns.ip(undo).expect("MTU");
        from.ns.ip("route flush cache").expect("forget");
    }
    table.check();
}

/// Waits until more comes of those that go by the MTU. Echo requests that are too long come to nothing,
/// as with any sender that does not.
fn wait_whoever_is_told(flows: &Flows) {
    let told = flows.pulses.iter();
    for pulse in told.filter(|it| it.protocol != Protocol::Icmp) {
        let target = pulse.received() + 200;
        wait::until(pulse.protocol.name(), Duration::from_secs(15), || {
            Ok((pulse.received() >= target).then_some(()))
        })
        .expect("the flow goes on");
    }
}

#[test]
fn a_sender_goes_by_a_lower_mtu_of_its_own() {
    let cluster = cluster();
    let flows = Flows::sized(&cluster, LARGE);
    let pod = &cluster.pod(0).ns;
    pod.ip("link set eth0 mtu 1000").expect("MTU");
    wait_whoever_is_told(&flows);
}

/// What the pod's end of its interface takes is not to be seen from the host. The kernel drops what is
/// larger behind `to_pod`, and tells nobody; the fast path delivers it.
#[test]
fn a_lower_mtu_of_the_receiver_alone_is_the_standard_paths() {
    let cluster = cluster();
    let flows = Flows::sized(&cluster, LARGE);
    let pod = &cluster.pod(1).ns;
    pod.ip("link set eth0 mtu 1000").expect("MTU");
    let row = flows.held("lower MTU in the receiving pod", Instant::now());
    println!("{row}");
    for (protocol, time) in row.times {
        let is_delivered = protocol != Protocol::Icmp;
        assert_eq!(time > BOUND, is_delivered, "{protocol:?}: {time:?}");
    }
}
