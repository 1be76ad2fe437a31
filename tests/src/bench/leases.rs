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
            rate: 1_000,
            seconds: 4,
        }
    }

    /// One that shows within a minute that everything works; too few samples for a comparison.
    #[must_use]
    pub fn quick(subjects: Vec<Subject>) -> Self {
        Self {
            counts: vec![1_000],
            rounds: 1,
            puts: 40,
            seconds: 2,
            ..Self::full(subjects)
        }
    }
}

/// Measures.
///
/// # Errors
/// A tool is missing, an agent does not come up, or one leaves out a peer.
pub fn run(options: &Options) -> Result<Report> {
    ensure!(options.rounds > 0, "no round, no figure");
    let kernel_release = nix::sys::utsname::uname()?;
    // Per round a floor and each agent's starts; then two kinds of churn and the puts of each.
    let agents = options.subjects.len();
    let steps = options.counts.len() * (options.rounds * (1 + agents) + agents * 3);
    let mut progress = Progress::new(steps);
    let scales = options
        .counts
        .iter()
        .map(|count| {
            scale(*count, options, &mut progress).with_context(|| format!("with {count} leases"))
        })
        .collect::<Result<_>>()?;
    Ok(Report {
        kernel_release: kernel_release.release().to_string_lossy().into_owned(),
        cores: crate::cpu::count(),
        rounds: options.rounds,
        rate: options.rate,
        scales,
    })
}

/// Everything with one number of leases.
fn scale(count: u32, options: &Options, progress: &mut Progress) -> Result<Scale> {
    let bed = LeaseBed::new(count)?;
    let mut scale = Scale::new(count, options.subjects.iter().map(Subject::name));
    for round in 0..options.rounds {
        let what = format!("{count} leases, round {} of {}", round + 1, options.rounds);
        progress.step(&format!("{what}: ip -batch"));
        scale.floor.push(floor::measure(&bed)?);
        // In turn, so that a machine that gets slower meanwhile favours none.
        for offset in 0..options.subjects.len() {
            let index = (round + offset) % options.subjects.len();
            let subject = &options.subjects[index];
            progress.step(&format!("{what}: start {}", subject.name()));
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
            progress.step(&format!(
                "{count} leases: {name} follows leases that {kind}"
            ));
            let followed = churn::measure(&bed, &process, kind, options.rate, options.seconds);
            *slot = followed.with_context(|| format!("{name} follows leases that {kind}"))?;
        }
        progress.step(&format!("{count} leases: first packets with {name}"));
        let times = first_packet::measure(&bed, options.puts);
        row.first_packet = times.with_context(|| format!("first packets with {name}"))?;
        process.terminate()?;
        start::clear(&bed, subject)?;
    }
    Ok(scale)
}
