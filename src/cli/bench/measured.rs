//! What came out of a scenario.

use std::collections::BTreeMap;
use std::time::Duration;

use perf::{Latencies, Slowest, Stage, Watch};
use pilotlight::client::{ClientError, Completed};
use pilotlight::invoke::{Status, Timings, status_name};
use serde_json::{Map, Value};

use super::super::fault::Fault;
use super::lines::{Departures, Landed};
use super::peers::Baselines;
use super::series::Series;

/// Slowest invokes whose stages are kept.
const SLOWEST: usize = 20;
/// Stages of an invoke as the node measures them, and what its client saw beside them.
pub(super) const STAGES: [&str; 7] =
    ["accept", "route", "load", "acquire", "run", "reply", "outside"];
/// Intervals that are kept; each takes a quarter of a MiB.
const INTERVALS_MAX: usize = 512;
/// Code of an arrival that was not sent before its part of the load was over.
const UNSENT: &str = "unsent";
/// Code of a node without room.
const BUSY: &str = "busy";

/// What came out.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) invokes: Series,
    pub(super) stages: [Latencies; 7],
    pub(super) slowest: Slowest,
    pub(super) baselines: Baselines,
    /// Invokes without the answer they should have had, by code.
    pub(super) errors: BTreeMap<String, u64>,
    /// From the send to the answer "busy".
    pub(super) busy: Latencies,
    /// How much later than they were due requests of an open loop were sent.
    pub(super) lateness: Latencies,
    /// What only this scenario has to say.
    pub(super) extra: Map<String, Value>,
    pub(super) usage: Usage,
    /// No more batches are wanted.
    pub(super) is_over: bool,
    /// One for each batch, when they are wanted.
    pub(super) intervals: Option<Vec<Interval>>,
    watch: Watch,
    batch_start: Duration,
    /// Processor time of the node and its VMMs when what is measured began.
    cpu_start: Duration,
}

/// What the node used while it served invokes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Time that was measured.
    pub(super) span: Duration,
    /// Processor time of the node and its VMMs.
    pub(super) cpu: Duration,
    /// Returns of `KVM_RUN` of the VMs that served.
    pub(super) exits: u64,
    /// Invokes they served, those that were not timed too.
    pub(super) invokes: u64,
    /// VMs put back, and pages in all of them.
    pub(super) resets: u64,
    pub(super) reset_pages: u64,
    /// Private memory of a warm VM at the end of the run.
    pub(super) idle_vm_bytes: Option<u64>,
}

/// One batch of invokes.
#[derive(Clone, Debug)]
pub(super) struct Interval {
    /// From the start of the run.
    pub(super) start: Duration,
    pub(super) length: Duration,
    pub(super) latencies: Latencies,
}

impl Measured {
    /// Nothing so far; with or without intervals.
    pub(super) fn new(has_intervals: bool) -> Self {
        Self {
            invokes: Series::default(),
            stages: std::array::from_fn(|_| Latencies::new()),
            slowest: Slowest::new(SLOWEST),
            baselines: Baselines::default(),
            errors: BTreeMap::from([(BUSY.to_owned(), 0)]),
            busy: Latencies::new(),
            lateness: Latencies::new(),
            extra: Map::new(),
            usage: Usage::default(),
            is_over: false,
            intervals: has_intervals.then(Vec::new),
            watch: Watch::start(),
            batch_start: Duration::ZERO,
            cpu_start: Duration::ZERO,
        }
    }

    /// Counts an invoke that did what it was to do.
    pub(super) fn record(&mut self, took: Duration, done: &Completed) {
        self.invokes.record(took);
        let stages = stages(&done.outcome.timings);
        let mut inside = 0;
        for ((_, nanos), latencies) in stages.iter().zip(&mut self.stages) {
            latencies.record(Duration::from_nanos(*nanos));
            inside += nanos;
        }
        let [.., outside] = &mut self.stages;
        outside.record(took.saturating_sub(Duration::from_nanos(inside)));
        self.slowest.offer(took, || stages);
    }

    /// Counts what landed: an answer as it should be (`expected`), or an error. Returns which, an
    /// error by its code.
    pub(super) fn take(
        &mut self,
        landed: Landed,
        expected: &[u8],
    ) -> Result<Result<Completed, String>, Fault> {
        let answer = checked(landed.answer, expected)?;
        match &answer {
            Ok(done) => self.record(landed.took, done),
            Err(code) => self.fail(code, landed.from_send),
        }
        Ok(answer)
    }

    /// Counts an invoke without the answer it should have had.
    pub(super) fn fail(&mut self, code: &str, took: Duration) {
        *self.errors.entry(code.to_owned()).or_default() += 1;
        if code == BUSY {
            self.busy.record(took);
        }
    }

    /// Counts what an open loop did not send: each waited for that long, and longer.
    pub(super) fn depart(&mut self, departures: &Departures) {
        self.lateness.merge(&departures.lateness);
        for waited in &departures.unsent {
            self.invokes.record(*waited);
            self.fail(UNSENT, *waited);
        }
    }

    /// What is measured begins, with a batch; the node and its VMMs have used so much until now.
    pub(super) fn begin(&mut self, cpu: Duration) {
        self.cpu_start = cpu;
        self.begin_batch();
    }

    /// What was measured is over; they have used so much by now.
    pub(super) fn count_cpu(&mut self, cpu: Duration) {
        self.usage.cpu += cpu.saturating_sub(self.cpu_start);
    }

    /// A batch of invokes begins.
    fn begin_batch(&mut self) {
        self.batch_start = self.watch.elapsed();
    }

    /// It is over.
    pub(super) fn end_batch(&mut self) {
        let (start, end) = (self.batch_start, self.watch.elapsed());
        self.usage.span += end - start;
        let batch = self.invokes.end_batch();
        if let (Some(intervals), Some(latencies)) = (&mut self.intervals, batch) {
            intervals.push(Interval { start, length: end - start, latencies });
            if intervals.len() >= INTERVALS_MAX {
                *intervals = halved(std::mem::take(intervals));
            }
        }
    }

    /// A batch that has been going on for `span` is over, and another begins.
    pub(super) fn cut_batch(&mut self, span: Duration) {
        if self.watch.elapsed().saturating_sub(self.batch_start) >= span {
            self.end_batch();
            self.begin_batch();
        }
    }

    /// A run in which nothing was answered is none.
    pub(super) fn check(&self) -> Result<(), Fault> {
        match self.invokes.all.count() {
            0 => Err(Fault::new(format!("no invoke was answered: {:?}", self.errors))),
            _ => Ok(()),
        }
    }
}

/// The same measurement in half as many intervals: neighbours become one.
fn halved(intervals: Vec<Interval>) -> Vec<Interval> {
    let mut halved: Vec<Interval> = Vec::new();
    for (number, interval) in intervals.into_iter().enumerate() {
        match halved.last_mut() {
            Some(last) if number % 2 == 1 => {
                last.length = (interval.start + interval.length).saturating_sub(last.start);
                last.latencies.merge(&interval.latencies);
            }
            _ => halved.push(interval),
        }
    }
    halved
}

/// In the order in which the node measures them.
fn stages(timings: &Timings) -> [Stage; 6] {
    let [accept, route, load, acquire, run, reply, _] = STAGES;
    [
        (accept, timings.accept_nanos),
        (route, timings.route_nanos),
        (load, timings.load_nanos),
        (acquire, timings.acquire_nanos),
        (run, timings.run_nanos),
        (reply, timings.reply_nanos),
    ]
}

/// The answer if it is what the program answers; an error's code if there is none. A wrong answer
/// ends the run.
pub(super) fn checked(
    answer: Result<Completed, ClientError>,
    expected: &[u8],
) -> Result<Result<Completed, String>, Fault> {
    let done = match answer {
        Ok(done) => done,
        Err(error) => return Ok(Err(error.code().to_owned())),
    };
    let outcome = &done.outcome;
    if outcome.status != Status::Exited {
        return Ok(Err(status_name(outcome.status).to_owned()));
    }
    match outcome.detail == 0 && done.response == expected {
        true => Ok(Ok(done)),
        false => {
            Err(Fault::new(format!("an invoke did not answer as its program does: {outcome:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_few_intervals_and_all_of_its_latencies() {
        let mut measured = Measured::new(true);
        for _ in 0..2 * INTERVALS_MAX {
            measured.begin_batch();
            measured.invokes.record(Duration::from_micros(5));
            measured.end_batch();
        }
        let intervals = measured.intervals.unwrap();
        assert!(intervals.len() < INTERVALS_MAX, "{}", intervals.len());
        let counted: u64 = intervals.iter().map(|interval| interval.latencies.count()).sum();
        assert_eq!(counted, 2 * INTERVALS_MAX as u64);
        let ends = intervals.iter().map(|interval| interval.start + interval.length);
        assert!(ends.zip(intervals.iter().skip(1)).all(|(end, next)| end <= next.start));
    }
}
