//! Any program that takes flanneld's flags, on one host: stock flannel's own daemon, say.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::agent::PREFIX;
use crate::command::{self, Running};
use crate::etcd;
use crate::host::{Host, SubnetEnv};
use crate::mounts::BPFFS;
use crate::netns::NetNs;
use crate::wait;

/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Lines of the log that a failure shows.
const LOG_LINES: usize = 60;

/// The program, running or not.
#[derive(Debug)]
pub struct Flanneld {
    /// More flags for the next start.
    pub flags: Vec<String>,
    binary: PathBuf,
    ns: NetNs,
    host: String,
    external: String,
    files: PathBuf,
    running: Option<Running>,
}

impl Flanneld {
    /// A program for `host`, not started. Its subnet file is where our agent's would be.
    #[must_use]
    pub fn new(host: &Host, binary: &Path) -> Self {
        Self {
            flags: Vec::new(),
            binary: binary.to_owned(),
            ns: host.ns.clone(),
            host: host.name.clone(),
            external: host.external.clone(),
            files: host.files(),
            running: None,
        }
    }

    /// Starts it; see [`wait_for_subnet`](Self::wait_for_subnet) for when it has a lease.
    ///
    /// # Errors
    /// It runs already or cannot start.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "it runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.outside("flanneld.log")?)?;
        let mut command = self.ns.command(&self.binary.to_string_lossy());
        command
            .arg(format!("-etcd-endpoints={}", etcd::ENDPOINT))
            .arg(format!("-etcd-prefix={PREFIX}"))
            .arg(format!("-iface={}", self.external))
            .arg(format!(
                "-subnet-file={}",
                self.files.join("subnet.env").display()
            ))
            .args(&self.flags)
            // Only our agent has these settings; flanneld passes over variables of unknown flags.
            .env("FLANNELD_RUN_DIR", self.files.join("run"))
            .env("FLANNELD_BPF_PIN_PATH", Path::new(BPFFS).join(&self.host))
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log));
        self.running = Some(command::spawn(command)?);
        Ok(())
    }

    /// Waits for `subnet.env`, and gives its content.
    ///
    /// # Errors
    /// The program ended or takes too long.
    pub fn wait_for_subnet(&mut self) -> Result<SubnetEnv> {
        let file = self.outside("subnet.env")?;
        wait::until("subnet.env", LIMIT, || {
            let running = self.running.as_mut().context("it does not run")?;
            if let Some(status) = running.ended()? {
                bail!(wait::Hopeless(format!("it ended: {status}")));
            }
            Ok(Some(SubnetEnv::parse(&fs::read_to_string(&file)?)?))
        })
        .map_err(|error| anyhow!("{error:#}\n{}", self.log_tail()))
    }

    /// Its subnet file, if there is one.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn subnet_file(&self) -> Result<Option<String>> {
        let file = self.outside("subnet.env")?;
        match fs::read_to_string(file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has ended, or has said that something is wrong: in the words of klog, which stock
    /// flannel uses, or in ours.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn has_complained(&mut self) -> Result<bool> {
        let running = self.running.as_mut().context("it does not run")?;
        if running.ended()?.is_some() {
            return Ok(true);
        }
        let log = fs::read_to_string(self.outside("flanneld.log")?)?;
        let is_klogs = |line: &str| line.starts_with('E') && line.contains("main.go");
        let is_ours = |line: &str| line.contains(" WARN ") && line.contains(": waiting ");
        Ok(log.lines().any(|line| is_klogs(line) || is_ours(line)))
    }

    /// Removes subnet file and log.
    ///
    /// # Errors
    /// One is there and stays.
    pub fn forget(&self) -> Result<()> {
        for name in ["subnet.env", "flanneld.log"] {
            match fs::remove_file(self.outside(name)?) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {name}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends it without a chance to do anything.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut running = self.running.take().context("it does not run")?;
        running.kill().map(drop)
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let path = self.outside("flanneld.log");
        let text = path.and_then(|path| fs::read_to_string(path).context("no log"));
        let text = text.unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!(
            "log of {} on {}:\n{}",
            self.binary.display(),
            self.host,
            tail.join("\n")
        )
    }

    /// The path by which this process reaches one of its files.
    fn outside(&self, name: &str) -> Result<PathBuf> {
        self.ns.mounts().outside(&self.files.join(name))
    }
}

impl Drop for Flanneld {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}
