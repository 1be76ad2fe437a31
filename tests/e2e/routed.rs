//! vxlan with `DirectRouting` on two links with a router between: hosts `a` and `b` share one, `c` is
//! on the other. Peers on the own link get plain routes, the rest the tunnel.

use flannel_agent::status::Status;
use flannel_tests::agent::Datapath;
use flannel_tests::bed::{BedOptions, Underlay};
use flannel_tests::cluster::{Cluster, config};
use flannel_tests::traffic::sequence::Flow;
use flannel_tests::wire::Wire;

use crate::look::{self, until_equal};
use flannel_tests::exercise::{self, packets, wait_sent};

/// Datagrams per second while peers change from one kind to the other.
const RATE: u32 = 2000;

fn routed(datapaths: &[Datapath; 3]) -> Cluster {
    let options = BedOptions {
        hosts: 3,
        underlay: Underlay::Routed,
        ..BedOptions::default()
    };
    let config = config(r#"{"Type":"vxlan","DirectRouting":true}"#);
    // On the fast path packets to direct peers count as carried, too.
    Cluster::with_flags(&config, options, datapaths, &["--fast-path=off"]).expect("cluster")
}

fn subnet(cluster: &Cluster, host: usize) -> String {
    cluster.agents[host].status().expect("status").lease.subnet
}

/// Network address of a subnet.
fn network(subnet: &str) -> &str {
    subnet.split('/').next().expect("subnet")
}

fn direct_route(cluster: &Cluster, host: usize) -> String {
    let (subnet, address) = (subnet(cluster, host), cluster.host(host).address);
    format!("{subnet} via {address} dev eth0 proto 70")
}

fn tunnel_route(cluster: &Cluster, host: usize) -> String {
    let subnet = subnet(cluster, host);
    format!("{subnet} via {} dev flannel.1 onlink", network(&subnet))
}

#[test]
fn peers_on_the_link_get_routes_and_the_rest_the_tunnel() {
    use Datapath::{Ebpf, Kernel};
    // From `a`, to one on its link and one behind the router: every pairing of data paths.
    for datapaths in [
        [Kernel; 3],
        [Ebpf; 3],
        [Ebpf, Kernel, Kernel],
        [Kernel, Ebpf, Ebpf],
    ] {
        let cluster = routed(&datapaths);
        assert_entries(&cluster);
        for wire in [Wire::Mtu1500, Wire::SuperPacket] {
            cluster.bed.set_wire(wire).expect("wire mode");
            for (from, to) in [(0, 1), (0, 2)] {
                let read = || cluster.agents[0].status().expect("status");
                let before = read();
                exercise::between(cluster.pod(from), cluster.pod(to));
                if datapaths[0] == Ebpf {
                    assert_counted(&before, &read(), to == 1);
                }
            }
            println!("{datapaths:?} on {wire}");
        }
    }
}

/// Routes of both kinds, and FDB entries and neighbours for tunnelled peers only.
fn assert_entries(cluster: &Cluster) {
    let [a, b, c] = [0, 1, 2].map(|host| subnet(cluster, host));
    let [to_a, to_b] = [0, 1].map(|host| cluster.host(host));
    assert_eq!(look::routes(to_a, &b), direct_route(cluster, 1));
    assert_eq!(look::routes(to_b, &a), direct_route(cluster, 0));
    for host in [to_a, to_b] {
        assert_eq!(look::routes(host, &c), tunnel_route(cluster, 2));
        assert_eq!(look::remotes(host, "flannel.1"), ["192.168.8.12"]);
        assert_eq!(look::neighbours(host, "flannel.1"), [network(&c)]);
    }
    let host = cluster.host(2);
    assert_eq!(
        look::remotes(host, "flannel.1"),
        ["192.168.7.10", "192.168.7.11"]
    );
    for (number, subnet) in [(0, &a), (1, &b)] {
        assert_eq!(look::routes(host, subnet), tunnel_route(cluster, number));
    }
    for (agent, expected) in cluster.agents.iter().zip([1, 1, 0]) {
        let peers = agent.status().expect("status").peers;
        assert_eq!(
            (peers.total, peers.direct.len()),
            (2, expected),
            "{peers:?}"
        );
    }
}

/// What went to the other host was counted as what it was, and only as that.
fn assert_counted(before: &Status, after: &Status, is_direct: bool) {
    let direct = |status: &Status| {
        let traffic = status.peers.direct[0].traffic.expect("counted");
        (traffic.sent_packets, traffic.received_packets)
    };
    let (then, now) = (direct(before), direct(after));
    let direct = (now.0 - then.0, now.1 - then.1);
    let carried = ["egress", "ingress"]
        .map(|direction| packets(after, direction).0 - packets(before, direction).0);
    println!("directly {direct:?}, carried by eBPF {carried:?}");
    if is_direct {
        assert!(direct.0.min(direct.1) > 11_000 && carried == [0, 0]);
    } else {
        assert!(direct == (0, 0) && carried[0] > 11_000 && carried[1] > 0);
    }
}

/// The underlay's routes put a peer behind the router and back on the link, on one side after the
/// other, while datagrams flow both ways.
fn a_peer_moves(datapath: Datapath) {
    let cluster = routed(&[datapath; 3]);
    let flows: Vec<Flow> = [(0, 1), (1, 0), (0, 2), (2, 1)]
        .map(|(from, to)| Flow::start(cluster.pod(from), cluster.pod(to), 200, RATE).expect("flow"))
        .into();
    let subnets = [0, 1].map(|host| subnet(&cluster, host));
    let direct = [0, 1].map(|host| direct_route(&cluster, host));
    let tunnel = [0, 1].map(|host| tunnel_route(&cluster, host));
    for round in 0..3 {
        for (kind, expected) in [("replace", &tunnel), ("del", &direct)] {
            for (number, peer) in [(0, 1), (1, 0)] {
                let (host, remote) = (cluster.host(number), cluster.host(peer).address);
                let gateway = host.gateway.expect("router");
                wait_sent(&flows[0], 200);
                host.ns
                    .ip(&format!("route {kind} {remote}/32 via {gateway}"))
                    .expect("route of the underlay");
                until_equal("the peer's route", &expected[peer], || {
                    look::routes(host, &subnets[peer])
                });
            }
            println!("{datapath}, round {round}: {expected:?}");
        }
    }
    wait_sent(&flows[0], 500);
    for (flow, name) in flows
        .into_iter()
        .zip(["a to b", "b to a", "a to c", "c to b"])
    {
        let tally = flow.finish().expect("count datagrams");
        println!("{datapath}, {name}: {tally:?}");
        assert!(tally.is_lossless(), "{name}: {tally:?}");
    }
    // What belongs to the other kind is gone again.
    until_equal("the remotes", &vec!["192.168.8.12".to_owned()], || {
        look::remotes(cluster.host(0), "flannel.1")
    });
    assert_entries(&cluster);
}

#[test]
fn a_peer_moves_behind_the_router_and_back_without_loss_on_ebpf() {
    a_peer_moves(Datapath::Ebpf);
}

#[test]
fn a_peer_moves_behind_the_router_and_back_without_loss_on_the_kernel_path() {
    a_peer_moves(Datapath::Kernel);
}
