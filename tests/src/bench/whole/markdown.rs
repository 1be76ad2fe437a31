//! The report as a page of documentation: what the tables have that a reader asks for.

use std::fmt::Write as _;

use super::report::{Machine, Report};
use crate::bench::paths::goal::{Bound, Judged, Ratio, Verdict};
use crate::bench::paths::report::{SideReport, Skipped, WireReport};
use crate::bench::{costs, leases, restarts};
use crate::measure::figure::{Figure, Group};
use crate::report::Spread;

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
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
    // The numbers of a version, without what a vendor adds to them.
    let version = kernel_release.split('-').next().unwrap_or_default();
    let mut page = format!(
        "# Figures of one run\n\n\
         Written by `cargo xtask bench --markdown`; [performance.md](performance.md) says how it was \
         measured and what follows.\n\n\
         Linux {version}, {cores} cores, load {load_before:.1} before and {load_after:.1} after.\n"
    );
    if let Some(paths) = paths {
        let rounds = paths.rounds;
        // Writing into a String cannot fail.
        let _ = writeln!(
            page,
            "\nMedians of {rounds} samples; ±: half of the median's 95 % confidence interval."
        );
        for Skipped { name, reason } in &paths.skipped {
            let reason = reason.lines().next().unwrap_or_default();
            let _ = writeln!(page, "Left out: {name} ({reason}).");
        }
        for wire in &paths.wires {
            push_wire(&mut page, wire);
        }
        push_goals(&mut page, &paths.wires, costs.as_ref());
    }
    if let Some(costs) = costs {
        push_costs(&mut page, costs);
    }
    if let Some(restarts) = restarts {
        push_restarts(&mut page, restarts);
    }
    if let Some(leases) = leases {
        let table = leases::render::table(leases);
        let _ = write!(page, "\n## Many leases\n\n```text\n{table}```\n");
    }
    page
}

fn push_wire(page: &mut String, wire: &WireReport) {
    for group in Group::ALL {
        let mut figures: Vec<Figure> = wire
            .sides
            .iter()
            .flat_map(|side| side.figures.keys().copied())
            .filter(|figure| figure.group() == group)
            .collect();
        figures.sort_unstable();
        figures.dedup();
        if figures.is_empty() {
            continue;
        }
        let _ = writeln!(page, "\n## {}: {}\n", wire.wire, group.title());
        push_row(page, "", figures.iter().map(|it| it.label().to_owned()));
        push_row(page, "---", figures.iter().map(|_| "---:".to_owned()));
        for side in &wire.sides {
            let cells = figures.iter().map(|figure| cell(side, *figure));
            push_row(page, &side.name, cells);
        }
    }
}

fn cell(side: &SideReport, figure: Figure) -> String {
    let Some(spread) = side.figures.get(&figure) else {
        return "–".to_owned();
    };
    let digits = figure.digits();
    let half = spread.interval().map(|(low, high)| {
        let percent = (high - low) / 2.0 / spread.median * 100.0;
        format!(" ±{percent:.0} %")
    });
    format!("{:.digits$}{}", spread.median, half.unwrap_or_default())
}

fn push_goals(page: &mut String, wires: &[WireReport], costs: Option<&costs::report::Report>) {
    page.push_str("\n## Goals\n\n");
    let header = ["is to be", "is", "verdict"].map(str::to_owned);
    push_row(page, "", header.into_iter());
    push_row(page, "---", ["---"; 3].map(str::to_owned).into_iter());
    let mut push = |name: &str, bound: Bound, ratio: &Ratio, verdict: Verdict| {
        let Ratio { median, low, high } = ratio;
        let found = match verdict {
            Verdict::WithinSpread => format!("{low:.2}–{high:.2}"),
            Verdict::Met | Verdict::NotMet => format!("{median:.2} ({low:.2}–{high:.2})"),
        };
        let cells = [bound.to_string(), found, verdict.to_string()];
        push_row(page, name, cells.into_iter());
    };
    let goals = wires.iter().flat_map(|wire| {
        let goals = wire.goals.iter();
        goals.map(|goal| (wire.wire, goal))
    });
    for (wire, goal) in goals {
        let Judged {
            side,
            base,
            figure,
            bound,
            ratio,
            verdict,
        } = goal;
        let name = format!("{wire}: {side} / {base}, {}", figure.label());
        push(&name, *bound, ratio, *verdict);
    }
    for point in costs.iter().flat_map(|costs| &costs.points) {
        if let (Some(cost), Some(bound), Some(verdict)) = (&point.cost, point.bound, point.verdict)
        {
            let costs::report::Point {
                path, count, many, ..
            } = point;
            let name = format!("{path}, cost of a packet with {count} {many}");
            push(&name, bound, cost, verdict);
        }
    }
}

fn push_costs(page: &mut String, report: &costs::report::Report) {
    page.push_str("\n## Many peers, flows and pods: vxlan, 64 B, one core\n\n");
    let header = ["kpps", "on the fast path", "cost of a packet"].map(str::to_owned);
    push_row(page, "", header.into_iter());
    push_row(page, "---", ["---:"; 3].map(str::to_owned).into_iter());
    for point in &report.points {
        let costs::report::Point {
            path,
            many,
            count,
            kpps,
            fast_share,
            cost,
            ..
        } = point;
        let name = match count {
            1 => format!("{path}, one of everything"),
            count => format!("{path}, {count} {many}"),
        };
        let Spread { median, .. } = kpps;
        let cells = [
            format!("{median:.0}"),
            format!("{:.1} %", fast_share * 100.0),
            cost.map_or_else(String::new, |cost| cost.to_string()),
        ];
        push_row(page, &name, cells.into_iter());
    }
}

fn push_restarts(page: &mut String, report: &restarts::Report) {
    page.push_str("\n## Restarts by `kill -9`, under traffic\n\n");
    let header = ["restarts", "sent", "lost", "duplicated", "reordered"];
    push_row(page, "", header.map(str::to_owned).into_iter());
    push_row(page, "---", ["---:"; 5].map(str::to_owned).into_iter());
    for row in &report.rows {
        let restarts::Row {
            name,
            restarts,
            sent,
            lost,
            duplicated,
            reordered,
        } = row;
        let restarts = *restarts as u64;
        let cells = [restarts, *sent, *lost, *duplicated, *reordered].map(|it| it.to_string());
        push_row(page, name, cells.into_iter());
    }
}

fn push_row(page: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(page, "| {name} |");
    for cell in cells {
        let _ = write!(page, " {cell} |");
    }
    page.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::costs::Many;

    #[test]
    fn a_cost_has_a_row_and_a_verdict() {
        let cost = Ratio {
            median: 1.1,
            low: 1.06,
            high: 1.2,
        };
        let bound = Bound::AtMost(1.05);
        let point = costs::report::Point {
            path: "fast path".to_owned(),
            many: Many::Peers,
            count: 65_536,
            kpps: Spread::of(vec![1_000.0]),
            fast_share: 1.0,
            cost: Some(cost),
            bound: Some(bound),
            verdict: Some(cost.judge(bound)),
        };
        let report = costs::report::Report {
            rounds: 5,
            points: vec![point],
        };
        let mut page = String::new();
        push_costs(&mut page, &report);
        push_goals(&mut page, &[], Some(&report));
        for row in [
            "| fast path, 65536 peers | 1000 | 100.0 % | 1.10 (1.06–1.20) |",
            "| fast path, cost of a packet with 65536 peers | ≤ 1.05 | 1.10 (1.06–1.20) | not met |",
        ] {
            assert!(page.contains(row), "{row} is not in:\n{page}");
        }
    }
}
