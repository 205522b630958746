//! How long invokes took, by function: bounded, and nothing allocated but with a function's first
//! outcome on this shard.

use std::cell::Cell;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Latency, NANOS_MAX};
use crate::config::{FUNCTIONS_MEASURED_MAX, FUNCTIONS_TOLD_MAX};
use crate::invoke::{Function, FunctionName, Nanos, User};

/// Digits kept of a time: within 7 %, and 2 KiB per function.
const DIGITS: u8 = 1;
/// Shorter times are the same: none gets here in less.
const NANOS_MIN: u64 = 1_000;

/// One shard's functions, each in a slot. When there are as many as may be, the one used longest ago
/// makes room.
#[derive(Debug, Default)]
pub struct Functions {
    slots: Vec<Measured>,
}

/// What is known of a function, one version of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The shard's number for it.
    number: u32,
    user: User,
    name: FunctionName,
    version: u32,
    used_nanos: Nanos,
    failed: u64,
    sum_nanos: u64,
    histogram: Histogram<u32>,
}

impl Functions {
    /// An invoke of the function with this number ended, this long after it arrived. `place` is where
    /// it was found last.
    pub fn finished(
        &mut self,
        place: &Cell<usize>,
        (number, function): (u32, &Function),
        now: Nanos,
        (nanos, has_failed): (Nanos, bool),
    ) {
        if self.slots.get(place.get()).is_none_or(|slot| slot.number != number) {
            place.set(self.find_or_make(number, function));
        }
        let slot = &mut self.slots[place.get()];
        slot.used_nanos = now;
        slot.failed += u64::from(has_failed);
        slot.sum_nanos = slot.sum_nanos.saturating_add(nanos);
        slot.histogram.saturating_record(nanos);
    }

    fn find_or_make(&mut self, number: u32, function: &Function) -> usize {
        if let Some(place) = self.slots.iter().position(|slot| slot.number == number) {
            return place;
        }
        let new = Measured::new(number, function);
        if self.slots.len() < FUNCTIONS_MEASURED_MAX {
            self.slots.push(new);
            return self.slots.len() - 1;
        }
        let slots = self.slots.iter().enumerate();
        let oldest = slots.min_by_key(|(_, slot)| slot.used_nanos).map_or(0, |(place, _)| place);
        self.slots[oldest] = new;
        oldest
    }

    /// Copies of those used last that still exist, as many as are told.
    #[must_use]
    pub fn latest(&self, exists: impl Fn(u32) -> bool) -> Vec<Measured> {
        let mut latest: Vec<_> = self.slots.iter().filter(|slot| exists(slot.number)).collect();
        latest.sort_by_key(|slot| std::cmp::Reverse(slot.used_nanos));
        latest.into_iter().take(FUNCTIONS_TOLD_MAX).cloned().collect()
    }
}

impl Measured {
    fn new(number: u32, function: &Function) -> Self {
        let histogram = match Histogram::new_with_bounds(NANOS_MIN, NANOS_MAX, DIGITS) {
            Ok(histogram) => histogram,
            Err(error) => unreachable!("bounds are constants: {error:?}"),
        };
        Self {
            number,
            user: function.user,
            name: function.name,
            version: function.version,
            used_nanos: 0,
            failed: 0,
            sum_nanos: 0,
            histogram,
        }
    }

    fn id(&self) -> (User, FunctionName, u32) {
        (self.user, self.name, self.version)
    }

    /// Adds what another shard knows of the same version.
    fn merge(&mut self, other: &Self) {
        self.used_nanos = self.used_nanos.max(other.used_nanos);
        self.failed += other.failed;
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
        let added = self.histogram.add(&other.histogram);
        assert!(added.is_ok(), "all histograms have the same bounds");
    }

    /// What several shards know of the functions of users who `may_be_told` of, each once, those used
    /// last first; as many as are told.
    #[must_use]
    pub fn merge_all(mut parts: Vec<Self>, may_be_told: impl Fn(&str) -> bool) -> Vec<Self> {
        parts.retain(|part| may_be_told(part.user.as_str()));
        parts.sort_by_key(Self::id);
        parts.dedup_by(|part, whole| {
            let is_same = part.id() == whole.id();
            if is_same {
                whole.merge(part);
            }
            is_same
        });
        parts.sort_by_key(|part| std::cmp::Reverse(part.used_nanos));
        parts.truncate(FUNCTIONS_TOLD_MAX);
        parts
    }

    /// As the status has it: `docs/status.md` lists the keys.
    #[must_use]
    pub fn describe(&self) -> Value {
        let buckets = self.histogram.iter_recorded();
        let buckets: Vec<_> = buckets
            .map(|bucket| [bucket.value_iterated_to(), bucket.count_since_last_iteration()])
            .collect();
        json!({
            "user": self.user,
            "name": self.name,
            "version": self.version,
            "failed": self.failed,
            "sum_nanos": self.sum_nanos,
            "latency_nanos": Latency::of(&self.histogram),
            "buckets": buckets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoke::{Contract, Digest, Freshness};

    fn function(name: &str) -> Function {
        of("ada", name)
    }

    fn of(user: &str, name: &str) -> Function {
        Function {
            user: User::new(user).unwrap(),
            name: FunctionName::new(name).unwrap(),
            version: 1,
            package: Digest([0; 32]),
            package_bytes: 0,
            entry: String::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            contract: Contract::Program,
            freshness: Freshness::Reuse,
            memory_mib: 1,
            timeout_millis: 1,
        }
    }

    #[test]
    fn times_and_failures_are_kept_by_function_and_merged() {
        let (one, two) = (function("one"), function("two"));
        let mut shards = [Functions::default(), Functions::default()];
        let place = Cell::new(0);
        for _ in 0..99 {
            shards[0].finished(&place, (7, &one), 5, (100_000, false));
        }
        shards[1].finished(&Cell::new(3), (9, &one), 8, (900_000, true));
        shards[1].finished(&Cell::new(0), (10, &two), 6, (50, false));
        let parts = shards.iter().flat_map(|shard| shard.latest(|_| true)).collect();
        let told: Vec<_> =
            Measured::merge_all(parts, |_| true).iter().map(Measured::describe).collect();
        assert_eq!(
            (told.len(), &told[0]["name"], &told[1]["name"]),
            (2, &json!("one"), &json!("two"))
        );
        let latency = &told[0]["latency_nanos"];
        assert_eq!((&latency["count"], &told[0]["failed"]), (&json!(100), &json!(1)));
        assert_eq!(told[0]["sum_nanos"], 99 * 100_000 + 900_000);
        let p50 = latency["p50"].as_u64().unwrap();
        assert!((93_000..=107_000).contains(&p50), "{latency}");
        let buckets = told[0]["buckets"].as_array().unwrap();
        assert_eq!((buckets.len(), &buckets[0][1], &buckets[1][1]), (2, &json!(99), &json!(1)));
    }

    #[test]
    fn who_acts_for_one_user_is_told_of_that_ones_functions() {
        let mut functions = Functions::default();
        for (number, user) in [(1, "ada"), (2, "bob"), (3, "ada")] {
            let of = of(user, &format!("f{number}"));
            functions.finished(&Cell::new(0), (number, &of), number.into(), (1, false));
        }
        let told = |user: &'static str| {
            let parts = functions.latest(|_| true);
            let told = Measured::merge_all(parts, |other| other == user).into_iter();
            told.map(|it| it.name.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(told("ada"), ["f3", "f1"]);
        assert_eq!(told("bob"), ["f2"]);
    }

    #[test]
    fn there_are_never_more_than_may_be_and_the_latest_stay() {
        let mut functions = Functions::default();
        let count = u32::try_from(FUNCTIONS_MEASURED_MAX).unwrap() + 10;
        for number in 0..count {
            let of = function(&format!("f{number}"));
            functions.finished(&Cell::new(0), (number, &of), number.into(), (1, false));
        }
        assert_eq!(functions.slots.len(), FUNCTIONS_MEASURED_MAX);
        let latest = functions.latest(|number| number != count - 1);
        assert_eq!(latest.len(), FUNCTIONS_TOLD_MAX);
        assert_eq!(latest[0].name.as_str(), format!("f{}", count - 2), "the last is gone");
        // One that lost its slot begins anew, in another.
        functions.finished(&Cell::new(0), (0, &function("f0")), u64::MAX, (1, false));
        assert_eq!(functions.latest(|_| true)[0].histogram.len(), 1);
    }
}
