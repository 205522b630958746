//! Who waits at which futex. Words are compared by the caller; this is only the queue.
//!
//! A futex is an address in one process, or a word of memory that processes share, whatever each
//! calls it. Waiters of one futex are woken first come, first served.

use alloc::vec::Vec;

use crate::identity::{ProcessId, TaskId};

/// Matches every waiter (`FUTEX_BITSET_MATCH_ANY`).
pub const ANY: u32 = u32::MAX;

/// Names a futex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// An address of a process.
    Own(ProcessId, u64),
    /// A word of RAM.
    Shared(u64),
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    key: Key,
    task: TaskId,
    bits: u32,
    /// For threads of its process only (`FUTEX_PRIVATE_FLAG`).
    is_private: bool,
}

/// All waiting tasks of the VM, longest first.
#[derive(Debug, Default)]
pub struct Futexes {
    waiters: Vec<Waiter>,
}

impl Futexes {
    /// Makes `task` wait until a wake of `key` shares a bit with `bits`.
    pub fn wait(&mut self, key: Key, task: TaskId, bits: u32) {
        self.waiters.push(Waiter { key, task, bits, is_private: false });
    }

    /// The same where only threads of its own process wake it.
    pub fn wait_privately(&mut self, key: Key, task: TaskId, bits: u32) {
        self.waiters.push(Waiter { key, task, bits, is_private: true });
    }

    /// Whether `task` waits.
    #[must_use]
    pub fn is_waiting(&self, task: TaskId) -> bool {
        self.waiters.iter().any(|waiter| waiter.task == task)
    }

    /// Where `task` waits, and for which bits.
    #[must_use]
    pub fn place_of(&self, task: TaskId) -> Option<(Key, u32)> {
        let mut waiters = self.waiters.iter();
        waiters.find(|waiter| waiter.task == task).map(|waiter| (waiter.key, waiter.bits))
    }

    /// Forgets that `task` waits: its time is up, a signal came, or it is gone.
    pub fn forget(&mut self, task: TaskId) {
        self.waiters.retain(|waiter| waiter.task != task);
    }

    /// Takes at most `count` waiters of `key` that share a bit with `bits` out of the queue and
    /// shows each to `woken`; returns how many.
    pub fn wake(
        &mut self,
        key: Key,
        count: usize,
        bits: u32,
        mut woken: impl FnMut(TaskId),
    ) -> usize {
        let mut done = 0;
        self.waiters.retain(|waiter| {
            let is_woken = done < count && waiter.key == key && waiter.bits & bits != 0;
            if is_woken {
                done += 1;
                woken(waiter.task);
            }
            !is_woken
        });
        done
    }

    /// Names anew where waiters at an address of `process` wait, if `place` says that others share it.
    pub fn share(&mut self, process: ProcessId, place: impl Fn(u64) -> Option<u64>) {
        for waiter in &mut self.waiters {
            if let Key::Own(of, address) = waiter.key
                && of == process
                && !waiter.is_private
                && let Some(place) = place(address)
            {
                waiter.key = Key::Shared(place);
            }
        }
    }

    /// Makes at most `count` waiters of `from` wait at `to` instead and returns how many.
    pub fn requeue(&mut self, from: Key, to: Key, count: usize) -> usize {
        let moved = self.waiters.iter_mut().filter(|waiter| waiter.key == from).take(count);
        moved.map(|waiter| waiter.key = to).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: u64) -> Key {
        Key::Own(ProcessId::from_number(1), address)
    }

    fn task(number: u32) -> TaskId {
        TaskId::from_number(number)
    }

    fn woken(futexes: &mut Futexes, key: Key, count: usize, bits: u32) -> Vec<u32> {
        let mut tasks = Vec::new();
        futexes.wake(key, count, bits, |task| tasks.push(task.number()));
        tasks
    }

    #[test]
    fn waiters_are_woken_in_order_and_by_their_bits() {
        let mut futexes = Futexes::default();
        for (number, bits) in [(1, ANY), (2, 1), (3, 2), (4, ANY)] {
            futexes.wait(key(8), task(number), bits);
        }
        futexes.wait(key(16), task(5), ANY);
        assert_eq!(woken(&mut futexes, key(8), 2, 2), [1, 3]);
        assert_eq!(woken(&mut futexes, key(8), usize::MAX, ANY), [2, 4]);
        assert!(futexes.is_waiting(task(5)) && !futexes.is_waiting(task(4)));
    }

    #[test]
    fn requeued_waiters_are_woken_at_their_new_place() {
        let mut futexes = Futexes::default();
        for number in 1..=4 {
            futexes.wait(key(8), task(number), ANY);
        }
        assert_eq!(woken(&mut futexes, key(8), 1, ANY), [1]);
        assert_eq!(futexes.requeue(key(8), key(32), 2), 2);
        futexes.forget(task(2));
        assert_eq!(woken(&mut futexes, key(32), usize::MAX, ANY), [3]);
        assert_eq!(woken(&mut futexes, key(8), usize::MAX, ANY), [4]);
    }
}
