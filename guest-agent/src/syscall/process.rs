//! Processes: making them, making them another program, asking for what became of them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::path::{At, EMPTY_PATH, NO_FOLLOW, with_caller};
use super::thread::{
    CLONE_CHILD_CLEAR_TID, CLONE_CHILD_SET_TID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SET_TID,
    CLONE_SET_THREAD_POINTER, CLONE_SIGHAND, CLONE_VM,
};
use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::file::OpenFile;
use crate::identity::ProcessId;
use crate::memory::Memory;
use crate::process::exec::{ARGUMENT_BYTES_MAX, Arguments, LoadError};
use crate::process::executable::Executable;
use crate::process::family::{Children, Dead, Whose};
use crate::process::system::TASKS_MAX;
use crate::process::{Answer, Call, Effect, Process, Task};
use crate::signal::Signal;
use crate::time::encode_timeval;

const CLONE_VFORK: u64 = 0x4000;
/// `CLONE_SYSVSEM`, `CLONE_DETACHED`, `CLONE_UNTRACED`, `CLONE_IO`: of what there is nothing here.
const CLONE_WITHOUT_MEANING: u64 = 0x8004_0000 | 0xc0_0000;
/// The signal for the parent, in the lowest byte.
const CLONE_SIGNAL: u64 = 0xff;
/// What a child can be made with.
const CLONE_KNOWN: u64 = CLONE_VM
    | CLONE_VFORK
    | CLONE_SIGNAL
    | CLONE_SET_THREAD_POINTER
    | CLONE_PARENT_SET_TID
    | CLONE_CHILD_SET_TID
    | CLONE_CHILD_CLEAR_TID
    | CLONE_WITHOUT_MEANING;
/// What two processes could share on Linux; here they are copies.
const CLONE_SHARED: u64 = CLONE_FS | CLONE_FILES | CLONE_SIGHAND;

const WAIT_NO_HANG: u32 = 1;
const WAIT_STOPPED: u32 = 2;
const WAIT_EXITED: u32 = 4;
const WAIT_CONTINUED: u32 = 8;
const WAIT_KEEP: u32 = 0x100_0000;
/// `__WNOTHREAD`, `__WALL`, `__WCLONE`: all children are found by all threads.
const WAIT_KINDS: u32 = 0xe000_0000;

/// A child to be made, as `clone` says it.
pub(super) struct Wanted {
    /// `CLONE_*`.
    pub(super) flags: u64,
    /// Its stack; 0 for the same address as its parent's.
    pub(super) stack: u64,
    /// Where its parent finds its number.
    pub(super) parent_tid: u64,
    /// Where it finds it itself, and what is zeroed at its end.
    pub(super) child_tid: u64,
    /// Its thread pointer.
    pub(super) thread_pointer: u64,
}

impl Wanted {
    const fn plain(flags: u64) -> Self {
        Self { flags, stack: 0, parent_tid: 0, child_tid: 0, thread_pointer: 0 }
    }
}

pub(super) fn fork(call: &mut Call<'_>) -> CallResult {
    bear(call, &Wanted::plain(u64::from(Signal::CHLD.number())))
}

pub(super) fn vfork(call: &mut Call<'_>) -> CallResult {
    bear(call, &Wanted::plain(CLONE_VM | CLONE_VFORK | u64::from(Signal::CHLD.number())))
}

/// Makes a child: a copy, or one that has its parent's memory until it becomes another program
/// (`CLONE_VM | CLONE_VFORK`).
pub(super) fn bear(call: &mut Call<'_>, wanted: &Wanted) -> CallResult {
    let flags = wanted.flags;
    let lends = flags & CLONE_VM != 0;
    if flags & CLONE_SHARED != 0 || lends && flags & CLONE_VFORK == 0 {
        call.system.note_missing(call.process, call.task.context.number());
        return Err(Errno::NOSYS);
    }
    if flags & !CLONE_KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    let tells = match flags & CLONE_SIGNAL {
        0 => None,
        number => Some(Signal::from_number(number).ok_or(Errno::INVAL)?),
    };
    if call.system.family.tasks_beside(call.process.id) >= TASKS_MAX {
        return Err(Errno::AGAIN);
    }
    let mut context = call.task.context.clone();
    context.set_result(0);
    if wanted.stack != 0 {
        context.set_rsp(wanted.stack);
    }
    if flags & CLONE_SET_THREAD_POINTER != 0 && !context.set_fs_base(wanted.thread_pointer) {
        return Err(Errno::PERM);
    }
    let task_id = call.system.new_task_id();
    let number = task_id.number().to_le_bytes();
    if flags & CLONE_PARENT_SET_TID != 0 {
        call.write_bytes(wanted.parent_tid, &number)?;
    }
    let memory =
        if lends { call.process.memory.stand_in() } else { call.process.memory.duplicate() };
    let own = &call.process.memory;
    call.system.futexes.share(call.process.id, |address| own.shared_place(address));
    let mut memory = memory?;
    if lends {
        core::mem::swap(&mut call.process.memory, &mut memory);
    }
    let id = ProcessId::from_number(task_id.number());
    let mut child = call.process.child(id, memory);
    if flags & CLONE_CHILD_SET_TID != 0 {
        // As on Linux nobody hears of an address that is none.
        let _ = child.memory.write(wanted.child_tid, &number);
    }
    let mut task = Task::new(task_id, id, context);
    task.extended = call.task.extended.duplicate();
    task.blocked = call.task.blocked;
    task.stack = call.task.stack;
    task.name = call.task.name;
    if flags & CLONE_CHILD_CLEAR_TID != 0 {
        task.clear_at_end = wanted.child_tid;
    }
    call.system.family.bear(call.process.id, id, tells);
    if lends {
        call.process.lends = Some(call.task.id);
        child.lender = Some(call.task.id);
    }
    call.system.effects.push(Effect::Bear(Box::new(child), Box::new(task)));
    if lends { Ok(Answer::Waits) } else { value(id.number()) }
}

impl Process {
    /// A child with this memory, which has all else that its parent has.
    fn child(&self, id: ProcessId, memory: Memory) -> Self {
        Self {
            id,
            container: self.container,
            memory,
            descriptors: self.descriptors.clone(),
            view: self.view.clone(),
            network: Rc::clone(&self.network),
            actions: self.actions.clone(),
            pending: crate::signal::Pending::default(),
            tasks: Vec::new(),
            executable: self.executable.clone(),
            command_line: self.command_line.clone(),
            run_nanos: 0,
            run_nanos_before: 0,
            children: self.children.world().event(),
            children_nanos: 0,
            descendants_nanos: 0,
            lends: None,
            lender: None,
            alarm: crate::process::Schedule::NONE,
            timers: crate::process::Timers::default(),
            has_overflowed: false,
            missing: self.missing.clone(),
            rewind: crate::process::Rewind::Never,
        }
    }
}

pub(super) fn execve(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    execute(call, &at, 1)
}

pub(super) fn execveat(call: &mut Call<'_>) -> CallResult {
    let flags = call.unsigned_argument(4);
    let at = At::read(call, 0)?;
    if flags & !(EMPTY_PATH | NO_FOLLOW) != 0 || flags & NO_FOLLOW != 0 && !at.path.is_empty() {
        return Err(Errno::INVAL);
    }
    if at.path.is_empty() && flags & EMPTY_PATH == 0 {
        return Err(Errno::NOENT);
    }
    execute(call, &at, 2)
}

/// Makes the process another program, whose arguments are at argument `first` of the call.
fn execute(call: &mut Call<'_>, at: &At, first: usize) -> CallResult {
    let mut room = usize::try_from(ARGUMENT_BYTES_MAX).unwrap_or(usize::MAX);
    let mut arguments = read_list(call, call.argument(first), &mut room)?;
    let environment = read_list(call, call.argument(first + 1), &mut room)?;
    if arguments.is_empty() {
        arguments.push(Vec::new());
    }
    let file = match &at.directory {
        Some(file) if at.path.is_empty() => Rc::clone(file),
        _ => open(call, at.directory(), &at.path)?,
    };
    let path = if at.path.is_empty() { file.path() } else { at.path.clone() };
    let account = Rc::clone(call.process.memory.account());
    let named = |path: &[u8]| open(call, None, path);
    let executable = Executable::read(file, path, arguments, &named).map_err(LoadError::errno)?;
    let image = call.system.load(&executable, account, false)?;
    let Executable { path, arguments, binary, .. } = &executable;
    let arguments = Arguments { path, arguments, environment: &environment, held: None };
    let loaded = image.furnish(&arguments, &call.system.world).map_err(LoadError::errno)?;
    let process = &mut *call.process;
    let old = core::mem::replace(&mut process.memory, loaded.memory);
    match process.lender.take() {
        Some(lender) => {
            call.system.effects.push(Effect::GiveBack(lender, Box::new(old), process.id));
        }
        None => drop(old),
    }
    process.become_program(binary.file.path(), arguments.arguments);
    call.task.become_program(loaded.context, path);
    call.system.family.execute(process.id);
    if process.tasks.len() > 1 || call.task.id.number() != process.id.number() {
        call.system.effects.push(Effect::EndOthers(call.task.id));
    }
    Ok(Answer::Replaced)
}

fn open(call: &Call<'_>, directory: Option<&OpenFile>, path: &[u8]) -> Result<Rc<OpenFile>, Errno> {
    with_caller(call, |view, caller| view.open(caller, directory, path, 0, 0))
}

/// A list of texts that ends with a null pointer; its texts and pointers are taken off `room`.
fn read_list(call: &mut Call<'_>, address: u64, room: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut list = Vec::new();
    if address == 0 {
        return Ok(list);
    }
    loop {
        let at = address.wrapping_add(list.len() as u64 * 8);
        let text = u64::from_le_bytes(call.read_bytes(at)?);
        if text == 0 {
            return Ok(list);
        }
        let mut bytes = Vec::new();
        let read = call.process.memory.read_text(text, *room, &mut bytes);
        read.map_err(|error| if error == Errno::NAMETOOLONG { Errno::TOOBIG } else { error })?;
        *room = room.checked_sub(bytes.len() + 1 + 8).ok_or(Errno::TOOBIG)?;
        list.push(bytes);
    }
}

/// Whose children a number means: as `wait4` and `kill` have it.
pub(super) fn whose(call: &Call<'_>, number: i32) -> Result<Whose, Errno> {
    let own = call.process.id;
    Ok(match number {
        -1 => Whose::Any,
        0 => Whose::Group(call.system.family.place(own, own)?.0),
        1.. => Whose::One(ProcessId::from_number(number.cast_unsigned())),
        _ => Whose::Group(ProcessId::from_number(number.unsigned_abs())),
    })
}

/// Waits for one of these children to be over. `None`: `options` say not to wait for one that lives.
fn await_child(
    call: &mut Call<'_>,
    whose: Whose,
    options: u32,
) -> Result<Result<Option<Dead>, Answer>, Errno> {
    match call.system.family.ask(call.process.id, whose, false) {
        Children::None => Err(Errno::CHILD),
        Children::Dead(dead) if options & WAIT_EXITED != 0 => Ok(Ok(Some(dead))),
        Children::Live | Children::Dead(_) if options & WAIT_NO_HANG != 0 => Ok(Ok(None)),
        Children::Live | Children::Dead(_) => {
            call.wait_for(call.process.children.id());
            Ok(Err(call.block()))
        }
    }
}

/// The child has been asked for.
fn take_leave(call: &mut Call<'_>, dead: Dead) {
    call.process.children_nanos += dead.run_nanos;
    call.system.family.forget(dead.id);
}

fn write_usage(call: &mut Call<'_>, address: u64, run_nanos: u64) -> Result<(), Errno> {
    if address == 0 {
        return Ok(());
    }
    let mut bytes = [0; 144];
    bytes[..16].copy_from_slice(&encode_timeval(run_nanos));
    call.write_bytes(address, &bytes)
}

pub(super) fn wait4(call: &mut Call<'_>) -> CallResult {
    let (status_at, options, usage_at) =
        (call.argument(1), call.unsigned_argument(2), call.argument(3));
    if options & !(WAIT_NO_HANG | WAIT_STOPPED | WAIT_CONTINUED | WAIT_KINDS) != 0 {
        return Err(Errno::INVAL);
    }
    let whose = whose(call, call.int_argument(0))?;
    let dead = match await_child(call, whose, options | WAIT_EXITED)? {
        Ok(Some(dead)) => dead,
        Ok(None) => return DONE,
        Err(answer) => return Ok(answer),
    };
    if status_at != 0 {
        call.write_bytes(status_at, &dead.parting.wait_status().to_le_bytes())?;
    }
    write_usage(call, usage_at, dead.run_nanos)?;
    take_leave(call, dead);
    value(dead.id.number())
}

pub(super) fn waitid(call: &mut Call<'_>) -> CallResult {
    let (kind, number) = (call.unsigned_argument(0), call.unsigned_argument(1));
    let (information_at, options, usage_at) =
        (call.argument(2), call.unsigned_argument(3), call.argument(4));
    let changes = WAIT_EXITED | WAIT_STOPPED | WAIT_CONTINUED;
    let known = changes | WAIT_NO_HANG | WAIT_KEEP | WAIT_KINDS;
    if options & !known != 0 || options & changes == 0 {
        return Err(Errno::INVAL);
    }
    let id = ProcessId::from_number(number);
    let whose = match kind {
        0 => Whose::Any,
        1 if number != 0 => Whose::One(id),
        2 if number == 0 => whose(call, 0)?,
        2 => Whose::Group(id),
        _ => return Err(Errno::INVAL),
    };
    let dead = match await_child(call, whose, options)? {
        Ok(dead) => dead,
        Err(answer) => return Ok(answer),
    };
    if information_at != 0 {
        let bytes = dead.map(|dead| dead.parting.information(dead.id, Signal::CHLD).encode());
        call.write_bytes(information_at, &bytes.unwrap_or([0; 128]))?;
    }
    if let Some(dead) = dead {
        write_usage(call, usage_at, dead.run_nanos)?;
        if options & WAIT_KEEP == 0 {
            take_leave(call, dead);
        }
    }
    DONE
}

#[cfg(test)]
mod tests;
