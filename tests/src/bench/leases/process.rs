//! A running agent: its process, and what it has cost so far.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use flannel_agent::status::Status;
use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};

use super::bed::LeaseBed;
use super::subject::Subject;
use crate::agent::{Datapath, PREFIX};
use crate::command::{self, Running};
use crate::etcd;
use crate::host::Host;
use crate::mounts::BPFFS;
use crate::netns::NetNs;

/// How long an agent may take to end.
const END: Duration = Duration::from_secs(20);

/// A started agent.
#[derive(Debug)]
pub(super) struct Process {
    subject: Subject,
    ns: NetNs,
    running: Running,
    notify: UnixDatagram,
    /// When it was started.
    pub(super) started: Instant,
}

/// What a process has cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// User and system time, seconds.
    pub(super) cpu_secs: f64,
    /// Most memory that it ever held, MiB (`VmHWM`).
    pub(super) peak_mib: f64,
}

/// Where an agent keeps its files, as processes of the bed see it.
pub(super) fn directory(host: &Host) -> PathBuf {
    host.files().join("bench")
}

/// The `subnet.env` of an agent, by a path of this process.
pub(super) fn subnet_file(host: &Host) -> Result<PathBuf> {
    host.ns
        .mounts()
        .outside(&directory(host).join("subnet.env"))
}

impl Process {
    /// Starts it.
    pub(super) fn start(bed: &LeaseBed, subject: &Subject) -> Result<Self> {
        let host = bed.host();
        let outside = |path: &Path| host.ns.mounts().outside(path);
        let directory = directory(host);
        fs::create_dir_all(outside(&directory)?)?;
        let socket = directory.join("notify");
        // Of an earlier start.
        let _ = fs::remove_file(outside(&socket)?);
        let notify = UnixDatagram::bind(outside(&socket)?)?;
        notify.set_nonblocking(true)?;
        let log = File::create(outside(&directory.join("log"))?)?;
        let mut command = host.ns.command(&subject.binary().to_string_lossy());
        command
            .arg(format!("-etcd-endpoints={}", etcd::ENDPOINT))
            .arg(format!("-etcd-prefix={PREFIX}"))
            .arg(format!("-iface={}", host.external))
            .arg(format!(
                "-subnet-file={}",
                directory.join("subnet.env").display()
            ))
            // Only our agent has these settings; flanneld passes over variables of unknown flags.
            .env("FLANNELD_RUN_DIR", directory.join("run"))
            .env("FLANNELD_BPF_PIN_PATH", pins(host))
            .env("FLANNELD_DATAPATH", subject.setting().to_string())
            .env("NOTIFY_SOCKET", &socket)
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log));
        let started = Instant::now();
        Ok(Self {
            subject: subject.clone(),
            ns: host.ns.clone(),
            running: command::spawn(command)?,
            notify,
            started,
        })
    }

    /// Whether it has said that it is ready since this was last asked.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn is_ready(&mut self, host: &Host) -> Result<bool> {
        if let Some(status) = self.running.ended()? {
            let log = host.ns.mounts().outside(&directory(host).join("log"))?;
            let log = fs::read_to_string(log).unwrap_or_default();
            bail!("it ended: {status}\n{log}");
        }
        let mut message = [0; 512];
        while let Ok(length) = self.notify.recv(&mut message) {
            if message[..length].starts_with(b"READY=1") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What it has cost so far.
    pub(super) fn cost(&self) -> Result<Cost> {
        let pid = self.running.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
        cost(&stat, &status, ticks as f64).with_context(|| format!("cost of process {pid}"))
    }

    /// Makes sure that eBPF carries all peers where it is to carry any.
    pub(super) fn check_peers(&self, bed: &LeaseBed) -> Result<()> {
        if !self.subject.is_own() {
            return Ok(());
        }
        let run_dir = format!("--run-dir={}", directory(bed.host()).join("run").display());
        let binary = self.subject.binary().to_string_lossy();
        let text = self.ns.run(&binary, &["status", &run_dir, "--json"])?;
        let Status {
            peers, datapath, ..
        } = serde_json::from_str(&text).with_context(|| format!("status: {text}"))?;
        let count = bed.count as usize;
        let wanted = self.subject.datapath();
        ensure!(
            wanted == Datapath::Auto || datapath.active == wanted.to_string(),
            "on {}, for {}, instead of {wanted}",
            datapath.active,
            datapath.reason
        );
        let ebpf = if datapath.active == "ebpf" { count } else { 0 };
        ensure!(
            peers.total == count && peers.ebpf == ebpf,
            "of {count} peers it has {}, {} of them by eBPF ({})",
            peers.total,
            peers.ebpf,
            datapath.active
        );
        Ok(())
    }

    /// Asks it to end, and waits. Others' may not listen, as stock flannel with thousands of leases.
    pub(super) fn terminate(&mut self) -> Result<()> {
        self.running.signal(Signal::SIGTERM)?;
        // Not all agents exit with 0.
        let ended = self.running.wait(END).map(drop);
        if ended.is_err() && !self.subject.is_own() {
            return self.running.kill().map(drop);
        }
        ended
    }
}

/// Where our agent pins.
pub(super) fn pins(host: &Host) -> PathBuf {
    Path::new(BPFFS).join(&host.name)
}

/// From `/proc/PID/stat` and `/proc/PID/status` (proc(5)).
fn cost(stat: &str, status: &str, ticks_per_sec: f64) -> Option<Cost> {
    // The name of the program may hold anything but ends with the last parenthesis; times in user
    // and system mode are the fields 14 and 15, the first after the name is the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = peak.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Cost {
        cpu_secs: (ticks(14)? + ticks(15)?) / ticks_per_sec,
        peak_mib: kib / 1024.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_read_past_a_name_with_parentheses() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0";
        let status = "Name:\ta\nVmPeak:\t  9999 kB\nVmHWM:\t   2048 kB\n";
        let cost = cost(stat, status, 100.0).unwrap();
        assert_eq!((cost.cpu_secs, cost.peak_mib), (2.0, 2.0));
    }
}
