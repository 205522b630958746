//! What is read rather than seen: facts, figures, errors.

use super::axis::{count, duration, number};
use super::{Curve, Element, Table};

/// Columns of the percentiles: name, and one in how many took longer.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 2.0), ("p90", 10.0), ("p99", 100.0), ("p99.9", 1_000.0), ("p99.99", 10_000.0)];

/// Names and values. None if there are none.
pub(super) fn facts(facts: &[(String, String)]) -> Option<Element> {
    let fact = |(name, value): &(String, String)| {
        let (name, value) = (Element::new("dt").text(name), Element::new("dd").text(value));
        Element::new("div").add(name).add(value)
    };
    let list = Element::new("dl").with("class", "facts");
    (!facts.is_empty()).then(|| list.all(facts.iter().map(fact)))
}

/// Numbers, large. None if there are none.
pub(super) fn counts(counts: &[(String, f64)]) -> Option<Element> {
    let count = |(name, value): &(String, f64)| {
        let value = Element::new("dd").text(number(*value));
        Element::new("div").add(value).add(Element::new("dt").text(name))
    };
    let list = Element::new("dl").with("class", "counts");
    (!counts.is_empty()).then(|| list.all(counts.iter().map(count)))
}

/// A row for each curve; what the first one is held against has the ratio of the medians. None if
/// nothing was measured.
pub(super) fn percentiles(curves: &[Curve]) -> Option<Element> {
    let (first, others) = curves.split_first()?;
    let heading = ["", "N"].into_iter().chain(PERCENTILES.map(|(name, _)| name)).chain(["max"]);
    let ratio = format!("p50 of {} to it", first.name);
    let mut heading: Vec<String> = heading.map(str::to_owned).collect();
    if !others.is_empty() {
        heading.push(ratio);
    }
    let body = curves.iter().enumerate().map(|(place, curve)| {
        let cells = percentile_cells(curve);
        let ratio = match place {
            _ if others.is_empty() => None,
            0 => Some(Element::new("td")),
            _ => Some(ratio_cell(first, curve)),
        };
        Element::new("tr").add(Element::new("th").text(&curve.name)).all(cells).maybe(ratio)
    });
    let head = heading.iter().map(|name| Element::new("th").text(name));
    let note = "Percentiles; a faint one rests on fewer than ten that took longer.";
    let table = Element::new("table")
        .add(Element::new("thead").add(Element::new("tr").all(head)))
        .add(Element::new("tbody").all(body));
    let note = Element::new("p").with("class", "note").text(note);
    Some(Element::new("div").add(note).add(scrolling(table)))
}

fn percentile_cells(curve: &Curve) -> Vec<Element> {
    let latencies = &curve.latencies;
    let cell = |text: String| Element::new("td").text(text);
    let mut cells = vec![cell(count(latencies.count()))];
    if latencies.count() == 0 {
        cells.extend((0..=PERCENTILES.len()).map(|_| cell(String::new())));
        return cells;
    }
    cells.extend(PERCENTILES.map(|(_, rarity)| {
        let percentile = cell(duration(latencies.at(1.0 - 1.0 / rarity) as f64));
        match latencies.count() as f64 >= 10.0 * rarity {
            true => percentile,
            false => percentile.with("class", "faint"),
        }
    }));
    cells.push(cell(duration(latencies.summary().max as f64)));
    cells
}

fn ratio_cell(first: &Curve, curve: &Curve) -> Element {
    let [over, under] = [first, curve].map(|curve| curve.latencies.at(0.5) as f64);
    let cell = Element::new("td");
    if over > 0.0 && under > 0.0 { cell.text(number(over / under)) } else { cell }
}

/// What was answered instead of an outcome.
pub(super) fn errors(errors: &[(String, u64)]) -> Element {
    let errors: Vec<_> = errors.iter().filter(|(_, times)| *times > 0).collect();
    if errors.is_empty() {
        return Element::new("p").text("No errors.");
    }
    let row = |(code, times): &&(String, u64)| vec![code.clone(), count(*times)];
    plain(&Table {
        title: "Errors".to_owned(),
        heading: ["code", "times"].map(str::to_owned).to_vec(),
        rows: errors.iter().map(row).collect(),
    })
}

/// A table with its title.
pub(super) fn plain(table: &Table) -> Element {
    let title = Element::new("h3").text(&table.title);
    Element::new("div").add(title).add(rows(table))
}

/// A table alone.
pub(super) fn rows(table: &Table) -> Element {
    let row = |cells: &Vec<String>| {
        let cell = |(place, text): (usize, &String)| {
            Element::new(if place == 0 { "th" } else { "td" }).text(text)
        };
        Element::new("tr").all(cells.iter().enumerate().map(cell))
    };
    let head =
        Element::new("tr").all(table.heading.iter().map(|name| Element::new("th").text(name)));
    let body = Element::new("tbody").all(table.rows.iter().map(row));
    scrolling(Element::new("table").add(Element::new("thead").add(head)).add(body))
}

/// On a narrow screen tables and drawings are wider than the page.
pub(super) fn scrolling(content: Element) -> Element {
    Element::new("div").with("class", "scroll").add(content)
}
