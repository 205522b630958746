//! Time: the clock page the VMM writes, and the TSC between its writes.

use abi::layout::{CLOCK_GPA, ClockPage, PAGE_BYTES};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::{instruction, physical};

/// Nanoseconds of the host's monotonic clock; never goes back while the VM lives.
#[must_use]
pub fn monotonic_nanos() -> u64 {
    monotonic(&page(), tsc())
}

/// Nanoseconds since the Unix epoch.
#[must_use]
pub fn realtime_nanos() -> u64 {
    let page = page();
    monotonic(&page, tsc()).wrapping_add(page.realtime_offset)
}

/// Number of the restore this VM is from; differs between any two.
#[must_use]
pub fn generation() -> u64 {
    page().generation
}

/// Guest-physical address of the clock page, for mapping it into programs with
/// [`crate::paging::Backing::Clock`].
#[must_use]
pub fn clock_page_gpa() -> u64 {
    CLOCK_GPA
}

/// Time stamp counter.
#[must_use]
pub fn tsc() -> u64 {
    instruction::tsc()
}

/// A difference of two [`tsc`] readings in nanoseconds.
#[must_use]
pub fn ticks_to_nanos(ticks: u64) -> u64 {
    scale(ticks, page().multiplier)
}

fn monotonic(page: &ClockPage, tsc: u64) -> u64 {
    scale(tsc, page.multiplier).wrapping_add(page.monotonic_offset)
}

fn scale(ticks: u64, multiplier: u64) -> u64 {
    let product = u128::from(ticks) * u128::from(multiplier);
    u64::try_from((product >> 32) & u128::from(u64::MAX)).unwrap_or(u64::MAX)
}

/// A consistent copy of the clock page.
fn page() -> ClockPage {
    let start = physical::pointer(CLOCK_GPA, PAGE_BYTES);
    let sequence = word(start, offset_of!(ClockPage, sequence));
    loop {
        // ordering: acquire; pairs with the VMM's release store of the even sequence, which
        // publishes the fields.
        let before = sequence.load(Ordering::Acquire);
        let copy = ClockPage {
            sequence: before,
            reserved: 0,
            multiplier: field(start, offset_of!(ClockPage, multiplier)),
            monotonic_offset: field(start, offset_of!(ClockPage, monotonic_offset)),
            realtime_offset: field(start, offset_of!(ClockPage, realtime_offset)),
            generation: field(start, offset_of!(ClockPage, generation)),
        };
        // ordering: acquire fence; keeps the field loads before the second look at the
        // sequence. Pairs with the VMM's release fence behind its odd sequence.
        fence(Ordering::Acquire);
        // ordering: relaxed; ordered by the fence.
        if before.is_multiple_of(2) && sequence.load(Ordering::Relaxed) == before {
            return copy;
        }
        core::hint::spin_loop();
    }
}

fn word<'a>(start: *mut u8, offset: usize) -> &'a AtomicU32 {
    // SAFETY: the offset is a field's of the clock page, which is mapped for ever, aligned, and
    // only read with atomics.
    unsafe { AtomicU32::from_ptr(start.wrapping_add(offset).cast()) }
}

fn field(start: *mut u8, offset: usize) -> u64 {
    // SAFETY: as in `word`.
    let field = unsafe { AtomicU64::from_ptr(start.wrapping_add(offset).cast()) };
    // ordering: relaxed; checked by the sequence around it.
    field.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn time_is_the_scaled_counter_and_its_offsets() {
        host::init(4 << 20);
        host::set_clock(1_000, 5_000_000, 7);
        assert_eq!((monotonic_nanos(), realtime_nanos(), generation()), (1_000, 5_000_000, 7));
        host::advance(250);
        assert_eq!((monotonic_nanos(), realtime_nanos()), (1_250, 5_000_250));
    }

    #[test]
    fn a_counter_that_has_run_for_years_does_not_overflow() {
        let page = ClockPage {
            sequence: 0,
            reserved: 0,
            multiplier: (1 << 32) * 10 / 26,
            monotonic_offset: 0_u64.wrapping_sub(1_000),
            realtime_offset: 0,
            generation: 0,
        };
        let ten_years_of_ticks = 2_600_000_000 * 3_600 * 24 * 3_650;
        let nanos = monotonic(&page, ten_years_of_ticks);
        let expected = 1_000_000_000 * 3_600 * 24 * 3_650;
        assert!(nanos.abs_diff(expected) < expected / 1_000_000_000);
    }
}
