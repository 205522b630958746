//! Files for other tools are read by one of them: HdrHistogram for Python.

mod python;

use std::time::{Duration, SystemTime};

use perf::{Hgrm, IntervalLog, Latencies};

/// Many small ones and a long tail, as latencies are.
fn latencies(count: u64, base_nanos: u64) -> Latencies {
    let mut latencies = Latencies::new();
    for number in 1..=count {
        let tail = 50_000_000 / (number * number);
        latencies.record(Duration::from_nanos(base_nanos + number * 7919 % 4001 + tail));
    }
    latencies
}

#[test]
fn another_reader_finds_the_same_intervals() {
    let intervals =
        [("warm", 0, latencies(20_000, 17_000)), ("echo", 250, latencies(5_000, 9_000))];
    let mut log = IntervalLog::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    for (tag, from, latencies) in &intervals {
        let from = Duration::from_millis(*from);
        log.add(tag, from, Duration::from_millis(1500), latencies);
    }
    let found = python::read("hdr_reader.py", "log", &log.to_string());
    assert_eq!(found.lines().count(), intervals.len(), "{found}");
    for (line, (tag, from, latencies)) in found.lines().zip(&intervals) {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], *tag, "{line}");
        // Milliseconds since the epoch.
        let starts = 1_700_000_000_000_u64 + from;
        let times = [words[1], words[2]].map(|word| word.parse::<u64>().unwrap());
        assert_eq!(times, [starts, starts + 1500], "{line}");
        let summary = latencies.summary();
        let numbers: Vec<u64> = words[3..].iter().map(|word| word.parse().unwrap()).collect();
        let expected = [latencies.count(), summary.p50, summary.p99, summary.p99_9, summary.max];
        assert_eq!(numbers, expected, "{line}");
    }
}

#[test]
fn another_reader_finds_the_same_distribution() {
    let latencies = latencies(30_000, 17_000);
    let ours = Hgrm::new(&latencies, 1000.0).to_string();
    let theirs =
        python::read("hdr_reader.py", "distribution", &format!("{}\n{ours}", latencies.encode()));
    let (footer, rows): (Vec<&str>, Vec<&str>) =
        ours.lines().skip(2).partition(|line| line.starts_with('#'));
    assert!(rows.len() > 60, "{ours}");
    assert_eq!(theirs.lines().count(), rows.len() + 1, "{theirs}");
    for (theirs, ours) in theirs.lines().zip(rows.iter().chain(&footer)) {
        assert!(ours.starts_with(theirs), "{theirs}\n{ours}");
    }
}
