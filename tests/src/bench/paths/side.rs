//! The data paths that are compared, and how two hosts get each.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::agent::{Agent, Datapath};
use crate::bed::BedOptions;
use crate::cluster::{self, Cluster};
use crate::measure::probe::Ends;
use crate::traffic::ping;
use crate::udp::Pair;
use crate::udp::reference::Reference;
use crate::wire::Wire;

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
    /// vxlan in eBPF.
    VxlanEbpf,
    /// The kernel's routes.
    HostGwKernel,
    /// The same, with the packets of each peer counted in eBPF.
    HostGwEbpf,
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
        datapath: Datapath,
        flags: &'static [&'static str],
    },
}

impl Kind {
    /// All of them, in the order of the rows.
    pub const ALL: [Self; 8] = [
        Self::Host,
        Self::VxlanKernel,
        Self::VxlanEbpf,
        Self::HostGwKernel,
        Self::HostGwEbpf,
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
            Self::HostGwKernel => "host-gw kernel",
            Self::HostGwEbpf => "host-gw eBPF",
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
        let agents = |backend, datapath| Recipe::Agents {
            backend,
            datapath,
            flags: &[],
        };
        match self {
            Self::Host => Recipe::Wire,
            Self::VxlanKernel => agents("vxlan", Datapath::Kernel),
            Self::VxlanEbpf => agents("vxlan", Datapath::Ebpf),
            Self::HostGwKernel => agents("host-gw", Datapath::Kernel),
            Self::HostGwEbpf => agents("host-gw", Datapath::Ebpf),
            Self::UdpKernel => agents("udp", Datapath::Kernel),
            Self::UdpEbpf => agents("udp", Datapath::Ebpf),
            Self::UdpLoop => Recipe::Loop,
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
            Recipe::Agents {
                backend,
                datapath,
                flags,
            } => {
                let config = cluster::config(&format!(r#"{{"Type":"{backend}"}}"#));
                let datapaths = [datapath; 2];
                let bed = BedOptions::default();
                let cluster = Cluster::with_flags(&config, bed, &datapaths, flags)?;
                check_datapath(&cluster, datapath)?;
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
fn check_datapath(cluster: &Cluster, asked: Datapath) -> Result<()> {
    for agent in &cluster.agents {
        let active = agent.status().context("status")?.datapath.active;
        ensure!(
            active == asked.to_string(),
            "--datapath={asked}, but {active} is in use"
        );
    }
    Ok(())
}
