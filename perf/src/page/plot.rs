//! A plot as SVG: a frame with two axes, and lines in it. All drawings of a page have one width,
//! so that their axes lie below each other.

use super::axis::Axis;
use super::markup::Element;

/// The drawing's own units; a browser scales them to the width it has.
pub(super) const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
/// Room for labels.
pub(super) const LEFT: f64 = 72.0;
pub(super) const RIGHT: f64 = WIDTH - 34.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = HEIGHT - 50.0;
/// Colours there are; further series have them again, with dashes.
const COLOURS: usize = 8;

/// One direction of a plot.
#[derive(Debug)]
pub(super) struct Scale {
    pub(super) axis: Axis,
    /// What is drawn, and in which unit.
    pub(super) title: &'static str,
    /// Values with what is written beside them.
    pub(super) labels: Vec<(f64, String)>,
}

/// A frame to draw in.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) x: Scale,
    pub(super) y: Scale,
}

impl Plot {
    /// The whole drawing; `name` is for those who cannot see it.
    pub(super) fn draw(&self, name: &str, content: impl IntoIterator<Item = Element>) -> Element {
        svg(HEIGHT, name).all(self.frame()).all(content)
    }

    fn frame(&self) -> Vec<Element> {
        let mut frame = Vec::new();
        for (value, label) in &self.x.labels {
            let x = self.x_of(*value);
            frame.push(rule((x, TOP), (x, BOTTOM)));
            frame.push(text("middle", (x, BOTTOM + 18.0), label));
        }
        for (value, label) in &self.y.labels {
            let y = self.y_of(*value);
            frame.push(rule((LEFT, y), (RIGHT, y)));
            frame.push(text("end", (LEFT - 8.0, y + 4.0), label));
        }
        let middle = f64::midpoint(LEFT, RIGHT);
        frame.push(text("middle", (middle, HEIGHT - 8.0), self.x.title).with("class", "title"));
        let side = format!("rotate(-90 14 {:.1})", f64::midpoint(TOP, BOTTOM));
        frame.push(
            text("middle", (14.0, f64::midpoint(TOP, BOTTOM)), self.y.title)
                .with("class", "title")
                .with("transform", side),
        );
        frame
    }

    /// A line through these points.
    pub(super) fn line(&self, points: &[(f64, f64)], series: usize) -> Element {
        let place = |(x, y): &(f64, f64)| format!("{:.1},{:.1}", self.x_of(*x), self.y_of(*y));
        let places: Vec<String> = points.iter().map(place).collect();
        Element::new("polyline")
            .with("class", series_class("line", series))
            .with("points", places.join(" "))
    }

    /// A point that says what it is when pointed at.
    pub(super) fn dot(&self, (x, y): (f64, f64), series: usize, says: &str) -> Element {
        Element::new("circle")
            .with("class", series_class("dot", series))
            .at([("cx", self.x_of(x)), ("cy", self.y_of(y)), ("r", 3.0)])
            .add(Element::new("title").text(says))
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + self.x.axis.place(value) * (RIGHT - LEFT)
    }

    fn y_of(&self, value: f64) -> f64 {
        BOTTOM - self.y.axis.place(value) * (BOTTOM - TOP)
    }
}

/// A drawing of this height.
pub(super) fn svg(height: f64, name: &str) -> Element {
    Element::new("svg")
        .with("viewBox", format_args!("0 0 {WIDTH} {height}"))
        .with("role", "img")
        .with("aria-label", name)
}

/// Classes of what belongs to a series.
pub(super) fn series_class(what: &str, series: usize) -> String {
    let dashes = if series >= COLOURS { " dashed" } else { "" };
    format!("{what} s{}{dashes}", series % COLOURS)
}

/// Words in a drawing, `anchor` at this place.
pub(super) fn text(anchor: &str, (x, y): (f64, f64), words: &str) -> Element {
    Element::new("text").at([("x", x), ("y", y)]).with("text-anchor", anchor).text(words)
}

fn rule(from: (f64, f64), to: (f64, f64)) -> Element {
    let ends = [("x1", from.0), ("y1", from.1), ("x2", to.0), ("y2", to.1)];
    Element::new("line").with("class", "rule").at(ends)
}
