//! Throughput of one TCP stream, with iperf3.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command::{self, Running};
use crate::cpu;
use crate::host::Pod;
use crate::wait;

/// Where client and server may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On any core.
    Free,
    /// Both on one core, which then does the whole path of two hosts.
    OneCore(usize),
}

impl Placement {
    /// Puts the calling thread there, before ordinary work where it is one core.
    ///
    /// # Errors
    /// There is no such core, or not root.
    pub(super) fn claim(self) -> Result<()> {
        match self {
            Self::Free => Ok(()),
            Self::OneCore(core) => cpu::claim(core),
        }
    }
}

/// An iperf3 server in a pod.
#[derive(Debug)]
pub struct Server {
    _running: Running,
    placement: Placement,
    target: String,
}

impl Server {
    /// Starts the server and waits until it listens.
    ///
    /// # Errors
    /// iperf3 is not installed or does not come up.
    pub fn start(pod: &Pod, placement: Placement) -> Result<Self> {
        let mut command = command_in(pod, placement);
        command.args(["--server", "--forceflush"]);
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let running = command::spawn(command)?;
        wait::until("iperf3 to listen", Duration::from_secs(5), || {
            let sockets = pod.ns.run("ss", &["-Hltn", "sport", "=", ":5201"])?;
            Ok((!sockets.is_empty()).then_some(()))
        })?;
        Ok(Self {
            _running: running,
            placement,
            target: pod.address.to_string(),
        })
    }

    /// Sends from `pod` for `time` and gives the Gbit/s that arrived.
    ///
    /// # Errors
    /// The client fails; the message has its output.
    pub fn measure(&self, pod: &Pod, time: Duration) -> Result<f64> {
        let mut command = command_in(pod, self.placement);
        let seconds = time.as_secs().max(1).to_string();
        // Whatever the machine prefers: figures of different machines compare with cubic.
        command.args(["--congestion", "cubic"]);
        command.args(["--json", "--time", &seconds, "--client", &self.target]);
        let text = command::output(command, None)?;
        let report: Value = serde_json::from_str(&text).context("read report of iperf3")?;
        let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.with_context(|| format!("no throughput in {text}"))? / 1e9)
    }
}

fn command_in(pod: &Pod, placement: Placement) -> std::process::Command {
    match placement {
        Placement::Free => pod.ns.command("iperf3"),
        Placement::OneCore(core) => {
            let mut command = pod.ns.command("taskset");
            command.args(["--cpu-list", &core.to_string(), "iperf3"]);
            command
        }
    }
}
