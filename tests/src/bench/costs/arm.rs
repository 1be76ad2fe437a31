//! Two hosts with many peers, flows or pods.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Pod as AyaPod;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use flannel_agent::dataplane::pin::Pins;
use flannel_ebpf::abi::{
    FastCounters, FastOutcome, FastPath, Flow, FlowKey, Peer, Remote, map_name,
};
use flannel_ebpf::wire::PROTOCOL_UDP;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::bench::paths::side::{Path, start};
use crate::cluster::Cluster;
use crate::cpu;
use crate::host::{BRIDGE, Host};
use crate::netns::NetNs;
use crate::programs;
use crate::source::{Frames, Ports, SMALL, Source};
use crate::wait;

/// Longer than any bench, nanoseconds.
const LONG_NS: u64 = 3_600_000_000_000;
/// How long packets flow until some flow is admitted.
const ADMITTING: Duration = Duration::from_millis(300);
/// How long agents may take to find all pods.
const LIMIT: Duration = Duration::from_secs(60);

/// Of what there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Many {
    /// Entries of the maps of peers and of senders; traffic is with one of them.
    Peers,
    /// UDP flows between two pods, written into the maps of admitted flows; each packet is of one of
    /// them by chance.
    Flows,
    /// The same, admitted and renewed by their own packets. A flow with a packet a second is always
    /// on the standard path, so the figure says more of packets per flow than of flows.
    RenewedFlows,
    /// Pods on each host; traffic is with one of them.
    Pods,
}

/// Two hosts, and packets from one to the other.
#[derive(Debug)]
pub(super) struct Arm {
    cluster: Cluster,
    // Their devices go with the namespaces.
    _crowds: Vec<NetNs>,
    source: Source,
}

/// What a sample gives.
pub(super) struct Sample {
    pub(super) kpps: f64,
    /// Share of the frames that took the fast path on the host that sends.
    pub(super) fast_share: f64,
}

impl Arm {
    pub(super) fn new(path: Path, many: Many, count: u32) -> Result<Self> {
        let cluster = start("vxlan", path)?;
        let mut crowds = Vec::new();
        let mut flows = 1;
        match many {
            Many::Peers => {
                for agent in &cluster.agents {
                    fill_peers(agent, count)?;
                }
            }
            Many::Flows | Many::RenewedFlows => flows = count,
            Many::Pods => {
                for (host, agent) in cluster.bed.hosts.iter().zip(&cluster.agents) {
                    crowds.push(crowd(host, count - 1)?);
                    if path == Path::Fast {
                        wait_for_pods(agent, count)?;
                    }
                }
            }
        }
        let frames = Frames {
            ports: Ports::Random(flows),
            ..Frames::new(cluster.host(0), SMALL)?
        };
        let source = Source::new(cluster.host(0), cluster.pod(0), cluster.pod(1), frames)?;
        let arm = Self {
            cluster,
            _crowds: crowds,
            source,
        };
        if many == Many::Flows {
            arm.fill_flows(count)?;
        }
        Ok(arm)
    }

    /// Gives the programs `count` admitted flows: those of the source. Agents, which would end the
    /// admissions with the next change that they see, stand still from here on.
    fn fill_flows(&self, count: u32) -> Result<()> {
        let flow = |number| FlowKey {
            source: self.cluster.pod(0).address.octets(),
            destination: self.cluster.pod(1).address.octets(),
            ports: Ports::of(number),
            protocol: PROTOCOL_UDP.into(),
        };
        // Some have been admitted then, and have what the others are to have, too.
        self.source.measure(cpu::count() - 1, ADMITTING)?;
        for agent in &self.cluster.agents {
            agent.signal(Signal::SIGSTOP)?;
            let open = |map| -> Result<_> { Ok(MapData::from_pin(pinned(agent, map)?)?) };
            let table: Array<_, FastPath> = Map::Array(open(map_name::FAST_PATH)?).try_into()?;
            let table = table.get(&0, 0)?;
            let mut flows: Array<_, Flow> = Map::Array(open(map_name::FLOWS)?).try_into()?;
            let known = (0..count).find_map(|number| {
                let known = programs::flow(&flows, &table, &flow(number));
                known.transpose()
            });
            let known = known.context("no flow was admitted")??;
            for number in 0..count {
                let admitted = Flow {
                    key: flow(number),
                    expires: known.expires + LONG_NS,
                    // Its queue has run empty: what is measured is the table, not the first packet
                    // of each flow.
                    queued: 1,
                    dequeued: 1,
                    ..known
                };
                // A few have no room, and are on the standard path.
                programs::set_flow(&mut flows, &table, &admitted)?;
            }
        }
        Ok(())
    }

    /// Injects twice: admissions end while others are measured.
    pub(super) fn measure(&self, core: usize, time: Duration) -> Result<Sample> {
        self.source.measure(core, time)?;
        let sender = &self.cluster.agents[0];
        let before = fast(sender)?;
        let rate = self.source.measure(core, time)?;
        let taken = fast(sender)? - before;
        ensure!(
            rate.arrived * 10 > rate.injected * 9,
            "{} of {} packets arrived",
            rate.arrived,
            rate.injected
        );
        Ok(Sample {
            kpps: rate.kpps,
            // What warms up within the measurement counts, too.
            fast_share: (taken as f64 / rate.injected as f64).min(1.0),
        })
    }
}

/// Packets sent by the fast path, from the map: an agent that stands still does not say.
fn fast(agent: &Agent) -> Result<u64> {
    let map = MapData::from_pin(pinned(agent, map_name::FAST)?)?;
    let map: PerCpuArray<_, FastCounters> = Map::PerCpuArray(map).try_into()?;
    let values = map.get(&0, 0)?;
    let fast = values.iter().map(|cpu| cpu.get(FastOutcome::Sent).packets);
    Ok(fast.sum())
}

/// Gives the programs `count` peers and senders, one of which there is. The agent, which would
/// remove the others, stands still from here on.
fn fill_peers(agent: &Agent, count: u32) -> Result<()> {
    if count == 1 {
        return Ok(());
    }
    agent.signal(Signal::SIGSTOP)?;
    let keys = (0..=u32::from(u16::MAX)).map(|number| Ipv4Addr::from(0x0a00_0000 + (number << 8)));
    fill::<Peer>(agent, map_name::PEERS, count, keys.map(|key| key.octets()))?;
    let addresses = (1..=count).map(|number| Ipv4Addr::from(0xac10_0000 + number).octets());
    fill::<Remote>(agent, map_name::REMOTES, count, addresses)
}

/// Adds copies of the only entry until there are `count`.
fn fill<V: AyaPod>(
    agent: &Agent,
    name: &str,
    count: u32,
    keys: impl Iterator<Item = [u8; 4]>,
) -> Result<()> {
    let map = MapData::from_pin(pinned(agent, name)?).with_context(|| format!("map {name}"))?;
    let mut map: HashMap<_, [u8; 4], V> = Map::HashMap(map).try_into()?;
    let known: Vec<([u8; 4], V)> = map.iter().collect::<Result<_, _>>()?;
    let [(only, value)] = known.as_slice() else {
        bail!("{} entries in {name} instead of one", known.len())
    };
    let others = keys.filter(|key| key != only).take(count as usize - 1);
    for key in others {
        map.insert(key, value, 0)
            .with_context(|| format!("write to {name}"))?;
    }
    Ok(())
}

/// Where a map of an agent is pinned, by a path of this process.
fn pinned(agent: &Agent, name: &str) -> Result<PathBuf> {
    agent.outside(&Pins::new(&agent.places.pins).map(name))
}

/// `count` further pods on a host's bridge, whose ends are all in one namespace.
fn crowd(host: &Host, count: u32) -> Result<NetNs> {
    let ns = NetNs::new(host.ns.mounts())?;
    let first = host.pods.first().context("no pod")?;
    let (mtu, pod) = (first.mtu()?, u32::from(first.address));
    let (mut outside, mut inside) = (String::new(), String::new());
    for number in 1..=count {
        let address = Ipv4Addr::from(pod + number);
        outside += &format!(
            "link add crowd{number} mtu {mtu} type veth peer name eth{number} mtu {mtu} netns {}\n\
             link set crowd{number} master {BRIDGE} up\n",
            ns.path()
        );
        inside += &format!("addr add {address}/32 dev eth{number}\nlink set eth{number} up\n");
    }
    host.ns.ip(&outside)?;
    ns.ip(&inside)?;
    Ok(ns)
}

fn wait_for_pods(agent: &Agent, count: u32) -> Result<()> {
    wait::until(&format!("{count} pods"), LIMIT, || {
        let fast = agent.status()?.fast_path;
        ensure!(fast.pods == count as usize, "{} pods", fast.pods);
        Ok(Some(()))
    })
}

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Peers => "peers",
            Self::Flows => "flows",
            Self::RenewedFlows => "flows, renewed",
            Self::Pods => "pods",
        })
    }
}
