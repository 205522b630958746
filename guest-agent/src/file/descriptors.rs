//! The descriptor table of a process.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::OpenFile;
use crate::errno::Errno;

/// Descriptors a process may have; also what `getrlimit(RLIMIT_NOFILE)` should say.
pub const DESCRIPTORS_MAX: usize = 1024;

#[derive(Clone, Debug)]
struct Slot {
    file: Rc<OpenFile>,
    closes_on_exec: bool,
}

/// Numbers to open files. A clone is what a forked child gets.
#[derive(Clone, Debug, Default)]
pub struct Descriptors {
    slots: Vec<Option<Slot>>,
}

impl Descriptors {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The file behind a descriptor.
    ///
    /// # Errors
    /// [`Errno::BADF`] when the descriptor is not open.
    pub fn get(&self, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
        self.slot(descriptor).map(|slot| Rc::clone(&slot.file))
    }

    /// Gives `file` the lowest free descriptor that is `at_least`.
    ///
    /// # Errors
    /// [`Errno::MFILE`] when the table is full, [`Errno::INVAL`] when `at_least` cannot be.
    pub fn insert(
        &mut self,
        file: Rc<OpenFile>,
        closes_on_exec: bool,
        at_least: i32,
    ) -> Result<i32, Errno> {
        let start = usize::try_from(at_least).map_err(|_| Errno::INVAL)?;
        if start >= DESCRIPTORS_MAX {
            return Err(Errno::INVAL);
        }
        let free = self.slots.iter().skip(start).position(Option::is_none);
        let index = free.map_or(self.slots.len().max(start), |found| start + found);
        if index >= DESCRIPTORS_MAX {
            return Err(Errno::MFILE);
        }
        self.put(index, Slot { file, closes_on_exec })
    }

    /// Makes `descriptor` refer to `file`, closing what it was; see [`Descriptors::get`].
    ///
    /// # Errors
    /// [`Errno::BADF`] when the number is out of range.
    pub fn replace(
        &mut self,
        descriptor: i32,
        file: Rc<OpenFile>,
        closes_on_exec: bool,
    ) -> Result<i32, Errno> {
        let index = usize::try_from(descriptor).map_err(|_| Errno::BADF)?;
        if index >= DESCRIPTORS_MAX {
            return Err(Errno::BADF);
        }
        self.put(index, Slot { file, closes_on_exec })
    }

    /// Closes a descriptor and gives back what it was.
    ///
    /// # Errors
    /// [`Errno::BADF`] when it is not open.
    pub fn remove(&mut self, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
        let index = usize::try_from(descriptor).map_err(|_| Errno::BADF)?;
        let slot = self.slots.get_mut(index).and_then(Option::take).ok_or(Errno::BADF)?;
        Ok(slot.file)
    }

    /// Whether `execve` closes it.
    ///
    /// # Errors
    /// [`Errno::BADF`] when it is not open.
    pub fn close_on_exec(&self, descriptor: i32) -> Result<bool, Errno> {
        self.slot(descriptor).map(|slot| slot.closes_on_exec)
    }

    /// Says whether `execve` closes it.
    ///
    /// # Errors
    /// [`Errno::BADF`] when it is not open.
    pub fn set_close_on_exec(&mut self, descriptor: i32, closes: bool) -> Result<(), Errno> {
        let index = usize::try_from(descriptor).map_err(|_| Errno::BADF)?;
        let slot = self.slots.get_mut(index).and_then(Option::as_mut).ok_or(Errno::BADF)?;
        slot.closes_on_exec = closes;
        Ok(())
    }

    /// Closes what `execve` closes, and shows each.
    pub fn close_marked(&mut self, mut closed: impl FnMut(&OpenFile)) {
        for slot in &mut self.slots {
            if let Some(slot) = slot.take_if(|slot| slot.closes_on_exec) {
                closed(&slot.file);
            }
        }
    }

    /// Closes `first..=last`, and shows each.
    pub fn close_range(&mut self, first: u32, last: u32, mut closed: impl FnMut(&OpenFile)) {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        let count = last.saturating_sub(first).saturating_add(1);
        let slots = self.slots.iter_mut().skip(first).take(count);
        slots.filter_map(Option::take).for_each(|slot| closed(&slot.file));
    }

    /// The numbers that are open, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = i32> {
        let open = (0..).zip(&self.slots).filter(|(_, slot)| slot.is_some());
        open.map(|(number, _)| number)
    }

    /// The open files, one as often as it has descriptors.
    pub fn files(&self) -> impl Iterator<Item = &Rc<OpenFile>> {
        self.slots.iter().flatten().map(|slot| &slot.file)
    }

    fn slot(&self, descriptor: i32) -> Result<&Slot, Errno> {
        let index = usize::try_from(descriptor).map_err(|_| Errno::BADF)?;
        self.slots.get(index).and_then(Option::as_ref).ok_or(Errno::BADF)
    }

    fn put(&mut self, index: usize, slot: Slot) -> Result<i32, Errno> {
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        self.slots[index] = Some(slot);
        i32::try_from(index).map_err(|_| Errno::MFILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::eventfd;
    use crate::world::World;

    #[test]
    fn the_lowest_free_number_is_given() {
        let file = eventfd(&World::new(), 0, 0);
        let mut table = Descriptors::new();
        for number in 0..4 {
            assert_eq!(table.insert(Rc::clone(&file), false, 0), Ok(number));
        }
        table.remove(1).unwrap();
        assert_eq!(table.insert(Rc::clone(&file), true, 0), Ok(1));
        assert_eq!(table.insert(Rc::clone(&file), false, 10), Ok(10));
        assert_eq!(table.insert(Rc::clone(&file), false, 5), Ok(5));
        assert_eq!((table.close_on_exec(1), table.close_on_exec(9)), (Ok(true), Err(Errno::BADF)));
        table.close_marked(|_| {});
        assert_eq!(table.numbers().collect::<Vec<_>>(), [0, 2, 3, 5, 10]);
        table.close_range(3, u32::MAX, |_| {});
        assert_eq!(table.numbers().collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn a_full_table_says_so() {
        let file = eventfd(&World::new(), 0, 0);
        let mut table = Descriptors::new();
        for _ in 0..DESCRIPTORS_MAX {
            table.insert(Rc::clone(&file), false, 0).unwrap();
        }
        assert_eq!(table.insert(Rc::clone(&file), false, 0), Err(Errno::MFILE));
        assert_eq!(table.insert(Rc::clone(&file), false, -1), Err(Errno::INVAL));
        assert_eq!(table.replace(1024, Rc::clone(&file), false), Err(Errno::BADF));
        assert_eq!(table.replace(7, file, false), Ok(7));
        assert!(table.get(-1).is_err() && table.get(5000).is_err());
    }
}
