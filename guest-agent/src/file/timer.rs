//! `timerfd`: a clock's times as a file.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use machine::clock::monotonic_nanos;

use super::flags::{self, ready};
use super::stat::Stat;
use super::{Keeping, Notifier, Object, OpenFile};
use crate::errno::Errno;
use crate::memory::transfer::{Sink, Source};
use crate::time::{Clock, after, time_left};
use crate::world::{Alarm, World};

/// Bytes of the count a read gives.
const COUNT_BYTES: usize = 8;

/// A timer behind a descriptor.
pub struct Timer {
    clock: Clock,
    alarm: Rc<Alarm>,
}

impl Timer {
    /// A timer that is not set, as an open file.
    #[must_use]
    pub fn file(world: &World, clock: Clock, flags: u32) -> Rc<OpenFile> {
        let timer = Self { clock, alarm: world.alarm() };
        OpenFile::new(Rc::new(timer), flags & flags::NONBLOCK | flags::READ_WRITE)
    }

    /// The clock its absolute times are of.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Its times, monotonic.
    #[must_use]
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }
}

impl OpenFile {
    /// The timer it is, if it is one.
    #[must_use]
    pub fn timer(&self) -> Option<&Timer> {
        self.object()
    }
}

impl Object for Timer {
    /// The time left is kept, not the time it was to ring at.
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        let (at, interval) = self.alarm.setting();
        let left = time_left(at);
        Some(Box::new(move || self.alarm.set(after(monotonic_nanos(), left), interval)))
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        if sink.remaining() < COUNT_BYTES {
            return Err(Errno::INVAL);
        }
        self.alarm.catch_up(monotonic_nanos());
        if !self.alarm.has_rung() {
            return Err(Errno::AGAIN);
        }
        sink.put(&self.alarm.take_rings().to_le_bytes())
    }

    fn write(&self, _source: &mut Source<'_>) -> Result<usize, Errno> {
        Err(Errno::INVAL)
    }

    fn readiness(&self) -> u32 {
        self.alarm.catch_up(monotonic_nanos());
        if self.alarm.has_rung() { ready::IN } else { 0 }
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(self.alarm.notifier());
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat::plain(0, 0o600, self.alarm.notifier().id().number()))
    }

    fn path(&self) -> Vec<u8> {
        b"anon_inode:[timerfd]".to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &OpenFile) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        file.read(&mut Sink::kernel(&mut bytes))?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[test]
    fn a_timer_counts_its_rings() {
        machine::host::init(8 << 20);
        machine::host::set_clock(1_000, 0, 1);
        let world = World::new();
        let file = Timer::file(&world, Clock::Monotonic, 0);
        assert_eq!((read(&file), file.readiness()), (Err(Errno::AGAIN), 0));
        let alarm = file.timer().unwrap().alarm();
        let start = monotonic_nanos();
        alarm.set(start + 100, 50);
        assert_eq!(world.next_alarm(), start + 100);
        machine::host::advance(260);
        world.ring_alarms(start + 260);
        assert!(world.take_raised().is_some());
        assert_eq!((file.readiness(), read(&file)), (ready::IN, Ok(4)));
        assert_eq!((read(&file), world.next_alarm()), (Err(Errno::AGAIN), start + 300));
        alarm.set(start + 1_000, 0);
        machine::host::advance(1_000);
        assert_eq!((read(&file), world.next_alarm()), (Ok(1), u64::MAX));
        drop(file);
        world.ring_alarms(u64::MAX);
    }
}
