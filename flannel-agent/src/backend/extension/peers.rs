//! Commands for peers: the task that runs what the schedule says, several at a time.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use ipnetwork::Ipv4Network;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Commands;
use super::data::{NotText, text};
use super::process::Run;
use super::schedule::{Action, Job, Next, Schedule};
use crate::lease::LeaseAttrs;

/// Commands at a time. Most of them change routes or devices, which the kernel does under one lock:
/// more would wait for each other.
const AT_ONCE: usize = 8;

/// A peer, as the commands about it are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its address on the underlay.
    pub public_ip: Ipv4Addr,
    /// What its `PreStartupCommand` has printed; empty when it has none.
    pub data: String,
}

impl PeerFacts {
    /// What a lease of this backend says about its node.
    ///
    /// # Errors
    /// Its data is not what this backend writes.
    pub fn from_lease(attrs: &LeaseAttrs) -> Result<Self, NotText> {
        Ok(Self {
            public_ip: attrs.public_ip,
            data: text(attrs.backend_data.as_deref())?,
        })
    }
}

/// Runs the commands for peers until it is dropped or stopped.
///
/// Nothing here waits: peers are set, a task of its own does what follows, and what has failed can
/// be asked for.
#[derive(Debug)]
pub struct Peers {
    shared: Arc<Shared>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl Shared {
    /// The schedule is whole between any two calls, so that a panic elsewhere does not matter.
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers {
    /// Starts with no peers, whatever an earlier run has left: as in flannel, adds run for all peers
    /// that are then set.
    #[must_use]
    pub fn start(commands: Arc<Commands>) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let task = drive(Arc::clone(&shared), commands, stop.clone());
        Self {
            shared,
            stop,
            task: Some(tokio::spawn(task)),
        }
    }

    /// The peers that there are to be, by their subnets: those that came or changed are added,
    /// those that went are removed. Returns at once.
    pub fn set_peers(&mut self, peers: &BTreeMap<Ipv4Network, PeerFacts>) {
        self.shared.schedule().set(peers, Instant::now());
        self.shared.changed.notify_one();
    }

    /// Peers whose last command has failed, with the reason.
    #[must_use]
    pub fn failures(&self) -> Vec<(Ipv4Network, String)> {
        self.shared.schedule().failures()
    }

    /// How many peers wait for a command that was not tried yet, or for the end of one.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.shared.schedule().pending()
    }

    /// Ends the commands that run and waits for their end. What they have set up stays.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It does not panic, and nobody else can abort it.
            let _ = task.await;
        }
    }
}

impl Drop for Peers {
    /// Commands that run are killed with all that they have started.
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn drive(shared: Arc<Shared>, commands: Arc<Commands>, stop: CancellationToken) {
    let mut rng = StdRng::from_os_rng();
    let mut running = FuturesUnordered::new();
    while !stop.is_cancelled() {
        let mut next_due = None;
        while running.len() < AT_ONCE {
            let job = shared.schedule().take(Instant::now());
            let Some(job) = job else {
                next_due = shared.schedule().next_due();
                break;
            };
            running.push(run(&commands, job, &stop));
        }
        let due = async {
            match next_due {
                Some(due) => sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((job, result)) = running.next() => {
                let now = Instant::now();
                let told = result.clone();
                let next = shared.schedule().finish(job.subnet, result, now, &mut rng);
                tell(&job, &told, next);
            }
            () = due => {}
            () = shared.changed.notified() => {}
            () = stop.cancelled() => {}
        }
    }
    while running.next().await.is_some() {}
}

/// Runs a peer's command, if the network config has one.
async fn run(commands: &Commands, job: Job, stop: &CancellationToken) -> (Job, Result<(), String>) {
    let (key, text) = match job.action {
        Action::Add => ("SubnetAddCommand", &commands.subnet_add),
        Action::Remove => ("SubnetRemoveCommand", &commands.subnet_remove),
    };
    let Some(text) = text else {
        return (job, Ok(()));
    };
    let variables = [
        ("SUBNET", job.subnet.to_string()),
        ("PUBLIC_IP", job.facts.public_ip.to_string()),
    ];
    let run = Run {
        key,
        text,
        peer: Some(job.subnet),
        variables: &variables,
        input: &job.facts.data,
    };
    let result = commands.runner.run(&run, stop).await;
    (job, result.map(drop).map_err(|failure| failure.to_string()))
}

fn tell(job: &Job, result: &Result<(), String>, next: Next) {
    let Job {
        subnet,
        action,
        facts: PeerFacts { public_ip, .. },
    } = job;
    let Err(error) = result else {
        debug!(%subnet, %public_ip, ?action, "the command for a peer has succeeded");
        return;
    };
    match next {
        Next::Again(delay) => {
            warn!(%subnet, %public_ip, error, again_in = ?delay, "a command for a peer has failed");
        }
        Next::GivenUp => warn!(%subnet, %public_ip, error, "a peer that has gone is given up"),
        Next::Nothing | Next::Superseded => {
            warn!(%subnet, %public_ip, error, "a command for a peer has failed");
        }
    }
}
