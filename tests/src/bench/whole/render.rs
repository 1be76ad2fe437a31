//! All tables, one below the other.

use super::report::{Machine, Report};
use crate::bench::{costs, leases, paths, restarts};

/// The tables.
#[must_use]
pub fn table(report: &Report) -> String {
    let Report {
        machine,
        paths,
        costs,
        restarts,
        leases,
    } = report;
    let Machine {
        kernel_release,
        cores,
        load_before,
        load_after,
    } = machine;
    let head = format!(
        "Linux {kernel_release}, {cores} cores; load {load_before:.1} before, {load_after:.1} after\n"
    );
    let parts = [
        paths.as_ref().map(paths::render::table),
        costs.as_ref().map(costs::render::table),
        restarts.as_ref().map(restarts::table),
        leases.as_ref().map(leases::render::table),
    ];
    let parts: Vec<String> = [Some(head)].into_iter().chain(parts).flatten().collect();
    parts.join("\n")
}
