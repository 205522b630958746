//! All processes and tasks of the VM, and what happens to them.

mod kin;
mod rest;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use super::exec::{self, Arguments, Held, LoadError};
use super::executable::Executable;
use super::system::Running;
use super::task::{CallState, State};
use super::timer::Receiver;
use super::{
    Call, Effect, Ending, Gate, MissingCalls, Notice, Process, Rewind, Schedule, System, Task,
    Timers, Until, Usage,
};
use crate::errno::Errno;
use crate::file::{Descriptors, OpenFile};
use crate::filesystem::{Caller, View, open};
use crate::identity::{ProcessId, TaskId};
use crate::memory::Account;
use crate::signal::{Actions, Information, Pending, Signal};
use crate::socket::Network;
use crate::vdso::Vdso;
use crate::world::World;

/// What a process is started with.
#[derive(Debug)]
pub struct Start {
    /// Number of its container.
    pub container: u32,
    /// Its file system.
    pub view: View,
    /// Who pays for its memory.
    pub account: Rc<Account>,
    /// Its network.
    pub network: Rc<Network>,
    /// Path of its program.
    pub path: Vec<u8>,
    /// Arguments, the program's name first.
    pub arguments: Vec<Vec<u8>>,
    /// `NAME=VALUE` entries.
    pub environment: Vec<Vec<u8>>,
    /// Standard input, output and error.
    pub stdio: [Rc<OpenFile>; 3],
    /// It is to be rewound for further requests.
    pub rewinds: Option<Rewinds>,
    /// Its program, if that is loaded already.
    pub image: Option<exec::Image>,
}

/// What a process that is to be rewound is started with besides.
#[derive(Debug)]
pub struct Rewinds {
    /// What brings it to its point.
    pub until: Until,
    /// Opened when it has passed its point.
    pub gate: Gate,
    /// The request's id, if the program is to see it.
    pub invoke: Option<u64>,
}

/// All processes and tasks.
#[derive(Debug)]
pub struct Processes {
    processes: BTreeMap<ProcessId, Box<Process>>,
    tasks: BTreeMap<TaskId, Box<Task>>,
    /// Those that have ended and can be rewound, without tasks.
    resting: BTreeMap<ProcessId, Box<Process>>,
    /// Those that are over, for [`Processes::bury`].
    #[expect(clippy::vec_box, reason = "they come from a map that boxes them")]
    gone: Vec<Box<Process>>,
    /// Those that could run, but whose memory is lent.
    held: Vec<TaskId>,
    system: System,
}

impl Processes {
    /// None yet.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self {
            processes: BTreeMap::new(),
            tasks: BTreeMap::new(),
            resting: BTreeMap::new(),
            gone: Vec::new(),
            held: Vec::new(),
            system: System::new(world),
        }
    }

    /// Makes what all programs share, so that a snapshot has it.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when RAM is used up.
    pub fn prepare(&mut self) -> Result<(), Errno> {
        if self.system.vdso.is_none() {
            self.system.vdso = Some(Vdso::new().ok_or(Errno::NOMEM)?);
        }
        Ok(())
    }

    /// Sets the VM's number, which programs see as the host's name.
    pub fn set_vm(&mut self, vm: u64) {
        self.system.vm = vm;
    }

    /// Events and entropy.
    #[must_use]
    pub fn world(&self) -> World {
        self.system.world.clone()
    }

    /// Starts a program as a process of a container.
    ///
    /// # Errors
    /// Why it cannot be executed, for a person.
    pub fn start(&mut self, start: Start) -> Result<ProcessId, String> {
        self.prepare().map_err(|_| String::from("the VM has no memory left"))?;
        let id = ProcessId::from_number(self.system.new_task_id().number());
        let (command_line, name) = (joined(&start.arguments), name_of(&start.path).to_vec());
        let mut descriptors = Descriptors::new();
        for file in &start.stdio {
            let given = descriptors.insert(Rc::clone(file), false, 0);
            given.map_err(|_| String::from("it has too many open files"))?;
        }
        let caller = Caller {
            process: id.number(),
            parent: 0,
            task: id.number(),
            executable: &start.path,
            command_line: &command_line,
            name: &name,
            memory: &|_| {},
            descriptors: &descriptors,
        };
        let limit_bytes = start.account.limit_bytes();
        let open = |path: &[u8]| start.view.open(&caller, None, path, 0, 0);
        let file = open(&start.path).map_err(unopened)?;
        let executable = Executable::read(file, start.path.clone(), start.arguments, &open);
        let executable = executable.map_err(|error| error.explain(limit_bytes))?;
        let arguments = Arguments {
            path: &executable.path,
            arguments: &executable.arguments,
            environment: &start.environment,
            held: start.rewinds.as_ref().map(|rewinds| Held {
                invoke: rewinds.invoke,
                has_clock: rewinds.until == Until::Look,
            }),
        };
        let loaded = match start.image {
            Some(image) => Ok(image),
            None => self.system.load(&executable, start.account, arguments.held.is_some()),
        };
        let loaded = loaded
            .map_err(LoadError::System)
            .and_then(|image| image.furnish(&arguments, &self.system.world));
        let loaded = loaded.map_err(|error| error.explain(limit_bytes))?;
        let process = Process {
            id,
            container: start.container,
            memory: loaded.memory,
            descriptors,
            view: start.view,
            network: start.network,
            actions: Actions::default(),
            pending: Pending::default(),
            tasks: Vec::new(),
            // Where the file is, not how it was found: links on the way are behind us.
            executable: executable.binary.file.path(),
            command_line: joined(&executable.arguments),
            run_nanos: 0,
            run_nanos_before: 0,
            children: self.system.world.event(),
            children_nanos: 0,
            descendants_nanos: 0,
            lends: None,
            lender: None,
            alarm: Schedule::NONE,
            timers: Timers::default(),
            has_overflowed: false,
            missing: MissingCalls::default(),
            rewind: match (start.rewinds, loaded.places) {
                (Some(it), Some(places)) => Rewind::Ahead(it.until, it.gate, places),
                _ => Rewind::Never,
            },
        };
        self.system.family.found(id, start.container);
        self.processes.insert(id, Box::new(process));
        let mut task = Task::new(TaskId::from_number(id.number()), id, loaded.context);
        task.set_name(&name);
        self.begin(Box::new(task));
        Ok(id)
    }

    /// Starts counting afresh for a new invoke of a resident process.
    pub fn begin_invoke(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.run_nanos_before = process.run_nanos;
            process.descendants_nanos = 0;
            process.missing = MissingCalls::default();
            process.memory.account().reset_peak();
        }
    }

    /// What a process has used since its invoke began.
    #[must_use]
    pub fn usage(&self, id: ProcessId) -> Usage {
        let Some(process) = self.processes.get(&id) else { return Usage::default() };
        let others = self
            .processes
            .values()
            .filter(|other| other.container == process.container && other.id != id);
        let others: u64 = others.map(|other| other.run_nanos).sum();
        let usage = process.usage();
        Usage { run_nanos: usage.run_nanos + others, ..usage }
    }

    /// What has happened that the agent has not heard yet.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.system.notices.pop_front()
    }

    /// Whether the agent has something to hear.
    #[must_use]
    pub fn has_notice(&self) -> bool {
        !self.system.notices.is_empty()
    }

    /// Whether a task could run now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.system.scheduler.has_ready()
    }

    /// Takes the task that runs now off the list of ready ones.
    pub fn take_next(&mut self) -> Option<TaskId> {
        loop {
            let id = self.system.scheduler.take_next()?;
            if !self.is_without_memory(id) {
                return Some(id);
            }
            self.held.push(id);
        }
    }

    /// Puts the task that ran back, before the others or behind them, if it can go on.
    pub fn put_back(&mut self, id: TaskId, is_first: bool) {
        let is_blocked = self.tasks.get(&id).is_none_or(|task| task.state == State::Blocked);
        if !is_blocked && !self.system.scheduler.is_ready(id) {
            if is_first {
                self.system.scheduler.make_next(id);
            } else {
                self.system.scheduler.make_ready(id);
            }
        }
    }

    /// Whether `id` is on the list of ready tasks.
    #[must_use]
    pub fn is_ready(&self, id: TaskId) -> bool {
        self.system.scheduler.is_ready(id)
    }

    /// Starts charging the time to the process of `id`.
    pub fn begin_turn(&mut self, id: TaskId, now_nanos: u64) {
        let process = self.tasks.get(&id).map(|task| task.process);
        self.system.running =
            process.map(|process| Running { task: id, process, since_nanos: now_nanos });
    }

    /// Stops charging the time.
    pub fn end_turn(&mut self, now_nanos: u64) {
        let Some(running) = self.system.running.take() else { return };
        let nanos = now_nanos.saturating_sub(running.since_nanos);
        if let Some(process) = self.processes.get_mut(&running.process) {
            process.run_nanos += nanos;
        }
        if let Some(task) = self.tasks.get_mut(&running.task) {
            task.run_nanos += nanos;
        }
    }

    /// The task's system call, to be executed.
    pub fn call(&mut self, id: TaskId) -> Option<Call<'_>> {
        let task = self.tasks.get_mut(&id)?;
        let process = self.processes.get_mut(&task.process)?;
        Some(Call { task, process, system: &mut self.system })
    }

    /// When a task stops waiting or an alarm is due.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        let of_process = |process: &Process| process.alarm.at_nanos.min(process.timers.next());
        let first = self.system.scheduler.next_deadline().min(self.system.world.next_alarm());
        self.processes.values().map(|process| of_process(process)).fold(first, u64::min)
    }

    /// Lets tasks whose deadline has come look again, and sends due alarms.
    pub fn expire(&mut self, now_nanos: u64) {
        while let Some(task) = self.system.scheduler.expired(now_nanos) {
            self.wake(task);
        }
        let Self { processes, system, .. } = self;
        system.world.ring_alarms(now_nanos);
        for process in processes.values_mut() {
            let id = process.id;
            if process.alarm.take_due(now_nanos) > 0 {
                let code = crate::signal::CODE_KERNEL;
                let information = Information { signal: Signal::ALRM, code, value: 0, data: 0 };
                system.effects.push(Effect::SignalProcess(id, information));
            }
            process.timers.expire(now_nanos, |receiver, information| match receiver {
                Receiver::Nobody => {}
                Receiver::Process => {
                    system.effects.push(Effect::SignalProcess(id, information));
                }
                Receiver::Task(task) => system.effects.push(Effect::SignalTask(task, information)),
            });
        }
        self.apply_effects();
    }

    /// Lets tasks that wait for raised events look again.
    pub fn settle(&mut self) {
        while let Some(object) = self.system.world.take_raised() {
            while let Some(task) = self.system.scheduler.waiter(object) {
                self.wake(task);
            }
        }
    }

    /// Carries out what system calls left to be done.
    pub fn apply_effects(&mut self) {
        while let Some(effect) = self.system.effects.pop() {
            match effect {
                Effect::Complete(task, result) => self.complete(task, result),
                Effect::Begin(task) => self.begin(task),
                Effect::Bear(child, task) => self.bear(child, task),
                Effect::EndOthers(task) => self.end_others(task),
                Effect::GiveBack(task, mut memory, child) => {
                    self.give_back(task, &mut memory, child);
                }
                Effect::End(task, status) => self.end_task(task, status),
                Effect::EndProcess(process, ending) => self.end_process(process, ending),
                Effect::SignalProcess(process, information) => {
                    self.signal_process(process, information);
                }
                Effect::SignalTask(task, information) => self.signal_task(task, information),
            }
        }
    }

    /// Tasks of a container.
    #[must_use]
    pub fn tasks_of(&self, container: u32) -> usize {
        let of_container = self.processes.values().filter(|process| process.container == container);
        of_container.map(|process| process.tasks.len()).sum()
    }

    fn begin(&mut self, task: Box<Task>) {
        if let Some(process) = self.processes.get_mut(&task.process) {
            let id = task.id;
            process.tasks.push(id);
            self.system.family.count_task(process.id, true);
            self.system.numbers.insert(id);
            self.tasks.insert(id, task);
            self.system.scheduler.make_ready(id);
        }
    }

    fn wake(&mut self, id: TaskId) {
        // It waits for its memory, whatever comes.
        if self.is_lending(id) {
            return;
        }
        self.system.scheduler.stop_waiting(id);
        if let Some(task) = self.tasks.get_mut(&id)
            && task.state == State::Blocked
        {
            task.state = State::InCall;
            self.system.scheduler.make_ready(id);
        }
    }

    fn complete(&mut self, id: TaskId, result: i64) {
        self.system.scheduler.stop_waiting(id);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        // One that was woken otherwise, and has not come to look, is done all the same: it counts.
        if task.state == State::Runnable {
            return;
        }
        let is_waiting = task.state == State::Blocked;
        task.state = State::Runnable;
        task.call = CallState::FRESH;
        task.context.set_result(result);
        if is_waiting {
            self.system.scheduler.make_ready(id);
        }
    }

    fn signal_process(&mut self, id: ProcessId, information: Information) {
        if information.signal == Signal::KILL {
            return self.end_process(id, Ending::Signalled(Signal::KILL));
        }
        let Some(process) = self.processes.get_mut(&id) else { return };
        let signal = information.signal;
        let of_process = || self.tasks.values().filter(|task| task.process == id);
        let waiter = of_process().find(|task| task.call.awaited.contains(signal));
        let unblocked = of_process().find(|task| !task.blocked.contains(signal));
        if process.actions.ignores(signal) && unblocked.is_some() && waiter.is_none() {
            return;
        }
        let taker = waiter.or(unblocked).map(|task| task.id);
        process.pending.add(information);
        if let Some(taker) = taker {
            self.wake(taker);
        }
    }

    fn signal_task(&mut self, id: TaskId, information: Information) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Some(process) = self.processes.get(&task.process) else { return };
        if information.signal == Signal::KILL {
            let process = task.process;
            return self.end_process(process, Ending::Signalled(Signal::KILL));
        }
        let is_awaited = task.call.awaited.contains(information.signal);
        let is_blocked = task.blocked.contains(information.signal) && !is_awaited;
        if !is_awaited && process.actions.ignores(information.signal) && !is_blocked {
            return;
        }
        task.pending.add(information);
        if !is_blocked {
            self.wake(id);
        }
    }
}

impl Process {
    /// It is another program now (`execve`): what the old one set up for itself is gone.
    pub fn become_program(&mut self, executable: Vec<u8>, arguments: &[Vec<u8>]) {
        self.executable = executable;
        self.command_line = joined(arguments);
        let id = self.id;
        self.descriptors.close_marked(|file| open::forget_records(file, id));
        self.actions.reset_handlers();
        self.timers = Timers::default();
        self.has_overflowed = false;
        // What it would have waited for comes to nothing.
        if let Rewind::Ahead(_, gate, _) = core::mem::take(&mut self.rewind) {
            gate.set(false);
        }
    }

    /// What it has used since its invoke began.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let run_nanos = self.run_nanos - self.run_nanos_before + self.descendants_nanos;
        Usage { run_nanos, memory_peak_bytes: self.memory.account().peak_bytes() }
    }
}

impl Notice {
    /// The process it is about.
    #[must_use]
    pub fn process(&self) -> ProcessId {
        match self {
            Self::Ended { process, .. } | Self::Missing { process, .. } => *process,
        }
    }
}

/// The last part of a path: a task's first name.
#[must_use]
pub fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Arguments as `/proc` shows them.
fn joined(arguments: &[Vec<u8>]) -> Vec<u8> {
    let with_end = |argument: &Vec<u8>| [argument.as_slice(), &[0]].concat();
    arguments.iter().flat_map(with_end).collect()
}

fn unopened(error: Errno) -> String {
    let reason = match error {
        Errno::NOENT | Errno::NOTDIR => "there is no such file in the package",
        Errno::ACCES => "it is not marked executable (chmod +x)",
        Errno::LOOP => "it is a symbolic link to itself",
        _ => "it cannot be opened",
    };
    String::from(reason)
}
