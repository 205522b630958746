//! Processes that have ended and are put back for another request.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use machine::clock::monotonic_nanos;

use super::Processes;
use crate::file::Descriptors;
use crate::filesystem::{Caller, View};
use crate::memory::Account;
use crate::process::exec::Image;
use crate::process::executable::Executable;
use crate::process::rewind::SavedTask;
use crate::process::task::State;
use crate::process::{Fresh, Process, ProcessId, Task};
use crate::time::{NEVER, after, time_left};
use crate::world::ObjectId;

/// Most memory of a process that is over which an answer does not wait for: what another could need
/// meanwhile is given back at once.
const GONE_BYTES_MAX: u64 = 1 << 20;

impl Processes {
    /// Loads a program that is started later, with all the pages it starts with; `is_held`: it
    /// will be rewound.
    ///
    /// # Errors
    /// Why it cannot be, for a person.
    pub fn load(
        &mut self,
        view: &View,
        account: Rc<Account>,
        path: &[u8],
        is_held: bool,
    ) -> Result<Image, String> {
        self.prepare().map_err(|_| String::from("the VM has no memory left"))?;
        let caller = Caller {
            process: 0,
            parent: 0,
            task: 0,
            executable: path,
            command_line: b"",
            name: b"",
            memory: &|_| {},
            descriptors: &Descriptors::new(),
        };
        let open = |path: &[u8]| view.open(&caller, None, path, 0, 0);
        let file = open(path).map_err(super::unopened)?;
        let limit_bytes = account.limit_bytes();
        let executable = Executable::read(file, path.to_vec(), Vec::new(), &open);
        let image = executable.and_then(|executable| {
            let mut image = self.system.load(&executable, account, is_held)?;
            image.populate()?;
            Ok(image)
        });
        image.map_err(|error| error.explain(limit_bytes))
    }

    /// Ends a process; if it can be rewound it rests.
    pub fn halt(&mut self, id: ProcessId) {
        let process = self.take_out(id);
        self.system.notices.retain(|notice| notice.process() != id);
        if let Some(process) = process {
            self.rest(process);
        }
    }

    /// Whether a process has ended and can be rewound.
    #[must_use]
    pub fn is_resting(&self, id: ProcessId) -> bool {
        self.resting.contains_key(&id)
    }

    /// A process that rests.
    #[must_use]
    pub fn resting(&self, id: ProcessId) -> Option<&Process> {
        self.resting.get(&id).map(|process| &**process)
    }

    /// Whether a process has initialised itself: it waits for `input`, and all its tasks wait.
    #[must_use]
    pub fn has_initialised(&self, id: ProcessId, input: ObjectId) -> bool {
        let Some(process) = self.processes.get(&id) else { return false };
        if !process.rewind.is_before_wait() {
            return false;
        }
        let mut tasks = process.tasks.iter();
        let is_blocked = |task| self.tasks.get(task).is_some_and(|it| it.state == State::Blocked);
        tasks.clone().all(is_blocked)
            && tasks.any(|task| self.system.scheduler.waits(*task, Some(input)))
    }

    /// Whether the input of a process is for another one to read, or it has become another program:
    /// there is nothing of it to wait for.
    #[must_use]
    pub fn has_handed_on(&self, id: ProcessId, input: ObjectId) -> bool {
        let Some(process) = self.processes.get(&id) else { return false };
        let is_other = |task: &Task| task.process != id && self.is_beside(task.process, id);
        !process.rewind.is_before_wait() && !process.rewind.is_before_look()
            || self.tasks.values().filter(|task| is_other(task)).any(|task| {
                task.state == State::Blocked && self.system.scheduler.waits(task.id, Some(input))
            })
    }

    fn is_beside(&self, one: ProcessId, other: ProcessId) -> bool {
        let container = |id| self.processes.get(&id).map(|process| process.container);
        container(one) == container(other)
    }

    /// Makes what a process is now its point; all its tasks wait.
    pub fn pass_point(&mut self, id: ProcessId) {
        // What the dead hold still counts as shared.
        self.bury();
        let Some(process) = self.processes.get_mut(&id) else { return };
        let system = &self.system;
        // A child would not be there any more.
        let is_alone = system.family.others(id).is_empty();
        let tasks = process.tasks.iter().filter_map(|id| self.tasks.get(id));
        let tasks: Vec<_> = tasks.filter(|_| is_alone).collect();
        let saved = tasks.into_iter().map(|task| SavedTask {
            task: task.duplicate(State::Blocked),
            has_waited: system.scheduler.waits(task.id, None),
            nanos_left: time_left(system.scheduler.deadline_of(task.id)),
            futex: system.futexes.place_of(task.id),
        });
        process.pass_point(saved.collect());
    }

    /// Puts a resting process back to its point; `false` when it could not be and is gone.
    pub fn rewind(&mut self, id: ProcessId, fresh: Fresh) -> bool {
        let Some(process) = self.resting.get_mut(&id) else { return false };
        let is_back = process.go_back(fresh).is_ok();
        if !is_back {
            self.resting.remove(&id);
            self.system.family.forget(id);
        }
        is_back
    }

    /// Lets a process that was rewound serve a request; `false` when it cannot and is gone.
    pub fn resume(&mut self, id: ProcessId, invoke: u64) -> bool {
        let Some(mut process) = self.resting.remove(&id) else { return false };
        let world = self.world();
        if process.take_up(invoke, |bytes| world.random(bytes)).is_err() {
            self.system.family.forget(id);
            return false;
        }
        let tasks = process.point_tasks();
        self.system.family.found(id, process.container);
        self.processes.insert(id, process);
        tasks.into_iter().for_each(|task| self.begin_again(task));
        self.begin_invoke(id);
        true
    }

    /// A task that waited for events looks for them again; one that waited for a futex or a time
    /// waits on.
    fn begin_again(&mut self, saved: SavedTask) {
        let SavedTask { mut task, has_waited, nanos_left, futex } = saved;
        let id = task.id;
        let deadline = after(monotonic_nanos(), nanos_left);
        if nanos_left != NEVER {
            task.call.deadline_nanos = deadline;
        }
        let waits_on = task.state == State::Blocked && !has_waited;
        if task.state == State::Blocked && has_waited {
            task.state = State::InCall;
        }
        self.begin(Box::new(task));
        if waits_on {
            self.system.scheduler.forget(id);
            self.system.scheduler.wait_until(deadline, id);
        }
        if let Some((key, bits)) = futex {
            self.system.futexes.wait(key, id, bits);
        }
    }

    pub(super) fn rest(&mut self, mut process: Box<Process>) {
        if process.can_rewind() {
            process.close_files();
            self.resting.insert(process.id, process);
            return;
        }
        self.system.family.forget(process.id);
        if process.memory.account().used_bytes() <= GONE_BYTES_MAX {
            process.descriptors = Descriptors::new();
            self.gone.push(process);
        }
    }

    /// Lets go of the memory of processes that are over: on a page-table hypervisor each of its tables
    /// is a fault of the kernel's, which an answer need not wait for.
    pub fn bury(&mut self) {
        self.gone.clear();
    }
}
