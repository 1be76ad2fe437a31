//! What was found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::goal::{self, Judged};
pub use super::idle::Idle;
use super::kind::{Choice, Kind};
use crate::measure::figure::{Figure, Load, Samples};
use crate::report::{Share, Spread};
use crate::wire::Wire;

/// All data paths.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Samples behind each median.
    pub rounds: usize,
    /// What agents take without traffic.
    pub idle: Idle,
    /// Data paths that could not be built, with the reason.
    pub skipped: Vec<Skipped>,
    /// One entry per kind of wire.
    pub wires: Vec<WireReport>,
}

/// What is not there, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Skipped {
    /// Name of the data path.
    pub name: String,
    /// Why, in one line or several.
    pub reason: String,
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
    /// Which, as on the command line.
    pub id: String,
    /// Which, as in tables.
    pub name: String,
    /// Whether another program is behind it.
    pub is_other: bool,
    /// Whether a process moves the packets.
    pub is_proxy: bool,
    /// What was measured.
    pub figures: BTreeMap<Figure, Spread>,
    /// How the rate of 64-octet frames came about.
    pub load: Load,
    /// Packets by who carried them, as its agents counted.
    pub shares: Vec<Share>,
    /// What could not be measured, with the reason.
    pub failures: Vec<String>,
}

impl WireReport {
    pub(super) fn new(wire: Wire, sides: Vec<SideReport>) -> Self {
        let goals = goal::judge(wire, &sides);
        Self { wire, sides, goals }
    }
}

impl SideReport {
    pub(super) fn new(
        choice: &Choice,
        samples: Samples,
        shares: Vec<Share>,
        failures: Vec<String>,
    ) -> Self {
        let Samples { values, load, .. } = samples;
        let figures = values
            .into_iter()
            .map(|(figure, values)| (figure, Spread::of(values)));
        Self {
            id: choice.id(),
            name: choice.to_string(),
            is_other: matches!(choice, Choice::Peer(..)),
            // On which core the scheduler puts it is its own affair.
            is_proxy: matches!(choice, Choice::Own(Kind::UdpKernel | Kind::UdpLoop)),
            figures: figures.collect(),
            load,
            shares,
            failures,
        }
    }
}
