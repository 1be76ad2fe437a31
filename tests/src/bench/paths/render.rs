//! The report as tables: a row per data path, a column per figure.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::goal::{Judged, Ratio, Verdict, pairs};
use super::report::{Idle, Report, SideReport, Skipped, WireReport};
use crate::measure::figure::{Figure, Group, Load};
use crate::report::{BUSY, Share, Spread};

/// Columns of a row's name and of a figure.
const NAME: usize = 36;
const CELL: usize = 12;
/// Share of injected packets that arrives if none are lost for want of room.
const ALL: f64 = 0.999;

/// The tables.
#[must_use]
pub fn table(report: &Report) -> String {
    let Report {
        rounds,
        idle,
        skipped,
        wires,
    } = report;
    let Idle {
        agents,
        busiest,
        machine,
    } = idle;
    let mut text = format!(
        "medians of {rounds} samples, taken in turn; ± half of the median's 95 % confidence \
         interval\n\
         without traffic: all agents {:.1} % of a core, the busiest {:.1} %, the machine {:.0} %\n",
        agents * 100.0,
        busiest * 100.0,
        machine * 100.0,
    );
    for Skipped { name, reason } in skipped {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "left out: {name}: {reason}");
    }
    for wire in wires {
        push_wire(&mut text, wire);
    }
    text
}

fn push_wire(text: &mut String, report: &WireReport) {
    let WireReport { wire, sides, goals } = report;
    let all: BTreeSet<Figure> = sides
        .iter()
        .flat_map(|side| side.figures.keys().copied())
        .collect();
    for group in Group::ALL {
        let figures = all.iter().copied().filter(|figure| figure.group() == group);
        let figures: Vec<Figure> = figures.collect();
        if !figures.is_empty() {
            let _ = writeln!(text, "\n{wire}: {}", group.title());
            push_group(text, sides, &figures);
        }
    }
    if !goals.is_empty() {
        let _ = writeln!(text, "\n{wire}: goals");
    }
    for goal in goals {
        push_goal(text, goal);
    }
    text.push('\n');
    for side in sides {
        push_notes(text, side);
    }
}

fn push_group(text: &mut String, sides: &[SideReport], figures: &[Figure]) {
    let labels = || figures.iter().map(|figure| figure.label().to_owned());
    push_row(text, "", labels());
    for side in sides {
        let cells = figures.iter().map(|figure| {
            let spread = side.figures.get(figure);
            spread.map_or_else(|| "–".to_owned(), |spread| cell(*figure, spread))
        });
        push_row(text, &format!("  {}", side.name), cells);
    }
    let rows: Vec<(String, Vec<Option<Ratio>>)> = pairs(sides)
        .into_iter()
        .map(|(side, base)| {
            let ratio = |figure: &Figure| Ratio::between(side, base, *figure);
            let name = format!("  {} / {}", side.name, base.name);
            (name, figures.iter().map(ratio).collect())
        })
        .filter(|(_, ratios): &(_, Vec<_>)| ratios.iter().any(Option::is_some))
        .collect();
    if !rows.is_empty() {
        push_row(text, "  ratios (~ within the spread)", labels());
    }
    for (name, ratios) in rows {
        let cell = |ratio: &Option<Ratio>| ratio.as_ref().map_or("–".to_owned(), ratio_cell);
        push_row(text, &name, ratios.iter().map(cell));
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
        Verdict::Met | Verdict::NotMet => format!("{median:.2} ({low:.2}–{high:.2})"),
        Verdict::WithinSpread => format!("{low:.2}–{high:.2}"),
    };
    // Writing into a String cannot fail.
    let _ = writeln!(text, "    {what:<46} {bound}   {found}  {verdict}");
}

/// Says how a side came to its figures, and where one is not what it seems.
fn push_notes(text: &mut String, report: &SideReport) {
    let SideReport {
        name,
        is_proxy,
        figures,
        load,
        shares,
        failures,
        ..
    } = report;
    let mut notes: Vec<String> = shares.iter().map(share_note).collect();
    if figures.contains_key(&Figure::Small) {
        push_load_notes(&mut notes, *is_proxy, *load);
    }
    notes.extend(failures.iter().cloned());
    if !notes.is_empty() {
        let _ = writeln!(text, "  {name}: {}", notes.join("; "));
    }
}

fn share_note(share: &Share) -> String {
    let mut note = format!("{} {:.1} % by eBPF", share.direction, share.part() * 100.0);
    if let Some(most) = share.rest.first() {
        let _ = write!(note, ", most of the rest: {}", most.reason);
    }
    note
}

fn push_load_notes(notes: &mut Vec<String>, is_proxy: bool, load: Load) {
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
    if is_proxy {
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
    use super::super::kind::{Choice, Kind};
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
            SideReport::new(&Choice::Own(kind), samples, Vec::new(), Vec::new())
        };
        let sides = vec![side(Kind::VxlanKernel, kernel), side(Kind::VxlanEbpf, ebpf)];
        Report {
            rounds: 5,
            idle: Idle::default(),
            skipped: Vec::new(),
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
        assert!(text.contains("not decidable"), "{text}");
        let row = text
            .lines()
            .find(|line| line.contains("eBPF / vxlan") && line.contains('~'));
        assert!(row.is_some(), "{text}");
    }
}
