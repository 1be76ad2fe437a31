//! Hosts with an agent, and Docker configured by what the agent wrote.

use std::time::Duration;

use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::cluster::CONFIG;
use flannel_tests::dockerd::{Docker, Iptables};
use flannel_tests::host::Pod;
use flannel_tests::wait;

/// How long anything may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// What a container does that is only there for its network.
pub(crate) const SLEEP: [&str; 2] = ["sleep", "1000"];

/// Two hosts with agents that know each other; no pods.
pub(crate) struct Hosts {
    pub(crate) agents: Vec<Agent>,
    pub(crate) bed: Bed,
}

impl Hosts {
    /// The agents get `flags` besides those of every test.
    pub(crate) fn new(flags: &[&str]) -> Self {
        let bed = Bed::new(BedOptions::default()).expect("bed");
        bed.etcd
            .put(&format!("{PREFIX}/config"), CONFIG)
            .expect("config");
        let mut agents = Vec::new();
        for host in &bed.hosts {
            // A machine that has just started does not forward. Docker then switches it on and
            // drops what it did not ask for; where somebody else did, it leaves the policy alone.
            host.ns.sysctl("net/ipv4/ip_forward", "0").expect("sysctl");
            let mut agent = Agent::new(host, Datapath::Ebpf).expect("agent");
            agent.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
            agent.start().expect("start the agent");
            agents.push(agent);
        }
        let mut hosts = Self { agents, bed };
        hosts.wait_for_peers();
        hosts
    }

    pub(crate) fn wait_for_peers(&mut self) {
        for agent in &mut self.agents {
            agent.wait_for_peers(1).expect("peer");
        }
    }

    /// Docker on both hosts, one over nftables and one over the tables of old.
    pub(crate) fn docker(&self, flags: &[&str]) -> [Docker; 2] {
        let start = |index: usize, wanted: Iptables| {
            let host = &self.bed.hosts[index];
            let iptables = if wanted.is_usable(host).expect("iptables") {
                wanted
            } else {
                println!("host {}: this kernel has no {wanted:?} tables", host.name);
                Iptables::Nft
            };
            let docker = Docker::start(host, &self.agents[index], iptables, flags);
            docker.expect("Docker")
        };
        let dockers = [start(0, Iptables::Nft), start(1, Iptables::Legacy)];
        self.wait_for_forwarding(&dockers);
        dockers
    }

    /// Waits until the agents have dealt with Docker's policy.
    pub(crate) fn wait_for_forwarding(&self, dockers: &[Docker; 2]) {
        // nftables tells the agent about Docker's chains at once; the tables of old it looks at
        // from time to time.
        for docker in dockers {
            let accepted = || {
                let filter = docker.machine().run("iptables", &["-S"])?;
                Ok(filter.contains("flannel-agent forward").then_some(()))
            };
            wait::until("forwarding to be accepted", LIMIT, accepted).expect("rules");
        }
    }
}

/// A container on each host.
pub(crate) fn containers(dockers: &[Docker; 2], name: &str) -> [Pod; 2] {
    let start = |docker: &Docker| docker.container(name, &[], &SLEEP).expect("container");
    [start(&dockers[0]), start(&dockers[1])]
}
