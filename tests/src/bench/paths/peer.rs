//! Two hosts with any program that takes flanneld's flags.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use super::kind::Backend;
use crate::agent::PREFIX;
use crate::bed::{Bed, BedOptions};
use crate::bench::leases::Subject;
use crate::flanneld::Flanneld;
use crate::traffic::ping;
use crate::{cluster, wait};

/// How long it may take until pods reach each other.
const LIMIT: Duration = Duration::from_secs(20);

/// The hosts, and what runs on them.
#[derive(Debug)]
pub(in crate::bench) struct Peers {
    // First, so that they end before their hosts.
    running: Vec<Flanneld>,
    pub(in crate::bench) bed: Bed,
}

impl Peers {
    /// Starts one on each of two hosts, and waits until their pods reach each other.
    pub(in crate::bench) fn new(subject: &Subject, backend: Backend) -> Result<Self> {
        let mut bed = Bed::new(BedOptions::default())?;
        let config = cluster::config(&format!(r#"{{"Type":"{}"}}"#, backend.name()));
        bed.etcd.put(&format!("{PREFIX}/config"), &config)?;
        let mut running = Vec::new();
        for host in &bed.hosts {
            let mut flanneld = Flanneld::new(host, subject.binary());
            flanneld.start()?;
            running.push(flanneld);
        }
        for (host, flanneld) in bed.hosts.iter_mut().zip(&mut running) {
            let subnet = flanneld.wait_for_subnet()?;
            host.add_pod(&subnet)?;
        }
        let [a, b, ..] = bed.hosts.as_slice() else {
            bail!("two hosts are needed")
        };
        wait::until("an echo reply", LIMIT, || {
            let answer = ping::ping(&a.pods[0].ns, b.pods[0].address, ping::Options::default())?;
            Ok((answer.received > 0).then_some(()))
        })
        .map_err(|error| anyhow!("{error:#}\n{}", running[0].log_tail()))?;
        Ok(Self { running, bed })
    }

    /// Ends the one on a host without a chance to do anything, and starts another.
    pub(in crate::bench) fn restart(&mut self, number: usize) -> Result<()> {
        self.running[number].kill()?;
        self.running[number].start()
    }
}
