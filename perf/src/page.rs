//! A report as one HTML page that needs nothing else: no script, no font, no picture from
//! elsewhere, and a policy in its head that forbids a browser to load any. Whoever measured fills
//! in a [`Page`]; printing it makes the file.
//!
//! ```text
//!   Page ── Section ──┬─ curves ────► curves.rs     percentiles, everything in one plot
//!                     ├─ over_time ─► timeline.rs   the same measurement, interval by interval
//!                     ├─ stages ────► breakdown.rs  where the time of an invoke goes
//!                     └─ counts, errors, tables, facts ─► table.rs
//!   all of them ─► plot.rs, axis.rs ─► markup.rs    well-formed and escaped by construction
//! ```

mod curves;
mod timeline;
mod breakdown;
mod table;
mod plot;
mod axis;
mod markup;

use std::fmt;
use std::time::Duration;

use crate::Latencies;
use markup::Element;

/// Browsers load nothing for this page, whatever is written in it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A whole report.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// What the browser's window and the first heading say.
    pub title: String,
    /// What holds for all sections, name and value: machine, kernel, cores, commit.
    pub facts: Vec<(String, String)>,
    /// One for each scenario.
    pub sections: Vec<Section>,
}

/// One scenario. What is empty is left out, except for errors: that there were none is said.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Its heading: the scenario's name.
    pub title: String,
    /// What holds for this scenario, name and value: count, rate, payload.
    pub facts: Vec<(String, String)>,
    /// What was measured, and then what it is held against.
    pub curves: Vec<Curve>,
    /// The first curve's measurement in order of time.
    pub over_time: Vec<Interval>,
    /// Stages of an invoke, in their order.
    pub stages: Vec<StageShare>,
    /// Numbers per invoke: VM exits, dirty pages.
    pub counts: Vec<(String, f64)>,
    /// How often each error was answered, by its code.
    pub errors: Vec<(String, u64)>,
    /// Whatever else the scenario found.
    pub tables: Vec<Table>,
}

/// A distribution with a name.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What the legend says.
    pub name: String,
    /// All of them.
    pub latencies: Latencies,
}

/// Latencies of one span of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// When it began, after the measurement did.
    pub from: Duration,
    /// How long it was.
    pub length: Duration,
    /// How many were measured; if none, the others mean nothing and the line has a gap.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_nanos: u64,
    /// 99 of 100 took no longer.
    pub p99_nanos: u64,
    /// The slowest.
    pub max_nanos: u64,
}

impl Interval {
    /// The figures of these latencies.
    #[must_use]
    pub fn new(from: Duration, length: Duration, latencies: &Latencies) -> Self {
        let summary = latencies.summary();
        Self {
            from,
            length,
            count: latencies.count(),
            p50_nanos: summary.p50,
            p99_nanos: summary.p99,
            max_nanos: summary.max,
        }
    }
}

/// What one stage takes, over all invokes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageShare {
    /// What the legend says.
    pub name: String,
    /// Median of this stage.
    pub p50_nanos: u64,
    /// Its 99th percentile, which other invokes may have than those of other stages.
    pub p99_nanos: u64,
}

impl StageShare {
    /// The figures of these latencies of one stage.
    #[must_use]
    pub fn new(name: &str, latencies: &Latencies) -> Self {
        let baseline = latencies.baseline();
        Self { name: name.to_owned(), p50_nanos: baseline.p50, p99_nanos: baseline.p99 }
    }
}

/// Rows below a heading. The first column is text, the others are numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it shows, with the unit.
    pub title: String,
    /// Names of the columns.
    pub heading: Vec<String>,
    /// A cell for each column.
    pub rows: Vec<Vec<String>>,
}

impl fmt::Display for Page {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "<!DOCTYPE html>")?;
        let head = Element::new("head")
            .add(Element::new("meta").with("charset", "utf-8"))
            .add(
                Element::new("meta")
                    .with("http-equiv", "Content-Security-Policy")
                    .with("content", POLICY),
            )
            .add(
                Element::new("meta")
                    .with("name", "viewport")
                    .with("content", "width=device-width, initial-scale=1"),
            )
            .add(Element::new("title").text(&self.title))
            .add(Element::new("style").text(include_str!("page/style.css")));
        let body = Element::new("body")
            .add(Element::new("h1").text(&self.title))
            .maybe(table::facts(&self.facts))
            .all(self.sections.iter().map(Section::element));
        write!(out, "{}", Element::new("html").with("lang", "en").add(head).add(body))
    }
}

impl Section {
    fn element(&self) -> Element {
        Element::new("section")
            .add(Element::new("h2").text(&self.title))
            .maybe(table::facts(&self.facts))
            .maybe(table::counts(&self.counts))
            .maybe(table::percentiles(&self.curves))
            .maybe(curves::figure_of(&self.curves))
            .maybe(timeline::figure_of(&self.over_time))
            .maybe(breakdown::figure_of(&self.stages))
            .add(table::errors(&self.errors))
            .all(self.tables.iter().map(table::plain))
    }
}

/// A heading, what there is to know, and the drawing.
fn figure(title: &str, caption: &str, parts: impl IntoIterator<Item = Element>) -> Element {
    let caption = Element::new("figcaption").text(caption);
    Element::new("figure").add(Element::new("h3").text(title)).add(caption).all(parts)
}

/// Which line is what: a swatch in the colour of each series, in their order.
fn legend<'a>(names: impl IntoIterator<Item = &'a str>) -> Element {
    let entry = |(series, name): (usize, &str)| {
        let swatch = Element::new("span").with("class", plot::series_class("swatch", series));
        Element::new("li").add(swatch).text(name)
    };
    Element::new("ul").with("class", "legend").all(names.into_iter().enumerate().map(entry))
}
