//! How processes come to be beside the first of a container, and how they all end.

use alloc::boxed::Box;
use alloc::vec::Vec;

use machine::clock::monotonic_nanos;

use super::Processes;
use crate::file::Descriptors;
use crate::filesystem::open;
use crate::futex::{ANY, Key};
use crate::memory::Memory;
use crate::process::family::Dead;
use crate::process::task::State;
use crate::process::{Effect, Ending, Notice, Process, ProcessId, System, Task, TaskId, robust};
use crate::signal::{FLAG_NO_CHILD_WAIT, HANDLER_IGNORE, Signal};

impl Processes {
    /// Ends a process, and whoever is beside it if it is its container's first; nobody hears of it.
    pub fn kill(&mut self, id: ProcessId) {
        drop(self.take_out(id));
        self.system.family.forget(id);
        self.system.notices.retain(|notice| notice.process() != id);
    }

    /// Ends all processes of a container.
    pub fn kill_container(&mut self, container: u32) {
        self.resting.retain(|_, process| process.container != container);
        self.gone.retain(|process| process.container != container);
        let of_container = self.processes.values().filter(|process| process.container == container);
        let ids: Vec<_> = of_container.map(|process| process.id).collect();
        ids.into_iter().for_each(|id| self.kill(id));
        self.system.family.forget_container(container);
    }

    /// Whether the memory that a task would run in is lent.
    pub(super) fn is_without_memory(&self, id: TaskId) -> bool {
        let process = self.tasks.get(&id).and_then(|task| self.processes.get(&task.process));
        process.is_some_and(|process| process.lends.is_some())
    }

    /// Whether a task waits for the memory it has lent.
    pub(super) fn is_lending(&self, id: TaskId) -> bool {
        let process = self.tasks.get(&id).and_then(|task| self.processes.get(&task.process));
        process.is_some_and(|process| process.lends == Some(id))
    }

    pub(super) fn bear(&mut self, child: Box<Process>, task: Box<Task>) {
        self.processes.insert(child.id, child);
        self.begin(task);
    }

    /// A task's process has its memory back, in exchange for what stood in for it, and goes on; the
    /// task's call answers with the child.
    pub(super) fn give_back(&mut self, id: TaskId, memory: &mut Memory, child: ProcessId) {
        let Some(task) = self.tasks.get(&id) else { return };
        let Some(process) = self.processes.get_mut(&task.process) else { return };
        let process_id = process.id;
        core::mem::swap(&mut process.memory, memory);
        process.lends = None;
        self.complete(id, i64::from(child.number()));
        let Self { held, tasks, system, .. } = self;
        held.retain(|held| {
            let is_its = tasks.get(held).is_some_and(|task| task.process == process_id);
            if is_its {
                system.scheduler.make_ready(*held);
            }
            !is_its
        });
    }

    /// `execve` of a process with threads: the caller goes on alone, and is the first one.
    pub(super) fn end_others(&mut self, id: TaskId) {
        let Some(mut task) = self.tasks.remove(&id) else { return };
        let process_id = task.process;
        let was_ready = self.system.scheduler.is_ready(id);
        self.system.forget(id);
        self.remove_tasks(process_id);
        let first = TaskId::from_number(process_id.number());
        if let Some(running) = self.system.running.as_mut().filter(|running| running.task == id) {
            running.task = first;
        }
        task.id = first;
        task.state = State::Runnable;
        if let Some(process) = self.processes.get_mut(&process_id) {
            process.tasks.push(first);
            self.system.family.count_task(process_id, true);
            self.system.numbers.insert(first);
            self.tasks.insert(first, task);
            // Under its old name it was not on the list only because it runs.
            if was_ready || first != id {
                self.system.scheduler.make_ready(first);
            }
        }
    }

    pub(super) fn end_task(&mut self, id: TaskId, status: u8) {
        if self.system.running.is_some_and(|running| running.task == id) {
            self.end_turn(monotonic_nanos());
        }
        let Some(task) = self.tasks.remove(&id) else { return };
        self.forget_task(id, task.process);
        let Some(process) = self.processes.get_mut(&task.process) else { return };
        process.tasks.retain(|other| *other != id);
        if process.tasks.is_empty() {
            return self.end_process(task.process, Ending::Exited(status));
        }
        let System { futexes, effects, .. } = &mut self.system;
        let mut wake = |memory: &Memory, address| {
            let key = memory.shared_place(address);
            let key = key.map_or(Key::Own(task.process, address), Key::Shared);
            futexes.wake(key, 1, ANY, |waiter| effects.push(Effect::Complete(waiter, 0)));
        };
        robust::abandon(&mut process.memory, task.robust_list, id, &mut wake);
        // Whoever joins the thread waits at this word.
        if task.clear_at_end != 0 && process.memory.write(task.clear_at_end, &[0; 4]).is_ok() {
            wake(&process.memory, task.clear_at_end);
        }
    }

    /// Locks in memory that others share, held by a process that ends: their waiters are told.
    fn abandon_locks(&mut self, id: ProcessId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let is_shared = process.memory.areas().any(|(_, area)| area.kind.is_shared());
        if process.lends.is_some() || !is_shared {
            return;
        }
        let System { futexes, effects, .. } = &mut self.system;
        for task in process.tasks.iter().filter_map(|task| self.tasks.get(task)) {
            robust::abandon(&mut process.memory, task.robust_list, task.id, &mut |memory, at| {
                if let Some(place) = memory.shared_place(at) {
                    let told = |waiter| effects.push(Effect::Complete(waiter, 0));
                    futexes.wake(Key::Shared(place), 1, ANY, told);
                }
            });
        }
    }

    /// The end of a container's first process is the end of the request, and of all its others; that
    /// of another one is its parent's business.
    pub(super) fn end_process(&mut self, id: ProcessId, ending: Ending) {
        if self.system.running.is_some_and(|running| running.process == id) {
            self.end_turn(monotonic_nanos());
        }
        let is_first = self.system.family.is_first(id);
        let Some(process) = self.take_out(id) else { return };
        if !is_first {
            return self.mourn(process, ending);
        }
        let (status, detail) = ending.status();
        let notice = Notice::Ended {
            process: id,
            container: process.container,
            status,
            detail,
            reason: ending.reason(process.memory.account().limit_bytes()),
            usage: process.usage(),
        };
        self.system.notices.push_back(notice);
        self.rest(process);
    }

    /// Takes a process and its tasks out of the table, with its memory, or without that of which it is
    /// not the owner; of a container's first one all others are ended before.
    pub(super) fn take_out(&mut self, id: ProcessId) -> Option<Box<Process>> {
        if self.system.family.is_first(id) {
            let others = self.system.family.others(id);
            others.iter().for_each(|other| self.system.family.forget(*other));
            let others = others.into_iter().filter_map(|other| self.take_out(other));
            let run_nanos: u64 = others.map(|other| other.run_nanos).sum();
            if let Some(process) = self.processes.get_mut(&id) {
                process.descendants_nanos += run_nanos;
            }
        }
        self.abandon_locks(id);
        self.remove_tasks(id);
        let mut process = self.processes.remove(&id)?;
        process.descriptors.files().for_each(|file| open::forget_records(file, id));
        // What it has lent on is not its own to give back.
        if let Some(own) = process.lends.take()
            && let Some(heir) = self.processes.values_mut().find(|it| it.lender == Some(own))
        {
            heir.lender = process.lender.take();
        }
        if let Some(lender) = process.lender.take() {
            self.give_back(lender, &mut process.memory, id);
        }
        Some(process)
    }

    /// What follows from the end of a process that is not its container's first.
    fn mourn(&mut self, mut process: Box<Process>, ending: Ending) {
        let id = process.id;
        let run_nanos = process.run_nanos + process.children_nanos;
        let dead = Dead { id, parting: ending.parting(), run_nanos };
        let first = self.system.family.first_of(id);
        if let Some(first) = first.and_then(|first| self.processes.get_mut(&first)) {
            first.descendants_nanos += process.run_nanos;
        }
        process.descriptors = Descriptors::new();
        self.gone.push(process);
        let processes = &self.processes;
        let waits = |parent: &ProcessId| {
            let action = processes.get(parent).map(|parent| parent.actions.get(Signal::CHLD));
            action.is_some_and(|action| {
                action.handler != HANDLER_IGNORE && action.flags & FLAG_NO_CHILD_WAIT == 0
            })
        };
        let heirs = self.system.family.die(dead, |parent| waits(&parent));
        let Some((parent, tells)) = heirs else { return };
        if let Some(parent) = self.processes.get(&parent) {
            parent.children.raise();
        }
        if let Some(signal) = tells {
            let information = dead.parting.information(id, signal);
            self.system.effects.push(Effect::SignalProcess(parent, information));
        }
    }

    fn remove_tasks(&mut self, id: ProcessId) {
        let ids = self.processes.get_mut(&id).map(|process| core::mem::take(&mut process.tasks));
        for task in ids.unwrap_or_default() {
            self.tasks.remove(&task);
            self.forget_task(task, id);
        }
    }

    fn forget_task(&mut self, id: TaskId, process: ProcessId) {
        self.held.retain(|held| *held != id);
        self.system.family.count_task(process, false);
        self.system.forget(id);
    }
}
