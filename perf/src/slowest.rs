//! The slowest of many, each with the stages its time went to: a percentile says how long, this
//! says where.

use std::fmt;
use std::time::Duration;

/// Columns of the longest bar.
const COLUMNS: u32 = 60;
/// What stages are drawn with, in their order.
const DIGITS: &str = "123456789";

/// A stage's name, and its nanoseconds.
pub type Stage = (&'static str, u64);

/// The slowest so far. Offering one that is not among them costs a comparison.
#[derive(Clone, Debug)]
pub struct Slowest {
    keep: usize,
    offered: u64,
    /// Slowest first.
    kept: Vec<Slow>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slow {
    number: u64,
    took_nanos: u64,
    stages: Vec<Stage>,
}

impl Slowest {
    /// None so far, and `keep` at most.
    #[must_use]
    pub fn new(keep: usize) -> Self {
        Self { keep, offered: 0, kept: Vec::new() }
    }

    /// Takes one that took `took` as its requester saw it; `stages` follow one another and are
    /// asked for only when it is kept.
    pub fn offer<const N: usize>(&mut self, took: Duration, stages: impl FnOnce() -> [Stage; N]) {
        self.offered += 1;
        let took_nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let place = self.kept.partition_point(|slow| slow.took_nanos >= took_nanos);
        if place < self.keep {
            self.kept.truncate(self.keep - 1);
            let stages = stages().to_vec();
            self.kept.insert(place, Slow { number: self.offered, took_nanos, stages });
        }
    }
}

impl Slow {
    /// Time outside all stages: the requester's own system calls, and waiting to be woken.
    fn outside_nanos(&self) -> u64 {
        let inside: u64 = self.stages.iter().map(|(_, nanos)| nanos).sum();
        self.took_nanos.saturating_sub(inside)
    }

    /// Where each stage begins and ends, in columns of `column_nanos`.
    fn bar(&self, column_nanos: u64) -> String {
        let mut end_nanos = 0;
        let mut bar = String::new();
        let stages = self.stages.iter().map(|(_, nanos)| *nanos).zip(DIGITS.chars());
        for (nanos, digit) in stages.chain([(self.outside_nanos(), '.')]) {
            end_nanos += nanos;
            let end = usize::try_from(end_nanos.div_ceil(column_nanos)).unwrap_or(usize::MAX);
            bar.extend(std::iter::repeat_n(digit, end.saturating_sub(bar.len())));
        }
        bar
    }
}

/// A table in microseconds, with a bar below each row; all bars have one scale. A stage is drawn by
/// its digit from where it starts to where it ends, what is outside all stages, behind them, by
/// dots: when exactly it passed the stages do not say.
impl fmt::Display for Slowest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.kept.first() else { return Ok(()) };
        let column_nanos = first.took_nanos.div_ceil(u64::from(COLUMNS)).max(1);
        write!(out, "{:>10}{:>10}", "request", "total")?;
        for ((name, _), digit) in first.stages.iter().zip(DIGITS.chars()) {
            write!(out, "{:>10}", format!("{digit} {name}"))?;
        }
        writeln!(out, "{:>10}", "outside")?;
        for slow in &self.kept {
            write!(out, "{:>10}{:>10}", slow.number, micros(slow.took_nanos))?;
            slow.stages.iter().try_for_each(|(_, nanos)| write!(out, "{:>10}", micros(*nanos)))?;
            writeln!(out, "{:>10}", micros(slow.outside_nanos()))?;
            writeln!(out, "{:>10}{}", "", slow.bar(column_nanos))?;
        }
        writeln!(out, "one column: {} us", micros(column_nanos))
    }
}

fn micros(nanos: u64) -> String {
    format!("{:.1}", nanos as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slowest(keep: usize, micros: impl IntoIterator<Item = u64>) -> Slowest {
        let mut slowest = Slowest::new(keep);
        for micros in micros {
            let stages = || [("accept", micros * 100), ("run", micros * 700)];
            slowest.offer(Duration::from_micros(micros), stages);
        }
        slowest
    }

    #[test]
    fn the_slowest_are_kept_in_order() {
        let order = (0..1000).map(|number| number * 7919 % 1009);
        let mut expected: Vec<u64> = order.clone().collect();
        expected.sort_unstable_by(|one, other| other.cmp(one));
        let kept: Vec<_> =
            slowest(10, order).kept.iter().map(|slow| slow.took_nanos / 1000).collect();
        assert_eq!(kept, expected[..10]);
        assert!(slowest(0, [1]).kept.is_empty());
    }

    #[test]
    fn bars_show_where_stages_start_and_end() {
        let text = slowest(2, [30, 60, 10]).to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "   request     total  1 accept     2 run   outside");
        assert_eq!(lines[1], "         2      60.0       6.0      42.0      12.0");
        let bar =
            |a, r, o| format!("{:>10}{}{}{}", "", "1".repeat(a), "2".repeat(r), ".".repeat(o));
        assert_eq!(lines[2], bar(6, 42, 12));
        assert_eq!(lines[4], bar(3, 21, 6));
        assert_eq!(lines[5], "one column: 1.0 us");
        assert_eq!(slowest(3, []).to_string(), "");
    }
}
