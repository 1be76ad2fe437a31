//! A real etcd in the management namespace of a bed.
//!
//! The namespace is private, so the port is always the usual one and never taken.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::command::{self, Running};
use crate::mounts::FILES;
use crate::netns::NetNs;
use crate::wait;

/// Address of etcd on the management network.
pub const ADDRESS: &str = "10.200.0.1";
/// Endpoint that agents are given.
pub const ENDPOINT: &str = "http://10.200.0.1:2379";
/// How long etcd may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A single etcd server.
#[derive(Debug)]
pub struct Etcd {
    namespace: NetNs,
    server: PathBuf,
    client: PathBuf,
    running: Option<Running>,
}

impl Etcd {
    /// Starts etcd with an empty store and waits until it answers.
    ///
    /// # Errors
    /// etcd is not installed or does not come up.
    pub fn start(namespace: NetNs) -> Result<Self> {
        let (server, client) = (find("etcd")?, find("etcdctl")?);
        let mut etcd = Self {
            namespace,
            server,
            client,
            running: None,
        };
        etcd.resume()?;
        Ok(etcd)
    }

    /// Starts the stopped server again on the same store and port.
    ///
    /// # Errors
    /// It does not come up.
    pub fn resume(&mut self) -> Result<()> {
        let files = Path::new(FILES);
        let log = self.namespace.mounts().outside(&files.join("etcd.log"))?;
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = self.namespace.command(&self.server.to_string_lossy());
        command
            .arg(format!("--data-dir={}", files.join("etcd").display()))
            .arg(format!(
                "--listen-client-urls={ENDPOINT},http://127.0.0.1:2379"
            ))
            .arg(format!("--advertise-client-urls={ENDPOINT}"))
            .args(["--listen-peer-urls=http://127.0.0.1:2380", "--logger=zap"])
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log));
        let mut running = command::spawn(command)?;
        wait::until("etcd to answer", START_LIMIT, || {
            if let Some(status) = running.ended()? {
                bail!(wait::Hopeless(format!(
                    "etcd ended: {status}\n{}",
                    self.log()
                )));
            }
            self.client(&["get", "ready"]).map(Some)
        })?;
        self.running = Some(running);
        Ok(())
    }

    /// Kills the server; the store stays.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Writes a key.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.client(&["put", "--", key, value]).map(drop)
    }

    /// Value of a key, or the empty text where there is none.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn get(&self, key: &str) -> Result<String> {
        Ok(self
            .client(&["get", "--print-value-only", key])?
            .trim_end()
            .to_owned())
    }

    /// All keys that begin with `prefix`.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let text = self.client(&["get", "--prefix", "--keys-only", prefix])?;
        Ok(text
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// etcd does not answer.
    pub fn delete(&self, key: &str) -> Result<()> {
        self.client(&["del", key]).map(drop)
    }

    fn client(&self, args: &[&str]) -> Result<String> {
        let mut command = self.namespace.command(&self.client.to_string_lossy());
        command
            .env("ETCDCTL_API", "3")
            .env_remove("ETCDCTL_ENDPOINTS");
        command
            .args(["--command-timeout=2s", "--dial-timeout=1s"])
            .args(args);
        command::output(command, None)
    }

    fn log(&self) -> String {
        let path = self
            .namespace
            .mounts()
            .outside(&Path::new(FILES).join("etcd.log"));
        path.ok()
            .and_then(|path| fs::read_to_string(path).ok())
            .unwrap_or_default()
    }
}

/// etcd from `PATH`, else where `cargo xtask setup` unpacks it.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = crate::agent::build_directory()?.join("../tools/etcd/usr/bin");
    std::env::split_paths(&path)
        .chain([unpacked])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{program} is not installed; run `cargo xtask setup`"))
}
