//! Two reports: what is better, what is worse, and what cannot be told.
//!
//! Runs of different times share no rounds, so nothing cancels out what the machine did: a figure
//! counts as changed only where the confidence intervals of both medians lie apart.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::whole::report::{Machine, Report};
use crate::measure::figure::{Better, Figure};
use crate::report::Spread;

/// Figures of both, by what they are of.
#[derive(Debug)]
pub struct Comparison {
    /// Where the machines differ, so that nothing follows.
    pub warnings: Vec<String>,
    /// What has changed, the greatest change first.
    pub changes: Vec<Change>,
    /// How many have not, or not beyond the spread.
    pub same: usize,
    /// How many are in one of the two alone.
    pub alone: usize,
}

/// A figure that has changed.
#[derive(Debug)]
pub struct Change {
    /// Of what.
    pub name: String,
    /// Median before.
    pub old: f64,
    /// Median after.
    pub new: f64,
    /// Whether that is better.
    pub is_better: bool,
}

/// Samples, and which are better.
struct Entry<'a> {
    spread: &'a Spread,
    better: Better,
}

/// Compares.
#[must_use]
pub fn compare(old: &Report, new: &Report) -> Comparison {
    let (before, after) = (entries(old), entries(new));
    let (mut changes, mut same) = (Vec::new(), 0);
    for (name, entry) in &after {
        let Some(earlier) = before.get(name) else {
            continue;
        };
        match change(earlier.spread, entry.spread) {
            Some(more) => changes.push(Change {
                name: name.clone(),
                old: earlier.spread.median,
                new: entry.spread.median,
                is_better: more == (entry.better == Better::More),
            }),
            None => same += 1,
        }
    }
    changes.sort_by(|a, b| b.size().total_cmp(&a.size()));
    let both = changes.len() + same;
    Comparison {
        warnings: warnings(&old.machine, &new.machine),
        changes,
        same,
        alone: before.len() + after.len() - 2 * both,
    }
}

/// Whether the new median is greater; none if that is not certain.
fn change(old: &Spread, new: &Spread) -> Option<bool> {
    let (old, new) = (old.interval()?, new.interval()?);
    if new.0 > old.1 {
        Some(true)
    } else if new.1 < old.0 {
        Some(false)
    } else {
        None
    }
}

fn entries(report: &Report) -> BTreeMap<String, Entry<'_>> {
    let mut entries = BTreeMap::new();
    let wires = report.paths.iter().flat_map(|paths| &paths.wires);
    for wire in wires {
        for side in &wire.sides {
            for (figure, spread) in &side.figures {
                let name = format!("{}, {}, {}", wire.wire, side.name, figure.label());
                let better = figure.better();
                entries.insert(name, Entry { spread, better });
            }
        }
    }
    let points = report.costs.iter().flat_map(|costs| &costs.points);
    for point in points {
        let label = Figure::Small.label();
        let name = format!("{}, {} {}, {label}", point.path, point.count, point.many);
        let (spread, better) = (&point.kpps, Better::More);
        entries.insert(name, Entry { spread, better });
    }
    entries
}

fn warnings(old: &Machine, new: &Machine) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.cores != new.cores {
        warnings.push(format!("{} cores before, {} now", old.cores, new.cores));
    }
    if old.kernel_release != new.kernel_release {
        let (old, new) = (&old.kernel_release, &new.kernel_release);
        warnings.push(format!("Linux {old} before, {new} now"));
    }
    warnings
}

impl Change {
    /// How far apart, whichever is greater.
    fn size(&self) -> f64 {
        (self.new / self.old).ln().abs()
    }
}

/// The list.
#[must_use]
pub fn table(comparison: &Comparison) -> String {
    let Comparison {
        warnings,
        changes,
        same,
        alone,
    } = comparison;
    let mut text = String::from("\nagainst the earlier report\n");
    // Writing into a String cannot fail.
    for warning in warnings {
        let _ = writeln!(text, "  another machine: {warning}");
    }
    for is_better in [false, true] {
        let word = if is_better { "better" } else { "worse" };
        for change in changes.iter().filter(|it| it.is_better == is_better) {
            let Change { name, old, new, .. } = change;
            let percent = (new / old - 1.0) * 100.0;
            let _ = writeln!(
                text,
                "  {word:<7} {name:<52} {old:>8.1} → {new:>8.1} {percent:>+6.0} %"
            );
        }
    }
    let _ = writeln!(
        text,
        "  {same} figures within the spread, {alone} in one of the reports alone"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::costs::{Many, report as costs};

    fn report(kpps: &[f64]) -> Report {
        let point = costs::Point {
            path: "fast path".to_owned(),
            many: Many::Peers,
            count: 1_000,
            kpps: Spread::of(kpps.to_vec()),
            fast_share: 1.0,
            cost: None,
            bound: None,
            verdict: None,
        };
        Report {
            machine: Machine {
                kernel_release: "6.18".to_owned(),
                cores: 2,
                load_before: 0.0,
                load_after: 0.0,
            },
            paths: None,
            costs: Some(costs::Report {
                rounds: kpps.len(),
                points: vec![point],
            }),
            restarts: None,
            leases: None,
        }
    }

    #[test]
    fn what_lies_apart_has_changed() {
        let old = report(&[100.0, 101.0, 102.0, 103.0, 104.0]);
        for (new, expected) in [
            ([90.0, 91.0, 92.0, 93.0, 94.0], Some(false)),
            ([110.0, 111.0, 112.0, 113.0, 114.0], Some(true)),
            ([104.0, 105.0, 106.0, 107.0, 108.0], None),
        ] {
            let comparison = compare(&old, &report(&new));
            let found = comparison.changes.first().map(|change| change.is_better);
            assert_eq!(found, expected, "{new:?}");
            assert_eq!(comparison.same, usize::from(expected.is_none()));
            assert_eq!(comparison.alone, 0);
        }
    }

    #[test]
    fn another_machine_is_said() {
        let mut new = report(&[1.0; 5]);
        new.machine.cores = 64;
        let old = report(&[2.0; 5]);
        let text = table(&compare(&old, &new));
        assert!(text.contains("2 cores before, 64 now"), "{text}");
        assert!(text.contains("worse") && text.contains("-50 %"), "{text}");
    }
}
