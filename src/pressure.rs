//! Whether the host is short of memory, by what its kernel says.
//!
//! Pressure stall information tells how much of the last ten seconds some task waited for memory;
//! it sees reclaim and swapping before anything fails, and under a cgroup's limit too where the
//! node is confined by one. A host without it is judged by the memory that is available.

use std::fs;

use crate::config::Memory;
use crate::pool::Pressure;

/// How it is now.
pub(crate) fn look(limits: &Memory) -> Pressure {
    let stalls = fs::read_to_string("/proc/pressure/memory").ok();
    let memory = fs::read_to_string("/proc/meminfo").ok();
    judge(stalls.as_deref(), memory.as_deref(), limits)
}

fn judge(stalls: Option<&str>, memory: Option<&str>, limits: &Memory) -> Pressure {
    let stalled = stalls.and_then(stalled_percent);
    let is_stalled = stalled.is_some_and(|percent| percent >= f64::from(limits.stall_percent_max));
    let is_low = memory.is_some_and(|text| {
        let (all, left) = (kib(text, "MemTotal:"), kib(text, "MemAvailable:"));
        all.zip(left).is_some_and(|(all, left)| {
            left.saturating_mul(100) < all.saturating_mul(limits.available_percent_min.into())
        })
    });
    if is_stalled || is_low { Pressure::Tight } else { Pressure::Calm }
}

/// `some avg10=0.12 avg60=...`: percent of the last ten seconds.
fn stalled_percent(text: &str) -> Option<f64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    let value = some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    value.parse().ok()
}

fn kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: &str = "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\n\
                        full avg10=99.0 avg60=0.00 avg300=0.00 total=1\n";
    const STALLED: &str = "some avg10=10.00 avg60=0.00 avg300=0.00 total=1\n";

    fn memory(available_kib: u64) -> String {
        format!("MemTotal:       1000000 kB\nMemFree: 1 kB\nMemAvailable: {available_kib} kB\n")
    }

    #[test]
    fn stalls_and_little_memory_are_pressure() {
        let limits = Memory { stall_percent_max: 10, available_percent_min: 5 };
        let plenty = memory(500_000);
        assert_eq!(judge(Some(CALM), Some(&plenty), &limits), Pressure::Calm);
        assert_eq!(judge(Some(STALLED), Some(&plenty), &limits), Pressure::Tight);
        assert_eq!(judge(Some(CALM), Some(&memory(49_999)), &limits), Pressure::Tight);
        assert_eq!(judge(Some(CALM), Some(&memory(50_000)), &limits), Pressure::Calm);
    }

    #[test]
    fn a_host_that_says_nothing_is_calm() {
        let limits = Memory { stall_percent_max: 10, available_percent_min: 5 };
        assert_eq!(judge(None, None, &limits), Pressure::Calm);
        assert_eq!(judge(Some("nonsense"), Some("nonsense"), &limits), Pressure::Calm);
        assert_eq!(judge(None, Some(&memory(10)), &limits), Pressure::Tight);
    }

    #[test]
    fn this_host_says_something() {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let (all, left) = (kib(&text, "MemTotal:"), kib(&text, "MemAvailable:"));
        assert!(left.unwrap() <= all.unwrap());
    }
}
