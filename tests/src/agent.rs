//! One agent process on one host.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use flannel_agent::status::{PeerCounts, Status};
use nix::sys::signal::Signal;

use crate::clock::Clock;
use crate::command::{self, Running};
use crate::etcd;
use crate::host::{Host, SubnetEnv};
use crate::mounts::BPFFS;
use crate::netns::NetNs;
use crate::wait;

/// Prefix of the keys in etcd: flannel's default.
pub const PREFIX: &str = "/coreos.com/network";
/// How long start and stop may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// How long the log may keep silent: attempts that fail are made ever more rarely.
const LOG_LIMIT: Duration = Duration::from_secs(60);
/// Lines of the log that a failure shows.
const LOG_LINES: usize = 60;

/// Value of `--datapath`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datapath {
    /// eBPF where the kernel can.
    Auto,
    /// eBPF or nothing.
    Ebpf,
    /// The kernel's vxlan device alone.
    Kernel,
}

impl fmt::Display for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Kernel => "kernel",
        })
    }
}

/// Whether the kernel lets an agent use bpf(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bpf {
    /// As root.
    Allowed,
    /// As on a host without BPF: the process lacks `CAP_BPF` and `CAP_SYS_ADMIN`.
    Refused,
}

/// Where an agent keeps what it leaves on a host, as processes of the bed see it.
#[derive(Debug, Clone)]
pub struct Places {
    /// `--run-dir`.
    pub run_dir: PathBuf,
    /// `--bpf-pin-path`.
    pub pins: PathBuf,
    /// `--subnet-file`.
    pub subnet_file: PathBuf,
    /// Standard error of every start, one after the other.
    pub log: PathBuf,
}

/// An agent, running or not.
#[derive(Debug)]
pub struct Agent {
    /// Paths it was given.
    pub places: Places,
    /// Data path that the next start asks for.
    pub datapath: Datapath,
    /// Whether the next start may use bpf(2).
    pub bpf: Bpf,
    /// More flags for the next start.
    pub flags: Vec<String>,
    /// The clock that the next start goes by, if not the host's.
    pub clock: Option<Clock>,
    /// The one core that the next start runs on, if not any.
    pub core: Option<usize>,
    binary: PathBuf,
    ns: NetNs,
    external: String,
    running: Option<Running>,
}

impl Agent {
    /// An agent for `host`, not started.
    ///
    /// # Errors
    /// There is no binary to run.
    pub fn new(host: &Host, datapath: Datapath) -> Result<Self> {
        let files = host.files();
        let places = Places {
            run_dir: files.join("run"),
            pins: Path::new(BPFFS).join(&host.name),
            subnet_file: files.join("subnet.env"),
            log: files.join("agent.log"),
        };
        Ok(Self {
            places,
            datapath,
            bpf: Bpf::Allowed,
            flags: Vec::new(),
            clock: None,
            core: None,
            binary: binary()?,
            ns: host.ns.clone(),
            external: host.external.clone(),
            running: None,
        })
    }

    /// Starts it; see [`Agent::wait_for_subnet`] for when it has a lease.
    ///
    /// # Errors
    /// It runs already or cannot start.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the agent runs already");
        let Places {
            run_dir,
            pins,
            subnet_file,
            log,
        } = &self.places;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.outside(log)?)?;
        let binary = self.binary.to_string_lossy();
        let mut command = match (self.bpf, self.core) {
            (Bpf::Allowed, None) => self.ns.command(&binary),
            (Bpf::Allowed, Some(core)) => {
                let mut command = self.ns.command("taskset");
                command.args(["--cpu-list", &core.to_string(), &binary]);
                command
            }
            (Bpf::Refused, _) => {
                let mut command = self.ns.command("setpriv");
                command.args(["--bounding-set=-bpf,-sys_admin", "--inh-caps=-all", &binary]);
                command
            }
        };
        command
            .arg(format!("--etcd-endpoints={}", etcd::ENDPOINT))
            .arg(format!("--etcd-prefix={PREFIX}"))
            .arg(format!("--iface={}", self.external))
            .arg(format!("--subnet-file={}", subnet_file.display()))
            .arg(format!("--run-dir={}", run_dir.display()))
            .arg(format!("--bpf-pin-path={}", pins.display()))
            .arg(format!("--datapath={}", self.datapath))
            .args(&self.flags)
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log));
        if let Some(clock) = &self.clock {
            clock.apply(&mut command);
        }
        self.running = Some(command::spawn(command)?);
        Ok(())
    }

    /// The binary that it runs.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// Waits for `subnet.env`, and gives its content.
    ///
    /// # Errors
    /// The agent ended or takes too long.
    pub fn wait_for_subnet(&mut self) -> Result<SubnetEnv> {
        let file = self.outside(&self.places.subnet_file)?;
        wait::until("subnet.env", LIMIT, || {
            self.check_running()?;
            Ok(Some(SubnetEnv::parse(&fs::read_to_string(&file)?)?))
        })
        .map_err(|error| self.with_log(&error))
    }

    /// Waits until the agent is ready and reaches `peers` peers, by eBPF where that is in use.
    ///
    /// # Errors
    /// The agent ended or takes too long; the message has its last status.
    pub fn wait_for_peers(&mut self, peers: usize) -> Result<Status> {
        wait::until(&format!("{peers} peers"), LIMIT, || {
            self.check_running()?;
            let status = self.status()?;
            // An earlier run's answer says nothing about this one.
            ensure!(
                Some(status.pid) == self.pid(),
                "process {} answers",
                status.pid
            );
            let PeerCounts {
                total,
                ebpf,
                direct,
                ..
            } = &status.peers;
            let carried = status.datapath.active != "ebpf" || ebpf + direct.len() == peers;
            if status.ready && *total == peers && carried {
                return Ok(Some(status));
            }
            bail!(
                "{:?}, {:?}, ready: {}",
                status.peers,
                status.problems,
                status.ready
            )
        })
        .map_err(|error| self.with_log(&error))
    }

    /// What the running agent says about itself.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Status> {
        let run_dir = format!("--run-dir={}", self.places.run_dir.display());
        let text = self.ns.run(
            &self.binary.to_string_lossy(),
            &["status", &run_dir, "--json"],
        )?;
        serde_json::from_str(&text).with_context(|| format!("status: {text}"))
    }

    /// Runs `flannel-agent datapath` with these words, and gives what it prints.
    ///
    /// # Errors
    /// The subcommand fails.
    pub fn switch(&self, words: &[&str]) -> Result<String> {
        let run_dir = format!("--run-dir={}", self.places.run_dir.display());
        let args = [&["datapath", &run_dir], words].concat();
        self.ns.run(&self.binary.to_string_lossy(), &args)
    }

    /// Runs `flannel-agent fast-path` with these words, and gives what it prints.
    ///
    /// # Errors
    /// The subcommand fails.
    pub fn fast_path(&self, words: &[&str]) -> Result<String> {
        let run_dir = format!("--run-dir={}", self.places.run_dir.display());
        let args = [&["fast-path", &run_dir], words].concat();
        self.ns.run(&self.binary.to_string_lossy(), &args)
    }

    /// Runs `flannel-agent flows` with these words, and gives what it prints.
    ///
    /// # Errors
    /// The subcommand fails.
    pub fn flows(&self, words: &[&str]) -> Result<String> {
        let pins = format!("--bpf-pin-path={}", self.places.pins.display());
        let args = [&["flows", &pins], words].concat();
        self.ns.run(&self.binary.to_string_lossy(), &args)
    }

    /// Removes what a stopped agent left on the host, and gives what the subcommand says.
    ///
    /// # Errors
    /// The subcommand fails.
    pub fn clean_up(&self) -> Result<String> {
        let run_dir = format!("--run-dir={}", self.places.run_dir.display());
        let pins = format!("--bpf-pin-path={}", self.places.pins.display());
        self.ns.run(
            &self.binary.to_string_lossy(),
            &["cleanup", &run_dir, &pins],
        )
    }

    /// Ends it without a chance to do anything.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.running
            .take()
            .context("the agent does not run")?
            .kill()
            .map(drop)
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// It does not run, takes too long or does not exit with 0.
    pub fn terminate(&mut self) -> Result<()> {
        let mut running = self.running.take().context("the agent does not run")?;
        running.signal(Signal::SIGTERM)?;
        let status = running.wait(LIMIT).map_err(|error| self.with_log(&error))?;
        ensure!(
            status.success(),
            "after SIGTERM: {status}\n{}",
            self.log_tail()
        );
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let mut running = self.running.take().context("the agent does not run")?;
        running.wait(LIMIT).map_err(|error| self.with_log(&error))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let running = self.running.as_ref().context("the agent does not run")?;
        running.signal(signal)
    }

    /// Waits until its log has these words.
    ///
    /// # Errors
    /// It ended or takes too long.
    pub fn wait_for_log(&mut self, words: &str) -> Result<()> {
        wait::until(&format!("{words:?} in the log"), LOG_LIMIT, || {
            self.check_running()?;
            let text = fs::read_to_string(self.outside(&self.places.log)?)?;
            Ok(text.contains(words).then_some(()))
        })
        .map_err(|error| self.with_log(&error))
    }

    fn with_log(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n{}", self.log_tail())
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self
            .outside(&self.places.log)
            .and_then(|path| Ok(fs::read_to_string(path)?));
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!(
            "log of the agent on {}:\n{}",
            self.places.log.display(),
            tail.join("\n")
        )
    }

    /// The path by which this process reaches a path of the agent.
    ///
    /// # Errors
    /// It is not on a private mount.
    pub fn outside(&self, inside: &Path) -> Result<PathBuf> {
        self.ns.mounts().outside(inside)
    }

    fn check_running(&mut self) -> Result<()> {
        let running = self.running.as_mut().context("the agent does not run")?;
        if let Some(status) = running.ended()? {
            bail!(wait::Hopeless(format!("the agent ended: {status}")));
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// The agent to run: `FLANNEL_AGENT`, else the one built beside this program.
///
/// # Errors
/// There is none.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("FLANNEL_AGENT") {
        Some(path) => PathBuf::from(path),
        None => build_directory()?.join("flannel-agent"),
    };
    path.canonicalize().with_context(|| {
        format!(
            "agent {}: build it, or name one in FLANNEL_AGENT",
            path.display()
        )
    })
}

/// Cargo's directory of finished programs, `target/debug` or the like.
///
/// # Errors
/// The path of this program is unknown.
pub(crate) fn build_directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("path of this program")?;
    // Tests lie one level deeper, in `deps`.
    let mut directories = program
        .ancestors()
        .skip(1)
        .filter(|path| !path.ends_with("deps"));
    directories
        .next()
        .map(Path::to_owned)
        .context("directory of this program")
}
