//! Records of one logging service on their way, oldest first. Pure: what happens on the network
//! comes in as calls, `now` is an argument.
//!
//! ```text
//!  front                                     back
//!  [ sent, not yet known to be taken | unsent ]  ◄─ push
//!    confirm ─► handed over   ▲ take_batch moves the line right; a broken connection moves it
//!                             ┘ back to the front
//! ```
//! Invariants: bytes and records stay within the limits; order never changes; every record
//! settles its account exactly once.

use std::collections::VecDeque;
use std::rc::Rc;

use super::Limits;
use super::account::{Ledger, Reason};
use super::syslog::{Head, Message};

/// What a record weighs besides its text: the struct, its place in the queue, the allocation. The
/// head is the invoke's: one for all of them.
const RECORD_BYTES: usize = 256;

/// One syslog message to be.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) head: Head,
    pub(super) ledger: Rc<Ledger>,
    pub(super) realtime_nanos: u64,
    pub(super) sequence: u64,
    pub(super) has_more: bool,
    pub(super) text: Vec<u8>,
    /// Records of the guest in it: a line longer than a log frame comes in several.
    pub(super) parts: u64,
    pub(super) spooled_nanos: u64,
    pub(super) attempts: u32,
}

impl Record {
    fn bytes(&self) -> usize {
        RECORD_BYTES + self.text.len()
    }
}

/// The spool of one service.
#[derive(Debug)]
pub(super) struct Spool {
    records: VecDeque<Record>,
    /// How many from the front are sent.
    sent: usize,
    bytes: usize,
    limits: Limits,
}

impl Spool {
    pub(super) fn new(limits: Limits) -> Self {
        Self { records: VecDeque::new(), sent: 0, bytes: 0, limits }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes a record; the oldest unsent ones make room for it. What is sent stays: whether it
    /// arrived is about to be known, and giving it up now could be a lie.
    pub(super) fn push(&mut self, record: Record) {
        record.ledger.wait(record.parts);
        self.bytes += record.bytes();
        self.records.push_back(record);
        let is_over = |spool: &Self| {
            spool.records.len() > spool.limits.spool_records
                || spool.bytes > spool.limits.spool_bytes
        };
        while is_over(self) {
            let Some(oldest) = self.records.remove(self.sent) else { return };
            self.give_up(&oldest, Reason::SpoolFull);
        }
    }

    /// Appends unsent messages to `out`, at least one if there is one, until `bytes_max` is
    /// reached, and returns how many there were.
    pub(super) fn take_batch(&mut self, out: &mut Vec<u8>, bytes_max: usize) -> usize {
        let mut count = 0;
        for record in self.records.range(self.sent..) {
            if out.len() >= bytes_max {
                break;
            }
            let Record { head, realtime_nanos, sequence, has_more, text, .. } = record;
            let (realtime_nanos, sequence, has_more) = (*realtime_nanos, *sequence, *has_more);
            Message { head, realtime_nanos, sequence, has_more, text }.encode(out);
            count += 1;
        }
        self.sent += count;
        count
    }

    /// The oldest `count` sent records were taken.
    pub(super) fn confirm(&mut self, count: usize) {
        assert!(count <= self.sent, "only what was sent can be confirmed");
        for record in self.records.drain(..count) {
            self.bytes -= record.bytes();
            record.ledger.hand_over(record.parts);
        }
        self.sent -= count;
    }

    /// The connection is gone, or there was none: what was sent is unsent again. Records that
    /// were tried too often or are too old are given up.
    pub(super) fn fail(&mut self, now: u64, reason: Reason) {
        let sent = std::mem::take(&mut self.sent);
        for record in self.records.range_mut(..sent) {
            record.attempts += 1;
        }
        let limits = self.limits;
        let is_spent = |record: &Record| {
            record.attempts >= limits.attempts_max
                || now.saturating_sub(record.spooled_nanos) >= limits.age_nanos
        };
        // Both grow towards the front.
        while self.records.front().is_some_and(is_spent) {
            let Some(record) = self.records.pop_front() else { return };
            self.give_up(&record, reason);
        }
    }

    /// Gives up everything.
    pub(super) fn clear(&mut self, reason: Reason) {
        self.sent = 0;
        while let Some(record) = self.records.pop_front() {
            self.give_up(&record, reason);
        }
    }

    fn give_up(&mut self, record: &Record, reason: Reason) {
        self.bytes -= record.bytes();
        record.ledger.give_up(record.parts, reason);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signal::Signal;

    fn limits(spool_records: usize, attempts_max: u32) -> Limits {
        let age_nanos = 1_000;
        Limits { spool_records, attempts_max, age_nanos, ..Limits::default() }
    }

    fn record(ledger: &Rc<Ledger>, sequence: u64, spooled_nanos: u64) -> Record {
        Record {
            head: Head::new(("u", "f"), 1, 2),
            ledger: Rc::clone(ledger),
            realtime_nanos: 0,
            sequence,
            has_more: false,
            text: vec![b'x'; 10],
            parts: 1,
            spooled_nanos,
            attempts: 0,
        }
    }

    fn ledger() -> Rc<Ledger> {
        Rc::new(Ledger::new(Rc::default(), Rc::default()))
    }

    fn sequences(spool: &Spool) -> Vec<u64> {
        spool.records.iter().map(|record| record.sequence).collect()
    }

    #[test]
    fn a_full_spool_gives_up_the_oldest_unsent() {
        let ledger = ledger();
        let mut spool = Spool::new(limits(3, 5));
        (0..2).for_each(|sequence| spool.push(record(&ledger, sequence, 0)));
        assert_eq!(spool.take_batch(&mut Vec::new(), 1), 1);
        (2..5).for_each(|sequence| spool.push(record(&ledger, sequence, 0)));
        assert_eq!(sequences(&spool), [0, 3, 4]);
        let account = ledger.account();
        assert_eq!((account.produced, account.dropped, account.pending), (5, 2, 3));
        assert_eq!(account.reason, Some(Reason::SpoolFull));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let ledger = ledger();
        let spool_bytes = 4 * record(&ledger, 0, 0).bytes();
        let mut spool = Spool::new(Limits { spool_bytes, ..Limits::default() });
        (0..10).for_each(|sequence| spool.push(record(&ledger, sequence, 0)));
        assert_eq!(sequences(&spool), [6, 7, 8, 9]);
        assert!(spool.bytes <= spool_bytes);
    }

    #[test]
    fn what_was_sent_in_vain_is_sent_again_until_it_was_tried_too_often() {
        let ledger = ledger();
        let mut spool = Spool::new(limits(10, 2));
        (0..3).for_each(|sequence| spool.push(record(&ledger, sequence, 0)));
        for left in [vec![0, 1, 2], vec![]] {
            assert_eq!(spool.take_batch(&mut Vec::new(), usize::MAX), 3);
            spool.fail(1, Reason::Broken);
            assert_eq!(sequences(&spool), left);
        }
        assert_eq!(ledger.account().dropped, 3);
        assert_eq!(ledger.account().reason, Some(Reason::Broken));
    }

    #[test]
    fn old_records_are_given_up_young_ones_kept() {
        let ledger = ledger();
        let mut spool = Spool::new(limits(10, 5));
        spool.push(record(&ledger, 0, 0));
        spool.push(record(&ledger, 1, 500));
        spool.fail(1_000, Reason::Unreachable);
        assert_eq!(sequences(&spool), [1]);
        assert_eq!(ledger.account().reason, Some(Reason::Unreachable));
    }

    #[test]
    fn news_come_when_the_last_record_settles() {
        let news = Rc::new(Signal::default());
        let ledger = Rc::new(Ledger::new(Rc::clone(&news), Rc::default()));
        let has_news = || {
            use futures_lite::future::{block_on, poll_once};
            block_on(poll_once(news.wait())).is_some()
        };
        let mut spool = Spool::new(Limits::default());
        (0..2).for_each(|sequence| spool.push(record(&ledger, sequence, 0)));
        spool.take_batch(&mut Vec::new(), usize::MAX);
        spool.confirm(1);
        assert!(!has_news());
        spool.confirm(1);
        assert!(has_news() && ledger.is_settled());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Take(usize),
        Confirm(usize),
        Fail,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Push),
            2 => (1..2_000usize).prop_map(Step::Take),
            2 => (0..5usize).prop_map(Step::Confirm),
            1 => Just(Step::Fail),
        ]
    }

    proptest! {
        #[test]
        fn every_record_settles_once_and_in_order(steps in prop::collection::vec(step(), 0..200)) {
            let ledger = ledger();
            let mut spool = Spool::new(limits(8, 3));
            let mut pushed = 0;
            for (now, step) in (0..).zip(steps) {
                match step {
                    Step::Push => {
                        spool.push(record(&ledger, pushed, now * 10));
                        pushed += 1;
                    }
                    Step::Take(bytes) => drop(spool.take_batch(&mut Vec::new(), bytes)),
                    Step::Confirm(count) => spool.confirm(count.min(spool.sent)),
                    Step::Fail => spool.fail(now * 10, Reason::Broken),
                }
                let account = ledger.account();
                prop_assert_eq!(account.produced, pushed);
                prop_assert_eq!(
                    account.produced, account.handed_over + account.dropped + account.pending
                );
                prop_assert_eq!(account.pending, spool.records.len() as u64);
                prop_assert!(spool.records.len() <= 8 && spool.sent <= spool.records.len());
                let weight: usize = spool.records.iter().map(Record::bytes).sum();
                prop_assert_eq!(weight, spool.bytes);
                prop_assert!(sequences(&spool).is_sorted());
            }
            spool.clear(Reason::Stopped);
            prop_assert!(ledger.is_settled() && spool.bytes == 0);
        }
    }
}
