//! Percentiles of a time on all data paths: three dots to a row, on a logarithmic axis.

use super::Percentiles;
use super::font::Fonts;
use super::scene::{Anchor, Colour, Scene, Shape, Weight};
use super::style::{FOOT, HEAD, INK, LINE, MARGIN, PALE, ROW, WIDTH, colour, label, page, widest};
use crate::bench::paths::report::{SideReport, WireReport};

/// Between names and dots.
const GAP: f32 = 22.0;
const NAMES: [&str; 3] = ["p50", "p99", "p99.9"];
const RADII: [f32; 3] = [7.5, 5.5, 4.0];

/// The chart.
pub(super) fn scene(chart: &Percentiles, wire: &WireReport, about: &str, fonts: &Fonts) -> Scene {
    let Percentiles { figures, title, .. } = chart;
    let rows: Vec<(&SideReport, [f64; 3])> = wire
        .sides
        .iter()
        .filter_map(|side| {
            let median = |figure| Some(side.figures.get(figure)?.median);
            let [p50, p99, p999] = figures;
            Some((side, [median(p50)?, median(p99)?, median(p999)?]))
        })
        .collect();
    let about = format!("{about}; dots from large to small: {}", NAMES.join(", "));
    let mut scene = page(title, &about, rows.len());
    let names = rows.iter().map(|(side, _)| side.name.as_str());
    let values = rows.iter().map(|(_, values)| values_text(*values));
    let values: Vec<String> = values.collect();
    let texts = widest(fonts, Weight::Regular, values.iter().map(String::as_str));
    let left = MARGIN + widest(fonts, Weight::Regular, names) + GAP;
    let right = WIDTH - MARGIN - texts - GAP;
    let axis = Axis::of(rows.iter().flat_map(|(_, values)| *values), left, right);
    let bottom = scene.height - FOOT;
    for tick in axis.ticks() {
        let x = axis.place(tick);
        scene.shapes.extend([
            Shape::Rect {
                x,
                y: HEAD - 4.0,
                width: 1.0,
                height: bottom - HEAD + 4.0,
                colour: LINE,
            },
            label(
                x,
                bottom + 18.0,
                Anchor::Middle,
                Weight::Regular,
                PALE,
                &format!("{tick} µs"),
            ),
        ]);
    }
    for (number, ((side, times), text)) in rows.iter().zip(&values).enumerate() {
        let middle = HEAD + ROW * (number as f32 + 0.5);
        push_row(&mut scene, &axis, middle, *times, colour(side));
        let (y, regular) = (middle + 5.0, Weight::Regular);
        scene.shapes.extend([
            label(left - GAP, y, Anchor::End, regular, INK, &side.name),
            label(WIDTH - MARGIN, y, Anchor::End, regular, PALE, text),
        ]);
    }
    scene
}

fn push_row(scene: &mut Scene, axis: &Axis, middle: f32, times: [f64; 3], colour: Colour) {
    let (from, to) = (axis.place(times[0]), axis.place(times[2]));
    scene.shapes.push(Shape::Rect {
        x: from,
        y: middle - 1.0,
        width: to - from,
        height: 2.0,
        colour,
    });
    for (time, radius) in times.into_iter().zip(RADII) {
        scene.shapes.push(Shape::Dot {
            x: axis.place(time),
            y: middle,
            radius,
            colour,
        });
    }
}

fn values_text(times: [f64; 3]) -> String {
    times.map(|time| format!("{time:.1}")).join(" / ")
}

/// A logarithmic axis.
struct Axis {
    least: f64,
    most: f64,
    left: f32,
    right: f32,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, left: f32, right: f32) -> Self {
        let (least, most) = values.fold((f64::INFINITY, f64::MIN_POSITIVE), |(least, most), it| {
            (least.min(it), most.max(it))
        });
        Self {
            least,
            most: most.max(least * 1.01),
            left,
            right,
        }
    }

    fn place(&self, value: f64) -> f32 {
        let share = (value / self.least).ln() / (self.most / self.least).ln();
        self.left + share as f32 * (self.right - self.left)
    }

    /// 1, 2 and 5 of each power of ten.
    fn ticks(&self) -> Vec<f64> {
        let powers = (-2..7).flat_map(|power| [1.0, 2.0, 5.0].map(|it| it * 10_f64.powi(power)));
        powers
            .filter(|tick| (self.least..=self.most).contains(tick))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_logarithmic_and_spans_the_values() {
        let axis = Axis::of([4.0, 40.0, 400.0].into_iter(), 100.0, 300.0);
        for (value, place) in [(4.0, 100.0), (40.0, 200.0), (400.0, 300.0)] {
            assert!((axis.place(value) - place).abs() < 0.01, "{value}");
        }
        assert_eq!(axis.ticks(), [5.0, 10.0, 20.0, 50.0, 100.0, 200.0]);
    }
}
