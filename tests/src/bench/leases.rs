//! What many leases cost an agent: to start with them, to follow them, to reach the next one.
//!
//! One host runs the agent. Its peers are leases in a real etcd and nothing else; their public IPs
//! lie behind one gateway whose link-layer address is known, so that eBPF takes every peer. All
//! agents of a run are measured in turn on the same host, and beside them what `ip -batch` takes
//! for the same entries: no agent that makes them can be faster than the kernel.

mod bed;
mod churn;
mod first_packet;
mod floor;
mod lease;
mod notifications;
mod process;
pub mod render;
pub mod report;
mod start;
mod store;
mod subject;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use self::bed::LeaseBed;
use self::churn::Churn;
use self::report::{Report, Scale};
pub use self::subject::Subject;
use super::progress::Progress;

/// Starts of each agent, and so samples behind a median.
const ROUNDS: usize = 3;
/// Leases that are put and waited for one by one.
const PUTS: usize = 200;
/// How often, and so samples behind a median of their percentiles.
const PUT_ROUNDS: usize = 5;

/// About how long it takes to see that something is over.
const BESIDE: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Numbers of leases.
    pub counts: Vec<u32>,
    /// Agents, in the order of the columns.
    pub subjects: Vec<Subject>,
    /// Times that each agent is started; at least one.
    pub rounds: usize,
    /// Leases put one by one, for the time to the first packet.
    pub puts: usize,
    /// Times that these are put; at least one.
    pub put_rounds: usize,
    /// Lease changes per second to be followed.
    pub rate: u32,
    /// For how many seconds.
    pub seconds: u32,
}

impl Options {
    /// The full measurement of these agents.
    #[must_use]
    pub fn full(subjects: Vec<Subject>) -> Self {
        Self {
            counts: vec![1_000, 10_000],
            subjects,
            rounds: ROUNDS,
            puts: PUTS,
            put_rounds: PUT_ROUNDS,
            rate: 1_000,
            seconds: 4,
        }
    }

    /// One start each with few and with many leases: a part of a larger bench.
    #[must_use]
    pub fn short(subjects: Vec<Subject>) -> Self {
        Self {
            rounds: 1,
            put_rounds: 3,
            seconds: 2,
            ..Self::full(subjects)
        }
    }

    /// One that shows within a minute that everything works; too few samples for a comparison.
    #[must_use]
    pub fn quick(subjects: Vec<Subject>) -> Self {
        Self {
            counts: vec![1_000],
            rounds: 1,
            puts: 40,
            put_rounds: 1,
            seconds: 2,
            ..Self::full(subjects)
        }
    }
}

impl Options {
    /// About how long all of it takes.
    #[must_use]
    pub fn time(&self) -> Duration {
        let times = |count: usize, each: Duration| each * u32::try_from(count).unwrap_or(u32::MAX);
        let agents = self.subjects.len();
        let scales = self.counts.iter().map(|count| {
            let starts = times(self.rounds * (1 + agents), start_time(*count));
            starts
                + times(
                    agents,
                    self.churn_time() * 2 + times(self.put_rounds, self.puts_time()),
                )
        });
        scales.sum()
    }

    fn churn_time(&self) -> Duration {
        Duration::from_secs(self.seconds.into()) + BESIDE
    }

    fn puts_time(&self) -> Duration {
        let puts = u32::try_from(self.puts).unwrap_or(u32::MAX);
        Duration::from_millis(10) * puts + BESIDE
    }
}

/// Measures.
///
/// # Errors
/// A tool is missing, an agent does not come up, or one leaves out a peer.
pub fn run(options: &Options, progress: &mut Progress) -> Result<Report> {
    ensure!(options.rounds > 0, "no round, no figure");
    let scales = options
        .counts
        .iter()
        .map(|count| {
            scale(*count, options, progress).with_context(|| format!("with {count} leases"))
        })
        .collect::<Result<_>>()?;
    Ok(Report {
        kernel_release: crate::measure::kernel_release()?,
        cores: crate::cpu::count(),
        rounds: options.rounds,
        rate: options.rate,
        scales,
    })
}

/// About how long an agent takes to start twice, with so many leases.
fn start_time(count: u32) -> Duration {
    Duration::from_micros(700) * count + BESIDE * 3
}

/// Everything with one number of leases.
fn scale(count: u32, options: &Options, progress: &mut Progress) -> Result<Scale> {
    let bed = LeaseBed::new(count)?;
    let mut scale = Scale::new(count, options.subjects.iter().map(Subject::name));
    for round in 0..options.rounds {
        let what = format!("{count} leases, round {} of {}", round + 1, options.rounds);
        progress.step(&format!("{what}: ip -batch"), start_time(count));
        scale.floor.push(floor::measure(&bed)?);
        // In turn, so that a machine that gets slower meanwhile favours none.
        for offset in 0..options.subjects.len() {
            let index = (round + offset) % options.subjects.len();
            let subject = &options.subjects[index];
            let text = format!("{what}: start {}", subject.name());
            progress.step(&text, start_time(count));
            let row = &mut scale.agents[index];
            let starts = start::measure(&bed, subject);
            let (cold, warm) = starts.with_context(|| format!("start {}", subject.name()))?;
            row.cold.push(cold);
            row.warm.push(warm);
        }
    }
    for (subject, row) in options.subjects.iter().zip(&mut scale.agents) {
        let name = subject.name();
        let mut process = start::ready(&bed, subject)?;
        for (kind, slot) in [
            (Churn::Change, &mut row.change),
            (Churn::ComeAndGo, &mut row.come_and_go),
        ] {
            let text = format!("{count} leases: {name} follows leases that {kind}");
            progress.step(&text, options.churn_time());
            let followed = churn::measure(&bed, &process, kind, options.rate, options.seconds);
            *slot = followed.with_context(|| format!("{name} follows leases that {kind}"))?;
        }
        for _ in 0..options.put_rounds {
            let text = format!("{count} leases: first packets with {name}");
            progress.step(&text, options.puts_time());
            let times = first_packet::measure(&bed, options.puts);
            let times = times.with_context(|| format!("first packets with {name}"))?;
            row.first_packets.push(times);
        }
        process.terminate()?;
        start::clear(&bed, subject)?;
    }
    Ok(scale)
}
