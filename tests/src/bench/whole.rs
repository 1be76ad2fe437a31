//! All benches in one run, one after the other, and one report.

pub mod markdown;
pub mod render;
pub mod report;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::report::{Machine, Report};
use super::progress::Progress;
use super::{costs, leases, paths, restarts};
use crate::cpu;
use crate::measure::kernel_release;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data paths.
    pub paths: Option<paths::Options>,
    /// What many peers, flows and pods cost.
    pub costs: Option<costs::Options>,
    /// Loss over restarts.
    pub restarts: Option<restarts::Options>,
    /// Agents with many leases.
    pub leases: Option<leases::Options>,
}

impl Options {
    /// About how long all of it takes.
    #[must_use]
    pub fn time(&self) -> Duration {
        let Self {
            paths,
            costs,
            restarts,
            leases,
        } = self;
        let times = [
            paths.as_ref().map(paths::Options::time),
            costs.as_ref().map(costs::Options::time),
            restarts.as_ref().map(restarts::Options::time),
            leases.as_ref().map(leases::Options::time),
        ];
        times.into_iter().flatten().sum()
    }
}

/// Measures.
///
/// # Errors
/// Those of the benches.
pub fn run(options: &Options) -> Result<Report> {
    let Options {
        paths,
        costs,
        restarts,
        leases,
    } = options;
    let mut progress = Progress::new(options.time());
    let progress = &mut progress;
    let load_before = load()?;
    let paths = paths.as_ref().map(|options| paths::run(options, progress));
    let paths = paths.transpose().context("data paths")?;
    let costs = costs.as_ref().map(|options| costs::run(options, progress));
    let costs = costs.transpose().context("costs")?;
    let restarts = restarts.as_ref();
    let restarts = restarts.map(|options| restarts::run(options, progress));
    let restarts = restarts.transpose().context("restarts")?;
    let leases = leases
        .as_ref()
        .map(|options| leases::run(options, progress));
    let leases = leases.transpose().context("leases")?;
    Ok(Report {
        machine: Machine {
            kernel_release: kernel_release()?,
            cores: cpu::count(),
            load_before,
            load_after: load()?,
        },
        paths,
        costs,
        restarts,
        leases,
    })
}

/// Mean number of threads that ran or wanted to during the last minute.
fn load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split(' ').next().context("an empty /proc/loadavg")?;
    Ok(first.parse()?)
}
