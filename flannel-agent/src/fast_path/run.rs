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
use crate::cli::FastPathMode;
use crate::error::chain;
use crate::netlink::monitor::{Monitor, NetlinkEvent};
use crate::status;

/// Least time between two ends of all admissions: on a host where something changes all the time
/// flows still get somewhere in between.
const PAUSE: Duration = Duration::from_millis(100);
/// How long notifications are gathered: a pod that comes makes a dozen.
const SETTLE: Duration = Duration::from_millis(5);
/// Least time between counts of flows; with a long bound it is two of these, in which each flow is
/// admitted twice.
const CENSUS: Duration = Duration::from_secs(2);
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
    let period = CENSUS.max(fast_path.spec.bound * 2);
    let (mut census, mut resync, mut watch) = (interval(period), interval(RESYNC), interval(WATCH));
    for ticks in [&mut census, &mut resync, &mut watch] {
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut ears = Ears::default();
    let mut due: Option<(Instant, Look)> = None;
    let mut last = Instant::now();
    loop {
        let is_used = fast_path.is_wanted() && *is_ebpf.borrow();
        ears.open(is_used);
        let look = tokio::select! {
            event = heard(&mut ears.monitor) => {
                debug!(?event, "kernel changed");
                due = Some(later(due, last, look_at(&event)));
                continue;
            }
            has_verdict = ears.rules.changed() => {
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
            _ = watch.tick(), if is_used => {
                let own = *subnet.borrow();
                if !fast_path.has_news(own).await {
                    continue;
                }
                Look::Pods
            }
            _ = census.tick() => {
                fast_path.count_flows();
                status.send_replace(fast_path.status());
                continue;
            }
            Some((mode, answer)) = requests.recv() => {
                fast_path.set_mode(mode);
                let obstacles = ears.obstacles(fast_path.is_wanted(), &is_ebpf);
                fast_path.reconcile(*subnet.borrow(), obstacles).await;
                status.send_replace(fast_path.status());
                // Whoever asked may be gone.
                let _ = answer.send(fast_path.status());
                continue;
            }
        };
        last = Instant::now();
        let is_renewed = look == Look::Flows && fast_path.renew().is_ok();
        if !is_renewed {
            let obstacles = ears.obstacles(fast_path.is_wanted(), &is_ebpf);
            let own = *subnet.borrow_and_update();
            fast_path.reconcile(own, obstacles).await;
        }
        status.send_replace(fast_path.status());
    }
}

/// What listens to the kernel, while the fast path may be in use: of thousands of peers that a node
/// starts with there is much to hear.
#[derive(Default)]
struct Ears {
    monitor: Option<Monitor>,
    rules: Rules,
}

impl Ears {
    /// Listens from here on, or not any more.
    fn open(&mut self, is_used: bool) {
        self.rules.follow(is_used);
        if !is_used {
            self.monitor = None;
        } else if self.monitor.is_none() {
            match Monitor::open() {
                Ok(opened) => self.monitor = Some(opened),
                // Tried again at every turn of the loop.
                Err(error) => debug!(error = chain(&error), "the kernel cannot be listened to"),
            }
        }
    }

    /// What keeps the fast path off, beside what the interfaces have. What changes after this is
    /// heard.
    fn obstacles(&mut self, is_wanted: bool, is_ebpf: &watch::Receiver<bool>) -> Vec<String> {
        let is_ebpf = *is_ebpf.borrow();
        self.open(is_wanted && is_ebpf);
        let kernel = (!is_ebpf).then(|| "packets are not carried by eBPF".to_owned());
        kernel.into_iter().chain(self.rules.obstacles()).collect()
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

fn look_at(event: &NetlinkEvent) -> Look {
    match event {
        NetlinkEvent::Overrun
        | NetlinkEvent::Link { .. }
        | NetlinkEvent::Address { .. }
        | NetlinkEvent::TrafficControl => Look::Pods,
        // A pod may have a route of its own. Those of peers come by the thousand, and are no pods'.
        NetlinkEvent::Route {
            oif: Some(_),
            is_direct: false,
            peer: None,
        } => Look::Pods,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_pods_are_looked_at_and_those_of_peers_are_not() {
        let route = |is_direct, peer| NetlinkEvent::Route {
            oif: Some(7),
            is_direct,
            peer,
        };
        let peer = "10.5.9.0/24".parse().unwrap();
        assert_eq!(look_at(&route(false, None)), Look::Pods);
        assert_eq!(look_at(&route(false, Some((peer, None)))), Look::Flows);
        assert_eq!(look_at(&route(true, None)), Look::Flows);
    }
}
