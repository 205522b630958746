//! Socket calls.

use super::descriptor::insert_pair;
use super::transfer::{file, wait_for_file, write_all};
use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::file::{OpenFile, flags};
use crate::memory::{Sink, Vectors};
use crate::process::{Answer, Call};
use crate::socket::{Name, Socket, SocketAddress};

/// `SOCK_CLOEXEC` is `O_CLOEXEC`.
const CLOSE_ON_EXEC: u32 = flags::CLOSE_ON_EXEC;
/// `MSG_DONTWAIT`.
const DO_NOT_WAIT: u32 = 0x40;
/// `MSG_WAITALL`.
const WAIT_FOR_ALL: u32 = 0x100;
/// `MSG_OOB`, `MSG_ERRQUEUE`: there is neither.
const UNKNOWN_FLAGS: u32 = 1 | 0x2000;
/// Bytes of the largest address read.
const ADDRESS_BYTES_MAX: usize = 28;
/// Bytes of the largest option read.
const OPTION_BYTES_MAX: usize = 16;
/// Bytes of a `struct msghdr`.
const MESSAGE_BYTES: usize = 56;

fn socket_of(file: &OpenFile) -> Result<&Socket, Errno> {
    file.socket().ok_or(Errno::NOTSOCK)
}

pub(super) fn socket(call: &mut Call<'_>) -> CallResult {
    let (domain, kind) = (call.unsigned_argument(0), call.unsigned_argument(1));
    let protocol = call.unsigned_argument(2);
    let file = call.process.network.socket(domain, kind, protocol)?;
    value(call.process.descriptors.insert(file, kind & CLOSE_ON_EXEC != 0, 0)?)
}

pub(super) fn socketpair(call: &mut Call<'_>) -> CallResult {
    let (domain, kind) = (call.unsigned_argument(0), call.unsigned_argument(1));
    let protocol = call.unsigned_argument(2);
    let pair = call.process.network.socket_pair(domain, kind, protocol)?;
    insert_pair(call, pair, kind & CLOSE_ON_EXEC != 0, 3)
}

fn read_address(call: &mut Call<'_>, address: u64, length: u32) -> Result<SocketAddress, Errno> {
    let length = usize::try_from(length).map_err(|_| Errno::INVAL)?;
    let mut bytes = [0; ADDRESS_BYTES_MAX];
    let bytes = &mut bytes[..length.min(ADDRESS_BYTES_MAX)];
    call.process.memory.read(address, bytes)?;
    SocketAddress::decode(bytes)
}

/// Writes as much of an address as there is room for, and its whole length.
fn write_address(call: &mut Call<'_>, found: &Name, address: u64, length_at: u64) -> CallResult {
    if address == 0 {
        return DONE;
    }
    let room = u32::from_le_bytes(call.read_bytes(length_at)?);
    let (bytes, length) = found.encode();
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(length);
    call.write_bytes(address, &bytes[..room])?;
    let length = u32::try_from(length).map_err(|_| Errno::INVAL)?;
    call.write_bytes(length_at, &length.to_le_bytes())?;
    DONE
}

pub(super) fn connect(call: &mut Call<'_>) -> CallResult {
    let file = file(call)?;
    let socket = socket_of(&file)?;
    if call.task.call.has_waited {
        return match socket.connect_result() {
            Err(Errno::AGAIN) => wait_for_file(call, &file, true),
            result => result.map(|()| Answer::Value(0)),
        };
    }
    let (address, length) = (call.argument(1), call.unsigned_argument(2));
    let address = read_address(call, address, length)?;
    match socket.connect(&address) {
        Err(Errno::INPROGRESS) if file.flags() & flags::NONBLOCK == 0 => {
            wait_for_file(call, &file, true)
        }
        result => result.map(|()| Answer::Value(0)),
    }
}

pub(super) fn bind(call: &mut Call<'_>) -> CallResult {
    let file = file(call)?;
    let socket = socket_of(&file)?;
    let (address, length) = (call.argument(1), call.unsigned_argument(2));
    socket.bind(&read_address(call, address, length)?)?;
    DONE
}

pub(super) fn listen(call: &mut Call<'_>) -> CallResult {
    let backlog = call.unsigned_argument(1);
    socket_of(&*file(call)?)?.listen(backlog)?;
    DONE
}

pub(super) fn accept(call: &mut Call<'_>) -> CallResult {
    accept_with(call, 0)
}

pub(super) fn accept4(call: &mut Call<'_>) -> CallResult {
    let accept_flags = call.unsigned_argument(3);
    if accept_flags & !(CLOSE_ON_EXEC | flags::NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    accept_with(call, accept_flags)
}

fn accept_with(call: &mut Call<'_>, accept_flags: u32) -> CallResult {
    let file = file(call)?;
    let (accepted, peer) = match socket_of(&file)?.accept(accept_flags) {
        Err(Errno::AGAIN) => return wait_for_file(call, &file, false),
        accepted => accepted?,
    };
    let (address, length_at) = (call.argument(1), call.argument(2));
    let closes = accept_flags & CLOSE_ON_EXEC != 0;
    let descriptor = call.process.descriptors.insert(accepted, closes, 0)?;
    if let Err(error) = write_address(call, &peer, address, length_at) {
        call.process.descriptors.remove(descriptor)?;
        return Err(error);
    }
    value(descriptor)
}

pub(super) fn sendto(call: &mut Call<'_>) -> CallResult {
    let vectors = Vectors::single(call.argument(1), call.argument(2));
    let send_flags = call.unsigned_argument(3);
    send(call, &vectors, send_flags)
}

pub(super) fn sendmsg(call: &mut Call<'_>) -> CallResult {
    let message = Message::read(call)?;
    if message.control_bytes != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let send_flags = call.unsigned_argument(2);
    send(call, &message.vectors, send_flags)
}

fn send(call: &mut Call<'_>, vectors: &Vectors, send_flags: u32) -> CallResult {
    /// `MSG_NOSIGNAL`.
    const NO_SIGNAL: u32 = 0x4000;
    let file = file(call)?;
    socket_of(&file)?;
    if send_flags & UNKNOWN_FLAGS != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let is_waiting = send_flags & DO_NOT_WAIT == 0;
    let pending = call.task.pending.set();
    let result =
        write_all(call, &file, vectors, |file, source| socket_of(file)?.send(source), is_waiting);
    if send_flags & NO_SIGNAL != 0 && result == Err(Errno::PIPE) {
        let signal = crate::signal::Signal::PIPE;
        if !pending.contains(signal) {
            call.task.pending.remove(signal);
        }
    }
    result
}

pub(super) fn recvfrom(call: &mut Call<'_>) -> CallResult {
    let vectors = Vectors::single(call.argument(1), call.argument(2));
    let receive_flags = call.unsigned_argument(3);
    let answer = receive(call, &vectors, receive_flags)?;
    if let Answer::Value(_) = answer
        && call.argument(4) != 0
    {
        // A connected stream does not say where its bytes come from.
        let length_at = call.argument(5);
        call.write_bytes(length_at, &[0; 4])?;
    }
    Ok(answer)
}

pub(super) fn recvmsg(call: &mut Call<'_>) -> CallResult {
    let message = Message::read(call)?;
    let receive_flags = call.unsigned_argument(2);
    let answer = receive(call, &message.vectors, receive_flags)?;
    if let Answer::Value(_) = answer {
        let address = call.argument(1);
        call.write_bytes(address.wrapping_add(8), &[0; 4])?;
        call.write_bytes(address.wrapping_add(40), &[0; 8])?;
        call.write_bytes(address.wrapping_add(48), &[0; 4])?;
    }
    Ok(answer)
}

fn receive(call: &mut Call<'_>, vectors: &Vectors, receive_flags: u32) -> CallResult {
    let file = file(call)?;
    let socket = socket_of(&file)?;
    if receive_flags & UNKNOWN_FLAGS != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let is_peek = receive_flags & crate::socket::PEEK != 0;
    let wants_all = receive_flags & WAIT_FOR_ALL != 0 && !is_peek;
    loop {
        let done = call.task.call.progress;
        let mut sink = Sink::user(&mut call.process.memory, vectors, done);
        let stopped = match socket.receive(&mut sink, receive_flags) {
            Ok(count) => {
                call.task.call.progress = done + count as u64;
                let is_full = call.task.call.progress >= vectors.bytes();
                if count == 0 || is_full || !wants_all {
                    return value(call.task.call.progress);
                }
                continue;
            }
            Err(Errno::AGAIN) if receive_flags & DO_NOT_WAIT != 0 => Err(Errno::AGAIN),
            Err(Errno::AGAIN) => wait_for_file(call, &file, false),
            Err(error) => Err(error),
        };
        return match stopped {
            Err(_) | Ok(Answer::Interrupted) if done != 0 => value(done),
            stopped => stopped,
        };
    }
}

/// The parts of a `struct msghdr` that matter here.
struct Message {
    vectors: Vectors,
    control_bytes: u64,
}

impl Message {
    fn read(call: &mut Call<'_>) -> Result<Self, Errno> {
        let bytes = call.read_bytes::<MESSAGE_BYTES>(call.argument(1))?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let vectors = Vectors::read(&mut call.process.memory, word(16), word(24))?;
        Ok(Self { vectors, control_bytes: word(40) })
    }
}

pub(super) fn shutdown(call: &mut Call<'_>) -> CallResult {
    let how = call.unsigned_argument(1);
    socket_of(&*file(call)?)?.shutdown(how)?;
    DONE
}

pub(super) fn getsockname(call: &mut Call<'_>) -> CallResult {
    let found = socket_of(&*file(call)?)?.local_address();
    let (address, length_at) = (call.argument(1), call.argument(2));
    write_address(call, &found, address, length_at)
}

pub(super) fn getpeername(call: &mut Call<'_>) -> CallResult {
    let found = socket_of(&*file(call)?)?.peer_address()?;
    let (address, length_at) = (call.argument(1), call.argument(2));
    write_address(call, &found, address, length_at)
}

pub(super) fn getsockopt(call: &mut Call<'_>) -> CallResult {
    let (level, name) = (call.unsigned_argument(1), call.unsigned_argument(2));
    let (address, length_at) = (call.argument(3), call.argument(4));
    let room = u32::from_le_bytes(call.read_bytes(length_at)?);
    let found = socket_of(&*file(call)?)?.option(level, name)?;
    let count = usize::try_from(room).unwrap_or(usize::MAX).min(found.len());
    call.write_bytes(address, &found[..count])?;
    let count = u32::try_from(count).map_err(|_| Errno::INVAL)?;
    call.write_bytes(length_at, &count.to_le_bytes())?;
    DONE
}

pub(super) fn setsockopt(call: &mut Call<'_>) -> CallResult {
    let (level, name) = (call.unsigned_argument(1), call.unsigned_argument(2));
    let (address, length) = (call.argument(3), call.unsigned_argument(4));
    let file = file(call)?;
    let mut bytes = [0; OPTION_BYTES_MAX];
    let count = usize::try_from(length).map_err(|_| Errno::INVAL)?.min(OPTION_BYTES_MAX);
    call.process.memory.read(address, &mut bytes[..count])?;
    socket_of(&file)?.set_option(level, name, &bytes[..count])?;
    DONE
}
