//! Locks of parts of a file (`fcntl(F_SETLK)`): held by a process, whichever of its descriptors it used,
//! and gone when it closes any of them.

use alloc::vec::Vec;
use core::cell::{OnceCell, RefCell};

use crate::errno::Errno;
use crate::identity::ProcessId;
use crate::world::{Notifier, ObjectId, World};

/// Most locks of one file.
const RECORDS_MAX: usize = 1024;

/// A locked part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who has it.
    pub owner: ProcessId,
    /// First byte.
    pub start: u64,
    /// First byte behind it; `u64::MAX` for all there will ever be.
    pub end: u64,
    /// Alone; otherwise together with others.
    pub is_exclusive: bool,
}

impl Record {
    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    fn excludes(&self, other: &Self) -> bool {
        self.owner != other.owner
            && self.overlaps(other)
            && (self.is_exclusive || other.is_exclusive)
    }
}

/// The locked parts of a file.
#[derive(Debug, Default)]
pub struct RecordLocks {
    held: RefCell<Vec<Record>>,
    /// Made when somebody has to wait.
    released: OnceCell<Notifier>,
}

impl RecordLocks {
    /// What stands in the way of a lock.
    #[must_use]
    pub fn conflict(&self, wanted: &Record) -> Option<Record> {
        self.held.borrow().iter().find(|held| held.excludes(wanted)).copied()
    }

    /// Locks a part in place of whatever its owner has locked there.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] while another stands in the way; [`Errno::NOLCK`] when there are too many.
    pub fn lock(&self, wanted: Record) -> Result<(), Errno> {
        if self.conflict(&wanted).is_some() {
            return Err(Errno::AGAIN);
        }
        if self.held.borrow().len() + 2 > RECORDS_MAX {
            return Err(Errno::NOLCK);
        }
        self.cut(&wanted);
        self.held.borrow_mut().push(wanted);
        self.tell();
        Ok(())
    }

    /// Unlocks the part; what its owner has beside it stays.
    ///
    /// # Errors
    /// [`Errno::NOLCK`] when that makes too many parts.
    pub fn unlock(&self, part: &Record) -> Result<(), Errno> {
        if self.held.borrow().len() + 2 > RECORDS_MAX {
            return Err(Errno::NOLCK);
        }
        self.cut(part);
        self.tell();
        Ok(())
    }

    /// Unlocks everything a process has.
    pub fn forget(&self, owner: ProcessId) {
        let count = self.held.borrow().len();
        self.held.borrow_mut().retain(|held| held.owner != owner);
        if self.held.borrow().len() != count {
            self.tell();
        }
    }

    /// What is raised when somebody unlocks something.
    pub fn released(&self, world: &World) -> ObjectId {
        self.released.get_or_init(|| Notifier::new(world)).id()
    }

    fn cut(&self, part: &Record) {
        let mut held = self.held.borrow_mut();
        let mut rests = Vec::new();
        held.retain(|record| {
            let is_cut = record.owner == part.owner && record.overlaps(part);
            if is_cut && record.start < part.start {
                rests.push(Record { end: part.start, ..*record });
            }
            if is_cut && record.end > part.end {
                rests.push(Record { start: part.end, ..*record });
            }
            !is_cut
        });
        held.extend(rests);
    }

    fn tell(&self) {
        if let Some(released) = self.released.get() {
            released.raise();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(owner: u32, start: u64, end: u64, is_exclusive: bool) -> Record {
        Record { owner: ProcessId::from_number(owner), start, end, is_exclusive }
    }

    #[test]
    fn parts_are_locked_alone_or_together() {
        let locks = RecordLocks::default();
        assert_eq!(locks.lock(record(1, 0, 100, true)), Ok(()));
        assert_eq!(locks.lock(record(2, 50, 60, false)), Err(Errno::AGAIN));
        assert_eq!(locks.conflict(&record(2, 99, 200, false)), Some(record(1, 0, 100, true)));
        assert_eq!(locks.lock(record(2, 100, u64::MAX, true)), Ok(()));
        // From alone to together, in the middle.
        assert_eq!(locks.lock(record(1, 40, 60, false)), Ok(()));
        assert_eq!(locks.lock(record(2, 45, 50, false)), Ok(()));
        assert_eq!(locks.lock(record(2, 39, 41, false)), Err(Errno::AGAIN));
        assert_eq!(locks.unlock(&record(1, 0, 40, false)), Ok(()));
        assert_eq!(locks.lock(record(2, 0, 40, true)), Ok(()));
        locks.forget(ProcessId::from_number(2));
        assert_eq!(locks.conflict(&record(3, 0, 40, true)), None);
        assert_eq!(locks.conflict(&record(3, 0, 41, true)), Some(record(1, 40, 60, false)));
    }

    #[test]
    fn whoever_waits_is_told() {
        let (world, locks) = (World::new(), RecordLocks::default());
        locks.lock(record(1, 0, 10, true)).unwrap();
        let released = locks.released(&world);
        locks.forget(ProcessId::from_number(2));
        assert_eq!(world.take_raised(), None);
        locks.unlock(&record(1, 5, 6, false)).unwrap();
        assert_eq!(world.take_raised(), Some(released));
    }

    #[test]
    fn there_are_only_so_many() {
        let locks = RecordLocks::default();
        let mut places = (0..).map(|at| record(1, at * 2, at * 2 + 1, true));
        let refused = places.find_map(|place| locks.lock(place).err());
        assert_eq!(refused, Some(Errno::NOLCK));
    }
}
