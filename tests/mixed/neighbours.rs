//! Two hosts: stock flannel on the first, our agent on the second.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use flannel_tests::agent::{Agent, Datapath, PREFIX};
use flannel_tests::bed::{Bed, BedOptions};
use flannel_tests::flanneld::Flanneld;
use flannel_tests::host::{Host, Pod};
use flannel_tests::traffic::ping::{self, ping};
use flannel_tests::wait;

/// How long it may take until pods reach each other.
const LIMIT: Duration = Duration::from_secs(20);

/// The directory of stock flannel's programs.
pub(crate) fn stock(name: &str) -> PathBuf {
    let folder = std::env::var_os("FLANNEL_STOCK")
        .expect("FLANNEL_STOCK: run `cargo xtask test --ring mixed`, which builds stock flannel");
    PathBuf::from(folder).join(name)
}

/// Stock flannel's daemon for a host, not started.
pub(crate) fn flanneld(host: &Host) -> Flanneld {
    Flanneld::new(host, &stock("flanneld"))
}

/// A bed whose etcd has this network config.
pub(crate) fn bed(config: &str, options: BedOptions) -> Bed {
    let bed = Bed::new(options).expect("bed");
    bed.etcd
        .put(&format!("{PREFIX}/config"), config)
        .expect("network config");
    bed
}

/// Waits until one pod gets an answer from another.
pub(crate) fn wait_for_answer(from: &Pod, to: &Pod) {
    let answered = || {
        let answer = ping(&from.ns, to.address, ping::Options::default())?;
        Ok((answer.received > 0).then_some(()))
    };
    wait::until("an echo reply", LIMIT, answered).expect("pods reach each other");
}

/// What a host has said in etcd, where it may not be alone, and to container runtimes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Keys and values.
    pub(crate) leases: Vec<(String, String)>,
    pub(crate) subnet_file: String,
}

/// What the host of this number has said.
pub(crate) fn said(bed: &Bed, host: usize) -> Said {
    let host = &bed.hosts[host];
    let file = host.ns.mounts().outside(&host.files().join("subnet.env"));
    Said {
        leases: leases(bed),
        subnet_file: fs::read_to_string(file.expect("path")).expect("subnet.env"),
    }
}

/// All leases, by their keys.
pub(crate) fn leases(bed: &Bed) -> Vec<(String, String)> {
    let keys = bed.etcd.keys(&format!("{PREFIX}/subnets/")).expect("keys");
    let with_value = |key: String| {
        let value = bed.etcd.get(&key).expect("value");
        (key, value)
    };
    keys.into_iter().map(with_value).collect()
}

/// The hosts and what runs on them.
pub(crate) struct Neighbours {
    // First, so that they end before their hosts.
    pub(crate) stock: Flanneld,
    pub(crate) ours: Agent,
    pub(crate) bed: Bed,
}

impl Neighbours {
    /// Starts both, and gives each host a pod.
    pub(crate) fn new(config: &str, options: BedOptions, datapath: Datapath) -> Self {
        let mut bed = bed(config, options);
        let mut stock = flanneld(&bed.hosts[0]);
        let mut ours = Agent::new(&bed.hosts[1], datapath).expect("agent");
        stock.start().expect("start of stock flannel");
        ours.start().expect("start");
        let subnets = [stock.wait_for_subnet(), ours.wait_for_subnet()];
        for (host, subnet) in bed.hosts.iter_mut().zip(subnets) {
            host.add_pod(&subnet.expect("subnet.env")).expect("pod");
        }
        ours.wait_for_peers(1).expect("peers");
        Self { stock, ours, bed }
    }

    /// The pod of a host.
    pub(crate) fn pod(&self, host: usize) -> &Pod {
        &self.bed.hosts[host].pods[0]
    }
}
