//! A scene as PNG, painted here.

use anyhow::Result;
use png::{BitDepth, ColorType, Compression, Encoder};

use super::font::Fonts;
use super::scene::{Colour, Scene, Shape};

/// Pixels for one of the scene, each way: sharp on dense screens, and in print.
const ZOOM: f32 = 2.0;
const WHITE: u8 = 255;

/// Rows of red, green and blue.
struct Canvas {
    width: u32,
    height: u32,
    octets: Vec<u8>,
}

/// The file.
pub(super) fn paint(scene: &Scene, fonts: &Fonts) -> Result<Vec<u8>> {
    let Scene {
        width,
        height,
        shapes,
    } = scene;
    let mut canvas = Canvas::new((width * ZOOM) as u32, (height * ZOOM) as u32);
    for shape in shapes {
        canvas.paint(shape, fonts);
    }
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, canvas.width, canvas.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::High);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&canvas.octets)?;
    writer.finish()?;
    Ok(file)
}

impl Canvas {
    fn new(width: u32, height: u32) -> Self {
        let octets = vec![WHITE; width as usize * height as usize * 3];
        Self {
            width,
            height,
            octets,
        }
    }

    fn paint(&mut self, shape: &Shape, fonts: &Fonts) {
        match shape {
            Shape::Rect {
                x,
                y,
                width,
                height,
                colour,
            } => {
                // Whole pixels, and at least one: edges are sharp, and thin lines stay.
                let span = |from: f32, length: f32| {
                    let start = (from * ZOOM).round().max(0.0);
                    let end = ((from + length) * ZOOM).round().max(start + 1.0);
                    start as u32..end as u32
                };
                for row in span(*y, *height) {
                    for column in span(*x, *width) {
                        self.blend(column, row, *colour, 1.0);
                    }
                }
            }
            Shape::Dot {
                x,
                y,
                radius,
                colour,
            } => {
                let (x, y, radius) = (x * ZOOM, y * ZOOM, radius * ZOOM);
                let span = |centre: f32| {
                    let start = (centre - radius - 1.0).max(0.0);
                    start as u32..(centre + radius + 2.0) as u32
                };
                for row in span(y) {
                    for column in span(x) {
                        let away = (column as f32 + 0.5 - x).hypot(row as f32 + 0.5 - y);
                        let share = (radius + 0.5 - away).clamp(0.0, 1.0);
                        self.blend(column, row, *colour, share);
                    }
                }
            }
            Shape::Text(text) => {
                fonts.paint(text, ZOOM, |column, row, share| {
                    self.blend(column, row, text.colour, share);
                });
            }
        }
    }

    /// Covers `share` of a pixel. What is outside of the picture is not seen.
    fn blend(&mut self, column: u32, row: u32, colour: Colour, share: f32) {
        if column >= self.width || row >= self.height {
            return;
        }
        let place = (row as usize * self.width as usize + column as usize) * 3;
        for (octet, new) in self.octets[place..place + 3].iter_mut().zip(colour) {
            let old = f32::from(*octet);
            *octet = (old + (f32::from(new) - old) * share).round() as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::charts::scene::{Anchor, Text, Weight};

    #[test]
    fn rectangles_and_letters_leave_ink() {
        let fonts = Fonts::new().unwrap();
        let mut canvas = Canvas::new(80, 40);
        let colour = [10, 20, 30];
        canvas.paint(
            &Shape::Rect {
                x: 0.0,
                y: 0.0,
                width: 2.0,
                height: 1.0,
                colour,
            },
            &fonts,
        );
        assert_eq!(canvas.octets[..3], colour);
        let painted = |canvas: &Canvas| canvas.octets.iter().filter(|&&o| o != WHITE).count();
        assert_eq!(painted(&canvas), 4 * 2 * 3);
        canvas.paint(
            &Shape::Text(Text {
                x: 4.0,
                y: 16.0,
                size: 13.0,
                anchor: Anchor::Start,
                weight: Weight::Bold,
                colour,
                text: "MM".to_owned(),
            }),
            &fonts,
        );
        assert!(painted(&canvas) > 200, "{}", painted(&canvas));
    }

    #[test]
    fn what_is_outside_is_not_painted() {
        let mut canvas = Canvas::new(2, 2);
        canvas.blend(2, 0, [0; 3], 1.0);
        canvas.blend(0, 2, [0; 3], 1.0);
        assert!(canvas.octets.iter().all(|&octet| octet == WHITE));
    }
}
