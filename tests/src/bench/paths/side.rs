//! How two hosts get a data path.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::bare::Bare;
use super::flowtable;
use super::kind::{Choice, Kind};
use super::peer::Peers;
use crate::agent::{Agent, Datapath};
use crate::bed::BedOptions;
use crate::cluster::{self, Cluster};
use crate::measure::counters;
use crate::measure::probe::Ends;
use crate::traffic::ping;
use crate::udp::Pair;
use crate::udp::reference::Reference;
use crate::wait;
use crate::wire::Wire;

/// How long an agent may take to find the pods.
const LIMIT: Duration = Duration::from_secs(20);
/// How long to look at what a data path is said to carry.
const LOOK: Duration = Duration::from_millis(50);

/// A data path that this kernel or this build does not have; the text says what is missing.
#[derive(Debug)]
pub(super) struct Unavailable(pub(super) String);

/// How an agent is to carry packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) enum Path {
    Kernel,
    Standard,
    Fast,
    /// The fast path behind XDP.
    Xdp,
}

/// Two hosts with a data path, ready to be measured.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) choice: Choice,
    pub(super) ends: Ends,
    place: Place,
}

/// What holds the hosts, and what runs on them.
#[derive(Debug)]
enum Place {
    Cluster(Cluster),
    Peers(Peers),
    Bare(Bare),
    Pair {
        // First, so that they end before their hosts.
        _proxies: Vec<Reference>,
        hosts: Pair,
    },
}

impl Side {
    /// Builds it, and sees that it carries packets.
    pub(super) fn new(choice: Choice) -> Result<Self> {
        let (place, ends) = match &choice {
            Choice::Own(kind) => build(*kind)?,
            Choice::Peer(subject, backend) => {
                let peers = Peers::new(subject, *backend)?;
                let ends = Ends::of_pods(&peers.bed.hosts)?;
                (Place::Peers(peers), ends)
            }
        };
        let side = Self {
            choice,
            ends,
            place,
        };
        let answer = side.ends.ping(ping::Options::default())?;
        ensure!(answer.received > 0, "no echo reply:\n{}", answer.text);
        side.check()?;
        Ok(side)
    }

    /// Changes how the wire treats large packets.
    pub(super) fn set_wire(&self, wire: Wire) -> Result<()> {
        match &self.place {
            Place::Cluster(cluster) => cluster.bed.set_wire(wire),
            Place::Peers(peers) => peers.bed.set_wire(wire),
            Place::Bare(bare) => bare.hosts.set_wire(wire),
            Place::Pair { hosts, .. } => hosts.set_wire(wire),
        }
    }

    /// Its agents.
    pub(super) fn agents(&self) -> &[Agent] {
        match &self.place {
            Place::Cluster(cluster) => &cluster.agents,
            Place::Peers(_) | Place::Bare(_) | Place::Pair { .. } => &[],
        }
    }

    /// A figure of one data path under the name of another would be worse than none.
    fn check(&self) -> Result<()> {
        let Place::Cluster(cluster) = &self.place else {
            return Ok(());
        };
        match &self.choice {
            Choice::Own(
                Kind::VxlanFast | Kind::VxlanXdp | Kind::HostGwFast | Kind::UdpFast | Kind::UdpXdp,
            ) => {
                let before = fast(&cluster.agents)?;
                self.ends.small_packets(LOOK)?;
                if fast(&cluster.agents)? == before {
                    let reasons = cluster.agents[0].status()?.fast_path.reasons;
                    bail!(Unavailable(format!("no packet took it: {reasons:?}")));
                }
            }
            Choice::Own(Kind::HostGwFlowtable) => {
                let host = cluster.host(0);
                // The first packets make the flow.
                self.ends.small_packets(LOOK)?;
                let before = flowtable::forwarded(host)?;
                let rate = self.ends.small_packets(LOOK)?;
                let forwarded = flowtable::forwarded(host)? - before;
                if forwarded * 2 > rate.injected {
                    let all = rate.injected;
                    bail!(Unavailable(format!(
                        "{forwarded} of {all} packets went past the flow table"
                    )));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn build(kind: Kind) -> Result<(Place, Ends)> {
    let agents = |backend, path| {
        let cluster = start(backend, path)?;
        let ends = Ends::of_pods(&cluster.bed.hosts)?;
        Ok((Place::Cluster(cluster), ends))
    };
    match kind {
        Kind::Host => {
            let hosts = Pair::new(Wire::Mtu1500)?;
            let ends = Ends::of_hosts(&hosts.hosts)?;
            let _proxies = Vec::new();
            Ok((Place::Pair { _proxies, hosts }, ends))
        }
        Kind::Bare => {
            let (bare, ends) = Bare::new()?;
            Ok((Place::Bare(bare), ends))
        }
        Kind::UdpLoop => {
            let hosts = Pair::new(Wire::Mtu1500)?;
            let [a, b] = &hosts.hosts;
            let _proxies = vec![Reference::start(a, 0, b)?, Reference::start(b, 1, a)?];
            let ends = Ends::of_pods(&hosts.hosts)?;
            Ok((Place::Pair { _proxies, hosts }, ends))
        }
        Kind::HostGwFlowtable => {
            let cluster = start("host-gw", Path::Kernel)?;
            cluster.bed.hosts.iter().try_for_each(flowtable::set_up)?;
            let ends = Ends::of_pods(&cluster.bed.hosts)?;
            Ok((Place::Cluster(cluster), ends))
        }
        Kind::VxlanKernel => agents("vxlan", Path::Kernel),
        Kind::VxlanEbpf => agents("vxlan", Path::Standard),
        Kind::VxlanFast => agents("vxlan", Path::Fast),
        Kind::VxlanXdp => agents("vxlan", Path::Xdp),
        Kind::HostGwKernel => agents("host-gw", Path::Kernel),
        Kind::HostGwEbpf => agents("host-gw", Path::Standard),
        Kind::HostGwFast => agents("host-gw", Path::Fast),
        Kind::UdpKernel => agents("udp", Path::Kernel),
        Kind::UdpEbpf => agents("udp", Path::Standard),
        Kind::UdpFast => agents("udp", Path::Fast),
        Kind::UdpXdp => agents("udp", Path::Xdp),
    }
}

/// Two hosts with an agent on each, and the data path in use.
pub(in crate::bench) fn start(backend: &str, path: Path) -> Result<Cluster> {
    let config = cluster::config(&format!(r#"{{"Type":"{backend}"}}"#));
    let datapath = match path {
        Path::Kernel => Datapath::Kernel,
        Path::Standard | Path::Fast | Path::Xdp => Datapath::Ebpf,
    };
    let flags: &[&str] = match path {
        Path::Kernel | Path::Standard => &["--fast-path=off"],
        Path::Fast => &["--fast-path=auto"],
        Path::Xdp => &["--fast-path=auto", "--xdp=native"],
    };
    let cluster = Cluster::with_flags(&config, BedOptions::default(), &[datapath; 2], flags)?;
    for agent in &cluster.agents {
        wait_for_path(agent, &datapath.to_string(), path)?;
    }
    Ok(cluster)
}

fn wait_for_path(agent: &Agent, asked: &str, path: Path) -> Result<()> {
    wait::until(&format!("the {path:?} path"), LIMIT, || {
        let status = agent.status().context("status")?;
        let (active, fast) = (&status.datapath.active, &status.fast_path);
        ensure!(
            *active == asked,
            "--datapath={asked}, but {active} is in use"
        );
        let is_fast = fast.active && fast.pods > 0;
        let is_wanted = matches!(path, Path::Fast | Path::Xdp);
        ensure!(is_fast == is_wanted, "fast path: {fast:?}");
        let xdp = &status.datapath.xdp;
        let has_xdp = xdp.as_ref().is_some_and(|xdp| xdp.active);
        ensure!(has_xdp == (path == Path::Xdp), "XDP: {xdp:?}");
        Ok(Some(()))
    })
}

/// Packets that took the fast path.
fn fast(agents: &[Agent]) -> Result<u64> {
    let counters = counters(agents)?;
    let fast = counters.iter().filter(|counter| counter.outcome == "fast");
    Ok(fast.map(|counter| counter.packets).sum())
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kernel => "kernel path",
            Self::Standard => "standard path",
            Self::Fast => "fast path",
            Self::Xdp => "fast path behind XDP",
        })
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}
