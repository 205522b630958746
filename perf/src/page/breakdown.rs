//! Where the time of an invoke goes: one bar for the medians of all stages, one for their 99th
//! percentiles, and the figures below.

use super::axis::duration;
use super::plot::{LEFT, RIGHT, series_class, svg, text};
use super::{Element, StageShare, Table, figure, legend, table};

/// Height of a bar, and of what is above it.
const BAR: f64 = 34.0;
const GAP: f64 = 30.0;
/// What a bar shows, and its figure of each stage.
type Bar = (&'static str, fn(&StageShare) -> u64);
const BARS: [Bar; 2] = [("p50", |stage| stage.p50_nanos), ("p99", |stage| stage.p99_nanos)];
/// Narrower pieces have no room for a figure.
const LABEL: f64 = 54.0;

/// None if there are no stages.
pub(super) fn figure_of(stages: &[StageShare]) -> Option<Element> {
    if stages.is_empty() {
        return None;
    }
    let mut drawing = svg(2.0 * (BAR + GAP) + 4.0, "stages of an invoke");
    let mut y = GAP - 8.0;
    for (name, value) in BARS {
        let nanos: Vec<u64> = stages.iter().map(value).collect();
        let sum: u64 = nanos.iter().sum();
        let title = format!("{name} of each stage, {} in all", duration(sum as f64));
        drawing = drawing
            .add(text("end", (LEFT - 8.0, y + BAR / 2.0 + 4.0), name))
            .add(text("start", (LEFT, y - 6.0), &title))
            .all(pieces(stages, &nanos, sum, y));
        y += BAR + GAP;
    }
    let caption = "Both bars have the same length, whatever their time. A stage's 99th percentile \
                   comes from its own slow invokes: their sum is not that of whole invokes.";
    let names = legend(stages.iter().map(|stage| stage.name.as_str()));
    Some(figure(
        "Stages of an invoke",
        caption,
        [names, table::scrolling(drawing), figures(stages)],
    ))
}

fn pieces(stages: &[StageShare], nanos: &[u64], sum: u64, y: f64) -> Vec<Element> {
    let mut x = LEFT;
    let mut pieces = Vec::new();
    for (series, (stage, nanos)) in stages.iter().zip(nanos).enumerate() {
        let width = *nanos as f64 / sum.max(1) as f64 * (RIGHT - LEFT);
        let label = duration(*nanos as f64);
        let says = format!("{}: {label}", stage.name);
        let piece = Element::new("rect")
            .with("class", series_class("piece", series))
            .at([("x", x), ("y", y), ("width", width), ("height", BAR)])
            .add(Element::new("title").text(says));
        pieces.push(piece);
        if width >= LABEL {
            let place = (x + width / 2.0, y + BAR / 2.0 + 4.0);
            pieces.push(text("middle", place, &label).with("class", "inside"));
        }
        x += width;
    }
    pieces
}

fn figures(stages: &[StageShare]) -> Element {
    let row = |stage: &StageShare| {
        let [p50, p99] = [stage.p50_nanos, stage.p99_nanos].map(|nanos| duration(nanos as f64));
        vec![stage.name.clone(), p50, p99]
    };
    table::rows(&Table {
        title: String::new(),
        heading: ["stage", "p50", "p99"].map(str::to_owned).to_vec(),
        rows: stages.iter().map(row).collect(),
    })
}
