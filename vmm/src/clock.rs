//! The guest's clock: the page it reads, and what its deadlines mean here.

use abi::layout::ClockPage;
use abi::ring::Memory;
use region::Region;
use rustix::event::Timespec;
use std::mem::offset_of;

/// Refreshing the offset to realtime costs two reads of the host's clock; a page that is off by
/// less than this is left alone, so that reading it does not jitter.
const REALTIME_SLACK_NANOS: u64 = 1_000;

/// The scaled-TSC clock every VM of a node shares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    multiplier: u64,
    offset: u64,
}

impl Clock {
    /// The clock with these factors; see [`ClockPage`].
    pub(crate) fn new(multiplier: u64, offset: u64) -> Self {
        Self { multiplier, offset }
    }

    /// Monotonic nanoseconds, as the guest sees them.
    pub(crate) fn now(self) -> u64 {
        region::clock::scale(region::clock::tsc(), self.multiplier).wrapping_add(self.offset)
    }

    /// Time from now to a deadline the guest wrote: `None` when it wants to wait for ever.
    pub(crate) fn until(self, deadline: u64) -> Option<Timespec> {
        if deadline == u64::MAX {
            return None;
        }
        let nanos = deadline.saturating_sub(self.now());
        let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
        let rest = i64::try_from(nanos % 1_000_000_000).unwrap_or(0);
        Some(Timespec { tv_sec: seconds, tv_nsec: rest })
    }
}

/// Writes the clock page: a seqlock with one writer.
#[derive(Debug)]
pub(crate) struct ClockWriter {
    page: Region,
    sequence: u32,
    realtime_offset: u64,
}

#[expect(clippy::cast_possible_truncation, reason = "offsets in one page")]
const fn at(offset: usize) -> u32 {
    offset as u32
}

impl ClockWriter {
    /// Fills the page for a VM that has not run yet.
    pub(crate) fn start(page: Region, clock: Clock, generation: u64) -> Self {
        page.store_u32(at(offset_of!(ClockPage, sequence)), 0);
        page.store_u64(at(offset_of!(ClockPage, multiplier)), clock.multiplier);
        page.store_u64(at(offset_of!(ClockPage, monotonic_offset)), clock.offset);
        page.store_u64(at(offset_of!(ClockPage, generation)), generation);
        let realtime_offset = region::clock::realtime_offset();
        page.store_u64(at(offset_of!(ClockPage, realtime_offset)), realtime_offset);
        Self { page, sequence: 0, realtime_offset }
    }

    /// Follows the host's realtime clock.
    pub(crate) fn refresh(&mut self) {
        let offset = region::clock::realtime_offset();
        if offset.wrapping_sub(self.realtime_offset).cast_signed().unsigned_abs()
            < REALTIME_SLACK_NANOS
        {
            return;
        }
        self.realtime_offset = offset;
        self.set_sequence(self.sequence.wrapping_add(1));
        self.page.store_u64(at(offset_of!(ClockPage, realtime_offset)), offset);
        self.set_sequence(self.sequence.wrapping_add(1));
    }

    /// A new life of the VM. Monotonic time goes on.
    pub(crate) fn restart(&mut self, generation: u64) {
        self.realtime_offset = region::clock::realtime_offset();
        self.set_sequence(self.sequence.wrapping_add(1));
        self.page.store_u64(at(offset_of!(ClockPage, generation)), generation);
        self.page.store_u64(at(offset_of!(ClockPage, realtime_offset)), self.realtime_offset);
        self.set_sequence(self.sequence.wrapping_add(1));
    }

    fn set_sequence(&mut self, sequence: u32) {
        // Fences on both sides keep the new offset between the odd and the even number.
        self.page.fence();
        self.sequence = sequence;
        self.page.store_u32(at(offset_of!(ClockPage, sequence)), sequence);
        self.page.fence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Region {
        Region::map(region::sealed::shared("test", 8192).unwrap(), 8192, 0).unwrap()
    }

    #[test]
    fn deadlines_are_relative_to_the_guests_clock() {
        let clock = Clock::new(1 << 32, 0);
        assert!(clock.until(u64::MAX).is_none());
        let over = clock.until(0).unwrap();
        assert_eq!((over.tv_sec, over.tv_nsec), (0, 0));
        let later = clock.until(clock.now() + 5_000_000_000).unwrap();
        assert!((3..=5).contains(&later.tv_sec));
    }

    #[test]
    fn refresh_leaves_an_even_sequence() {
        let page = page();
        let mut writer = ClockWriter::start(page.clone(), Clock::new(1, 2), 7);
        writer.realtime_offset = 0;
        writer.refresh();
        assert_eq!(page.load_u32(0), 2);
        assert_eq!(page.load_u64(at(offset_of!(ClockPage, generation))), 7);
        assert_ne!(page.load_u64(at(offset_of!(ClockPage, realtime_offset))), 0);
        writer.restart(8);
        assert_eq!(page.load_u32(0), 4);
        assert_eq!(page.load_u64(at(offset_of!(ClockPage, generation))), 8);
        assert_eq!(page.load_u64(at(offset_of!(ClockPage, monotonic_offset))), 2);
    }
}
