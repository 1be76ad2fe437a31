//! What was found: the document that `--json` writes and `--compare` reads.

use serde::{Deserialize, Serialize};

use crate::bench::{costs, leases, paths, restarts};

/// The whole bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// What was measured on.
    pub machine: Machine,
    /// Data paths side by side.
    pub paths: Option<paths::report::Report>,
    /// What many peers, flows and pods cost.
    pub costs: Option<costs::report::Report>,
    /// Loss over restarts.
    pub restarts: Option<restarts::Report>,
    /// Agents with many leases.
    pub leases: Option<leases::report::Report>,
}

/// What was measured on, and how busy it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel_release: String,
    /// Number of cores.
    pub cores: usize,
    /// Load of the machine, mean of the minute before.
    pub load_before: f64,
    /// The same at the end; what is measured is part of it.
    pub load_after: f64,
}
