//! Locks of whole files (`flock(2)`): held by an open file, seen by every other of the same file.

use core::cell::{Cell, OnceCell};

use crate::world::{Notifier, ObjectId, World};

/// Who holds a file's lock.
#[derive(Debug, Default)]
pub struct Locks {
    shared: Cell<u32>,
    is_exclusive: Cell<bool>,
    /// Made when somebody has to wait.
    released: OnceCell<Notifier>,
}

/// What one open file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Held {
    /// Nothing.
    #[default]
    Nothing,
    /// The lock, together with others.
    Shared,
    /// The lock, alone.
    Exclusive,
}

impl Locks {
    /// Changes what one open file holds; it lets go of what it held either way.
    ///
    /// # Errors
    /// What is raised when others let go, while they hold what is wanted.
    pub fn change(&self, held: &Cell<Held>, wanted: Held, world: &World) -> Result<(), ObjectId> {
        self.release(held);
        let is_free = match wanted {
            Held::Nothing => true,
            Held::Shared => !self.is_exclusive.get(),
            Held::Exclusive => !self.is_exclusive.get() && self.shared.get() == 0,
        };
        if !is_free {
            return Err(self.released.get_or_init(|| Notifier::new(world)).id());
        }
        match wanted {
            Held::Nothing => {}
            Held::Shared => self.shared.set(self.shared.get() + 1),
            Held::Exclusive => self.is_exclusive.set(true),
        }
        held.set(wanted);
        Ok(())
    }

    /// Lets go of what one open file holds.
    pub fn release(&self, held: &Cell<Held>) {
        match held.take() {
            Held::Nothing => return,
            Held::Shared => self.shared.set(self.shared.get() - 1),
            Held::Exclusive => self.is_exclusive.set(false),
        }
        if let Some(released) = self.released.get() {
            released.raise();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_or_several_together() {
        let (world, locks) = (World::new(), Locks::default());
        let [first, second, third] = [Held::Nothing; 3].map(Cell::new);
        assert_eq!(locks.change(&first, Held::Shared, &world), Ok(()));
        assert_eq!(locks.change(&second, Held::Shared, &world), Ok(()));
        let waiting = locks.change(&third, Held::Exclusive, &world).unwrap_err();
        locks.release(&first);
        assert_eq!(world.take_raised(), Some(waiting));
        assert!(locks.change(&third, Held::Exclusive, &world).is_err());
        assert_eq!(locks.change(&second, Held::Exclusive, &world), Ok(()), "from shared");
        assert!(locks.change(&first, Held::Shared, &world).is_err());
        assert_eq!(locks.change(&second, Held::Nothing, &world), Ok(()));
        assert_eq!(locks.change(&third, Held::Exclusive, &world), Ok(()));
    }
}
