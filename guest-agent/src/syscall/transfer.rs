//! `read`, `write` and their kind.

use alloc::rc::Rc;

use machine::clock::monotonic_nanos;

use super::{CallResult, value};
use crate::errno::Errno;
use crate::file::{OpenFile, flags};
use crate::memory::{Sink, Source, Vectors};
use crate::process::{Answer, Call};
use crate::signal::{CODE_KERNEL, Information, Signal};
use crate::time::after;

pub(super) fn read(call: &mut Call<'_>) -> CallResult {
    let vectors = Vectors::single(call.argument(1), call.argument(2));
    read_into(call, &vectors)
}

pub(super) fn readv(call: &mut Call<'_>) -> CallResult {
    let vectors = vectors(call)?;
    read_into(call, &vectors)
}

pub(super) fn write(call: &mut Call<'_>) -> CallResult {
    let vectors = Vectors::single(call.argument(1), call.argument(2));
    write_from(call, &vectors)
}

pub(super) fn writev(call: &mut Call<'_>) -> CallResult {
    let vectors = vectors(call)?;
    write_from(call, &vectors)
}

pub(super) fn pread64(call: &mut Call<'_>) -> CallResult {
    let vectors = Vectors::single(call.argument(1), call.argument(2));
    read_at(call, &vectors)
}

pub(super) fn preadv(call: &mut Call<'_>) -> CallResult {
    let vectors = vectors(call)?;
    read_at(call, &vectors)
}

pub(super) fn pwrite64(call: &mut Call<'_>) -> CallResult {
    let vectors = Vectors::single(call.argument(1), call.argument(2));
    write_at(call, &vectors)
}

pub(super) fn pwritev(call: &mut Call<'_>) -> CallResult {
    let vectors = vectors(call)?;
    write_at(call, &vectors)
}

/// `preadv2`: position -1 is the file's own; flags are hints or not offered.
pub(super) fn preadv2(call: &mut Call<'_>) -> CallResult {
    check_transfer_flags(call)?;
    if call.argument(3) == u64::MAX { readv(call) } else { preadv(call) }
}

/// As [`preadv2`].
pub(super) fn pwritev2(call: &mut Call<'_>) -> CallResult {
    check_transfer_flags(call)?;
    if call.argument(3) == u64::MAX { writev(call) } else { pwritev(call) }
}

/// HIPRI, DSYNC and SYNC hold for files in memory anyway.
fn check_transfer_flags(call: &Call<'_>) -> Result<(), Errno> {
    if call.unsigned_argument(5) & !7 == 0 { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

pub(super) fn lseek(call: &mut Call<'_>) -> CallResult {
    let file = file(call)?;
    let offset = call.argument(1).cast_signed();
    value(file.seek(offset, call.unsigned_argument(2))?)
}

/// The file behind the descriptor in the first argument.
pub(super) fn file(call: &Call<'_>) -> Result<Rc<OpenFile>, Errno> {
    call.process.descriptors.get(call.int_argument(0))
}

/// Waits for a file to become ready, unless it must not, or (a socket) no longer.
///
/// # Errors
/// [`Errno::AGAIN`] when the file is not to wait.
pub(super) fn wait_for_file(call: &mut Call<'_>, file: &OpenFile, is_write: bool) -> CallResult {
    if file.flags() & flags::NONBLOCK != 0 {
        return Err(Errno::AGAIN);
    }
    if let Some(socket) = file.socket() {
        let (receive, send) = socket.timeouts_nanos();
        call.deadline(after(monotonic_nanos(), if is_write { send } else { receive }));
        if call.is_late() {
            return Err(Errno::AGAIN);
        }
    }
    file.objects(&mut |object| call.wait_for(object));
    Ok(call.block())
}

fn vectors(call: &mut Call<'_>) -> Result<Vectors, Errno> {
    let (address, count) = (call.argument(1), call.argument(2));
    Vectors::read(&mut call.process.memory, address, count)
}

fn read_into(call: &mut Call<'_>, vectors: &Vectors) -> CallResult {
    let file = file(call)?;
    match file.read(&mut Sink::user(&mut call.process.memory, vectors, 0)) {
        Ok(count) => value(count),
        Err(Errno::AGAIN) => wait_for_file(call, &file, false),
        Err(error) => Err(error),
    }
}

fn read_at(call: &mut Call<'_>, vectors: &Vectors) -> CallResult {
    let file = file(call)?;
    let offset = offset(call)?;
    value(file.read_at(offset, &mut Sink::user(&mut call.process.memory, vectors, 0))?)
}

fn write_at(call: &mut Call<'_>, vectors: &Vectors) -> CallResult {
    let file = file(call)?;
    let offset = offset(call)?;
    value(file.write_at(offset, &mut Source::user(&mut call.process.memory, vectors, 0))?)
}

fn offset(call: &Call<'_>) -> Result<u64, Errno> {
    let offset = call.argument(3);
    if i64::try_from(offset).is_err() { Err(Errno::INVAL) } else { Ok(offset) }
}

fn write_from(call: &mut Call<'_>, vectors: &Vectors) -> CallResult {
    let file = file(call)?;
    write_all(call, &file, vectors, |file, source| file.write(source), true)
}

/// Writes until everything is written; a file that is not to wait, or a signal, ends it early
/// with what was written so far.
pub(super) fn write_all(
    call: &mut Call<'_>,
    file: &OpenFile,
    vectors: &Vectors,
    mut write: impl FnMut(&OpenFile, &mut Source<'_>) -> Result<usize, Errno>,
    may_wait: bool,
) -> CallResult {
    let total = vectors.bytes();
    loop {
        let done = call.task.call.progress;
        let mut source = Source::user(&mut call.process.memory, vectors, done);
        match write(file, &mut source) {
            Ok(count) => {
                let done = done + count as u64;
                call.task.call.progress = done;
                if done >= total || count == 0 {
                    return value(done);
                }
            }
            Err(Errno::AGAIN) if !may_wait && done == 0 => return Err(Errno::AGAIN),
            Err(Errno::AGAIN) if !may_wait => return value(done),
            Err(error) => return write_stopped(call, file, error, done),
        }
    }
}

fn write_stopped(call: &mut Call<'_>, file: &OpenFile, error: Errno, done: u64) -> CallResult {
    match error {
        Errno::AGAIN => match wait_for_file(call, file, true) {
            Err(_) | Ok(Answer::Interrupted) if done != 0 => value(done),
            answer => answer,
        },
        _ if done != 0 => value(done),
        Errno::PIPE => {
            let pid = u64::from(call.process.id.number());
            let information =
                Information { signal: Signal::PIPE, code: CODE_KERNEL, value: pid, data: 0 };
            if !call.process.actions.ignores(Signal::PIPE) {
                call.task.pending.add(information);
            }
            Err(Errno::PIPE)
        }
        other => Err(other),
    }
}
