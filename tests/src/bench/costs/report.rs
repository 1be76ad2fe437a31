//! What was found.

use serde::{Deserialize, Serialize};

use super::arm::Many;
use crate::bench::paths::goal::{Bound, Ratio, Verdict};
use crate::report::Spread;

/// The whole bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Samples behind each median.
    pub rounds: usize,
    /// One entry per arm.
    pub points: Vec<Point>,
}

/// One arm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Point {
    /// How its agents carry packets.
    pub path: String,
    /// Of what there are many.
    pub many: Many,
    /// How many.
    pub count: u32,
    /// Frames of 64 octets through both hosts on one core, thousands per second.
    pub kpps: Spread,
    /// Share of the frames that took the fast path on the host that sends, median.
    pub fast_share: f64,
    /// Cost of a packet by that with one of everything.
    pub cost: Option<Ratio>,
    /// What that is to be.
    pub bound: Option<Bound>,
    /// What follows.
    pub verdict: Option<Verdict>,
}
