//! The report as a table: a row per arm.

use std::fmt::Write as _;

use super::report::{Point, Report};

/// The table.
#[must_use]
pub fn table(report: &Report) -> String {
    let Report { rounds, points } = report;
    let mut text = format!(
        "cost of a packet by that with one of everything: vxlan, 64 B, one core, medians of \
         {rounds} samples\n"
    );
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{:<34}{:>10}{:>12}  cost", "", "kpps", "on fast path");
    for point in points {
        push_point(&mut text, point);
    }
    text
}

fn push_point(text: &mut String, point: &Point) {
    let Point {
        path,
        many,
        count,
        kpps,
        fast_share,
        cost,
        bound,
        verdict,
    } = point;
    let name = if *count == 1 {
        format!("  {path}, one of everything")
    } else {
        format!("  {path}, {count} {many}")
    };
    let _ = write!(
        text,
        "{name:<34}{:>10.0}{:>10.1} %",
        kpps.median,
        fast_share * 100.0
    );
    if let Some(cost) = cost {
        let _ = write!(text, "  {cost}");
    }
    if let (Some(bound), Some(verdict)) = (bound, verdict) {
        let _ = write!(text, "  {bound}  {verdict}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::costs::Many;
    use crate::bench::paths::goal::{Bound, Ratio};
    use crate::report::Spread;

    #[test]
    fn a_point_has_its_verdict() {
        let cost = Ratio {
            median: 1.2,
            low: 1.1,
            high: 1.3,
        };
        let bound = Bound::AtMost(1.05);
        let point = Point {
            path: "fast path".to_owned(),
            many: Many::Peers,
            count: 65_536,
            kpps: Spread::of(vec![1_000.0]),
            fast_share: 1.0,
            cost: Some(cost),
            bound: Some(bound),
            verdict: Some(cost.judge(bound)),
        };
        let text = table(&Report {
            rounds: 5,
            points: vec![point],
        });
        assert!(text.contains("1.20 (1.10–1.30)  ≤ 1.05  not met"), "{text}");
    }
}
