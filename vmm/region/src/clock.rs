//! The host's end of the clock page: samples of TSC and `CLOCK_MONOTONIC` taken together, and
//! the line through two of them. Formula and fields: [`abi::layout::ClockPage`].

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Tries of which a sample keeps the tightest; one in a thousand reads is interrupted.
const SAMPLE_TRIES: u32 = 16;

/// The time-stamp counter of this core.
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub fn monotonic_nanos() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// What has to be added (wrapping) to `CLOCK_MONOTONIC` to get nanoseconds since the Unix epoch.
#[must_use]
pub fn realtime_offset() -> u64 {
    nanos(clock_gettime(ClockId::Realtime)).wrapping_sub(monotonic_nanos())
}

fn nanos(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// TSC and monotonic time of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    /// Time-stamp counter.
    pub tsc: u64,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub monotonic_nanos: u64,
}

impl ClockSample {
    /// The tightest of several samples.
    #[must_use]
    pub fn take() -> Self {
        let mut best = Self { tsc: 0, monotonic_nanos: 0 };
        let mut best_width = u64::MAX;
        for _ in 0..SAMPLE_TRIES {
            let before = tsc();
            let monotonic_nanos = monotonic_nanos();
            let width = tsc().wrapping_sub(before);
            if width < best_width {
                best_width = width;
                best = Self { tsc: before.wrapping_add(width / 2), monotonic_nanos };
            }
        }
        best
    }
}

/// Multiplier and offset of the line through two samples, `earlier` first; `None` when no time or
/// no tick lies between them. The error of the slope is that of the samples (about 50 ns) over
/// their distance: 100 ms apart it is below 1 us per second.
#[must_use]
pub fn calibrate(earlier: ClockSample, later: ClockSample) -> Option<(u64, u64)> {
    let ticks = later.tsc.checked_sub(earlier.tsc).filter(|ticks| *ticks != 0)?;
    let nanos = later.monotonic_nanos.checked_sub(earlier.monotonic_nanos)?;
    let multiplier = u64::try_from((u128::from(nanos) << 32) / u128::from(ticks)).ok()?;
    let multiplier = (multiplier != 0).then_some(multiplier)?;
    let offset = later.monotonic_nanos.wrapping_sub(scale(later.tsc, multiplier));
    Some((multiplier, offset))
}

/// `(tsc * multiplier) >> 32`, as the clock page's formula has it.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the clock wraps at 2^64 nanoseconds")]
pub fn scale(tsc: u64, multiplier: u64) -> u64 {
    ((u128::from(tsc) * u128::from(multiplier)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_goes_through_both_samples() {
        let a = ClockSample { tsc: 1_000_000, monotonic_nanos: 5_000_000_000 };
        let b = ClockSample { tsc: 2_601_000_000, monotonic_nanos: 6_000_000_000 };
        let (multiplier, offset) = calibrate(a, b).unwrap();
        for sample in [a, b] {
            let time = scale(sample.tsc, multiplier).wrapping_add(offset);
            assert!(time.abs_diff(sample.monotonic_nanos) <= 2, "{time}");
        }
        assert_eq!(calibrate(b, a), None);
        assert_eq!(calibrate(a, a), None);
    }

    #[test]
    fn calibrated_clock_follows_the_host() {
        let a = ClockSample::take();
        while monotonic_nanos() - a.monotonic_nanos < 20_000_000 {}
        let (multiplier, offset) = calibrate(a, ClockSample::take()).unwrap();
        let now = ClockSample::take();
        let time = scale(now.tsc, multiplier).wrapping_add(offset);
        assert!(time.abs_diff(now.monotonic_nanos) < 100_000, "{time} {now:?}");
    }
}
