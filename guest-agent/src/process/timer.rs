//! Timers that send signals: `setitimer`, `alarm`, `timer_create`.

use alloc::vec::Vec;

use crate::errno::Errno;
use crate::identity::TaskId;
use crate::signal::Information;
use crate::time::{Clock, NEVER};

/// Timers a process may create.
const TIMERS_MAX: usize = 256;

/// A time and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// When it is due (monotonic); `u64::MAX` never.
    pub at_nanos: u64,
    /// How often it repeats; 0 for once.
    pub interval_nanos: u64,
}

impl Schedule {
    /// Never.
    pub const NONE: Self = Self { at_nanos: NEVER, interval_nanos: 0 };

    /// The same with another time.
    #[must_use]
    pub fn at(self, change: impl Fn(u64) -> u64) -> Self {
        Self { at_nanos: change(self.at_nanos), ..self }
    }

    /// How often it came due until now, and moves it on.
    pub fn take_due(&mut self, now_nanos: u64) -> u64 {
        if self.at_nanos > now_nanos {
            return 0;
        }
        let more = (now_nanos - self.at_nanos).checked_div(self.interval_nanos);
        self.at_nanos = more.map_or(NEVER, |more| {
            self.at_nanos.saturating_add((more + 1).saturating_mul(self.interval_nanos))
        });
        1 + more.unwrap_or(0)
    }
}

/// Who gets a timer's signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// Nobody (`SIGEV_NONE`).
    Nobody,
    /// Any task of the process.
    Process,
    /// One task.
    Task(TaskId),
}

/// A timer made by `timer_create`.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    /// The clock its absolute times are of.
    pub clock: Clock,
    /// When it is due.
    pub schedule: Schedule,
    /// Who gets its signal.
    pub receiver: Receiver,
    /// Its signal.
    pub information: Information,
    /// Times it came due beyond those its last signal told of.
    pub overrun: u64,
}

/// The timers of a process by their numbers.
#[derive(Clone, Debug, Default)]
pub struct Timers(Vec<Option<Timer>>);

impl Timers {
    /// Adds a timer and returns its number.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there are too many.
    pub fn add(&mut self, timer: Timer) -> Result<usize, Errno> {
        let free = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        if free >= TIMERS_MAX {
            return Err(Errno::AGAIN);
        }
        if free == self.0.len() {
            self.0.push(None);
        }
        self.0[free] = Some(timer);
        Ok(free)
    }

    /// The timer with a number.
    ///
    /// # Errors
    /// [`Errno::INVAL`] when there is none.
    pub fn get(&mut self, number: usize) -> Result<&mut Timer, Errno> {
        self.0.get_mut(number).and_then(Option::as_mut).ok_or(Errno::INVAL)
    }

    /// The same timers with other times.
    #[must_use]
    pub fn at(&self, change: impl Fn(u64) -> u64) -> Self {
        let mut timers = self.clone();
        for timer in timers.0.iter_mut().flatten() {
            timer.schedule = timer.schedule.at(&change);
        }
        timers
    }

    /// Forgets a timer.
    ///
    /// # Errors
    /// [`Errno::INVAL`] when there is none.
    pub fn remove(&mut self, number: usize) -> Result<(), Errno> {
        self.get(number)?;
        self.0[number] = None;
        Ok(())
    }

    /// When the next one is due.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.0.iter().flatten().map(|timer| timer.schedule.at_nanos).min().unwrap_or(NEVER)
    }

    /// Shows who gets which signal by now.
    pub fn expire(&mut self, now_nanos: u64, mut send: impl FnMut(Receiver, Information)) {
        for timer in self.0.iter_mut().flatten() {
            let due = timer.schedule.take_due(now_nanos);
            if due > 0 {
                timer.overrun = due - 1;
                send(timer.receiver, timer.information);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{CODE_TIMER, Signal};

    #[test]
    fn a_late_timer_counts_what_it_missed() {
        let mut schedule = Schedule { at_nanos: 100, interval_nanos: 50 };
        assert_eq!((schedule.take_due(99), schedule.take_due(100)), (0, 1));
        assert_eq!((schedule.take_due(310), schedule.at_nanos), (4, 350));
        let mut once = Schedule { at_nanos: 7, interval_nanos: 0 };
        assert_eq!((once.take_due(9), once), (1, Schedule::NONE));
    }

    #[test]
    fn timers_are_numbered_and_tell_their_receivers() {
        let mut timers = Timers::default();
        let information = Information { signal: Signal::ALRM, code: CODE_TIMER, value: 0, data: 9 };
        let timer = |at_nanos| Timer {
            clock: Clock::Monotonic,
            schedule: Schedule { at_nanos, interval_nanos: 0 },
            receiver: Receiver::Process,
            information,
            overrun: 0,
        };
        assert_eq!(
            (timers.add(timer(50)), timers.add(timer(10)), timers.next()),
            (Ok(0), Ok(1), 10)
        );
        let mut sent = 0;
        timers.expire(20, |receiver, signal| {
            assert_eq!((receiver, signal.data), (Receiver::Process, 9));
            sent += 1;
        });
        assert_eq!((sent, timers.next()), (1, 50));
        timers.remove(0).unwrap();
        assert_eq!((timers.remove(0), timers.next()), (Err(Errno::INVAL), NEVER));
        assert_eq!(timers.add(timer(1)), Ok(0));
        while timers.add(timer(1)).is_ok() {}
        assert_eq!(timers.0.len(), TIMERS_MAX);
    }
}
