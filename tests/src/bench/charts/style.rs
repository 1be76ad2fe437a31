//! What all charts look like: sizes, colours, and the parts that each has.

use super::font::Fonts;
use super::scene::{Anchor, Colour, Scene, Shape, Text, Weight};
use crate::bench::paths::report::SideReport;

/// Pixels.
pub(super) const WIDTH: f32 = 960.0;
pub(super) const MARGIN: f32 = 24.0;
/// Where the rows begin.
pub(super) const HEAD: f32 = 92.0;
/// Of a row, and of what is in it.
pub(super) const ROW: f32 = 34.0;
pub(super) const BAR: f32 = 20.0;
pub(super) const FOOT: f32 = 34.0;
pub(super) const LETTER: f32 = 14.0;
const TITLE: f32 = 21.0;
const SMALL: f32 = 12.0;

pub(super) const INK: Colour = [0x22, 0x2b, 0x33];
pub(super) const PALE: Colour = [0x6b, 0x77, 0x82];
pub(super) const LINE: Colour = [0xd9, 0xdf, 0xe4];
const FAST: Colour = [0x0b, 0x7a, 0x75];
const STANDARD: Colour = [0x5f, 0xb7, 0xae];
const KERNEL: Colour = [0x9a, 0xa7, 0xb4];
const LIMIT: Colour = [0xd5, 0xdb, 0xe1];
const OTHER: Colour = [0xe0, 0x9f, 0x3e];

/// The colour of a data path: ours stand out, limits step back.
pub(super) fn colour(side: &SideReport) -> Colour {
    if side.is_other {
        return OTHER;
    }
    match side.id.rsplit('-').next() {
        Some("fast" | "xdp") => FAST,
        Some("ebpf") => STANDARD,
        Some("host" | "bare") => LIMIT,
        _ => KERNEL,
    }
}

/// An empty chart with a title and a line below it, for `rows` rows.
pub(super) fn page(title: &str, about: &str, rows: usize) -> Scene {
    let height = HEAD + ROW * rows as f32 + FOOT;
    let heading = |y, size, weight, colour, text: &str| {
        Shape::Text(Text {
            x: MARGIN,
            y,
            size,
            anchor: Anchor::Start,
            weight,
            colour,
            text: text.to_owned(),
        })
    };
    Scene {
        width: WIDTH,
        height,
        shapes: vec![
            Shape::Rect {
                x: 0.0,
                y: 0.0,
                width: WIDTH,
                height,
                colour: [0xff; 3],
            },
            heading(38.0, TITLE, Weight::Bold, INK, title),
            heading(60.0, SMALL, Weight::Regular, PALE, about),
        ],
    }
}

/// Text of a row or an axis.
pub(super) fn label(
    x: f32,
    y: f32,
    anchor: Anchor,
    weight: Weight,
    colour: Colour,
    text: &str,
) -> Shape {
    Shape::Text(Text {
        x,
        y,
        size: LETTER,
        anchor,
        weight,
        colour,
        text: text.to_owned(),
    })
}

/// The widest of these, pixels.
pub(super) fn widest<'a>(
    fonts: &Fonts,
    weight: Weight,
    texts: impl Iterator<Item = &'a str>,
) -> f32 {
    texts
        .map(|text| fonts.width(text, LETTER, weight))
        .fold(0.0, f32::max)
}
