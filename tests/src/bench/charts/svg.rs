//! A scene as SVG.

use std::fmt::Write as _;

use super::scene::{Anchor, Colour, Scene, Shape, Text, Weight};

/// The document.
pub(super) fn write(scene: &Scene) -> String {
    let Scene {
        width,
        height,
        shapes,
    } = scene;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n"
    );
    for shape in shapes {
        push(&mut text, shape);
    }
    text.push_str("</svg>\n");
    text
}

fn push(svg: &mut String, shape: &Shape) {
    // Writing into a String cannot fail.
    let _ = match shape {
        Shape::Rect {
            x,
            y,
            width,
            height,
            colour,
        } => writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             fill=\"{}\"/>",
            hex(*colour)
        ),
        Shape::Dot {
            x,
            y,
            radius,
            colour,
        } => writeln!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{}\"/>",
            hex(*colour)
        ),
        Shape::Text(Text {
            x,
            y,
            size,
            anchor,
            weight,
            colour,
            text,
        }) => {
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let weight = match weight {
                Weight::Regular => "normal",
                Weight::Bold => "bold",
            };
            writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
                 font-weight=\"{weight}\" fill=\"{}\">{}</text>",
                hex(*colour),
                escape(text)
            )
        }
    };
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Text as XML has it; names of other programs may be anything.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_an_element() {
        let text = Text {
            x: 1.0,
            y: 2.0,
            size: 13.0,
            anchor: Anchor::End,
            weight: Weight::Bold,
            colour: [0, 128, 255],
            text: "a < b & c".to_owned(),
        };
        let scene = Scene {
            width: 10.0,
            height: 20.0,
            shapes: vec![Shape::Text(text)],
        };
        let svg = write(&scene);
        for part in [
            "viewBox=\"0 0 10 20\"",
            "text-anchor=\"end\"",
            "#0080ff",
            ">a &lt; b &amp; c</text>",
        ] {
            assert!(svg.contains(part), "{part} is not in:\n{svg}");
        }
    }
}
