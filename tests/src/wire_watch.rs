//! What crosses a wire: frames of the external interface, told apart by tcpdump.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use crate::command::{self, Running};
use crate::host::Host;
use crate::wait;

/// VXLAN of flannel, and what has no business outside of it: any packet from or to the overlay.
const FILTERS: [&str; 2] = ["udp dst port 8472", "ip and net 10.5.0.0/16"];
/// How long tcpdump may take to listen or to end.
const LIMIT: Duration = Duration::from_secs(10);

/// Numbers of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Inside of the tunnel.
    pub tunnelled: usize,
    /// With an address of the overlay, but outside.
    pub bare: usize,
}

/// Two tcpdump that listen on one device.
#[derive(Debug)]
pub struct Watch {
    dumps: Vec<(Running, PathBuf)>,
}

impl Watch {
    /// Listens on the external interface of `host`, for a network of 10.5.0.0/16.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn start(host: &Host) -> Result<Self> {
        let mut dumps = Vec::new();
        for (number, filter) in FILTERS.iter().enumerate() {
            let file = |kind: &str| {
                let name = format!("watch{number}.{kind}");
                host.ns.mounts().outside(&host.files().join(name))
            };
            let (frames, messages) = (file("txt")?, file("err")?);
            let mut command = host.ns.command("tcpdump");
            command
                .args(["-lnt", "--snapshot-length=96", "-i", &host.external, filter])
                .stdout(Stdio::from(File::create(&frames)?))
                .stderr(Stdio::from(File::create(&messages)?));
            let running = command::spawn(command)?;
            wait::until("tcpdump to listen", LIMIT, || {
                Ok(fs::read_to_string(&messages)?
                    .contains("listening on")
                    .then_some(()))
            })?;
            dumps.push((running, frames));
        }
        Ok(Self { dumps })
    }

    /// Counts what was seen.
    ///
    /// # Errors
    /// tcpdump does not end.
    pub fn finish(self) -> Result<Seen> {
        let mut counts = Vec::new();
        for (mut running, frames) in self.dumps {
            running.signal(Signal::SIGINT)?;
            running.wait(LIMIT)?;
            let text = fs::read_to_string(&frames).context("output of tcpdump")?;
            counts.push(text.lines().filter(|line| line.starts_with("IP ")).count());
        }
        let [tunnelled, bare] = counts[..] else {
            anyhow::bail!("two counts")
        };
        Ok(Seen { tunnelled, bare })
    }
}
