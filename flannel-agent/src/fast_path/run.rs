//! The loop that owns the fast path: what changes in the kernel comes in, ends of admissions go
//! out.

use std::convert::Infallible;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::debug;

use super::FastPath;
use super::follow::Rules;
use super::sweep::Sweeping;
use crate::cli::FastPathMode;
use crate::error::chain;
use crate::netlink::monitor::{Monitor, NetlinkEvent};
use crate::status;

/// Least time between two ends of all admissions: on a host where something changes all the time
/// flows still get somewhere in between.
const PAUSE: Duration = Duration::from_millis(100);
/// How long notifications are gathered: a pod that comes makes a dozen.
const SETTLE: Duration = Duration::from_millis(5);
/// Between removals of what has expired.
const SWEEP: Duration = Duration::from_secs(10);
/// Between looks for programs of others, which come without a word: within the bound, whatever it
/// is by default.
const WATCH: Duration = Duration::from_millis(400);
/// Between comparisons that nothing has asked for.
const RESYNC: Duration = Duration::from_secs(60);

/// A wish of an operator's; answered with what came of it.
pub type Request = (FastPathMode, oneshot::Sender<status::FastPath>);

/// Where everything comes from.
pub struct Inputs {
    /// The own subnet.
    pub subnet: watch::Receiver<Ipv4Network>,
    /// Whether the node is ready and packets are carried by eBPF.
    pub is_ebpf: watch::Receiver<bool>,
    /// Wishes.
    pub requests: mpsc::Receiver<Request>,
    /// Told whenever something has changed.
    pub status: watch::Sender<status::FastPath>,
}

/// What a look has to be at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// Flows have to come through the rules again.
    Flows,
    /// Pods may have come or gone.
    Pods,
}

/// Runs until dropped.
pub async fn run(mut fast_path: FastPath, inputs: Inputs) -> Infallible {
    let Inputs {
        mut subnet,
        mut is_ebpf,
        mut requests,
        status,
    } = inputs;
    let (mut sweep, mut resync, mut watch) = (interval(SWEEP), interval(RESYNC), interval(WATCH));
    for ticks in [&mut sweep, &mut resync, &mut watch] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let (mut monitor, mut rules) = (None, Rules::new());
    let mut sweeping = Sweeping::default();
    let mut due: Option<(Instant, Look)> = None;
    let mut last = Instant::now();
    loop {
        listen(&mut monitor, fast_path.is_wanted());
        rules.follow(fast_path.is_wanted());
        let look = tokio::select! {
            event = heard(&mut monitor) => {
                debug!(?event, "kernel changed");
                due = Some(later(due, last, look_at(&event)));
                continue;
            }
            has_verdict = rules.changed() => {
                let look = if has_verdict { Look::Pods } else { Look::Flows };
                due = Some(later(due, last, look));
                continue;
            }
            () = at(due) => match due.take() {
                Some((_, look)) => look,
                None => continue,
            },
            Ok(()) = subnet.changed() => Look::Pods,
            Ok(()) = is_ebpf.changed() => Look::Pods,
            _ = resync.tick() => Look::Pods,
            _ = watch.tick() => {
                let own = *subnet.borrow();
                if !fast_path.has_news(own).await {
                    continue;
                }
                Look::Pods
            }
            _ = sweep.tick() => {
                sweeping.start(fast_path.flows());
                continue;
            }
            flows = sweeping.done() => {
                fast_path.set_flows(flows);
                status.send_replace(fast_path.status());
                continue;
            }
            Some((mode, answer)) = requests.recv() => {
                fast_path.set_mode(mode);
                listen(&mut monitor, fast_path.is_wanted());
                rules.follow(fast_path.is_wanted());
                let (own, obstacles) = (*subnet.borrow(), obstacles(&is_ebpf, &rules));
                fast_path.reconcile(own, obstacles).await;
                status.send_replace(fast_path.status());
                // Whoever asked may be gone.
                let _ = answer.send(fast_path.status());
                continue;
            }
        };
        last = Instant::now();
        let is_renewed = look == Look::Flows && fast_path.renew().is_ok();
        if !is_renewed {
            let (own, obstacles) = (*subnet.borrow_and_update(), obstacles(&is_ebpf, &rules));
            fast_path.reconcile(own, obstacles).await;
        }
        status.send_replace(fast_path.status());
    }
}

/// Listens to the kernel as long as the fast path is wanted: of thousands of peers there is much to
/// hear.
fn listen(monitor: &mut Option<Monitor>, is_wanted: bool) {
    if !is_wanted {
        *monitor = None;
    } else if monitor.is_none() {
        match Monitor::open() {
            Ok(opened) => *monitor = Some(opened),
            // Tried again at every turn of the loop.
            Err(error) => debug!(error = chain(&error), "the kernel cannot be listened to"),
        }
    }
}

/// The next notification; an overrun when there are no more.
async fn heard(monitor: &mut Option<Monitor>) -> NetlinkEvent {
    let Some(open) = monitor else {
        return std::future::pending().await;
    };
    if let Some(event) = open.next().await {
        return event;
    }
    *monitor = None;
    NetlinkEvent::Overrun
}

/// What keeps the fast path off, beside what the interfaces have.
fn obstacles(is_ebpf: &watch::Receiver<bool>, rules: &Rules) -> Vec<String> {
    let kernel = (!*is_ebpf.borrow()).then(|| "packets are not carried by eBPF".to_owned());
    kernel.into_iter().chain(rules.obstacles()).collect()
}

fn look_at(event: &NetlinkEvent) -> Look {
    match event {
        NetlinkEvent::Overrun
        | NetlinkEvent::Link { .. }
        | NetlinkEvent::Address { .. }
        | NetlinkEvent::TrafficControl => Look::Pods,
        NetlinkEvent::Route { oif, .. } if oif.is_some() => Look::Pods,
        _ => Look::Flows,
    }
}

/// When to look, given what is due already and when the last look was.
fn later(due: Option<(Instant, Look)>, last: Instant, look: Look) -> (Instant, Look) {
    match due {
        Some((at, before)) => (at, before.max(look)),
        None => ((Instant::now() + SETTLE).max(last + PAUSE), look),
    }
}

async fn at(due: Option<(Instant, Look)>) {
    match due {
        Some((at, _)) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
