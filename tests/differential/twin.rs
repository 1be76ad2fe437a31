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
use flannel_tests::host::{BRIDGE, Host, SubnetEnv};
use flannel_tests::netns::NetNs;
use flannel_tests::wait;
use flannel_tests::wire::Wire;

use crate::backend::{Backend, colons, dots};
use crate::lane::Lane;
use crate::socket::Port;
use crate::world::{self, PEERS, Peer, SUBNET, VTEP_MAC};

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
    /// The pod of a real peer sends.
    FarPod,
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
    /// The pod of a real peer, if there is one.
    FarPod,
}

impl Exit {
    pub(crate) const ALL: [Self; 5] = [
        Self::Wire,
        Self::Device,
        Self::Pod,
        Self::OtherPod,
        Self::FarPod,
    ];
}

/// A node and all around it.
pub(crate) struct Twin {
    pub path: Path,
    /// First, so that it ends before what it uses.
    agent: Agent,
    bed: Bed,
    /// By [`Exit`]; without the last one, if the peers are but addresses.
    exits: Vec<Port>,
    /// The first peer's agent, if that is a real node.
    far: Option<Agent>,
    entrance: Option<Port>,
}

impl Twin {
    /// A node for a lane, with all peers programmed.
    pub(crate) fn new(lane: &Lane, path: Path) -> Result<Self> {
        let Lane {
            backend,
            has_real_peer,
            ..
        } = lane;
        let mut bed = Bed::new(BedOptions::default())?;
        backend.put_leases(&bed)?;
        settle_underlay(&bed)?;
        let agent = start(&mut bed.hosts[0], lane, path, SUBNET, VTEP_MAC, 2)?;
        let far = if *has_real_peer {
            let Peer {
                subnet,
                vtep,
                public,
                ..
            } = PEERS[0];
            bed.hosts[1]
                .ns
                .ip(&format!("addr add {}/24 dev eth0", dots(public)))?;
            settle_host(&bed.hosts[1].ns, public, world::station(public[3]))?;
            Some(start(&mut bed.hosts[1], lane, path, subnet, vtep, 1)?)
        } else {
            None
        };
        for (agent, host) in [Some(&agent), far.as_ref()].into_iter().zip(&bed.hosts) {
            let Some(agent) = agent else { continue };
            wait_for_peers(agent, backend)?;
            if path == Path::Fast {
                wait_for_pods(agent, host.pods.len())?;
            }
        }
        let [host, other] = [&bed.hosts[0], &bed.hosts[1]];
        let mut exits = vec![
            other.ns.enter(|| Port::open("eth0"))??,
            host.ns.enter(|| Port::open(backend.device))??,
            host.pods[0].ns.enter(|| Port::open("eth0"))??,
            host.pods[1].ns.enter(|| Port::open("eth0"))??,
        ];
        if let Some(pod) = other.pods.first() {
            exits.push(pod.ns.enter(|| Port::open("eth0"))??);
        }
        Ok(Self {
            path,
            agent,
            bed,
            exits,
            far,
            entrance: None,
        })
    }

    /// Sets how the wire treats aggregates, and whether the node checks where sources are routed.
    pub(crate) fn configure(&self, backend: &Backend, wire: Wire, rp_filter: bool) -> Result<()> {
        self.bed.set_wire(wire)?;
        let [ns, far] = [&self.bed.hosts[0].ns, &self.bed.hosts[1].ns];
        // Merging depends on when a packet comes, and on which way; aggregates are sent as such
        // instead.
        let mut devices = vec![(ns, "eth0"), (ns, backend.device), (far, "eth0")];
        if self.far.is_some() {
            devices.push((far, backend.device));
        }
        for (ns, device) in devices {
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
            Entrance::Pod | Entrance::Device | Entrance::Wire | Entrance::FarPod => None,
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
                let (mac, node) = (colons(VTEP_MAC), dots(world::NODE));
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
            Entrance::FarPod => Ok(self.exit(Exit::FarPod)),
            Entrance::Peer | Entrance::Nested => {
                self.entrance.as_ref().context("the entrance is not open")
            }
        }
    }

    /// The socket that sees packets at `exit`, which is there.
    pub(crate) fn exit(&self, exit: Exit) -> &Port {
        &self.exits[exit as usize]
    }

    /// The exits that are there.
    pub(crate) fn exits(&self) -> &'static [Exit] {
        &Exit::ALL[..self.exits.len()]
    }

    /// What became of packets in the programs, of a real peer too; empty on the kernel path.
    pub(crate) fn counters(&self) -> Result<Vec<Counter>> {
        let mut counters = self.agent.status()?.datapath.counters;
        if let Some(far) = &self.far {
            for (counter, more) in counters.iter_mut().zip(far.status()?.datapath.counters) {
                counter.packets += more.packets;
            }
        }
        Ok(counters)
    }
}

/// Starts the agent of a host that has a lease, and gives the host its pods.
fn start(
    host: &mut Host,
    lane: &Lane,
    path: Path,
    subnet: [u8; 4],
    vtep: [u8; 6],
    pods: usize,
) -> Result<Agent> {
    let Lane { backend, .. } = lane;
    let public = match subnet {
        SUBNET => world::NODE,
        _ => PEERS[0].public,
    };
    host.ns.ip(&(backend.prepare)(vtep, public))?;
    let mut agent = Agent::new(host, path.datapath())?;
    agent.flags = path.flags();
    // A proxy has a queue for each core that it may use; packets keep their order in one.
    agent.core = backend.is_proxied.then_some(lane.core());
    agent.start()?;
    let SubnetEnv { bridge, mtu: _ } = agent.wait_for_subnet()?;
    ensure!(
        bridge.ip().octets()[..3] == subnet[..3],
        "the agent leased another subnet: {bridge}"
    );
    for _ in 0..pods {
        host.add_pod(&SubnetEnv {
            bridge,
            mtu: POD_MTU,
        })?;
    }
    settle_pods(host, subnet)?;
    Ok(agent)
}

/// Fixed addresses, and no answers but those of the node.
fn settle_underlay(bed: &Bed) -> Result<()> {
    let [node, far] = [&bed.hosts[0].ns, &bed.hosts[1].ns];
    far.sysctl("net/ipv4/ip_forward", "0")?;
    far.ip(&format!(
        "addr flush dev eth0\n\
         link set eth0 arp off\n\
         link set eth0 address {}",
        colons(world::station(11))
    ))?;
    settle_host(node, world::NODE, world::NODE_MAC)
}

/// All that a node knows of the underlay.
fn settle_host(ns: &NetNs, own: [u8; 4], mac: [u8; 6]) -> Result<()> {
    let mut lines = format!("link set eth0 address {}\n", colons(mac));
    for last in (0..=254).filter(|last| *last != own[3]) {
        let station = match last {
            _ if last == world::NODE[3] => world::NODE_MAC,
            _ => world::station(last),
        };
        lines += &format!(
            "neigh replace 192.168.7.{last} lladdr {} dev eth0 nud permanent\n",
            colons(station)
        );
    }
    for Peer { public, route, .. } in PEERS.iter().filter(|peer| !peer.route.is_empty()) {
        lines += &format!("route add {}/32 {route}\n", dots(*public));
    }
    // Errors of routing are rare by a clock; so nothing is unroutable.
    lines += &format!("route add default via 192.168.7.{}\n", world::ROUTER);
    ns.ip(&lines)?;
    ns.sysctl("net/ipv4/ip_forward", "1")?;
    // Redirects, too, are rare by a clock.
    for scope in ["all", "default", "eth0"] {
        ns.sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
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
        ns.sysctl(&format!("net/ipv4/{name}"), value)?;
    }
    Ok(())
}

/// Fixed addresses, and pods that only receive.
fn settle_pods(host: &Host, [a, b, c, _]: [u8; 4]) -> Result<()> {
    let mac = |last| colons(world::in_subnet(c, last));
    let mut lines = format!(
        "link set {BRIDGE} address {} type bridge mcast_snooping 0\n",
        mac(world::BRIDGE[3])
    );
    for last in (0..=254).filter(|last| *last != world::BRIDGE[3]) {
        lines += &format!(
            "neigh replace {a}.{b}.{c}.{last} lladdr {} dev {BRIDGE} nud permanent\n",
            mac(last)
        );
    }
    host.ns.ip(&lines)?;
    for pod in &host.pods {
        pod.ns.ip(&format!(
            "addr flush dev eth0\n\
             link set eth0 arp off\n\
             link set eth0 address {}",
            mac(pod.address.octets()[3])
        ))?;
    }
    // A port of a new bridge forwards once its carrier is up.
    wait::until("the ports of the bridge", LIMIT, || {
        let shown = host.ns.run("bridge", &["link", "show"])?;
        Ok((shown.matches("state forwarding").count() == host.pods.len()).then_some(()))
    })?;
    // The bridge need not learn, and to that end send everywhere, what it is told. A pod that claims
    // another's address gets its frames, as on any bridge; but not sentinels.
    let kinds = [&["static"][..], &["static", "sticky"]];
    for (pod, kind) in host.pods.iter().zip(kinds) {
        let mac = mac(pod.address.octets()[3]);
        let entry = ["fdb", "replace", &mac, "dev", &pod.veth, "master"];
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
