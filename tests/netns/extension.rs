//! The examples of `docs/extension.md`, each between two hosts.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flannel_agent::backend::extension::{BACKEND_TYPE, Extension, OwnFacts, PeerFacts, Peers};
use flannel_agent::lease::LeaseAttrs;
use flannel_agent::network::{Backend, NetworkConfig};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::host::{Host, SubnetEnv};
use flannel_tests::netns::NetNs;
use flannel_tests::traffic::ping::{Options, ping};
use ipnetwork::Ipv4Network;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The network configs of the document, in its order.
fn examples() -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/extension.md");
    let text = fs::read_to_string(file).unwrap();
    let mut examples = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
        if line == "{" {
            examples.push(String::new());
        }
        let example = examples.last_mut().unwrap();
        *example += line;
        *example += "\n";
    }
    examples
}

/// What an agent does with the backend, on one host.
struct Node {
    ns: NetNs,
    runtime: Runtime,
    extension: Arc<Extension>,
    own: OwnFacts,
}

impl Node {
    fn new(host: &Host, subnet: Ipv4Network, config: &str) -> Self {
        let (config, warnings) = NetworkConfig::parse(config).unwrap();
        assert_eq!(warnings, [""; 0]);
        let Backend::Extension(options) = config.backend else {
            panic!("another backend");
        };
        let runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            ns: host.ns.clone(),
            runtime: { runtime }.enable_all().build().unwrap(),
            extension: Arc::new(Extension::new(options, std::env::vars_os())),
            own: OwnFacts {
                network: config.ipv4.unwrap().network,
                subnet,
                ipv6_subnet: None,
                public_ip: host.address,
                public_ipv6: None,
            },
        }
    }

    /// Runs something of the backend inside of the host, whose commands then run there too.
    fn within<T: Send>(&self, work: impl AsyncFnOnce(&Self) -> T + Send) -> T {
        self.ns.enter(|| self.runtime.block_on(work(self))).unwrap()
    }

    /// Runs the start-up commands; gives the lease.
    fn start(&self) -> LeaseAttrs {
        let stop = CancellationToken::new();
        let backend_data = self.within(async |node| {
            let data = node.extension.pre_startup(&stop).await.unwrap();
            node.extension.post_startup(&node.own, &stop).await.unwrap();
            data
        });
        LeaseAttrs {
            public_ip: self.own.public_ip,
            public_ipv6: None,
            backend_type: BACKEND_TYPE.into(),
            backend_data,
            backend_v6_data: None,
        }
    }

    /// Sets the peers and waits until all commands have succeeded.
    fn set(&self, peers: &mut Peers, desired: &BTreeMap<Ipv4Network, PeerFacts>) {
        self.within(async |_| {
            peers.set_peers(desired);
            let done = async {
                while peers.pending() > 0 {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(30), done).await.unwrap();
        });
        assert_eq!(peers.failures(), []);
    }
}

/// Sets each of two nodes as the only peer of the other.
fn introduce(nodes: &[Node; 2], leases: &[LeaseAttrs; 2]) -> [Peers; 2] {
    [0, 1].map(|index| {
        let node = &nodes[index];
        let mut peers = node.within(async |node| Peers::start(Arc::clone(&node.extension)));
        let facts = PeerFacts::from_lease(&leases[1 - index]).unwrap();
        let subnet = nodes[1 - index].own.subnet;
        node.set(&mut peers, &BTreeMap::from([(subnet, facts)]));
        peers
    })
}

/// Everything that commands for peers change.
fn state(node: &Node) -> String {
    let show = |program: &str, words: &[&str]| node.ns.run(program, words).unwrap();
    let fdb = show("bridge", &["fdb", "show"]);
    let remote: String = fdb.lines().filter(|line| line.contains(" dst ")).collect();
    show("ip", &["-4", "route", "show", "table", "all"])
        + &show("ip", &["-4", "neigh", "show", "nud", "permanent"])
        + &remote
}

fn carries_packets(config: &str) {
    let mut bed = Bed::new(BedOptions::default()).unwrap();
    let mut pods = Vec::new();
    let nodes = [0_u8, 1].map(|index| {
        let host = &mut bed.hosts[usize::from(index)];
        let bridge = Ipv4Network::new(Ipv4Addr::new(10, 5, index + 1, 1), 24).unwrap();
        let pod = host.add_pod(&SubnetEnv { bridge, mtu: 1450 }).unwrap();
        pods.push((pod.ns.clone(), pod.address));
        let subnet = Ipv4Network::new(bridge.network(), 24).unwrap();
        Node::new(host, subnet, config)
    });
    let ping = || {
        let answer = |from: usize| {
            let answer = ping(&pods[from].0, pods[1 - from].1, Options::default());
            answer.unwrap().is_complete()
        };
        [answer(0), answer(1)]
    };
    let stop = |(node, peers): (&Node, Peers)| node.within(async |_| peers.stop().await);

    let leases = nodes.each_ref().map(Node::start);
    let before = nodes.each_ref().map(state);
    let peers = introduce(&nodes, &leases);
    assert_eq!(ping(), [true, true]);
    nodes.iter().zip(peers).for_each(stop);

    // Agents that are started again, with everything in place.
    assert_eq!(nodes.each_ref().map(Node::start), leases);
    let mut peers = introduce(&nodes, &leases);
    assert_eq!(ping(), [true, true]);
    for (node, peers) in nodes.iter().zip(&mut peers) {
        node.set(peers, &BTreeMap::new());
    }
    assert_eq!(ping(), [false, false]);
    assert_eq!(nodes.each_ref().map(state), before);
    nodes.iter().zip(peers).for_each(stop);
}

#[test]
fn routes_by_hand_carry_packets() {
    carries_packets(&examples()[0]);
}

#[test]
fn a_tunnel_by_hand_carries_packets() {
    carries_packets(&examples()[1]);
}

#[test]
fn every_example_has_a_test() {
    assert_eq!(examples().len(), 2);
}
