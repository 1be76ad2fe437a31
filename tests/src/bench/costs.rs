//! What many of something cost each packet: peers, flows, pods.
//!
//! Every arm is two hosts of its own with vxlan, of which one has many of one thing; packets go to
//! one of them, or by chance to all flows. All arms are sampled in turn, as data paths are, and the
//! cost per packet is that of the arm with one of everything, which injects in the same way.

mod arm;
pub mod render;
pub mod report;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::arm::Arm;
use self::report::{Point, Report};
use super::paths::goal::{Bound, Ratio};
use super::paths::side::Path;
use super::progress::Progress;
use crate::cpu;
use crate::report::{ENOUGH, Spread};

pub use self::arm::Many;

/// About how long the setting up of an arm takes.
const SET_UP: Duration = Duration::from_secs(3);

/// What is measured, and what it may cost against one of everything.
const ARMS: [(Path, Many, u32, Option<f64>); 11] = [
    (Path::Standard, Many::Peers, 1, None),
    (Path::Standard, Many::Peers, 1_000, None),
    (Path::Standard, Many::Peers, 65_536, Some(1.05)),
    (Path::Standard, Many::Pods, 250, None),
    (Path::Fast, Many::Peers, 1, None),
    (Path::Fast, Many::Peers, 1_000, None),
    (Path::Fast, Many::Peers, 65_536, Some(1.05)),
    (Path::Fast, Many::Flows, 1_000, None),
    (Path::Fast, Many::Flows, 100_000, Some(1.25)),
    (Path::Fast, Many::RenewedFlows, 100_000, None),
    (Path::Fast, Many::Pods, 250, None),
];

/// How much to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Samples behind each median.
    pub rounds: usize,
    /// How long each takes.
    pub packets: Duration,
}

impl Options {
    /// The full measurement.
    #[must_use]
    pub fn full() -> Self {
        Self {
            rounds: 9,
            packets: Duration::from_millis(400),
        }
    }

    /// Less.
    #[must_use]
    pub fn quick() -> Self {
        Self {
            rounds: ENOUGH,
            packets: Duration::from_millis(150),
        }
    }

    /// About how long all of it takes.
    #[must_use]
    pub fn time(&self) -> Duration {
        let rounds = u32::try_from(self.rounds).unwrap_or(u32::MAX);
        (SET_UP + self.sample() * rounds) * ARMS.len() as u32
    }

    /// A sample, and what warms up before it.
    fn sample(&self) -> Duration {
        self.packets * 2
    }
}

/// Measures.
///
/// # Errors
/// An arm cannot be built, or packets do not arrive.
pub fn run(options: &Options, progress: &mut Progress) -> Result<Report> {
    let Options { rounds, packets } = *options;
    let mut arms = Vec::new();
    for (path, many, count, _) in ARMS {
        let what = format!("{count} {many}, {path}");
        progress.step(&format!("set up {what}"), SET_UP);
        arms.push(Arm::new(path, many, count).with_context(|| format!("set up {what}"))?);
    }
    let core = cpu::count() - 1;
    let mut kpps = vec![Vec::new(); arms.len()];
    let mut shares = vec![Vec::new(); arms.len()];
    for round in 0..rounds {
        for place in 0..arms.len() {
            let index = (round + place) % arms.len();
            let (path, many, count, _) = ARMS[index];
            let what = format!("{count} {many}, {path}");
            progress.step(
                &format!("round {} of {rounds}: {what}", round + 1),
                options.sample(),
            );
            let sample = arms[index].measure(core, packets);
            let sample = sample.with_context(|| what)?;
            kpps[index].push(sample.kpps);
            shares[index].push(sample.fast_share);
        }
    }
    let kpps: Vec<Spread> = kpps.into_iter().map(Spread::of).collect();
    let points = ARMS.iter().zip(&kpps).zip(shares);
    let points = points.map(|((&(path, many, count, most), kpps_here), shares)| {
        let base = ARMS.iter().position(|arm| arm.0 == path).unwrap_or(0);
        // Rate with one by rate with many is cost with many by cost with one.
        let cost = (count > 1)
            .then(|| Ratio::of(&kpps[base], kpps_here))
            .flatten();
        let bound = most.map(Bound::AtMost);
        Point {
            path: path.to_string(),
            many,
            count,
            kpps: kpps_here.clone(),
            fast_share: Spread::of(shares).median,
            cost,
            bound,
            verdict: cost.zip(bound).map(|(cost, bound)| cost.judge(bound)),
        }
    });
    Ok(Report {
        rounds,
        points: points.collect(),
    })
}
