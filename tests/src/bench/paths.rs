//! All data paths side by side: packets per second, TCP, request-response.
//!
//! Every side is two hosts with a wire between them, and all sides are up all the time. Each figure
//! is sampled on all of them one right after the other, and each round begins with another side, so
//! that a machine that gets faster or slower meanwhile favours none. A ratio is the median of the
//! ratios of samples of the same round; it is printed only where the [confidence
//! interval](crate::report::Spread::interval) of that median excludes 1.

mod bare;
mod flowtable;
pub mod goal;
mod idle;
pub mod kind;
pub(in crate::bench) mod peer;
pub mod plan;
pub mod render;
pub mod report;
pub(in crate::bench) mod side;

use anyhow::{Context as _, Result, ensure};

pub use self::kind::Choice;
pub use self::plan::Options;

use self::report::{Report, SideReport, Skipped, WireReport};
use self::side::Side;
use super::progress::Progress;
use crate::measure::figure::Samples;
use crate::measure::probe::{Probe, in_turn};
use crate::measure::{WIRES, counters, shares};
use crate::wire::Wire;

/// Measures.
///
/// # Errors
/// No side comes up, or the machine does not say what it does.
pub fn run(options: &Options, progress: &mut Progress) -> Result<Report> {
    ensure!(options.rounds > 0, "no round, no figure");
    let (mut sides, mut skipped) = (Vec::new(), Vec::new());
    for choice in &options.sides {
        progress.step(&format!("set up {choice}"), plan::SET_UP);
        match Side::new(choice.clone()) {
            Ok(side) => sides.push(side),
            Err(error) => skipped.push(Skipped {
                name: choice.to_string(),
                reason: format!("{error:#}"),
            }),
        }
    }
    ensure!(!sides.is_empty(), "nothing to measure: {skipped:?}");
    progress.step("all idle", plan::IDLE);
    let idle = idle::measure(&sides)?;
    let wires = WIRES
        .into_iter()
        .map(|wire| measure(wire, &sides, options, progress))
        .collect::<Result<_>>()?;
    Ok(Report {
        rounds: options.rounds,
        idle,
        skipped,
        wires,
    })
}

/// What a side has given so far over one kind of wire.
#[derive(Default)]
struct Taken {
    samples: Samples,
    /// Probes that have failed, and how; they are not tried again.
    failed: Vec<(Probe, String)>,
}

fn measure(
    wire: Wire,
    sides: &[Side],
    options: &Options,
    progress: &mut Progress,
) -> Result<WireReport> {
    let mut before = Vec::new();
    for side in sides {
        side.set_wire(wire)?;
        before.push(counters(side.agents())?);
    }
    let Options {
        rounds, lengths, ..
    } = options;
    let mut taken: Vec<Taken> = sides.iter().map(|_| Taken::default()).collect();
    in_turn(
        *rounds,
        &options.probes(wire),
        sides.len(),
        |round, probe, index| {
            let (side, taken) = (&sides[index], &mut taken[index]);
            let (choice, name) = (&side.choice, probe.name());
            progress.step(
                &format!("{wire}, round {} of {rounds}: {name}, {choice}", round + 1),
                probe.time(lengths),
            );
            let has_failed = taken.failed.iter().any(|(failed, _)| *failed == probe);
            if side.ends.can(probe) && !has_failed {
                taken.take(side, probe, options);
            }
            Ok(())
        },
    )?;
    let mut reports = Vec::new();
    for ((side, taken), before) in sides.iter().zip(taken).zip(before) {
        let after = counters(side.agents()).with_context(|| side.choice.to_string())?;
        let Taken { samples, failed } = taken;
        let failures = failed.into_iter().map(|(_, text)| text).collect();
        let shares = shares(&before, &after);
        reports.push(SideReport::new(&side.choice, samples, shares, failures));
    }
    Ok(WireReport::new(wire, reports))
}

impl Taken {
    /// Takes a sample. What fails twice is left out from there on, with the samples that it has
    /// given: a median of fewer rounds would be paired with the wrong ones of other sides.
    fn take(&mut self, side: &Side, probe: Probe, options: &Options) {
        let attempt = || {
            let mut samples = Samples::default();
            let taken = probe.take(&side.ends, &options.lengths, &mut samples);
            taken.map(|()| samples)
        };
        match attempt().or_else(|_| attempt()) {
            Ok(samples) => self.samples.append(samples),
            Err(error) => {
                for figure in probe.figures() {
                    self.samples.values.remove(figure);
                }
                let text = format!("{} failed: {error:#}", probe.name());
                self.failed.push((probe, text));
            }
        }
    }
}
