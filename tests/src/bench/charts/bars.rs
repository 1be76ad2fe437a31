//! A figure of all data paths as horizontal bars, with ratios to the kernel's vxlan.

use super::Chart;
use super::font::Fonts;
use super::scene::{Anchor, Scene, Shape, Weight};
use super::style::{
    BAR, FOOT, HEAD, INK, LINE, MARGIN, PALE, ROW, WIDTH, colour, label, page, widest,
};
use crate::bench::paths::goal::Ratio;
use crate::bench::paths::kind::Kind;
use crate::bench::paths::report::{SideReport, WireReport};
use crate::report::Spread;

/// Between columns.
const GAP: f32 = 14.0;

/// A bar, and what is written beside it.
struct Row<'a> {
    side: &'a SideReport,
    spread: &'a Spread,
    value: String,
    ratio: String,
}

/// The chart.
pub(super) fn scene(chart: &Chart, wire: &WireReport, about: &str, fonts: &Fonts) -> Scene {
    let Chart {
        figure,
        title,
        unit,
        ..
    } = chart;
    let base = wire.sides.iter().find(|side| side.id == base());
    let rows: Vec<Row<'_>> = wire
        .sides
        .iter()
        .filter_map(|side| {
            let spread = side.figures.get(figure)?;
            let digits = figure.digits();
            let ratio = base.and_then(|base| Ratio::between(side, base, *figure));
            Some(Row {
                side,
                spread,
                value: format!("{:.digits$} {unit}", spread.median),
                ratio: ratio_text(side, ratio),
            })
        })
        .collect();
    let about = format!("{about}; thin lines: 95 % confidence; ×: against vxlan kernel");
    let mut scene = page(title, &about, rows.len());
    let names = widest(
        fonts,
        Weight::Regular,
        rows.iter().map(|row| row.side.name.as_str()),
    );
    let values = widest(
        fonts,
        Weight::Regular,
        rows.iter().map(|row| row.value.as_str()),
    );
    let ratios = widest(
        fonts,
        Weight::Bold,
        rows.iter().map(|row| row.ratio.as_str()),
    );
    let left = MARGIN + names + GAP;
    let room = WIDTH - MARGIN - ratios - GAP - values - GAP - left;
    let most = rows
        .iter()
        .map(|row| reach(row.spread))
        .fold(f64::MIN_POSITIVE, f64::max);
    let length = |value: f64| (value / most) as f32 * room;
    if let Some(base) = base.and_then(|base| base.figures.get(figure)) {
        let height = scene.height - HEAD - FOOT;
        scene.shapes.push(Shape::Rect {
            x: left + length(base.median),
            y: HEAD - 4.0,
            width: 1.0,
            height: height + 8.0,
            colour: LINE,
        });
    }
    for (number, row) in rows.iter().enumerate() {
        let top = HEAD + ROW * number as f32;
        let text = top + ROW / 2.0 + 5.0;
        let regular = Weight::Regular;
        let name = row.side.name.as_str();
        let middle = top + ROW / 2.0;
        scene.shapes.extend([
            label(left - GAP, text, Anchor::End, regular, INK, name),
            Shape::Rect {
                x: left,
                y: middle - BAR / 2.0,
                width: length(row.spread.median).max(1.0),
                height: BAR,
                colour: colour(row.side),
            },
        ]);
        if let Some((low, high)) = row.spread.interval() {
            scene.shapes.push(Shape::Rect {
                x: left + length(low),
                y: middle - 0.75,
                width: length(high - low),
                height: 1.5,
                colour: INK,
            });
        }
        let beside = left + length(reach(row.spread)) + GAP / 2.0;
        let (end, bold) = (WIDTH - MARGIN, Weight::Bold);
        scene.shapes.extend([
            label(beside, text, Anchor::Start, regular, PALE, &row.value),
            label(end, text, Anchor::End, bold, INK, &row.ratio),
        ]);
    }
    scene
}

/// The id of what all are compared to.
fn base() -> String {
    Kind::VxlanKernel.id()
}

/// How far to the right a row reaches.
fn reach(spread: &Spread) -> f64 {
    let high = spread.interval().map_or(0.0, |(_, high)| high);
    spread.median.max(high)
}

/// Nothing is said of what is within the spread.
fn ratio_text(side: &SideReport, ratio: Option<Ratio>) -> String {
    match ratio {
        _ if side.id == base() => String::new(),
        Some(ratio) if ratio.is_clear() => format!("{:.2} ×", ratio.median),
        Some(_) => "≈".to_owned(),
        None => String::new(),
    }
}
