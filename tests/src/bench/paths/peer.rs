//! Two hosts with any program that takes flanneld's flags.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use super::kind::Backend;
use crate::agent::PREFIX;
use crate::bed::{Bed, BedOptions};
use crate::bench::leases::Subject;
use crate::command::{self, Running};
use crate::host::{Host, SubnetEnv};
use crate::mounts::BPFFS;
use crate::traffic::ping;
use crate::{cluster, etcd, wait};

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The hosts, and what runs on them.
#[derive(Debug)]
pub(in crate::bench) struct Peers {
    // First, so that they end before their hosts.
    running: Vec<Running>,
    subject: Subject,
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
            running.push(start(host, subject)?);
        }
        for (host, running) in bed.hosts.iter_mut().zip(&mut running) {
            let subnet = wait_for_subnet(host, running)?;
            host.add_pod(&subnet)?;
        }
        let [a, b, ..] = bed.hosts.as_slice() else {
            bail!("two hosts are needed")
        };
        wait::until("an echo reply", LIMIT, || {
            let answer = ping::ping(&a.pods[0].ns, b.pods[0].address, ping::Options::default())?;
            Ok((answer.received > 0).then_some(()))
        })
        .map_err(|error| anyhow!("{error:#}\n{}", log(a)))?;
        Ok(Self {
            running,
            subject: subject.clone(),
            bed,
        })
    }

    /// Ends the one on a host without a chance to do anything, and starts another.
    pub(in crate::bench) fn restart(&mut self, number: usize) -> Result<()> {
        self.running[number].kill()?;
        self.running[number] = start(&self.bed.hosts[number], &self.subject)?;
        Ok(())
    }
}

fn start(host: &Host, subject: &Subject) -> Result<Running> {
    let files = host.files();
    let log = File::create(host.ns.mounts().outside(&files.join("log"))?)?;
    let mut command = host.ns.command(&subject.binary().to_string_lossy());
    command
        .arg(format!("-etcd-endpoints={}", etcd::ENDPOINT))
        .arg(format!("-etcd-prefix={PREFIX}"))
        .arg(format!("-iface={}", host.external))
        .arg(format!(
            "-subnet-file={}",
            files.join("subnet.env").display()
        ))
        // Only our agent has these settings; flanneld passes over variables of unknown flags.
        .env("FLANNELD_RUN_DIR", files.join("run"))
        .env("FLANNELD_BPF_PIN_PATH", Path::new(BPFFS).join(&host.name))
        .stdout(Stdio::from(log.try_clone()?))
        .stderr(Stdio::from(log));
    command::spawn(command)
}

fn wait_for_subnet(host: &Host, running: &mut Running) -> Result<SubnetEnv> {
    let file = host.ns.mounts().outside(&host.files().join("subnet.env"))?;
    wait::until("subnet.env", LIMIT, || {
        if let Some(status) = running.ended()? {
            bail!(wait::Hopeless(format!("it ended: {status}")));
        }
        Ok(Some(SubnetEnv::parse(&fs::read_to_string(&file)?)?))
    })
    .map_err(|error| anyhow!("{error:#}\n{}", log(host)))
}

fn log(host: &Host) -> String {
    let path = host.ns.mounts().outside(&host.files().join("log"));
    let text = path.and_then(|path| fs::read_to_string(path).context("no log"));
    text.unwrap_or_else(|error| format!("{error:#}"))
}
