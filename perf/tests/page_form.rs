//! The report is a page that any browser shows as it was meant, whatever is written in it, and
//! that asks nobody for anything.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod python;

use std::time::Duration;

use perf::Latencies;
use perf::page::{Curve, Interval, Page, Section, StageShare, Table};
use serde_json::Value;

const HOSTILE: &str = "</style><script src=\"https://evil.example/x.js\">&amp;'\0\u{1b}\u{202e}";

fn latencies(count: u64, base_micros: u64) -> Latencies {
    let mut latencies = Latencies::new();
    for number in 1..=count {
        latencies.record(Duration::from_micros(base_micros + number * 7919 % 100));
    }
    latencies.record(Duration::from_millis(31));
    latencies
}

fn section(name: &str) -> Section {
    let curve =
        |name: &str, base| Curve { name: name.to_owned(), latencies: latencies(5000, base) };
    let over_time = (0..20).map(|number| {
        let from = Duration::from_millis(500 * number);
        let measured = if number == 7 { Latencies::new() } else { latencies(400, 17 + number) };
        Interval::new(from, Duration::from_millis(500), &measured)
    });
    let stage = |name: &str, base| StageShare::new(name, &latencies(100, base));
    Section {
        title: name.to_owned(),
        facts: vec![(format!("rate {name}"), "20,000 per second".to_owned())],
        curves: vec![curve("invoke", 17), curve(&format!("echo {name}"), 9)],
        over_time: over_time.collect(),
        stages: vec![stage("accept", 1), stage("run", 40), stage(&format!("reply {name}"), 3)],
        counts: vec![(format!("VM exits {name}"), 0.002), ("dirty pages".to_owned(), 64.0)],
        errors: vec![(format!("busy {name}"), 12_345), ("timeout".to_owned(), 0)],
        tables: vec![Table {
            title: format!("steps {name}"),
            heading: vec!["offered".to_owned(), format!("served {name}")],
            rows: vec![vec![format!("row {name}"), "4711".to_owned()]],
        }],
    }
}

fn page(name: &str) -> Page {
    Page {
        title: format!("pilotlight bench {name}"),
        facts: vec![("machine".to_owned(), format!("a cpu {name}"))],
        sections: vec![section(name), Section { title: "empty".to_owned(), ..Section::default() }],
    }
}

/// What Python's parsers of XML and HTML agree on.
fn read(page: &Page) -> Value {
    serde_json::from_str(&python::read("page_reader.py", "page", &page.to_string())).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

#[test]
fn everything_measured_is_on_the_page() {
    let found = read(&page("warm"));
    let texts = strings(&found["texts"]).join("\n");
    let expected = [
        // Headings, facts.
        "pilotlight bench warm",
        "a cpu warm",
        "rate warm",
        "20,000 per second",
        "empty",
        // Percentiles of both curves, with the ratio of 67 to 59 microseconds.
        "5,001",
        "invoke",
        "echo warm",
        "p50 of invoke to it",
        "31 ms",
        "1.14",
        // Axes and what is pointed at.
        "99.99 %",
        "percentile",
        "latency",
        "seconds since the start",
        "invoke, 99 %: 116 \u{b5}s",
        "max from 1.5 s: 31 ms (401)",
        // Stages, counts, errors, further tables.
        "reply warm",
        "VM exits warm",
        "0.002",
        "64",
        "busy warm",
        "12,345",
        "served warm",
        "row warm",
        "4711",
        "No errors.",
    ];
    for words in expected {
        assert!(texts.contains(words), "{words}: {texts}");
    }
    assert!(!texts.contains("timeout"), "an error that never came is not shown");
    let drawings = strings(&found["names"]).into_iter().filter(|name| *name == "svg").count();
    assert_eq!(drawings, 3);
}

#[test]
fn an_interval_without_invokes_is_a_gap() {
    let found = read(&page("warm"));
    let lines = strings(&found["names"]).into_iter().filter(|name| *name == "polyline").count();
    // Two curves; three lines over time, each in two pieces.
    assert_eq!(lines, 2 + 2 * 3);
}

#[test]
fn hostile_words_are_words() {
    let found = read(&page(HOSTILE));
    let plain = read(&page("warm"));
    assert_eq!(found["names"], plain["names"]);
    let shown = HOSTILE.replace(['\0', '\u{1b}'], "\u{fffd}");
    let texts = strings(&found["texts"]).into_iter().filter(|text| text.contains(&shown)).count();
    assert!(texts >= 11, "{texts}");
}

#[test]
fn nothing_is_asked_of_others() {
    let found = read(&page(HOSTILE));
    let names = strings(&found["names"]);
    for name in ["script", "link", "img", "image", "iframe", "object", "embed", "a", "use", "base"]
    {
        assert!(!names.contains(&name), "{name}");
    }
    for attribute in found["attributes"].as_array().unwrap() {
        let [name, value] = [1, 2].map(|place| attribute[place].as_str().unwrap());
        let loads = ["src", "href", "xlink:href", "srcset", "action", "data"].contains(&name);
        assert!(!loads && !name.starts_with("on") && name != "style", "{attribute}");
        assert!(!value.contains("url(") && !value.contains("://"), "{attribute}");
    }
    let style = strings(&found["texts"]).into_iter().find(|text| text.contains(":root")).unwrap();
    assert!(!style.contains("url(") && !style.contains("@import"), "{style}");
}

#[test]
fn a_page_without_anything_is_a_page() {
    let found = read(&Page::default());
    assert!(!strings(&found["names"]).contains(&"svg"));
    let nothing = Curve { name: "invoke".to_owned(), latencies: Latencies::new() };
    let section = Section { curves: vec![nothing], ..Section::default() };
    let found = read(&Page { sections: vec![section], ..Page::default() });
    assert!(strings(&found["names"]).contains(&"table"));
}
