//! The loop that owns the node: leases, the kernel's notifications and time come in, passes go out.

use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::report::Report;
use super::{Error, Node, Scope};
use crate::cli::DatapathMode;
use crate::error::chain;
use crate::lease::LeaseChange;
use crate::netlink::monitor::Monitor;

/// How long notifications are gathered before a pass looks at what they are about: one change of
/// an administrator's makes several.
const SETTLE: Duration = Duration::from_millis(20);
/// Before a pass that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Before entries that the kernel refused are tried again: what they depend on may change without
/// a notification. As often as flannel does for host-gw.
const RETRY_ENTRIES: Duration = Duration::from_secs(10);
/// Between comparisons that nothing has asked for. Routes of the underlay are left out: they are
/// looked up one by one, and whatever changes them is told.
const RESYNC: Duration = Duration::from_secs(60);
/// Between requests to the kernel to look after neighbours in use; below its own 30 s of trust in
/// a reachable neighbour.
const KEEP: Duration = Duration::from_secs(10);

/// What others ask of the node.
#[derive(Debug)]
pub enum Request {
    /// The node as it is.
    Report(oneshot::Sender<Report>),
    /// Another data path; answered when it is in use, or with the reason why not.
    Datapath(DatapathMode, oneshot::Sender<Result<(), String>>),
}

/// Where everything comes from.
pub struct Inputs {
    /// Leases as the store reports them.
    pub leases: mpsc::Receiver<LeaseChange>,
    /// The kernel's notifications, subscribed to before the node was made.
    pub monitor: Monitor,
    /// Requests of other tasks.
    pub requests: mpsc::Receiver<Request>,
    /// The own subnet, when it changes.
    pub subnet: watch::Receiver<Ipv4Network>,
    /// Told once, after the first pass with all leases.
    pub ready: oneshot::Sender<()>,
    /// Told whether the node is ready and eBPF carries its packets.
    pub is_ebpf: watch::Sender<bool>,
    /// Told whether the external interface is not what the node was made for.
    pub moved: watch::Sender<bool>,
}

/// What to do when the dataplane cannot be attached at the first pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Go on with the kernel path.
    Kernel,
    /// Give up.
    Refuse,
}

/// Passes that are due.
#[derive(Debug, Default)]
struct Due {
    scope: Scope,
    at: Option<Instant>,
}

impl Due {
    fn after(&mut self, delay: Duration, scope: Scope) {
        self.scope |= scope;
        self.at.get_or_insert_with(|| Instant::now() + delay);
    }

    async fn wait(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// Runs until cancelled.
///
/// # Errors
/// The dataplane could not be attached at the first pass, and `fallback` is to refuse. Every other
/// failure is tried again.
pub async fn run(
    node: &mut Node,
    inputs: Inputs,
    fallback: Fallback,
    stop: CancellationToken,
) -> Result<(), Error> {
    let Inputs {
        mut leases,
        mut monitor,
        mut requests,
        mut subnet,
        ready,
        moved,
        is_ebpf,
    } = inputs;
    // Gone once the first pass is done. Until then nothing is known of peers, and what an earlier
    // run left is left alone.
    let mut ready = Some(ready);
    let mut due = Due::default();
    let (mut resync, mut keep) = (interval(RESYNC), interval(KEEP));
    for ticks in [&mut resync, &mut keep] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
    }
    loop {
        let is_started = ready.is_none();
        let scope = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            change = leases.recv() => {
                let Some(change) = change else { return Ok(()) };
                let mut has_changed = node.apply(change);
                while let Ok(change) = leases.try_recv() {
                    has_changed |= node.apply(change);
                }
                if let Some(ready) = ready.take() {
                    first_pass(node, fallback, &mut due).await?;
                    // At shutdown nobody waits any more.
                    let _ = ready.send(());
                    is_ebpf.send_if_modified(|was| set(was, node.has_dataplane()));
                    continue;
                }
                if !has_changed {
                    continue;
                }
                Scope::LEASES
            }
            Some(event) = monitor.next() => {
                if let Some(scope) = node.scope_of(&event) {
                    debug!(?event, "kernel changed");
                    due.after(SETTLE, scope);
                }
                continue;
            }
            Ok(()) = subnet.changed() => {
                let subnet = *subnet.borrow_and_update();
                info!(%subnet, "the node gets another subnet");
                node.set_subnet(subnet);
                if !is_started {
                    continue;
                }
                Scope::ALL
            }
            () = due.wait(), if is_started => {
                let mut scope = std::mem::take(&mut due).scope;
                scope |= node.in_doubt();
                // Doubts have been cleared up, and there is nothing to try again.
                if scope == Scope::LEASES && !node.has_failures() {
                    continue;
                }
                scope
            }
            _ = resync.tick(), if is_started => Scope { routes: false, ..Scope::ALL },
            _ = keep.tick() => {
                node.keep_neighbours().await;
                continue;
            }
            request = requests.recv() => match request {
                // Whoever asks may be gone when the answer comes.
                Some(Request::Report(answer)) => {
                    let _ = answer.send(node.report());
                    continue;
                }
                Some(Request::Datapath(_, answer)) if !is_started => {
                    let _ = answer.send(Err("the agent is starting".to_owned()));
                    continue;
                }
                Some(Request::Datapath(mode, answer)) => {
                    info!(%mode, "asked for another data path");
                    let result = node.set_datapath(mode).await;
                    is_ebpf.send_if_modified(|was| set(was, node.has_dataplane()));
                    let _ = answer.send(result.map_err(|error| chain(&error)));
                    continue;
                }
                None => return Ok(()),
            },
        };
        let reconciled = node.reconcile(scope).await;
        moved.send_if_modified(|was| set(was, node.has_moved()));
        is_ebpf.send_if_modified(|was| set(was, node.has_dataplane()));
        if reconciled.is_err() {
            due.after(RETRY, Scope::ALL);
        } else if node.has_failures() {
            due.after(RETRY_ENTRIES, Scope::LEASES);
        }
    }
}

/// Sets a flag; says whether it was another one.
fn set(flag: &mut bool, value: bool) -> bool {
    std::mem::replace(flag, value) != value
}

async fn first_pass(node: &mut Node, fallback: Fallback, due: &mut Due) -> Result<(), Error> {
    let result = node.reconcile(Scope::ALL).await;
    match result {
        Ok(()) => {}
        Err(error @ Error::Dataplane(_)) if fallback == Fallback::Refuse => return Err(error),
        Err(Error::Dataplane(error)) => {
            let reason = format!("eBPF cannot be used here: {}", chain(&error));
            warn!(reason, "datapath: kernel");
            node.give_up_dataplane(reason);
            due.after(SETTLE, Scope::ALL);
        }
        Err(_) => due.after(RETRY, Scope::ALL),
    }
    Ok(())
}
