//! The data paths that are compared, and how two hosts get each.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, Datapath};
use crate::bed::BedOptions;
use crate::cluster::{self, Cluster};
use crate::measure::probe::Ends;
use crate::traffic::ping;
use crate::udp::Pair;
use crate::udp::reference::Reference;
use crate::wait;
use crate::wire::Wire;

/// How long an agent may take to find the pods.
const LIMIT: Duration = Duration::from_secs(20);

/// A data path.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    clap::ValueEnum,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// From host to host: no pods, no overlay.
    Host,
    /// The kernel's vxlan device.
    VxlanKernel,
    /// vxlan in eBPF, through routing and netfilter.
    VxlanEbpf,
    /// vxlan in eBPF, around both.
    VxlanFast,
    /// The kernel's routes.
    HostGwKernel,
    /// The same, with the packets of each peer counted in eBPF.
    HostGwEbpf,
    /// Around routing and netfilter.
    HostGwFast,
    /// The agent's TUN proxy.
    UdpKernel,
    /// udp in eBPF.
    UdpEbpf,
    /// A proxy that moves one packet per system call, as flannel's.
    UdpLoop,
}

/// How two hosts get a data path.
enum Recipe {
    /// They have one.
    Wire,
    /// A proxy of the harness.
    Loop,
    /// An agent on each.
    Agents {
        /// `Type` of the network configuration.
        backend: &'static str,
        path: Path,
    },
}

/// How an agent is to carry packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Kernel,
    Standard,
    Fast,
}

impl Kind {
    /// All of them, in the order of the rows.
    pub const ALL: [Self; 10] = [
        Self::Host,
        Self::VxlanKernel,
        Self::VxlanEbpf,
        Self::VxlanFast,
        Self::HostGwKernel,
        Self::HostGwEbpf,
        Self::HostGwFast,
        Self::UdpKernel,
        Self::UdpEbpf,
        Self::UdpLoop,
    ];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host to host",
            Self::VxlanKernel => "vxlan kernel",
            Self::VxlanEbpf => "vxlan eBPF",
            Self::VxlanFast => "vxlan fast",
            Self::HostGwKernel => "host-gw kernel",
            Self::HostGwEbpf => "host-gw eBPF",
            Self::HostGwFast => "host-gw fast",
            Self::UdpKernel => "udp proxy",
            Self::UdpEbpf => "udp eBPF",
            Self::UdpLoop => "udp loop",
        }
    }

    /// Whether a process moves the packets, wherever the scheduler puts it, and not the core that
    /// injects them.
    #[must_use]
    pub fn is_proxy(self) -> bool {
        matches!(self, Self::UdpKernel | Self::UdpLoop)
    }

    fn recipe(self) -> Recipe {
        let agents = |backend, path| Recipe::Agents { backend, path };
        match self {
            Self::Host => Recipe::Wire,
            Self::VxlanKernel => agents("vxlan", Path::Kernel),
            Self::VxlanEbpf => agents("vxlan", Path::Standard),
            Self::VxlanFast => agents("vxlan", Path::Fast),
            Self::HostGwKernel => agents("host-gw", Path::Kernel),
            Self::HostGwEbpf => agents("host-gw", Path::Standard),
            Self::HostGwFast => agents("host-gw", Path::Fast),
            Self::UdpKernel => agents("udp", Path::Kernel),
            Self::UdpEbpf => agents("udp", Path::Standard),
            Self::UdpLoop => Recipe::Loop,
        }
    }
}

impl Path {
    fn datapath(self) -> Datapath {
        match self {
            Self::Kernel => Datapath::Kernel,
            Self::Standard | Self::Fast => Datapath::Ebpf,
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Kernel | Self::Standard => &["--fast-path=off"],
            Self::Fast => &["--fast-path=auto"],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Two hosts with a data path, ready to be measured.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) kind: Kind,
    pub(super) ends: Ends,
    place: Place,
}

/// What holds the hosts, and what runs on them.
#[derive(Debug)]
enum Place {
    Cluster(Cluster),
    Pair {
        // First, so that they end before their hosts.
        _proxies: Vec<Reference>,
        hosts: Pair,
    },
}

impl Side {
    /// Builds it, and sees that it carries packets.
    pub(super) fn new(kind: Kind) -> Result<Self> {
        let (place, ends) = match kind.recipe() {
            Recipe::Wire => {
                let hosts = Pair::new(Wire::Mtu1500)?;
                let ends = Ends::of_hosts(&hosts.hosts)?;
                let _proxies = Vec::new();
                (Place::Pair { _proxies, hosts }, ends)
            }
            Recipe::Loop => {
                let hosts = Pair::new(Wire::Mtu1500)?;
                let [a, b] = &hosts.hosts;
                let _proxies = vec![Reference::start(a, 0, b)?, Reference::start(b, 1, a)?];
                let ends = Ends::of_pods(&hosts.hosts)?;
                (Place::Pair { _proxies, hosts }, ends)
            }
            Recipe::Agents { backend, path } => {
                let config = cluster::config(&format!(r#"{{"Type":"{backend}"}}"#));
                let datapaths = [path.datapath(); 2];
                let bed = BedOptions::default();
                let cluster = Cluster::with_flags(&config, bed, &datapaths, path.flags())?;
                for agent in &cluster.agents {
                    wait_for_path(agent, path)?;
                }
                let ends = Ends::of_pods(&cluster.bed.hosts)?;
                (Place::Cluster(cluster), ends)
            }
        };
        let side = Self { kind, ends, place };
        side.check()?;
        Ok(side)
    }

    /// Changes how the wire treats large packets.
    pub(super) fn set_wire(&self, wire: Wire) -> Result<()> {
        match &self.place {
            Place::Cluster(cluster) => cluster.bed.set_wire(wire),
            Place::Pair { hosts, .. } => hosts.set_wire(wire),
        }
    }

    /// Its agents.
    pub(super) fn agents(&self) -> &[Agent] {
        match &self.place {
            Place::Cluster(cluster) => &cluster.agents,
            Place::Pair { .. } => &[],
        }
    }

    /// Warms up, and sees that there is something to measure.
    fn check(&self) -> Result<()> {
        let answer = self.ends.ping(ping::Options::default())?;
        ensure!(answer.received > 0, "no echo reply:\n{}", answer.text);
        Ok(())
    }
}

/// A figure of one data path under the name of another would be worse than none.
fn wait_for_path(agent: &Agent, path: Path) -> Result<()> {
    let asked = path.datapath().to_string();
    wait::until(&format!("the {path:?} path"), LIMIT, || {
        let status = agent.status().context("status")?;
        let (active, fast) = (&status.datapath.active, &status.fast_path);
        ensure!(
            *active == asked,
            "--datapath={asked}, but {active} is in use"
        );
        let is_fast = fast.active && fast.pods > 0;
        ensure!(is_fast == (path == Path::Fast), "fast path: {fast:?}");
        Ok(Some(()))
    })
}
