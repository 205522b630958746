//! `eventfd`: a counter that can be waited for.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;

use super::flags::{self, ready};
use super::stat::Stat;
use super::{Keeping, Notifier, Object, OpenFile};
use crate::errno::Errno;
use crate::memory::transfer::{Sink, Source};
use crate::world::World;

/// `EFD_SEMAPHORE`: each read takes one.
const SEMAPHORE: u32 = 1;
/// Largest value the counter may have.
const VALUE_MAX: u64 = u64::MAX - 1;
const VALUE_BYTES: usize = 8;

struct EventCounter {
    value: Cell<u64>,
    is_semaphore: bool,
    notifier: Notifier,
}

/// An event counter starting at `value`; `flags` as for `eventfd2`.
#[must_use]
pub fn eventfd(world: &World, value: u64, flags: u32) -> Rc<OpenFile> {
    let counter = EventCounter {
        value: Cell::new(value.min(VALUE_MAX)),
        is_semaphore: flags & SEMAPHORE != 0,
        notifier: Notifier::new(world),
    };
    OpenFile::new(Rc::new(counter), flags & flags::NONBLOCK | flags::READ_WRITE)
}

impl Object for EventCounter {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        let value = self.value.get();
        Some(Box::new(move || self.value.set(value)))
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        if sink.remaining() < VALUE_BYTES {
            return Err(Errno::INVAL);
        }
        let value = self.value.get();
        if value == 0 {
            return Err(Errno::AGAIN);
        }
        let given = if self.is_semaphore { 1 } else { value };
        sink.put(&given.to_le_bytes())?;
        self.value.set(value - given);
        self.notifier.raise();
        Ok(VALUE_BYTES)
    }

    fn write(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        let mut bytes = [0; VALUE_BYTES];
        if source.remaining() < VALUE_BYTES {
            return Err(Errno::INVAL);
        }
        source.take(&mut bytes)?;
        let added = u64::from_le_bytes(bytes);
        if added == u64::MAX {
            return Err(Errno::INVAL);
        }
        let sum = self.value.get().checked_add(added).filter(|sum| *sum <= VALUE_MAX);
        self.value.set(sum.ok_or(Errno::AGAIN)?);
        self.notifier.raise();
        Ok(VALUE_BYTES)
    }

    fn readiness(&self) -> u32 {
        let value = self.value.get();
        let reads = if value > 0 { ready::IN } else { 0 };
        let writes = if value < VALUE_MAX { ready::OUT } else { 0 };
        reads | writes
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.notifier);
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat::plain(0, 0o600, self.notifier.id().number()))
    }

    fn path(&self) -> Vec<u8> {
        b"anon_inode:[eventfd]".to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(file: &OpenFile, value: u64) -> Result<usize, Errno> {
        file.write(&mut Source::kernel(&value.to_le_bytes()))
    }

    fn take(file: &OpenFile) -> Result<u64, Errno> {
        let mut bytes = [0; 8];
        file.read(&mut Sink::kernel(&mut bytes))?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[test]
    fn a_read_takes_the_sum() {
        let file = eventfd(&World::new(), 0, 0);
        assert_eq!((take(&file), file.readiness()), (Err(Errno::AGAIN), ready::OUT));
        add(&file, 2).unwrap();
        add(&file, 3).unwrap();
        assert_eq!(file.readiness(), ready::IN | ready::OUT);
        assert_eq!((take(&file), take(&file)), (Ok(5), Err(Errno::AGAIN)));
    }

    #[test]
    fn a_semaphore_gives_one_at_a_time() {
        let file = eventfd(&World::new(), 2, SEMAPHORE);
        assert_eq!((take(&file), take(&file), take(&file)), (Ok(1), Ok(1), Err(Errno::AGAIN)));
    }

    #[test]
    fn the_counter_never_overflows() {
        let file = eventfd(&World::new(), 0, 0);
        assert_eq!(add(&file, u64::MAX), Err(Errno::INVAL));
        assert_eq!(add(&file, VALUE_MAX), Ok(8));
        assert_eq!((add(&file, 1), file.readiness()), (Err(Errno::AGAIN), ready::IN));
        assert_eq!(file.read(&mut Sink::kernel(&mut [0; 4])), Err(Errno::INVAL));
    }
}
