//! Which task runs next, who waits for which event, and when the next deadline is.
//!
//! Round robin over ready tasks. The lists are flat: a VM runs a handful of programs, and looking
//! through a hundred entries costs less than keeping a tree in order.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::identity::TaskId;
use crate::time::NEVER;
use crate::world::ObjectId;

/// How long a task runs while others are ready: as Linux' slices, long against the 3 us of a
/// timer request and the 5 us of a switch.
pub const SLICE_NANOS: u64 = 4_000_000;

/// The scheduler's lists.
#[derive(Debug, Default)]
pub struct Scheduler {
    ready: VecDeque<TaskId>,
    waiting: Vec<(ObjectId, TaskId)>,
    deadlines: Vec<(u64, TaskId)>,
}

impl Scheduler {
    /// Lets `task` run after those that are ready already.
    pub fn make_ready(&mut self, task: TaskId) {
        debug_assert!(!self.ready.contains(&task), "a task is ready once");
        self.ready.push_back(task);
    }

    /// Lets `task` go on before all others: it was only interrupted by work of the kernel.
    pub fn make_next(&mut self, task: TaskId) {
        debug_assert!(!self.ready.contains(&task), "a task is ready once");
        self.ready.push_front(task);
    }

    /// Takes the task to run now.
    pub fn take_next(&mut self) -> Option<TaskId> {
        self.ready.pop_front()
    }

    /// Whether `task` is ready.
    #[must_use]
    pub fn is_ready(&self, task: TaskId) -> bool {
        self.ready.contains(&task)
    }

    /// Whether any task is ready.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Makes `task` wait for `object` (too).
    pub fn wait_for(&mut self, object: ObjectId, task: TaskId) {
        self.waiting.push((object, task));
    }

    /// Makes `task` wait no longer than to `deadline_nanos`.
    pub fn wait_until(&mut self, deadline_nanos: u64, task: TaskId) {
        if deadline_nanos != NEVER {
            self.deadlines.push((deadline_nanos, task));
        }
    }

    /// A task that waits for `object`.
    #[must_use]
    pub fn waiter(&self, object: ObjectId) -> Option<TaskId> {
        self.waiting.iter().find(|(waited, _)| *waited == object).map(|(_, task)| *task)
    }

    /// Whether `task` waits for `object`, or for any when that is none.
    #[must_use]
    pub fn waits(&self, task: TaskId, object: Option<ObjectId>) -> bool {
        let is_it = |it: ObjectId| object.is_none_or(|object| object == it);
        self.waiting.iter().any(|(waited, waiter)| *waiter == task && is_it(*waited))
    }

    /// When `task` stops waiting.
    #[must_use]
    pub fn deadline_of(&self, task: TaskId) -> u64 {
        let of_task = self.deadlines.iter().filter(|(_, waiter)| *waiter == task);
        of_task.map(|(deadline, _)| *deadline).min().unwrap_or(NEVER)
    }

    /// A task whose deadline has come.
    #[must_use]
    pub fn expired(&self, now_nanos: u64) -> Option<TaskId> {
        self.deadlines.iter().find(|(deadline, _)| *deadline <= now_nanos).map(|(_, task)| *task)
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        self.deadlines.iter().map(|(deadline, _)| *deadline).min().unwrap_or(NEVER)
    }

    /// Forgets what `task` waits for.
    pub fn stop_waiting(&mut self, task: TaskId) {
        self.waiting.retain(|(_, waiter)| *waiter != task);
        self.deadlines.retain(|(_, waiter)| *waiter != task);
    }

    /// Forgets `task` altogether.
    pub fn forget(&mut self, task: TaskId) {
        self.stop_waiting(task);
        self.ready.retain(|ready| *ready != task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn tasks_take_turns_and_waiters_are_found() {
        let world = World::new();
        let (first, second) = (TaskId::from_number(1), TaskId::from_number(2));
        let event = world.event();
        let mut scheduler = Scheduler::default();
        scheduler.make_ready(first);
        scheduler.make_ready(second);
        assert_eq!(scheduler.take_next(), Some(first));
        scheduler.wait_for(event.id(), first);
        scheduler.wait_until(50, first);
        scheduler.wait_until(NEVER, first);
        assert_eq!((scheduler.waiter(event.id()), scheduler.next_deadline()), (Some(first), 50));
        assert_eq!((scheduler.expired(49), scheduler.expired(50)), (None, Some(first)));
        scheduler.stop_waiting(first);
        assert_eq!((scheduler.waiter(event.id()), scheduler.next_deadline()), (None, NEVER));
        scheduler.make_next(first);
        assert_eq!(scheduler.take_next(), Some(first));
        scheduler.forget(second);
        assert!(!scheduler.has_ready());
    }
}
