//! The external interface changes under a running agent: address, MTU, MAC, index.

use std::time::{Duration, Instant};

use flannel_tests::agent::{Datapath, PREFIX};
use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::cluster::{Cluster, config};
use flannel_tests::traffic::ping::{Options, ping};
use flannel_tests::wait;
use flannel_tests::wire::Wire;

use crate::look::{self, until_equal};
use flannel_tests::exercise;

/// Backends that each notice a change in another place.
const BACKENDS: [&str; 3] = [
    r#"{"Type":"vxlan"}"#,
    r#"{"Type":"host-gw"}"#,
    r#"{"Type":"udp"}"#,
];

/// How long pods may be cut off: the pause before another address is looked for, a start, and what
/// the other host's neighbour table takes to notice.
const LIMIT: Duration = Duration::from_secs(20);

fn cluster(backend: &str, datapath: Datapath) -> Cluster {
    let options = BedOptions {
        underlay: Underlay::Switch,
        ..BedOptions::default()
    };
    Cluster::with_config(&config(backend), options, &[datapath; 2]).expect("cluster")
}

fn wait_reached(cluster: &Cluster, what: &str) {
    let start = Instant::now();
    let reached = || {
        for (from, to) in [(0, 1), (1, 0)] {
            let answer = ping(
                &cluster.pod(from).ns,
                cluster.pod(to).address,
                Options::default(),
            )?;
            if !answer.is_complete() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    };
    wait::until(what, LIMIT, reached).expect("pods reach each other");
    println!(
        "  {what}: pods reach each other after {:?}",
        start.elapsed()
    );
}

/// One bed, all changes one after the other.
fn all_changes(backend: &str, datapath: Datapath) {
    println!("{backend}, {datapath}");
    let mut cluster = cluster(backend, datapath);
    exercise::bear_disorder(&cluster.bed);
    let overhead = 1500 - cluster.agents[1].wait_for_subnet().expect("subnet.env").mtu;
    let subnet = cluster.agents[1].status().expect("status").lease.subnet;
    let host = cluster.host(1).ns.clone();

    // As a DHCP client does: the old address goes, another one comes.
    host.ip("addr flush dev eth0").expect("flush");
    host.ip("addr add 192.168.7.77/24 dev eth0")
        .expect("another address");
    let key = format!("{PREFIX}/subnets/{}", subnet.replace('/', "-"));
    let published = || {
        let value = cluster.bed.etcd.get(&key).expect("get");
        value.contains(r#""PublicIP":"192.168.7.77""#)
    };
    until_equal("the lease with the new address", &true, published);
    wait_reached(&cluster, "another address");
    cluster.wait_for_peers(1).expect("peers");
    let status = cluster.agents[1].status().expect("status");
    assert_eq!(status.lease.subnet, subnet, "the subnet stays");
    assert_eq!(status.lease.public_ip.to_string(), "192.168.7.77");
    let keys = cluster
        .bed
        .etcd
        .keys(&format!("{PREFIX}/subnets/"))
        .expect("keys");
    assert_eq!(keys.len(), 2, "no lease is left behind: {keys:?}");
    exercise::everything(&cluster);

    // Of the host alone: the wire carries more.
    host.ip("link set eth0 mtu 1400").expect("MTU");
    let agent = &mut cluster.agents[1];
    until_equal("subnet.env", &(1400 - overhead), || {
        agent.wait_for_subnet().expect("subnet.env").mtu
    });
    cluster.wait_for_peers(1).expect("peers");
    let status = cluster.agents[1].status().expect("status");
    assert_eq!(status.interface.mtu, 1400);
    if let Some(device) = status.device {
        assert_eq!(device.mtu, 1400 - overhead);
    }
    host.ip("link set eth0 mtu 1500").expect("MTU");
    let agent = &mut cluster.agents[1];
    until_equal("subnet.env", &(1500 - overhead), || {
        agent.wait_for_subnet().expect("subnet.env").mtu
    });
    cluster.wait_for_peers(1).expect("peers");

    // Without a word from it, the other host's kernel believes its neighbour table for half a minute.
    host.sysctl("net/ipv4/conf/all/arp_notify", "1")
        .expect("gratuitous ARP");
    host.ip("link set eth0 address 02:00:00:00:77:01")
        .expect("MAC");
    wait_reached(&cluster, "another MAC");
    exercise::everything(&cluster);

    let before = cluster.host(1).device_index("eth0").expect("index");
    host.ip("addr flush dev eth0").expect("flush");
    cluster.bed.replug(1).expect("another interface");
    cluster.bed.set_wire(Wire::Mtu1500).expect("wire mode");
    let after = cluster.host(1).device_index("eth0").expect("index");
    assert_ne!(before, after);
    let agent = &cluster.agents[1];
    until_equal(
        "the new interface in the status",
        &Some((after, "192.168.7.11".to_owned())),
        || {
            let status = agent.status().ok().filter(|status| status.ready)?;
            Some((status.interface.index, status.lease.public_ip.to_string()))
        },
    );
    wait_reached(&cluster, "another interface of the same name");
    cluster.wait_for_peers(1).expect("peers");
    let status = cluster.agents[1].status().expect("status");
    assert_eq!(status.lease.subnet, subnet, "the subnet stays");
    let programs: Vec<_> = status.datapath.programs.iter().collect();
    assert_eq!(
        programs.is_empty(),
        datapath == Datapath::Kernel,
        "{programs:?}"
    );
    let listed = look::programs(cluster.host(1)).join("\n");
    for program in programs {
        assert!(
            listed.contains(&program.name),
            "{} is not in {listed}",
            program.name
        );
    }
    exercise::everything(&cluster);
}

#[test]
fn changes_are_followed_on_the_kernel_path() {
    for backend in BACKENDS {
        all_changes(backend, Datapath::Kernel);
    }
}

#[test]
fn changes_are_followed_on_ebpf() {
    for backend in BACKENDS {
        all_changes(backend, Datapath::Ebpf);
    }
}

#[test]
fn a_renamed_interface_is_followed() {
    let mut cluster = cluster(BACKENDS[0], Datapath::Ebpf);
    let address = cluster.host(1).address;
    let agent = &mut cluster.agents[1];
    // It is chosen by name as long as it has that.
    agent.flags.push(format!("--iface={address}"));
    agent.terminate().expect("SIGTERM");
    agent.start().expect("start");
    cluster.wait_for_peers(1).expect("peers");
    let host = cluster.host(1).ns.clone();
    for line in ["eth0 down", "eth0 name ens3", "ens3 up"] {
        host.ip(&format!("link set {line}")).expect("rename");
    }
    wait_reached(&cluster, "another name");
    cluster.wait_for_peers(1).expect("peers");
    let status = cluster.agents[1].status().expect("status");
    assert_eq!(status.interface.name, "ens3");
}

/// Peers send to the address of the device that is in the lease.
#[test]
fn a_changed_address_of_the_device_is_set_back() {
    let cluster = cluster(BACKENDS[0], Datapath::Ebpf);
    let mac = || {
        let status = cluster.agents[1].status().expect("status");
        status.device.expect("a device").mac
    };
    let before = mac();
    let host = cluster.host(1).ns.clone();
    host.ip("link set flannel.1 address 02:00:00:00:00:99")
        .expect("MAC");
    wait_reached(&cluster, "another MAC of the device");
    until_equal("the MAC of the lease", &before, mac);
}

/// An operator prepares a config, and restarts node by node.
#[test]
fn another_network_waits_for_a_restart() {
    let mut cluster = cluster(BACKENDS[0], Datapath::Ebpf);
    let before = cluster.agents[1].status().expect("status").lease.subnet;
    let staged = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"host-gw"}}"#;
    let key = format!("{PREFIX}/config");
    cluster.bed.etcd.put(&key, staged).expect("another config");
    let host = cluster.host(1).ns.clone();
    host.ip("link set eth0 mtu 1400").expect("MTU");
    cluster.agents[1]
        .wait_for_log("starting over with it")
        .expect("the change is noticed");
    let agent = &cluster.agents[1];
    wait::until("the node with another MTU", LIMIT, || {
        let status = agent.status()?;
        anyhow::ensure!(status.ready && status.interface.mtu == 1400, "{status:?}");
        Ok(Some(()))
    })
    .expect("ready");
    let status = agent.status().expect("status");
    assert_eq!(status.lease.subnet, before);
    wait_reached(&cluster, "the network as before");
}
