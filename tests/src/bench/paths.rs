//! All data paths side by side: packets per second, TCP, request-response.
//!
//! Every side is two hosts with a wire between them, and all sides are up all the time. Each figure
//! is sampled on all of them one right after the other, and each round begins with another side, so
//! that a machine that gets faster or slower meanwhile favours none. A ratio is the median of the
//! ratios of samples of the same round; it is printed only where the [confidence
//! interval](crate::report::Spread::interval) of that median excludes 1.

pub mod goal;
mod idle;
pub mod render;
pub mod report;
pub mod side;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

pub use self::side::Kind;

use self::report::{Report, SideReport, WireReport};
use self::side::Side;
use super::progress::Progress;
use crate::cpu;
use crate::measure::figure::Samples;
use crate::measure::probe::{Lengths, Probe, in_turn};
use crate::measure::{WIRES, counters, kernel_release, shares};
use crate::report::ENOUGH;
use crate::wire::Wire;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data paths, in the order of the rows.
    pub sides: Vec<Kind>,
    /// Samples behind each median.
    pub rounds: usize,
    /// How long each takes.
    pub lengths: Lengths,
}

impl Options {
    /// The full measurement.
    #[must_use]
    pub fn full(sides: Vec<Kind>) -> Self {
        Self {
            sides,
            // With nine samples the second and the second to last bound the median (96 %).
            rounds: 9,
            lengths: Lengths {
                tcp: Duration::from_millis(600),
                tcp_one_core: Duration::from_millis(300),
                packets: Duration::from_millis(600),
                response: Duration::from_millis(250),
            },
        }
    }

    /// One that takes less than two minutes; shorter samples spread more.
    #[must_use]
    pub fn quick(sides: Vec<Kind>) -> Self {
        Self {
            sides,
            rounds: ENOUGH,
            lengths: Lengths {
                tcp: Duration::from_millis(250),
                tcp_one_core: Duration::from_millis(150),
                packets: Duration::from_millis(200),
                response: Duration::from_millis(100),
            },
        }
    }
}

/// What is sampled over a kind of wire. What a wire does to super-packets changes no rate of single
/// packets, but for those that a proxy gathers; one size shows that.
fn probes(wire: Wire) -> &'static [Probe] {
    match wire {
        Wire::Mtu1500 => &[
            Probe::Small,
            Probe::Medium,
            Probe::Large,
            Probe::Tcp,
            Probe::TcpOneCore,
            Probe::Response,
        ],
        Wire::SuperPacket => &[Probe::Small, Probe::Tcp, Probe::TcpOneCore, Probe::Response],
    }
}

/// Measures.
///
/// # Errors
/// A tool is missing, a data path does not come up, or it carries no packets.
pub fn run(options: &Options) -> Result<Report> {
    let Options {
        sides: kinds,
        rounds,
        lengths,
    } = options;
    ensure!(*rounds > 0, "no round, no figure");
    let samples: usize = WIRES.iter().map(|wire| probes(*wire).len() * rounds).sum();
    let mut progress = Progress::new((1 + samples) * kinds.len() + 1);
    let load_before = load()?;
    let mut sides = Vec::new();
    for kind in kinds {
        progress.step(&format!("set up {kind}"));
        sides.push(Side::new(*kind).with_context(|| format!("set up {kind}"))?);
    }
    progress.step("all idle");
    let idle = idle::measure(&sides)?;
    let wires = WIRES
        .into_iter()
        .map(|wire| measure(wire, &sides, *rounds, lengths, &mut progress))
        .collect::<Result<_>>()?;
    Ok(Report {
        kernel_release: kernel_release()?,
        cores: cpu::count(),
        rounds: *rounds,
        load_before,
        load_after: load()?,
        idle,
        wires,
    })
}

fn measure(
    wire: Wire,
    sides: &[Side],
    rounds: usize,
    lengths: &Lengths,
    progress: &mut Progress,
) -> Result<WireReport> {
    let mut before = Vec::new();
    for side in sides {
        side.set_wire(wire)?;
        before.push(counters(side.agents())?);
    }
    let mut samples: Vec<Samples> = sides.iter().map(|_| Samples::default()).collect();
    in_turn(rounds, probes(wire), sides.len(), |round, probe, index| {
        let side = &sides[index];
        let (kind, name) = (side.kind, probe.name());
        progress.step(&format!(
            "{wire}, round {} of {rounds}: {name}, {kind}",
            round + 1
        ));
        if side.ends.can(probe) {
            let taken = probe.take(&side.ends, lengths, &mut samples[index]);
            taken.with_context(|| format!("{name} on {kind} over {wire}"))?;
        }
        Ok(())
    })?;
    let mut reports = Vec::new();
    for ((side, samples), before) in sides.iter().zip(samples).zip(before) {
        let shares = shares(&before, &counters(side.agents())?);
        reports.push(SideReport::new(side.kind, samples, shares));
    }
    Ok(WireReport::new(wire, reports))
}

/// Mean number of threads that ran or wanted to during the last minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split(' ').next().context("an empty /proc/loadavg")?;
    Ok(first.parse()?)
}
