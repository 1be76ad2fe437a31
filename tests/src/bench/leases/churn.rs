//! Following leases that change at a steady rate.

use std::collections::HashMap;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::bed::LeaseBed;
use super::lease::{COMING, FakeLease};
use super::notifications::{Change, Heard, Notifications};
use super::process::Process;
use super::report::{Followed, percentile};
use super::store::{self, Write, Written};

/// Leases that are there for a while before they go.
const STAYING: u32 = 100;
/// How long an agent may take to catch up.
const LIMIT: Duration = Duration::from_secs(120);
/// For what was written before the measurement to have come and be done with.
const SETTLE: Duration = Duration::from_secs(2);

/// What happens to leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Churn {
    /// Nodes are made anew and keep their subnets: another VTEP MAC, no change of a route.
    Change,
    /// Nodes come, and as many go: routes are made and removed.
    ComeAndGo,
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Change => "change",
            Self::ComeAndGo => "come and go",
        })
    }
}

impl Churn {
    /// What is there before, the writes that are measured, and what puts all back.
    fn writes(self, leases: u32, count: u32) -> [Vec<Write>; 3] {
        match self {
            Self::Change => {
                let changed = (0..count).map(|write| {
                    Write::Put(FakeLease {
                        number: 1 + write % leases,
                        // Leases are fewer than 256 times the changes.
                        generation: (1 + write / leases) as u8,
                    })
                });
                let back = (1..=leases.min(count)).map(|n| Write::Put(FakeLease::new(n)));
                [Vec::new(), changed.collect(), back.collect()]
            }
            Self::ComeAndGo => {
                let lease = |n| FakeLease::new(COMING + n);
                let changed = (0..count / 2)
                    .flat_map(|n| [Write::Put(lease(STAYING + n)), Write::Delete(lease(n))]);
                let all = 0..count / 2 + STAYING;
                [
                    (0..STAYING).map(|n| Write::Put(lease(n))).collect(),
                    changed.collect(),
                    all.map(|n| Write::Delete(lease(n))).collect(),
                ]
            }
        }
    }

    /// What the kernel says once an agent has followed a write.
    fn sign(self, write: Write) -> Change {
        match (self, write) {
            (Self::Change, Write::Put(it) | Write::Delete(it)) => {
                Change::NeighbourSet(it.subnet(), it.mac())
            }
            (Self::ComeAndGo, Write::Put(it)) => Change::RouteSet(it.subnet()),
            (Self::ComeAndGo, Write::Delete(it)) => Change::RouteRemoved(it.subnet()),
        }
    }
}

/// Changes leases at `rate` per second, and finds out when `process` has followed each.
pub(super) fn measure(
    bed: &LeaseBed,
    process: &Process,
    kind: Churn,
    rate: u32,
    seconds: u32,
) -> Result<Followed> {
    let [before, changes, back] = kind.writes(bed.count, rate * seconds);
    store::connected(&bed.gateway().ns, |etcd| {
        etcd.write_all(before)?;
        thread::sleep(SETTLE);
        let notifications = Notifications::listen(&bed.host().ns)?;
        let (cost, start) = (process.cost()?.cpu_secs, Instant::now());
        let written = etcd.write_steadily(&changes, rate)?;
        let took = start.elapsed();
        let deadline = Instant::now() + LIMIT;
        loop {
            let missing = notifications
                .heard(|heard| missing(kind, written.iter().map(|it| it.write), heard));
            if missing == 0 {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{missing} changes are not followed"
            );
            thread::sleep(Duration::from_millis(20));
        }
        let cpu = process.cost()?.cpu_secs - cost;
        let followed = evaluate(kind, &written, &notifications.finish()?);
        etcd.write_all(back)?;
        thread::sleep(SETTLE);
        Ok(Followed {
            cpu_share: cpu / took.as_secs_f64(),
            rate: f64::from(rate * seconds) / took.as_secs_f64(),
            ..followed
        })
    })
}

/// Changes of which the kernel has not told yet. A write that is overtaken by another to the same
/// lease may be passed over; so may a lease that has gone before anybody has seen it.
fn missing(kind: Churn, changes: impl Iterator<Item = Write>, heard: &[Heard]) -> usize {
    let times = first_times(heard);
    let is_heard = |write| times.contains_key(&kind.sign(write));
    let last: HashMap<u32, Write> = changes
        .map(|write| match write {
            Write::Put(it) | Write::Delete(it) => (it.number, write),
        })
        .collect();
    let missing = last.into_values().filter(|write| match *write {
        Write::Put(_) => !is_heard(*write),
        Write::Delete(it) => is_heard(Write::Put(it)) && !is_heard(*write),
    });
    missing.count()
}

fn first_times(heard: &[Heard]) -> HashMap<Change, Instant> {
    let mut times = HashMap::new();
    for (at, change) in heard {
        times.entry(*change).or_insert(*at);
    }
    times
}

fn evaluate(kind: Churn, written: &[Written], heard: &[Heard]) -> Followed {
    let times = first_times(heard);
    let Some(end) = written.iter().map(|written| written.answered).max() else {
        return Followed::default();
    };
    let seen = written.iter().filter_map(|written| {
        let at = times.get(&kind.sign(written.write))?;
        Some((written.answered, *at))
    });
    let seen: Vec<(Instant, Instant)> = seen.collect();
    // The kernel may have it before the writer has etcd's answer.
    let late = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    let lags = || {
        seen.iter()
            .map(|(answered, at)| late(*answered, *at))
            .collect()
    };
    let last = seen.iter().map(|(_, at)| *at).max().unwrap_or(end);
    Followed {
        lag_p50_ms: percentile(lags(), 0.5),
        lag_p99_ms: percentile(lags(), 0.99),
        caught_up_ms: late(end, last),
        backlog: seen.iter().filter(|(_, at)| *at > end).count(),
        ..Followed::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_write_has_a_sign_of_its_own() {
        for kind in [Churn::Change, Churn::ComeAndGo] {
            let [before, changes, back] = kind.writes(100, 400);
            let distinct: HashSet<_> = changes.iter().map(|write| kind.sign(*write)).collect();
            assert_eq!(distinct.len(), 400, "{kind}");
            // Whatever was put is put back or deleted.
            let number = |write: &Write| match write {
                Write::Put(it) | Write::Delete(it) => it.number,
            };
            let back: HashSet<_> = back.iter().map(number).collect();
            let touched = before.iter().chain(&changes).map(number);
            assert!(touched.into_iter().all(|it| back.contains(&it)), "{kind}");
        }
    }

    #[test]
    fn a_lease_that_nobody_saw_needs_not_go() {
        let lease = FakeLease::new(7);
        let changes = [Write::Put(lease), Write::Delete(lease)];
        let heard = changes.map(|write| (Instant::now(), Churn::ComeAndGo.sign(write)));
        let missing = |changes: &[Write], heard: &[Heard]| {
            missing(Churn::ComeAndGo, changes.iter().copied(), heard)
        };
        assert_eq!(missing(&changes[..1], &[]), 1);
        assert_eq!(missing(&changes, &[]), 0);
        assert_eq!(missing(&changes, &heard[..1]), 1);
        assert_eq!(missing(&changes, &heard), 0);
    }

    #[test]
    fn lag_counts_from_the_answer_and_backlog_from_the_last() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let [_, changes, _] = Churn::Change.writes(2, 2);
        let written: Vec<Written> = changes
            .iter()
            .zip([10, 20])
            .map(|(write, ms)| Written {
                write: *write,
                revision: 0,
                answered: at(ms),
            })
            .collect();
        let heard = [
            (at(9), Churn::Change.sign(changes[0])),
            (at(25), Churn::Change.sign(changes[1])),
        ];
        let followed = evaluate(Churn::Change, &written, &heard);
        assert_eq!((followed.backlog, followed.caught_up_ms), (1, 5.0));
        assert_eq!(followed.lag_p99_ms, 5.0);
        assert_eq!(evaluate(Churn::Change, &written, &[]).backlog, 0);
    }
}
