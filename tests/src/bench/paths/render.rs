//! The report as tables: a row per data path, a column per figure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::goal::{Judged, PAIRS, Ratio, Verdict};
use super::report::{Idle, Report, SideReport, WireReport};
use super::side::Kind;
use crate::measure::figure::{Figure, Load};
use crate::report::{BUSY, Share, Spread};

/// Columns of a row's name and of a figure.
const NAME: usize = 31;
const CELL: usize = 12;
/// Share of injected packets that arrives if none are lost for want of room.
const ALL: f64 = 0.999;

/// The tables.
#[must_use]
pub fn table(report: &Report) -> String {
    let Report {
        kernel_release,
        cores,
        rounds,
        load_before,
        load_after,
        idle,
        wires,
    } = report;
    let Idle {
        agents,
        busiest,
        machine,
    } = idle;
    let mut text = format!(
        "Linux {kernel_release}, {cores} cores; load {load_before:.1} before, {load_after:.1} after\n\
         medians of {rounds} samples, taken in turn; ± half of the median's 95 % confidence \
         interval\n\
         without traffic: all agents {:.1} % of a core, the busiest {:.1} %, the machine {:.0} %\n",
        agents * 100.0,
        busiest * 100.0,
        machine * 100.0,
    );
    for wire in wires {
        push_wire(&mut text, wire);
    }
    text
}

fn push_wire(text: &mut String, report: &WireReport) {
    let WireReport { wire, sides, goals } = report;
    let figures: BTreeSet<Figure> = sides
        .iter()
        .flat_map(|side| side.figures.keys().copied())
        .collect();
    let labels = |name: String, text: &mut String| {
        let labels = figures.iter().map(|figure| figure.label().to_owned());
        push_row(text, &name, labels);
    };
    labels(format!("\n{wire}"), text);
    for side in sides {
        let cells = figures.iter().map(|figure| {
            let spread = side.figures.get(figure);
            spread.map_or_else(|| "–".to_owned(), |spread| cell(*figure, spread))
        });
        push_row(text, &format!("  {}", side.side), cells);
    }
    labels("\n  ratios (~ within the spread)".to_owned(), text);
    let find = |kind| sides.iter().find(|side| side.side == kind);
    for (side, base) in PAIRS {
        if let (Some(own), Some(other)) = (find(side), find(base)) {
            let cells = figures.iter().map(|figure| {
                let ratio = Ratio::between(own, other, *figure);
                ratio.map_or_else(|| "–".to_owned(), |ratio| ratio_cell(&ratio))
            });
            push_row(text, &format!("  {side} / {base}"), cells);
        }
    }
    if !goals.is_empty() {
        text.push_str("\n  goals\n");
    }
    for goal in goals {
        push_goal(text, goal);
    }
    text.push('\n');
    for side in sides {
        push_notes(text, side);
    }
}

/// Median and half its interval, in per cent.
fn cell(figure: Figure, spread: &Spread) -> String {
    let digits = figure.digits();
    let mut text = format!("{:.digits$}", spread.median);
    if let Some((low, high)) = spread.interval() {
        let percent = (high - low) / 2.0 / spread.median * 100.0;
        let _ = if percent > 99.0 {
            write!(text, " ±>99%")
        } else {
            write!(text, " ±{percent:.0}%")
        };
    }
    text
}

fn ratio_cell(ratio: &Ratio) -> String {
    if ratio.is_clear() {
        format!("{:.2}", ratio.median)
    } else {
        "~".to_owned()
    }
}

fn push_goal(text: &mut String, goal: &Judged) {
    let Judged {
        side,
        base,
        figure,
        bound,
        ratio,
        verdict,
    } = goal;
    let Ratio { median, low, high } = ratio;
    let what = format!("{side} / {base}, {}", figure.label());
    let found = match verdict {
        Verdict::Met => format!("{median:.2} ({low:.2}–{high:.2})  met"),
        Verdict::NotMet => format!("{median:.2} ({low:.2}–{high:.2})  not met"),
        Verdict::WithinSpread => format!("{low:.2}–{high:.2}, spread larger than the difference"),
    };
    // Writing into a String cannot fail.
    let _ = writeln!(text, "    {what:<46} {bound}   {found}");
}

/// Says how a side came to its figures, and where one is not what it seems.
fn push_notes(text: &mut String, report: &SideReport) {
    let SideReport {
        side,
        figures,
        load,
        shares,
    } = report;
    let mut notes: Vec<String> = shares.iter().map(share_note).collect();
    if figures.contains_key(&Figure::Small) {
        push_load_notes(&mut notes, *side, *load);
    }
    if !notes.is_empty() {
        let _ = writeln!(text, "  {side}: {}", notes.join("; "));
    }
}

fn share_note(share: &Share) -> String {
    let mut note = format!("{} {:.1} % by eBPF", share.direction, share.part() * 100.0);
    if let Some(most) = share.rest.first() {
        let _ = write!(note, ", most of the rest: {}", most.reason);
    }
    note
}

fn push_load_notes(notes: &mut Vec<String>, side: Kind, load: Load) {
    let arrived = load.arrived_share();
    let Load {
        core_busy,
        flows,
        disturbed,
        ..
    } = load;
    if core_busy < BUSY {
        let percent = core_busy * 100.0;
        notes.push(format!("64 B doubtful: the core only {percent:.0} % busy"));
    }
    // A proxy runs on other cores, and what it cannot take is lost.
    if side.is_proxy() {
        notes.push(format!("64 B: {:.0} % arrived", arrived * 100.0));
        return;
    }
    if disturbed > 0 {
        notes.push(format!(
            "64 B disturbed by other work: {disturbed} of {flows}"
        ));
    }
    if arrived < ALL {
        let percent = arrived * 100.0;
        notes.push(format!("64 B doubtful: {percent:.1} % arrived"));
    }
}

fn push_row(text: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "{name:<NAME$}");
    for cell in cells {
        let _ = write!(text, "{cell:>CELL$}");
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::figure::Samples;
    use crate::wire::Wire;

    fn report(kernel: [f64; 5], ebpf: [f64; 5]) -> Report {
        let side = |kind, values: [f64; 5]| {
            let mut samples = Samples::default();
            for value in values {
                samples.push(Figure::Small, value);
            }
            samples.load = Load {
                injected: 100,
                arrived: 100,
                core_busy: 0.5,
                ..Load::default()
            };
            SideReport::new(kind, samples, Vec::new())
        };
        let sides = vec![side(Kind::VxlanKernel, kernel), side(Kind::VxlanEbpf, ebpf)];
        Report {
            kernel_release: "6.18".to_owned(),
            cores: 2,
            rounds: 5,
            load_before: 0.1,
            load_after: 1.0,
            idle: Idle::default(),
            wires: vec![WireReport::new(Wire::Mtu1500, sides)],
        }
    }

    #[test]
    fn a_clear_ratio_is_printed_with_its_verdict() {
        let text = table(&report(
            [500.0, 490.0, 510.0, 500.0, 500.0],
            [650.0, 637.0, 663.0, 650.0, 650.0],
        ));
        for part in ["500 ±2%", "1.30 (1.30–1.30)  met", "only 50 % busy"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        let width = NAME + 8 * CELL;
        let fits = text.lines().all(|line| line.chars().count() <= width);
        assert!(fits, "{text}");
    }

    #[test]
    fn no_ratio_is_printed_within_the_spread() {
        let text = table(&report(
            [500.0, 490.0, 510.0, 500.0, 500.0],
            [400.0, 600.0, 700.0, 600.0, 500.0],
        ));
        assert!(text.contains("spread larger than the difference"), "{text}");
        let row = text
            .lines()
            .find(|line| line.contains("eBPF / vxlan") && line.contains('~'));
        assert!(row.is_some(), "{text}");
    }
}
