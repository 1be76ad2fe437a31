//! A bed with an agent on each host and pods behind it.

use anyhow::{Context as _, Result};

use crate::agent::{Agent, Datapath, PREFIX};
use crate::bed::{Bed, BedOptions};
use crate::host::{Host, Pod};

/// Network configuration that agents find in etcd, if no other is asked for.
pub const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// A network configuration with this `Backend`. No agent takes a subnet from 10.5.200.0 on.
#[must_use]
pub fn config(backend: &str) -> String {
    format!(r#"{{"Network":"10.5.0.0/16","SubnetMax":"10.5.199.0","Backend":{backend}}}"#)
}

/// Hosts, etcd, agents and pods; [`Cluster::new`] gives it with all peers programmed.
#[derive(Debug)]
pub struct Cluster {
    /// Agents by host. First, so that they end before what they use.
    pub agents: Vec<Agent>,
    /// What they run on.
    pub bed: Bed,
}

impl Cluster {
    /// Builds a bed, starts an agent on each of the first `datapaths.len()` hosts, gives each
    /// host one pod and waits until all peers are programmed everywhere.
    ///
    /// # Errors
    /// Something does not come up; the message has the log of the agent concerned.
    pub fn new(options: BedOptions, datapaths: &[Datapath]) -> Result<Self> {
        Self::with_config(CONFIG, options, datapaths)
    }

    /// As [`new`](Self::new), of a network with this configuration.
    ///
    /// # Errors
    /// As there.
    pub fn with_config(config: &str, options: BedOptions, datapaths: &[Datapath]) -> Result<Self> {
        Self::with_flags(config, options, datapaths, &[])
    }

    /// As [`with_config`](Self::with_config), of agents with these flags, too.
    ///
    /// # Errors
    /// As there.
    pub fn with_flags(
        config: &str,
        options: BedOptions,
        datapaths: &[Datapath],
        flags: &[&str],
    ) -> Result<Self> {
        let bed = Bed::new(options)?;
        bed.etcd.put(&format!("{PREFIX}/config"), config)?;
        let mut cluster = Self {
            agents: Vec::new(),
            bed,
        };
        for (host, datapath) in cluster.bed.hosts.iter().zip(datapaths) {
            let mut agent = Agent::new(host, *datapath)?;
            agent.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
            agent.start()?;
            cluster.agents.push(agent);
        }
        for number in 0..cluster.agents.len() {
            cluster.add_pod(number)?;
        }
        cluster.wait_for_peers(datapaths.len() - 1)?;
        Ok(cluster)
    }

    /// Starts an agent on the next host without one, and gives the host a pod.
    ///
    /// # Errors
    /// There is no such host, or the agent does not come up.
    pub fn join(&mut self, datapath: Datapath) -> Result<()> {
        let number = self.agents.len();
        let host = self
            .bed
            .hosts
            .get(number)
            .context("all hosts have an agent")?;
        let mut agent = Agent::new(host, datapath)?;
        agent.start()?;
        self.agents.push(agent);
        self.add_pod(number)
    }

    /// Waits until every running agent reaches `peers` peers.
    ///
    /// # Errors
    /// An agent does not get there.
    pub fn wait_for_peers(&mut self, peers: usize) -> Result<()> {
        let running = self.agents.iter_mut().filter(|agent| agent.pid().is_some());
        for agent in running {
            agent.wait_for_peers(peers)?;
        }
        Ok(())
    }

    /// Adds a pod to a host, in the subnet that its agent leased.
    ///
    /// # Errors
    /// The agent has no lease, or the pod cannot be set up.
    pub fn add_pod(&mut self, host: usize) -> Result<()> {
        let subnet = self.agents[host].wait_for_subnet()?;
        self.bed.hosts[host].add_pod(&subnet).map(drop)
    }

    /// A host.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.bed.hosts[number]
    }

    /// The first pod of a host.
    ///
    /// # Panics
    /// The host has no pod.
    #[must_use]
    pub fn pod(&self, host: usize) -> &Pod {
        &self.bed.hosts[host].pods[0]
    }
}
