//! What a chart consists of, wherever it is drawn.

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// A picture.
#[derive(Debug)]
pub(super) struct Scene {
    /// Pixels; a PNG has twice as many each way.
    pub(super) width: f32,
    pub(super) height: f32,
    /// In the order in which they cover each other.
    pub(super) shapes: Vec<Shape>,
}

/// A part of a picture. Coordinates are in pixels, from the upper left corner.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Rect {
        x: f32,
        y: f32,
        width: f32,
        height: f32,
        colour: Colour,
    },
    Dot {
        x: f32,
        y: f32,
        radius: f32,
        colour: Colour,
    },
    Text(Text),
}

/// A line of text.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// Where it starts, has its middle, or ends.
    pub(super) x: f32,
    /// Of the line that letters stand on.
    pub(super) y: f32,
    pub(super) size: f32,
    pub(super) anchor: Anchor,
    pub(super) weight: Weight,
    pub(super) colour: Colour,
    pub(super) text: String,
}

/// What of a line is at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How thick letters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Regular,
    Bold,
}
