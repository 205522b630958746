//! Whether the host really executes the kernel, or emulates it instruction by instruction.
//!
//! A page-table hypervisor falls back to its emulator for reasons that show in nothing but time:
//! two microseconds per loop iteration instead of less than one nanosecond.

use crate::clock;

const ITERATIONS: u64 = 1_000;
/// Between microseconds (executed, even in a software-emulated host) and milliseconds.
const EMULATED_NANOS: u64 = 400_000;
/// The least of several attempts counts, so that a preempted one does not.
const ATTEMPTS: u32 = 3;
/// Without a clock page a tick is taken for this long; every supported CPU is faster than 1 GHz.
const NANOS_PER_TICK_MAX: u64 = 1;

/// Nanoseconds an empty loop of 1,000 iterations takes.
#[must_use]
pub fn loop_nanos() -> u64 {
    let ticks = (0..ATTEMPTS).map(|_| loop_ticks()).min().unwrap_or(u64::MAX);
    match clock::ticks_to_nanos(ticks) {
        0 => ticks.saturating_mul(NANOS_PER_TICK_MAX),
        nanos => nanos,
    }
}

/// Whether the kernel runs in an emulator.
#[must_use]
pub fn is_emulated() -> bool {
    loop_nanos() > EMULATED_NANOS
}

fn loop_ticks() -> u64 {
    let start = clock::tsc();
    for iteration in 0..ITERATIONS {
        core::hint::black_box(iteration);
    }
    clock::tsc().wrapping_sub(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn a_loop_that_takes_no_time_is_not_emulated() {
        host::init(4 << 20);
        assert!(!is_emulated());
    }
}
