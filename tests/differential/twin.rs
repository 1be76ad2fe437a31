//! One of two nodes that differ in the path of their packets alone: an agent on a host with two pods, and
//! packet sockets where packets go in and come out.
//!
//! Nothing around the node answers by itself or by a timer: the far end of the wire and the pods
//! have no IP, every neighbour is permanent, everything has a route, rates of ICMP are not limited,
//! and fragments wait longer than any run takes.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_agent::status::Counter;
use flannel_tests::agent::{Agent, Datapath};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::host::{BRIDGE, SubnetEnv};
use flannel_tests::wait;
use flannel_tests::wire::Wire;

use crate::backend::{Backend, colons, dots};
use crate::socket::Port;
use crate::world::{self, PEERS, Peer};

/// MTU of pods: larger than the overlay takes, so that the host has to answer or to fragment.
const POD_MTU: u32 = 1500;
/// How long an agent may take to program its peers.
const LIMIT: Duration = Duration::from_secs(20);

/// The way that a node's packets take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// The kernel's devices, or flannel's process.
    Kernel,
    /// eBPF, behind routing and netfilter.
    Standard,
    /// eBPF, around routing and netfilter where flows are admitted.
    Fast,
}

impl Path {
    const fn datapath(self) -> Datapath {
        match self {
            Self::Kernel => Datapath::Kernel,
            Self::Standard | Self::Fast => Datapath::Ebpf,
        }
    }

    /// Flags of an agent whose flows stay admitted for as long as they may.
    fn flags(self) -> Vec<String> {
        let flags: &[&str] = match self {
            Self::Kernel | Self::Standard => &["--fast-path=off"],
            Self::Fast => &["--fast-path=auto", "--fast-path-bound=10000"],
        };
        flags.iter().map(|&flag| flag.to_owned()).collect()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel",
            Self::Standard => "standard",
            Self::Fast => "fast",
        })
    }
}

/// Where packets go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// A pod sends: bridge, routing and netfilter come first.
    Pod,
    /// Straight to the tunnel device, as a raw socket on the host may.
    Device,
    /// The far end of the wire sends.
    Wire,
    /// A peer's own tunnel device sends: the only way to have aggregates in a tunnel.
    Peer,
    /// A tunnel device in a pod sends: a tunnel in the tunnel.
    Nested,
}

/// Where packets are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The far end of the wire.
    Wire,
    /// The tunnel device; what it receives.
    Device,
    /// The pod under test.
    Pod,
    /// The other pod.
    OtherPod,
}

impl Exit {
    pub(crate) const ALL: [Self; 4] = [Self::Wire, Self::Device, Self::Pod, Self::OtherPod];
}

/// A node and all around it.
pub(crate) struct Twin {
    pub path: Path,
    /// First, so that it ends before what it uses.
    agent: Agent,
    bed: Bed,
    exits: [Port; 4],
    entrance: Option<Port>,
}

impl Twin {
    /// A node of `backend`, with all peers programmed. Packets go in on `core`.
    pub(crate) fn new(backend: &Backend, path: Path, core: usize) -> Result<Self> {
        let mut bed = Bed::new(BedOptions::default())?;
        backend.put_leases(&bed)?;
        settle_underlay(&bed)?;
        bed.hosts[0].ns.ip(&(backend.prepare)())?;
        let mut agent = Agent::new(&bed.hosts[0], path.datapath())?;
        agent.flags = path.flags();
        // A proxy has a queue for each core that it may use; packets keep their order in one.
        agent.core = backend.is_proxied.then_some(core);
        agent.start()?;
        let SubnetEnv { bridge, mtu: _ } = agent.wait_for_subnet()?;
        ensure!(
            bridge.ip().octets() == world::BRIDGE,
            "the agent leased another subnet: {bridge}"
        );
        for _ in 0..2 {
            bed.hosts[0].add_pod(&SubnetEnv {
                bridge,
                mtu: POD_MTU,
            })?;
        }
        settle_pods(&bed)?;
        wait_for_peers(&agent, backend)?;
        if path == Path::Fast {
            wait_for_pods(&agent, bed.hosts[0].pods.len())?;
        }
        let [host, far] = [&bed.hosts[0], &bed.hosts[1]];
        let exits = [
            far.ns.enter(|| Port::open("eth0"))??,
            host.ns.enter(|| Port::open(backend.device))??,
            host.pods[0].ns.enter(|| Port::open("eth0"))??,
            host.pods[1].ns.enter(|| Port::open("eth0"))??,
        ];
        Ok(Self {
            path,
            agent,
            bed,
            exits,
            entrance: None,
        })
    }

    /// Sets how the wire treats aggregates, and whether the node checks where sources are routed.
    pub(crate) fn configure(&self, backend: &Backend, wire: Wire, rp_filter: bool) -> Result<()> {
        self.bed.set_wire(wire)?;
        let [ns, far] = [&self.bed.hosts[0].ns, &self.bed.hosts[1].ns];
        // Merging depends on when a packet comes, and on which way; aggregates are sent as such
        // instead.
        for (ns, device) in [(ns, "eth0"), (ns, backend.device), (far, "eth0")] {
            ns.run("ethtool", &["-K", device, "gro", "off"])?;
        }
        if backend.is_proxied {
            // The proxy merges, too; pods get single packets.
            for pod in &self.bed.hosts[0].pods {
                Wire::Mtu1500.apply(ns, &pod.veth)?;
            }
        }
        let value = if rp_filter { "1" } else { "0" };
        for scope in ["all", "default", "eth0", BRIDGE, backend.device] {
            ns.sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), value)?;
        }
        Ok(())
    }

    /// Prepares the place where packets go in.
    pub(crate) fn open(&mut self, entrance: Entrance) -> Result<()> {
        let [host, far] = [&self.bed.hosts[0], &self.bed.hosts[1]];
        let Peer { vtep, public, .. } = &PEERS[0];
        self.entrance = match entrance {
            Entrance::Pod | Entrance::Device | Entrance::Wire => None,
            Entrance::Peer => {
                far.ns.ip(&format!(
                    "addr add {public}/24 dev eth0\n\
                     neigh replace {node} lladdr {node_mac} dev eth0 nud permanent\n\
                     link add flannel.1 address {vtep} mtu 1450 type vxlan id 1 dev eth0 \
                     local {public} dstport 8472 nolearning\n\
                     link set flannel.1 arp off\n\
                     link set flannel.1 up",
                    public = dots(*public),
                    node = dots(world::NODE),
                    node_mac = colons(world::NODE_MAC),
                    vtep = colons(*vtep)
                ))?;
                let (mac, node) = (colons(world::VTEP_MAC), dots(world::NODE));
                let entry = ["fdb", "replace", &mac, "dev", "flannel.1", "dst", &node];
                far.ns.run("bridge", &[&entry[..], &["self"]].concat())?;
                Some(far.ns.enter(|| Port::open("flannel.1"))??)
            }
            Entrance::Nested => {
                let pod = &host.pods[0].ns;
                pod.ip(&format!(
                    "addr add {}/24 dev eth0\n\
                     neigh replace {bridge} lladdr {bridge_mac} dev eth0 nud permanent\n\
                     route replace default via {bridge}\n\
                     link add inner0 address {mac} mtu 1400 type vxlan id 7 dev eth0 \
                     remote 10.5.1.9 dstport 4789 nolearning noudpcsum\n\
                     link set inner0 arp off\n\
                     link set inner0 up",
                    dots(world::POD),
                    bridge = dots(world::BRIDGE),
                    bridge_mac = colons(world::BRIDGE_MAC),
                    mac = colons([0x5e, 0, 0, 0, 7, 7])
                ))?;
                Some(pod.enter(|| Port::open("inner0"))??)
            }
        };
        Ok(())
    }

    /// The socket that puts packets in at `entrance`, which is open.
    pub(crate) fn entrance(&self, entrance: Entrance) -> Result<&Port> {
        match entrance {
            Entrance::Wire => Ok(self.exit(Exit::Wire)),
            Entrance::Device => Ok(self.exit(Exit::Device)),
            Entrance::Pod => Ok(self.exit(Exit::Pod)),
            Entrance::Peer | Entrance::Nested => {
                self.entrance.as_ref().context("the entrance is not open")
            }
        }
    }

    /// The socket that sees packets at `exit`.
    pub(crate) fn exit(&self, exit: Exit) -> &Port {
        &self.exits[exit as usize]
    }

    /// What became of packets in the programs; empty on the kernel path.
    pub(crate) fn counters(&self) -> Result<Vec<Counter>> {
        Ok(self.agent.status()?.datapath.counters)
    }
}

/// Fixed addresses, and no answers but those of the node.
fn settle_underlay(bed: &Bed) -> Result<()> {
    let [node, far] = [&bed.hosts[0], &bed.hosts[1]];
    far.ns.sysctl("net/ipv4/ip_forward", "0")?;
    far.ns.ip(&format!(
        "addr flush dev eth0\n\
         link set eth0 arp off\n\
         link set eth0 address {}",
        colons(world::station(11))
    ))?;
    let mut lines = format!("link set eth0 address {}\n", colons(world::NODE_MAC));
    for last in (0..=254).filter(|last| *last != world::NODE[3]) {
        lines += &format!(
            "neigh replace 192.168.7.{last} lladdr {} dev eth0 nud permanent\n",
            colons(world::station(last))
        );
    }
    for Peer { public, route, .. } in PEERS.iter().filter(|peer| !peer.route.is_empty()) {
        lines += &format!("route add {}/32 {route}\n", dots(*public));
    }
    // Errors of routing are rare by a clock; so nothing is unroutable.
    lines += &format!("route add default via 192.168.7.{}\n", world::ROUTER);
    node.ns.ip(&lines)?;
    // Redirects, too, are rare by a clock.
    for scope in ["all", "default", "eth0"] {
        node.ns
            .sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
    }
    for (name, value) in [
        // The bridge would report its groups some random time later.
        ("igmp_link_local_mcast_reports", "0"),
        ("icmp_ratelimit", "0"),
        ("icmp_ratemask", "0"),
        ("ipfrag_time", "3600"),
        ("ipfrag_high_thresh", "1073741824"),
        ("ipfrag_low_thresh", "1073741824"),
        ("ipfrag_max_dist", "0"),
    ] {
        node.ns.sysctl(&format!("net/ipv4/{name}"), value)?;
    }
    Ok(())
}

/// Fixed addresses, and pods that only receive.
fn settle_pods(bed: &Bed) -> Result<()> {
    let host = &bed.hosts[0];
    let mut lines = format!(
        "link set {BRIDGE} address {} type bridge mcast_snooping 0\n",
        colons(world::BRIDGE_MAC)
    );
    for last in (0..=254).filter(|last| *last != world::BRIDGE[3]) {
        lines += &format!(
            "neigh replace 10.5.5.{last} lladdr {} dev {BRIDGE} nud permanent\n",
            colons([2, 0, 0, 0, 5, last])
        );
    }
    host.ns.ip(&lines)?;
    for (pod, mac) in host.pods.iter().zip([world::POD_MAC, world::OTHER_POD_MAC]) {
        pod.ns.ip(&format!(
            "addr flush dev eth0\n\
             link set eth0 arp off\n\
             link set eth0 address {}",
            colons(mac)
        ))?;
    }
    // A port of a new bridge forwards once its carrier is up.
    wait::until("the ports of the bridge", LIMIT, || {
        let shown = host.ns.run("bridge", &["link", "show"])?;
        Ok((shown.matches("state forwarding").count() == host.pods.len()).then_some(()))
    })?;
    // The bridge need not learn, and to that end send everywhere, what it is told. A pod that claims
    // another's address gets its frames, as on any bridge; but not sentinels.
    let macs = [world::POD_MAC, world::OTHER_POD_MAC].map(colons);
    let kinds = [&["static"][..], &["static", "sticky"]];
    for ((pod, mac), kind) in host.pods.iter().zip(&macs).zip(kinds) {
        let entry = ["fdb", "replace", mac, "dev", &pod.veth, "master"];
        host.ns.run("bridge", &[&entry[..], kind].concat())?;
    }
    Ok(())
}

fn wait_for_peers(agent: &Agent, backend: &Backend) -> Result<()> {
    let total = PEERS.iter().filter(|peer| backend.can_reach(peer)).count();
    wait::until("all peers", LIMIT, || {
        let status = agent.status()?;
        let carried = if status.datapath.active == "ebpf" {
            backend.carried
        } else {
            0
        };
        let peers = &status.peers;
        ensure!(
            status.ready && peers.total == total && peers.ebpf == carried,
            "{peers:?}, {:?}",
            status.problems
        );
        Ok(Some(()))
    })
    .with_context(|| agent.log_tail())
}

fn wait_for_pods(agent: &Agent, pods: usize) -> Result<()> {
    wait::until("all pods on the fast path", LIMIT, || {
        let status = agent.status()?.fast_path;
        ensure!(status.active && status.pods == pods, "{status:?}");
        Ok(Some(()))
    })
    .with_context(|| agent.log_tail())
}
