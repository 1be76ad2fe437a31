//! What was found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::goal::{self, Judged};
pub use super::idle::Idle;
use super::side::Kind;
use crate::measure::figure::{Figure, Load, Samples};
use crate::report::{Share, Spread};
use crate::wire::Wire;

/// The whole bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Release of the kernel.
    pub kernel_release: String,
    /// Number of cores.
    pub cores: usize,
    /// Samples behind each median.
    pub rounds: usize,
    /// Load of the machine, mean of the minute before.
    pub load_before: f64,
    /// The same at the end; what is measured is part of it.
    pub load_after: f64,
    /// What agents take without traffic.
    pub idle: Idle,
    /// One entry per kind of wire.
    pub wires: Vec<WireReport>,
}

/// All sides over one kind of wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WireReport {
    /// The kind.
    pub wire: Wire,
    /// One entry per data path.
    pub sides: Vec<SideReport>,
    /// What was to be reached.
    pub goals: Vec<Judged>,
}

/// One data path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SideReport {
    /// Which.
    pub side: Kind,
    /// What was measured.
    pub figures: BTreeMap<Figure, Spread>,
    /// How the rate of 64-octet frames came about.
    pub load: Load,
    /// Packets by who carried them, as its agents counted.
    pub shares: Vec<Share>,
}

impl WireReport {
    pub(super) fn new(wire: Wire, sides: Vec<SideReport>) -> Self {
        let goals = goal::judge(wire, &sides);
        Self { wire, sides, goals }
    }
}

impl SideReport {
    pub(super) fn new(side: Kind, samples: Samples, shares: Vec<Share>) -> Self {
        let Samples { values, load, .. } = samples;
        let figures = values
            .into_iter()
            .map(|(figure, values)| (figure, Spread::of(values)));
        Self {
            side,
            figures: figures.collect(),
            load,
            shares,
        }
    }
}
