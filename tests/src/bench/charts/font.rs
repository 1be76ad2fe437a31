//! The font of all charts: DejaVu Sans, which comes with this program.

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont as _, point};
use anyhow::{Context as _, Result};

use super::scene::{Anchor, Text, Weight};

/// Both weights.
#[derive(Debug)]
pub(super) struct Fonts {
    regular: FontRef<'static>,
    bold: FontRef<'static>,
}

impl Fonts {
    pub(super) fn new() -> Result<Self> {
        let font = |bytes| FontRef::try_from_slice(bytes).context("the font of charts");
        Ok(Self {
            regular: font(dejavu::sans::regular())?,
            bold: font(dejavu::sans::bold())?,
        })
    }

    fn of(&self, weight: Weight) -> &FontRef<'static> {
        match weight {
            Weight::Regular => &self.regular,
            Weight::Bold => &self.bold,
        }
    }

    /// Pixels of an em, as SVG has sizes, in what the font has them in.
    fn scale(&self, size: f32, weight: Weight) -> PxScale {
        let font = self.of(weight);
        let per_em = font.units_per_em().unwrap_or(1.0);
        PxScale::from(size * font.height_unscaled() / per_em)
    }

    /// How wide a line of text is, pixels.
    pub(super) fn width(&self, text: &str, size: f32, weight: Weight) -> f32 {
        let font = self.of(weight).as_scaled(self.scale(size, weight));
        text.chars()
            .map(|letter| font.h_advance(font.glyph_id(letter)))
            .sum()
    }

    /// Calls `dot` for every pixel that a line of text covers at `zoom` pixels for one, with how
    /// much it covers of it, 0 to 1.
    pub(super) fn paint(&self, text: &Text, zoom: f32, mut dot: impl FnMut(u32, u32, f32)) {
        let Text {
            x,
            y,
            size,
            anchor,
            weight,
            colour: _,
            text,
        } = text;
        let width = self.width(text, *size, *weight);
        let start = match anchor {
            Anchor::Start => *x,
            Anchor::Middle => x - width / 2.0,
            Anchor::End => x - width,
        };
        let font = self.of(*weight);
        let scale = self.scale(size * zoom, *weight);
        let mut place = point(start * zoom, y * zoom);
        for letter in text.chars() {
            let id = font.glyph_id(letter);
            let glyph = id.with_scale_and_position(scale, place);
            place.x += font.as_scaled(scale).h_advance(id);
            let Some(outline) = font.outline_glyph(glyph) else {
                continue;
            };
            let corner = outline.px_bounds().min;
            outline.draw(|column, row, share| {
                let (x, y) = (corner.x + column as f32, corner.y + row as f32);
                if x >= 0.0 && y >= 0.0 {
                    dot(x as u32, y as u32, share);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_a_width_in_every_letter_that_charts_use() {
        let fonts = Fonts::new().unwrap();
        for letter in "abc XYZ 0123456789 .,;:–×≈µ/%()".chars() {
            let text = letter.to_string();
            assert!(fonts.width(&text, 13.0, Weight::Regular) > 0.0, "{letter}");
            let id = fonts.regular.glyph_id(letter);
            assert!(id.0 != 0, "{letter} is not in the font");
        }
        let narrow = fonts.width("iiii", 13.0, Weight::Regular);
        let wide = fonts.width("MMMM", 13.0, Weight::Bold);
        assert!(wide > 2.0 * narrow, "{wide} and {narrow}");
    }
}
