//! What a shard counts and times; its own, never shared. A [`Snapshot`] is a copy that travels,
//! merges with those of other shards and becomes JSON.

pub mod functions;
pub mod prometheus;

use std::collections::BTreeMap;

use abi::control::Verified;
use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::invoke::{Nanos, Status, Timings, status_name};

/// Longest time told apart, nanoseconds: beyond the longest timeout.
const NANOS_MAX: u64 = 1_000_000_000_000;
/// Digits kept of a time: 1 % is enough for an operator, and 40 KiB per histogram.
const DIGITS: u8 = 2;

/// Stages of an invoke, and the whole of it, each with a histogram.
pub const STAGES: [&str; 10] =
    ["accept", "route", "acquire", "load", "run", "reply", "total", "restore", "reset", "verify"];
/// Up to which times they are counted for those who cannot read percentiles, nanoseconds: three to a
/// decade, from what the fastest invoke takes to what nobody waits for.
pub const BOUNDS_NANOS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
const TOTAL: usize = 6;
const RESTORE: usize = 7;
const RESET: usize = 8;
const VERIFY: usize = 9;

/// One shard's counters and histograms.
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    /// VMs booted from the kernel image: once per snapshot.
    pub boots: u64,
    /// VMs restored from a snapshot.
    pub restores: u64,
    /// Starts of VMs that failed.
    pub restores_failed: u64,
    /// VMs put back to their snapshot.
    pub resets: u64,
    /// Resets that were asked for in vain, or found the VM to differ from its snapshot.
    pub resets_failed: u64,
    /// Resets after which the whole VM was compared with its snapshot and found to be the same.
    pub resets_verified: u64,
    /// Resets after which as much of it was compared as there was time for, and found the same.
    pub resets_verified_partly: u64,
    /// Pages put back in all resets.
    pub reset_pages: u64,
    /// VMs told to end or found ended.
    pub vms_gone: u64,
    /// VMs ended because their guest broke a rule.
    pub guest_faults: u64,
    /// Returns of `KVM_RUN` to a VMM, for any reason.
    pub vm_exits: u64,
    /// VMs given to a user.
    pub assigns: u64,
    /// Containers made.
    pub acquires: u64,
    /// Packages loaded into VMs.
    pub loads: u64,
    /// Invokes that came in.
    pub invokes: u64,
    /// Invokes sent to another shard.
    pub forwarded: u64,
    /// Log records taken from VMs.
    pub log_records: u64,
    /// Log records given up.
    pub log_dropped: u64,
    /// Times the shard slept.
    pub sleeps: u64,
    /// Times it stepped aside for its other tasks while it polled.
    pub step_asides: u64,
    /// `recv` calls that found something, or a client gone.
    pub receives: u64,
    /// `recv` calls that found nothing.
    pub receives_empty: u64,
    /// `send` calls.
    pub sends: u64,
    /// Clients that went on in shared memory.
    pub attaches: u64,
    /// Times bytes were found in such a client's ring.
    pub ring_receives: u64,
    /// Times bytes were put into such a client's ring.
    pub ring_sends: u64,
    /// Doorbells rung for guests.
    pub doorbells: u64,
    outcomes: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<&'static str, u64>,
    missing_calls: BTreeMap<u32, u64>,
    stages: Vec<Stage>,
}

/// Times of one stage.
#[derive(Clone, Debug)]
struct Stage {
    histogram: Histogram<u64>,
    sum_nanos: u64,
}

/// A copy of one or more shards' metrics.
#[derive(Clone, Debug)]
pub struct Snapshot(ShardMetrics);

/// How long something took, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "percentiles by name")]
pub struct Latency {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub max: u64,
}

/// A snapshot for people and machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Invokes that ended in a VM, by how.
    pub outcomes: BTreeMap<String, u64>,
    /// Invokes that did not, by error code.
    pub refusals: BTreeMap<String, u64>,
    /// System calls programs made and the guest kernel does not have, by number.
    pub missing_calls: BTreeMap<u32, u64>,
    /// Time per stage, nanoseconds.
    pub latency_nanos: BTreeMap<String, Latency>,
    /// The same, counted.
    pub latency_buckets: Buckets,
}

/// Times per stage, counted up to the same bounds for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// [`BOUNDS_NANOS`].
    pub bounds_nanos: Vec<u64>,
    /// By stage.
    pub stages: BTreeMap<String, Counts>,
}

/// Times of one stage, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many were no longer than each bound, within 1 % of it.
    pub counts: Vec<u64>,
    /// All of them.
    pub count: u64,
    /// Together.
    pub sum_nanos: u64,
}

impl Default for ShardMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ShardMetrics {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            boots: 0,
            restores: 0,
            restores_failed: 0,
            resets: 0,
            resets_failed: 0,
            resets_verified: 0,
            resets_verified_partly: 0,
            reset_pages: 0,
            vms_gone: 0,
            guest_faults: 0,
            vm_exits: 0,
            assigns: 0,
            acquires: 0,
            loads: 0,
            invokes: 0,
            forwarded: 0,
            log_records: 0,
            log_dropped: 0,
            sleeps: 0,
            step_asides: 0,
            receives: 0,
            receives_empty: 0,
            sends: 0,
            attaches: 0,
            ring_receives: 0,
            ring_sends: 0,
            doorbells: 0,
            outcomes: BTreeMap::new(),
            refusals: BTreeMap::new(),
            missing_calls: BTreeMap::new(),
            stages: STAGES.iter().map(|_| Stage::new()).collect(),
        }
    }

    /// A VM was restored.
    pub fn restored(&mut self, nanos: Nanos) {
        self.restores += 1;
        self.stages[RESTORE].record(nanos);
    }

    /// A VM was put back to its snapshot.
    pub fn reset(&mut self, nanos: Nanos, dirty_pages: u32) {
        self.resets += 1;
        self.reset_pages += u64::from(dirty_pages);
        self.stages[RESET].record(nanos);
    }

    /// So much of it was then compared with the snapshot.
    pub fn verified(&mut self, extent: Verified, nanos: Nanos) {
        match extent {
            Verified::Nothing => return,
            Verified::Part => self.resets_verified_partly += 1,
            Verified::Whole => self.resets_verified += 1,
        }
        self.stages[VERIFY].record(nanos);
    }

    /// An invoke ended in a VM, this long after it arrived.
    pub fn finished(&mut self, status: Status, total_nanos: Nanos) {
        *self.outcomes.entry(status_name(status)).or_default() += 1;
        self.stages[TOTAL].record(total_nanos);
    }

    /// Where the time of an invoke went.
    pub fn staged(&mut self, timings: &Timings) {
        let stages = [
            timings.accept_nanos,
            timings.route_nanos,
            timings.acquire_nanos,
            timings.load_nanos,
            timings.run_nanos,
            timings.reply_nanos,
        ];
        for (stage, nanos) in self.stages.iter_mut().zip(stages) {
            stage.record(nanos);
        }
    }

    /// A request was answered with an error of this code.
    pub fn refused(&mut self, code: Code) {
        *self.refusals.entry(code.as_str()).or_default() += 1;
    }

    /// A program made a system call the guest kernel does not have. Numbers come from the guest:
    /// no more different ones are counted than there are system calls.
    pub fn missing_call(&mut self, number: u32) {
        const NUMBERS_MAX: usize = 512;
        if let Some(count) = self.missing_calls.get_mut(&number) {
            *count += 1;
        } else if self.missing_calls.len() < NUMBERS_MAX {
            self.missing_calls.insert(number, 1);
        }
    }

    /// A copy that can leave the shard.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.clone())
    }

    fn counters(&self) -> [(&'static str, u64); 27] {
        [
            ("boots", self.boots),
            ("restores", self.restores),
            ("restores_failed", self.restores_failed),
            ("resets", self.resets),
            ("resets_failed", self.resets_failed),
            ("resets_verified", self.resets_verified),
            ("resets_verified_partly", self.resets_verified_partly),
            ("reset_pages", self.reset_pages),
            ("vms_gone", self.vms_gone),
            ("guest_faults", self.guest_faults),
            ("vm_exits", self.vm_exits),
            ("assigns", self.assigns),
            ("acquires", self.acquires),
            ("loads", self.loads),
            ("invokes", self.invokes),
            ("forwarded", self.forwarded),
            ("log_records", self.log_records),
            ("log_dropped", self.log_dropped),
            ("sleeps", self.sleeps),
            ("step_asides", self.step_asides),
            ("receives", self.receives),
            ("receives_empty", self.receives_empty),
            ("sends", self.sends),
            ("attaches", self.attaches),
            ("ring_receives", self.ring_receives),
            ("ring_sends", self.ring_sends),
            ("doorbells", self.doorbells),
        ]
    }

    fn counters_mut(&mut self) -> [&mut u64; 27] {
        [
            &mut self.boots,
            &mut self.restores,
            &mut self.restores_failed,
            &mut self.resets,
            &mut self.resets_failed,
            &mut self.resets_verified,
            &mut self.resets_verified_partly,
            &mut self.reset_pages,
            &mut self.vms_gone,
            &mut self.guest_faults,
            &mut self.vm_exits,
            &mut self.assigns,
            &mut self.acquires,
            &mut self.loads,
            &mut self.invokes,
            &mut self.forwarded,
            &mut self.log_records,
            &mut self.log_dropped,
            &mut self.sleeps,
            &mut self.step_asides,
            &mut self.receives,
            &mut self.receives_empty,
            &mut self.sends,
            &mut self.attaches,
            &mut self.ring_receives,
            &mut self.ring_sends,
            &mut self.doorbells,
        ]
    }
}

impl Snapshot {
    /// Adds what the shard keeps elsewhere.
    pub fn complete(&mut self, add: impl FnOnce(&mut ShardMetrics)) {
        add(&mut self.0);
    }

    /// Adds another shard's numbers.
    pub fn merge(&mut self, other: &Self) {
        let (own, other) = (&mut self.0, &other.0);
        for (counter, (_, count)) in own.counters_mut().into_iter().zip(other.counters()) {
            *counter += count;
        }
        for (code, count) in &other.outcomes {
            *own.outcomes.entry(code).or_default() += count;
        }
        for (code, count) in &other.refusals {
            *own.refusals.entry(code).or_default() += count;
        }
        for (number, count) in &other.missing_calls {
            *own.missing_calls.entry(*number).or_default() += count;
        }
        for (stage, other) in own.stages.iter_mut().zip(&other.stages) {
            stage.merge(other);
        }
    }

    /// The numbers by name.
    #[must_use]
    pub fn report(&self) -> Report {
        let named = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let (mut latency_nanos, mut stages) = (BTreeMap::new(), BTreeMap::new());
        for (name, stage) in STAGES.iter().zip(&self.0.stages) {
            latency_nanos.insert((*name).to_owned(), Latency::of(&stage.histogram));
            stages.insert((*name).to_owned(), stage.counts());
        }
        Report {
            counters: self.0.counters().map(|(name, count)| (name.to_owned(), count)).into(),
            outcomes: named(&self.0.outcomes),
            refusals: named(&self.0.refusals),
            missing_calls: self.0.missing_calls.clone(),
            latency_nanos,
            latency_buckets: Buckets { bounds_nanos: BOUNDS_NANOS.to_vec(), stages },
        }
    }
}

impl Stage {
    fn new() -> Self {
        Self { histogram: histogram(), sum_nanos: 0 }
    }

    fn record(&mut self, nanos: Nanos) {
        self.histogram.saturating_record(nanos);
        self.sum_nanos = self.sum_nanos.saturating_add(nanos);
    }

    fn merge(&mut self, other: &Self) {
        let added = self.histogram.add(&other.histogram);
        assert!(added.is_ok(), "all histograms have the same bounds");
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
    }

    fn counts(&self) -> Counts {
        let mut counts = vec![0; BOUNDS_NANOS.len()];
        for bucket in self.histogram.iter_recorded() {
            let bound = BOUNDS_NANOS.partition_point(|bound| *bound < bucket.value_iterated_to());
            if let Some(count) = counts.get_mut(bound) {
                *count += bucket.count_since_last_iteration();
            }
        }
        let mut all = 0;
        counts.iter_mut().for_each(|count| {
            all += *count;
            *count = all;
        });
        Counts { counts, count: self.histogram.len(), sum_nanos: self.sum_nanos }
    }
}

impl Latency {
    /// What a histogram of nanoseconds says.
    #[must_use]
    pub fn of<T: Counter>(histogram: &Histogram<T>) -> Self {
        // All in one pass: a histogram is long, and a shard has better to do.
        let mut values = histogram.value_at_quantiles(QUANTILES);
        let [p50, p90, p99, p99_9, p99_99] = QUANTILES.map(|_| values.next().unwrap_or(0));
        Self { count: histogram.len(), p50, p90, p99, p99_9, p99_99, max: histogram.max() }
    }
}

/// In the order of [`Latency`]'s.
const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 0.9999];

fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, NANOS_MAX, DIGITS) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("bounds are constants: {error:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_merge_and_become_json() {
        let mut one = ShardMetrics::new();
        let mut two = ShardMetrics::new();
        one.restored(5_000_000);
        two.restored(7_000_000);
        two.vm_exits = 3;
        for _ in 0..99 {
            one.finished(Status::Exited, 100_000);
        }
        two.finished(Status::Signalled, 900_000);
        two.refused(Code::Busy);
        two.missing_call(999);
        two.staged(&Timings { run_nanos: 50_000, ..Timings::default() });
        let mut whole = one.snapshot();
        whole.merge(&two.snapshot());
        let report = whole.report();
        assert_eq!(report.counters["restores"], 2);
        assert_eq!(report.counters["vm_exits"], 3);
        assert_eq!(report.outcomes["exited"], 99);
        assert_eq!(report.outcomes["signalled"], 1);
        assert_eq!(report.refusals["busy"], 1);
        assert_eq!(report.missing_calls[&999], 1);
        let total = report.latency_nanos["total"];
        assert_eq!(total.count, 100);
        assert!((99_000..=101_000).contains(&total.p50), "{total:?}");
        assert!((890_000..=910_000).contains(&total.max), "{total:?}");
        let total = &report.latency_buckets.stages["total"];
        let up_to = |nanos| total.counts[BOUNDS_NANOS.binary_search(&nanos).unwrap()];
        assert_eq!([up_to(50_000), up_to(250_000), up_to(1_000_000)], [0, 99, 100]);
        assert_eq!((total.count, total.sum_nanos), (100, 99 * 100_000 + 900_000));
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }

    #[test]
    fn a_hostile_guest_cannot_fill_memory_with_numbers() {
        let mut metrics = ShardMetrics::new();
        (0..100_000).for_each(|number| metrics.missing_call(number));
        metrics.missing_call(0);
        let report = metrics.snapshot().report();
        assert_eq!(report.missing_calls.len(), 512);
        assert_eq!(report.missing_calls[&0], 2);
    }

    #[test]
    fn a_time_beyond_all_bounds_is_kept_as_the_largest() {
        let mut metrics = ShardMetrics::new();
        metrics.finished(Status::Exited, u64::MAX);
        assert!(metrics.snapshot().report().latency_nanos["total"].max >= NANOS_MAX);
    }
}
