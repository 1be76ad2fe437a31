//! Commands, the files that they write, and what can be seen of their processes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flannel_agent::backend::extension::{Commands, OwnFacts, PeerFacts, Peers};
use flannel_agent::network::Extension as Options;
use ipnetwork::Ipv4Network;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// What may take a while on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Commands that a shell reads, and a directory for them, `$D`.
pub(super) struct Bed {
    pub(super) dir: TempDir,
    pub(super) options: Options,
}

impl Bed {
    pub(super) fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            options: Options {
                pre_startup: None,
                post_startup: None,
                subnet_add: None,
                subnet_remove: None,
                shell: Some("/bin/sh".into()),
                timeout: PATIENCE,
            },
        }
    }

    /// Environment of an agent in this bed: nothing but a search path and the directory.
    pub(super) fn environment(&self) -> Vec<(OsString, OsString)> {
        let path = std::env::var_os("PATH").unwrap();
        vec![
            ("PATH".into(), path),
            ("D".into(), self.dir.path().into()),
            ("SUBNET".into(), "the agent's own".into()),
        ]
    }

    pub(super) fn commands(&self) -> Commands {
        Commands::new(self.options.clone(), self.environment())
    }

    pub(super) fn peers(&self) -> Peers {
        Peers::start(Arc::new(self.commands()))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a file has in it; nothing as long as it is not there.
    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Waits until a file has exactly these lines.
    pub(super) async fn wait_for(&self, name: &str, lines: &str) {
        wait(&format!("{lines:?} in {name}"), || self.read(name) == lines).await;
    }

    /// The process whose number a command has written to a file.
    pub(super) async fn process(&self, name: &str) -> u32 {
        wait(&format!("{name} written"), || {
            self.read(name).ends_with('\n')
        })
        .await;
        self.read(name).trim().parse().unwrap()
    }
}

/// Waits until something is so, and fails when it does not come.
pub(super) async fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs; one that only waits to be waited for does not.
pub(super) fn runs(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
}

/// Runs a test with two threads, as the agent does.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

pub(super) fn subnet(number: u8) -> Ipv4Network {
    Ipv4Network::new(Ipv4Addr::new(10, 5, number, 0), 24).unwrap()
}

/// Peers by number, with their data.
pub(super) fn facts<'a>(
    peers: impl IntoIterator<Item = (u8, &'a str)>,
) -> BTreeMap<Ipv4Network, PeerFacts> {
    let peers = peers.into_iter().map(|(number, data)| {
        let facts = PeerFacts {
            public_ip: Ipv4Addr::new(192, 168, 7, number),
            data: data.into(),
        };
        (subnet(number), facts)
    });
    peers.collect()
}

pub(super) const OWN: OwnFacts = OwnFacts {
    network: network(0, 16),
    subnet: network(34, 24),
    ipv6_subnet: None,
    public_ip: Ipv4Addr::new(192, 168, 7, 11),
    public_ipv6: None,
};

const fn network(number: u8, len: u8) -> Ipv4Network {
    match Ipv4Network::new_checked(Ipv4Addr::new(10, 5, number, 0), len) {
        Some(network) => network,
        None => panic!("no network"),
    }
}
