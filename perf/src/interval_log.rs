//! An interval log: a histogram for each span of a measurement, so that nothing that happened once
//! drowns in the whole. The format is HdrHistogram's (`.hlog`), one line per interval and tag; its
//! readers exist in most languages.

use std::fmt;
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::Latencies;

/// What the `Interval_Max` column is divided by: milliseconds, as in the logs of other writers.
/// Histograms stay nanoseconds.
const MAX_DIVISOR: f64 = 1_000_000.0;

/// Intervals so far; printing it makes the file.
#[derive(Clone, Debug)]
pub struct IntervalLog {
    start: SystemTime,
    intervals: Vec<Interval>,
}

/// One line.
#[derive(Clone, Debug)]
struct Interval {
    tag: String,
    from: Duration,
    length: Duration,
    latencies: Latencies,
}

impl IntervalLog {
    /// None yet, of a measurement that began then.
    #[must_use]
    pub fn new(start: SystemTime) -> Self {
        Self { start, intervals: Vec::new() }
    }

    /// Adds what was measured from `from` after the start for `length`. The tag says of what:
    /// `invoke`, the name of a scenario or a baseline; none if it is empty. Characters that would
    /// end it (commas, blanks, line ends) become `_`.
    pub fn add(&mut self, tag: &str, from: Duration, length: Duration, latencies: &Latencies) {
        let ends_tag = |letter: char| letter == ',' || letter.is_whitespace();
        let tag = tag.replace(ends_tag, "_");
        self.intervals.push(Interval { tag, from, length, latencies: latencies.clone() });
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.intervals.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    fn bytes(&self) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[Latencies in nanoseconds; Interval_Max in milliseconds]")
            .with_start_time(self.start)
            .with_max_value_divisor(MAX_DIVISOR)
            .begin_log_with(&mut bytes, &mut serializer)?;
        for Interval { tag, from, length, latencies } in &self.intervals {
            let tag = Tag::new(tag).filter(|tag| !tag.as_str().is_empty());
            log.write_histogram(latencies.histogram(), *from, *length, tag)?;
        }
        Ok(bytes)
    }
}

impl fmt::Display for IntervalLog {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.bytes().ok().and_then(|bytes| String::from_utf8(bytes).ok());
        out.write_str(&text.ok_or(fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    fn one(micros: u64) -> Latencies {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_micros(micros));
        latencies
    }

    #[test]
    fn each_interval_is_a_line() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let mut log = IntervalLog::new(start);
        assert!(log.is_empty());
        log.add("warm, 1 KiB\n", Duration::ZERO, Duration::from_millis(1500), &one(17));
        log.add("", Duration::from_millis(1500), Duration::from_secs(1), &one(2000));
        let text = log.to_string();
        assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
        assert!(text.contains("\n#[StartTime: 1700000000.250 (seconds since epoch)]\n"), "{text}");
        assert_eq!((log.len(), text.lines().count()), (2, 6), "{text}");
        let entries: Vec<_> = IntervalLogIterator::new(text.as_bytes())
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
            })
            .collect();
        assert_eq!(entries[0].tag().unwrap().as_str(), "warm__1_KiB_");
        assert_eq!(entries[1].tag(), None);
        assert_eq!(entries[1].start_timestamp(), Duration::from_millis(1500));
        assert_eq!(entries[0].duration(), Duration::from_millis(1500));
        let again = Latencies::decode(entries[1].encoded_histogram()).unwrap();
        assert_eq!(again.summary(), one(2000).summary());
    }
}
