//! Pipes: 64 KiB between a reading and a writing end.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::byte_queue::ByteQueue;
use super::flags::{self, ready};
use super::stat::{Stat, kind};
use super::{Keeping, Notifier, Object, OpenFile};
use crate::errno::Errno;
use crate::memory::Account;
use crate::memory::transfer::{Sink, Source};
use crate::world::World;

/// Bytes a pipe holds (`pipe(7)`).
pub const PIPE_BYTES: usize = 64 * 1024;
/// Writes up to this size are never interleaved with others (`PIPE_BUF`).
pub const ATOMIC_BYTES: usize = 4096;

struct Shared {
    queue: RefCell<ByteQueue>,
    has_reader: Cell<bool>,
    has_writer: Cell<bool>,
    notifier: Notifier,
}

impl Shared {
    fn stat(&self) -> Stat {
        Stat::plain(kind::PIPE, 0o600, self.notifier.id().number())
    }

    fn path(&self) -> Vec<u8> {
        format!("pipe:[{}]", self.notifier.id().number()).into_bytes()
    }
}

struct Reader(Rc<Shared>);

struct Writer(Rc<Shared>);

/// A pipe whose bytes `account` pays for: its reading end, then its writing end. Of `flags` only
/// the status flags count.
#[must_use]
pub fn pipe(world: &World, account: &Rc<Account>, flags: u32) -> (Rc<OpenFile>, Rc<OpenFile>) {
    let shared = Rc::new(Shared {
        queue: RefCell::new(ByteQueue::charged(PIPE_BYTES, account)),
        has_reader: Cell::new(true),
        has_writer: Cell::new(true),
        notifier: Notifier::new(world),
    });
    let status = flags & flags::SETTABLE;
    let reader = OpenFile::new(Rc::new(Reader(Rc::clone(&shared))), status);
    let writer = OpenFile::new(Rc::new(Writer(shared)), status | flags::WRITE_ONLY);
    (reader, writer)
}

impl Shared {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        let (front, back) = {
            let queue = self.queue.borrow();
            let (front, back) = queue.parts();
            (front.to_vec(), back.to_vec())
        };
        let bytes = [front, back].concat();
        Some(Box::new(move || {
            let mut queue = self.queue.borrow_mut();
            queue.clear();
            // They were in it: there is room for them.
            let is_kept = queue.push(&bytes).is_ok();
            debug_assert!(is_kept, "a queue takes what it held");
        }))
    }
}

impl Object for Reader {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        Rc::clone(&self.0).keep()
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let mut queue = self.0.queue.borrow_mut();
        if sink.remaining() == 0 {
            return Ok(0);
        }
        if queue.is_empty() {
            return if self.0.has_writer.get() { Err(Errno::AGAIN) } else { Ok(0) };
        }
        let count = queue.drain_into(sink)?;
        self.0.notifier.raise();
        Ok(count)
    }

    fn readiness(&self) -> u32 {
        let bytes = if self.0.queue.borrow().is_empty() { 0 } else { ready::IN };
        let end = if self.0.has_writer.get() { 0 } else { ready::HUP };
        bytes | end
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.0.notifier);
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        Ok(self.0.queue.borrow().length())
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(self.0.stat())
    }

    fn path(&self) -> Vec<u8> {
        self.0.path()
    }
}

impl Object for Writer {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        Rc::clone(&self.0).keep()
    }

    fn write(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        if !self.0.has_reader.get() {
            return Err(Errno::PIPE);
        }
        let mut queue = self.0.queue.borrow_mut();
        if source.remaining() == 0 {
            return Ok(0);
        }
        let needed = if source.remaining() <= ATOMIC_BYTES { source.remaining() } else { 1 };
        if queue.room() < needed {
            return Err(Errno::AGAIN);
        }
        let count = queue.fill_from(source)?;
        self.0.notifier.raise();
        Ok(count)
    }

    fn readiness(&self) -> u32 {
        let room = self.0.queue.borrow().room() >= ATOMIC_BYTES;
        let bytes = if room { ready::OUT } else { 0 };
        let end = if self.0.has_reader.get() { 0 } else { ready::ERR };
        bytes | end
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.0.notifier);
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        Ok(self.0.queue.borrow().length())
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(self.0.stat())
    }

    fn path(&self) -> Vec<u8> {
        self.0.path()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.has_reader.set(false);
        self.0.queue.borrow_mut().clear();
        self.0.notifier.raise();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.has_writer.set(false);
        self.0.notifier.raise();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &OpenFile, count: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = std::vec![0; count];
        let read = file.read(&mut Sink::kernel(&mut bytes))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    #[test]
    fn an_empty_pipe_waits_while_somebody_may_write() {
        let (reader, writer) = pipe(&World::new(), &Account::new(1 << 20), 0);
        assert_eq!(read(&reader, 4), Err(Errno::AGAIN));
        assert_eq!(writer.write(&mut Source::kernel(b"hello")), Ok(5));
        assert_eq!(reader.readable_bytes(), Ok(5));
        assert_eq!(read(&reader, 4), Ok(b"hell".to_vec()));
        drop(writer);
        assert_eq!(reader.readiness(), ready::IN | ready::HUP);
        assert_eq!(read(&reader, 4), Ok(b"o".to_vec()));
        assert_eq!(read(&reader, 4), Ok(Vec::new()));
        assert_eq!(reader.readiness(), ready::HUP);
    }

    #[test]
    fn small_writes_are_whole_or_not_at_all() {
        let (reader, writer) = pipe(&World::new(), &Account::new(1 << 20), 0);
        let block = std::vec![7; PIPE_BYTES - 100];
        assert_eq!(writer.write(&mut Source::kernel(&block)), Ok(block.len()));
        assert_eq!(writer.readiness(), 0);
        assert_eq!(writer.write(&mut Source::kernel(&[1; 101])), Err(Errno::AGAIN));
        assert_eq!(writer.write(&mut Source::kernel(&[1; 5000])), Ok(100));
        assert_eq!(read(&reader, PIPE_BYTES).unwrap().len(), PIPE_BYTES);
        assert_eq!(writer.readiness(), ready::OUT);
    }

    #[test]
    fn writing_without_a_reader_is_a_broken_pipe() {
        let (reader, writer) = pipe(&World::new(), &Account::new(1 << 20), 0);
        assert_eq!(reader.write(&mut Source::kernel(b"x")), Err(Errno::BADF));
        drop(reader);
        assert_eq!(writer.write(&mut Source::kernel(b"x")), Err(Errno::PIPE));
        assert_eq!(writer.readiness(), ready::OUT | ready::ERR);
    }

    #[test]
    fn each_side_notices_what_the_other_did() {
        let world = World::new();
        let (reader, writer) = pipe(&world, &Account::new(1 << 20), 0);
        let mut ids = Vec::new();
        reader.objects(&mut |id| ids.push(id));
        writer.write(&mut Source::kernel(b"x")).unwrap();
        assert_eq!(world.take_raised(), ids.first().copied());
        drop(writer);
        assert_eq!(world.take_raised(), ids.first().copied());
        assert_eq!(reader.raises(), 2);
    }
}
