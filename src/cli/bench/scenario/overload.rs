//! More than a node can do: offered load in steps up to saturation and past it, and how it is once
//! the load falls back.

use std::collections::BTreeMap;
use std::time::Duration;

use perf::{Arrivals, Latencies, Watch};
use pilotlight::socket::request::Invoke;
use serde_json::{Value, json};

use super::super::super::fault::Fault;
use super::super::lab::Lab;
use super::super::lines::Landed;
use super::super::measured::Measured;
use super::super::program::{PAYLOAD_BYTES, Program, payload};
use super::super::subject::Subject;

/// Users that ask.
const USERS: u64 = 4;
/// Offered load of each step, percent of what the node can do.
const PERCENT: [u64; 8] = [25, 50, 75, 90, 100, 125, 150, 200];
/// The load before and after the recovery is watched, and that in between.
const CALM_PERCENT: u64 = 50;
const STORM_PERCENT: u64 = 200;
/// Requests open at once at most: more than a shard takes (`pools.inflight_max`), so that it has to
/// say so.
const OPEN_MAX: usize = 2048;
/// Requests open while it is found out what the node can do without a pause. It can do less of
/// those that come on time: they are not held back by those before.
const OPEN_FULL: usize = 64;
/// Of what is offered, this many are about all.
const ABOUT_ALL_PERCENT: u64 = 97;
/// Rounds in which the rate is looked for that is about all answered.
const CAPACITY_ROUNDS_MAX: u32 = 10;
/// The next rate to what the node kept up with, while none was too much.
const CAPACITY_GROWTH_PERCENT: u64 = 150;
/// A rate that is too much is this close to one that is not, percent of it: near enough.
const CAPACITY_CLOSE_PERCENT: u64 = 112;
/// Storms: a calm of seconds is not the same twice on a shared machine.
const STORMS: usize = 5;
/// Parts of the time there is that one step takes.
const STEPS_PER_LIMIT: u32 = 20;

/// What is asked: the same of each user in turn.
struct Crowd {
    users: Vec<String>,
    function: &'static str,
    payload: Vec<u8>,
}

/// What came of one step.
#[derive(Default)]
struct Step {
    latencies: Latencies,
    busy: Latencies,
    errors: BTreeMap<String, u64>,
    /// Answered before the step was over.
    in_time: u64,
}

/// Medians of the calms around a storm, nanoseconds.
struct Storm {
    before: u64,
    after: u64,
}

/// Steps of load, then storms between two calms each.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    lab.subject.await_warm()?;
    let users: Vec<String> = (0..USERS).map(|_| lab.subject.new_user()).collect();
    users.iter().try_for_each(|user| lab.subject.deploy(user, program))?;
    let crowd = Crowd { users, function: program.name, payload: payload(PAYLOAD_BYTES) };
    lab.subject.settle()?;
    let span = (lab.plan.limit / STEPS_PER_LIMIT)
        .clamp(Duration::from_millis(100), Duration::from_secs(1));
    let capacity = crowd.capacity(lab.subject, span)?;
    measured.extra.insert("capacity_per_second".to_owned(), json!(capacity));
    let mut steps = Vec::new();
    for percent in PERCENT {
        let rate = (capacity * percent / 100).max(1);
        lab.round(&mut measured, 50, &mut |subject, _, measured| {
            let step = crowd.step(subject, rate, span, measured)?;
            steps.push(step.describe(percent, rate, span));
            Ok(())
        })?;
    }
    measured.extra.insert("steps".to_owned(), steps.into());
    let mut storms = Vec::new();
    for _ in 0..STORMS {
        lab.round(&mut measured, 50, &mut |subject, _, measured| {
            storms.push(crowd.storm(subject, capacity, 2 * span, measured)?);
            Ok(())
        })?;
    }
    measured.extra.insert("recovery".to_owned(), recovery(&storms, 2 * span));
    for user in &crowd.users {
        lab.subject.client.remove(user, program.name)?;
    }
    Ok(measured)
}

impl Crowd {
    fn invoke(&self, number: u64) -> Invoke<'_> {
        let user = usize::try_from(number % USERS).unwrap_or(0);
        Invoke { user: &self.users[user], ..Invoke::new(self.function, &self.payload) }
    }

    /// Invokes per second that are about all answered when they come on time, whether or not others
    /// have been: looked for up and down from what is answered without a pause, until there is a rate
    /// that is and one a little higher that is not.
    fn capacity(&self, subject: &mut Subject, span: Duration) -> Result<u64, Fault> {
        let mut rate = self.without_pause(subject, span)?;
        let (mut kept_up, mut too_much) = (0, u64::MAX);
        for _ in 0..CAPACITY_ROUNDS_MAX {
            let about_all = rate * ABOUT_ALL_PERCENT / 100;
            let mut answered = self.answered_of(subject, rate, span)?;
            if answered < about_all {
                // A machine that stood still for once is no limit.
                answered = answered.max(self.answered_of(subject, rate, span)?);
            }
            if answered >= about_all {
                kept_up = rate;
            } else {
                too_much = rate;
            }
            if too_much <= (kept_up * CAPACITY_CLOSE_PERCENT / 100).max(kept_up + 1) {
                break;
            }
            rate = match (kept_up, too_much) {
                (0, _) => answered.clamp(1, rate - 1),
                (kept_up, u64::MAX) => (kept_up * CAPACITY_GROWTH_PERCENT / 100).max(kept_up + 1),
                (kept_up, too_much) => kept_up.midpoint(too_much),
            };
        }
        Ok(if kept_up == 0 { rate } else { kept_up })
    }

    /// How many of `rate` a second are answered within `span`, a second.
    fn answered_of(&self, subject: &mut Subject, rate: u64, span: Duration) -> Result<u64, Fault> {
        let mut in_time = 0_u64;
        let mut lines = subject.lines(OPEN_MAX)?;
        let watch = Watch::start();
        let mut take = |landed: Landed| {
            in_time += u64::from(landed.answer.is_ok() && watch.elapsed() <= span);
            Ok(())
        };
        let arrivals = Arrivals::within(rate, span);
        lines.depart((0, arrivals, span), &|number| self.invoke(number), &mut take)?;
        lines.finish(&mut take)?;
        Ok(per_second(in_time, span))
    }

    /// Invokes per second with always enough to do, after as long a time in which VMs are taken
    /// and containers made.
    fn without_pause(&self, subject: &mut Subject, span: Duration) -> Result<u64, Fault> {
        let mut lines = subject.lines(OPEN_FULL)?;
        let invoke = |number| self.invoke(number);
        let mut count = 0_u64;
        let mut took = span;
        for _ in 0..2 {
            count = 0;
            let watch = Watch::start();
            lines.closed((OPEN_FULL, u64::MAX, span), &invoke, &mut |landed: Landed| {
                count += u64::from(landed.answer.is_ok());
                Ok(())
            })?;
            took = watch.elapsed();
        }
        match per_second(count, took) {
            0 => Err(Fault::new("the node answers nothing when it always has enough to do")),
            rate => Ok(rate),
        }
    }

    /// One step of load.
    fn step(
        &self,
        subject: &mut Subject,
        rate: u64,
        span: Duration,
        measured: &mut Measured,
    ) -> Result<Step, Fault> {
        let mut step = Step::default();
        let before = subject.vms()?;
        let arrivals = Arrivals::within(rate, span);
        let mut lines = subject.lines(OPEN_MAX)?;
        let watch = Watch::start();
        let mut take = |landed: Landed| {
            let (took, from_send) = (landed.took, landed.from_send);
            match measured.take(landed, &self.payload)? {
                Ok(_) => {
                    step.latencies.record(took);
                    step.in_time += u64::from(watch.elapsed() <= span);
                }
                Err(code) => step.fail(code, from_send),
            }
            Ok(())
        };
        let invoke = |number| self.invoke(number);
        // What is due at the very end may go a little later.
        let limit = span + span / 20;
        let departures = lines.depart((0, arrivals, limit), &invoke, &mut take)?;
        lines.finish(&mut take)?;
        measured.usage.invokes += arrivals.count() - departures.unsent.len() as u64;
        for waited in &departures.unsent {
            step.latencies.record(*waited);
            *step.errors.entry("unsent".to_owned()).or_default() += 1;
        }
        measured.depart(&departures);
        measured.usage.exits += subject.vms()?.all_exits_since(&before);
        Ok(step)
    }

    /// A calm, a storm, a calm, without a pause in between; the medians of the second halves of
    /// both calms.
    fn storm(
        &self,
        subject: &mut Subject,
        capacity: u64,
        span: Duration,
        measured: &mut Measured,
    ) -> Result<Storm, Fault> {
        let mut halves = [Latencies::new(), Latencies::new(), Latencies::new()];
        let arrivals = [CALM_PERCENT, STORM_PERCENT, CALM_PERCENT]
            .map(|percent| Arrivals::within((capacity * percent / 100).max(1), span));
        let mut lines = subject.lines(OPEN_MAX)?;
        let mut take = |landed: Landed| {
            let (tag, took) = (landed.tag, landed.took);
            let is_done = measured.take(landed, &self.payload)?.is_ok();
            if is_done && tag.number >= arrivals[tag.phase].count() / 2 {
                halves[tag.phase].record(took);
            }
            Ok(())
        };
        let invoke = |number| self.invoke(number);
        let mut departed = Vec::new();
        for (phase, arrivals) in arrivals.into_iter().enumerate() {
            departed.push(lines.depart((phase, arrivals, span), &invoke, &mut take)?);
        }
        lines.finish(&mut take)?;
        departed.iter().for_each(|departures| measured.depart(departures));
        let [before, _, after] = halves.map(|half| half.summary().p50);
        Ok(Storm { before, after })
    }
}

/// The medians of all storms, and each one.
fn recovery(storms: &[Storm], span: Duration) -> Value {
    let median = |key: &dyn Fn(&Storm) -> u64| {
        let mut values: Vec<u64> = storms.iter().map(key).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let each = storms
        .iter()
        .map(|storm| json!({ "before_p50_nanos": storm.before, "after_p50_nanos": storm.after }));
    json!({
        "span_seconds": span.as_secs_f64(),
        "before_p50_nanos": median(&|storm| storm.before),
        "after_p50_nanos": median(&|storm| storm.after),
        "after_to_before": median(&Storm::thousandths) as f64 / 1000.0,
        "storms": each.collect::<Vec<_>>(),
    })
}

impl Storm {
    /// The median after it to that before it.
    fn thousandths(&self) -> u64 {
        self.after.saturating_mul(1000) / self.before.max(1)
    }
}

/// How many a second `count` in `took` are.
fn per_second(count: u64, took: Duration) -> u64 {
    let per_second = u128::from(count) * 1_000_000_000 / took.as_nanos().max(1);
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

impl Step {
    fn fail(&mut self, code: String, took: Duration) {
        if code == "busy" {
            self.busy.record(took);
        }
        *self.errors.entry(code).or_default() += 1;
    }

    fn describe(&self, percent: u64, rate: u64, span: Duration) -> Value {
        let busy = (self.busy.count() > 0).then(|| self.busy.summary());
        json!({
            "percent": percent,
            "offered_per_second": rate,
            "answered_per_second": (self.in_time as f64 / span.as_secs_f64()).round(),
            "count": self.latencies.count(),
            "latency_nanos": self.latencies.summary(),
            "errors": self.errors,
            "busy_nanos": busy,
        })
    }
}
