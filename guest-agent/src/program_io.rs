//! Standard input, output and error of a container's program: three bounded queues between the
//! program and the agent.
//!
//! ```text
//!   agent ─ body ─► input ─► read(0)
//!   agent ◄─ response ─ output ◄─ write(1)        each full queue lets its writer wait
//!   agent ◄─ log ─ errors ◄─ write(2)
//! ```
//! To a program they are pipes.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::errno::Errno;
use crate::file::byte_queue::ByteQueue;
use crate::file::flags::{self, ready};
use crate::file::stat::{Stat, kind};
use crate::file::{Keeping, Notifier, Object, OpenFile, nothing_to_keep};
use crate::memory::transfer::{Sink, Source};
use crate::process::Gate;
use crate::world::{ObjectId, World};

/// Bytes of a request body that wait for the program: all of the largest one, because the ring
/// it came through serves other containers too.
const INPUT_BYTES_MAX: usize = (6 << 20) + 4096;
/// Bytes of output or log that wait for the agent.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// Set when a program did something the agent has to look at.
pub type News = Rc<Cell<bool>>;

/// The three queues of one process.
#[derive(Debug)]
pub struct ProgramIo {
    input: RefCell<ByteQueue>,
    has_input_ended: Cell<bool>,
    /// `true` while the program is not to see what it was given.
    gate: Gate,
    output: RefCell<ByteQueue>,
    errors: RefCell<ByteQueue>,
    is_output_closed: Cell<bool>,
    input_notifier: Notifier,
    output_notifier: Notifier,
    errors_notifier: Notifier,
    news: News,
}

impl ProgramIo {
    /// Empty queues that tell `news`.
    #[must_use]
    pub fn new(world: &World, news: &News) -> Rc<Self> {
        Rc::new(Self {
            input: RefCell::new(ByteQueue::new(INPUT_BYTES_MAX)),
            has_input_ended: Cell::new(false),
            gate: Gate::default(),
            output: RefCell::new(ByteQueue::new(OUTPUT_BYTES_MAX)),
            errors: RefCell::new(ByteQueue::new(OUTPUT_BYTES_MAX)),
            is_output_closed: Cell::new(false),
            input_notifier: Notifier::new(world),
            output_notifier: Notifier::new(world),
            errors_notifier: Notifier::new(world),
            news: Rc::clone(news),
        })
    }

    /// The files a program starts with as 0, 1 and 2.
    #[must_use]
    pub fn files(self: &Rc<Self>) -> [Rc<OpenFile>; 3] {
        [
            OpenFile::new(Rc::new(Input(Rc::clone(self))), 0),
            OpenFile::new(Rc::new(Output(Rc::clone(self))), flags::WRITE_ONLY),
            OpenFile::new(Rc::new(Errors(Rc::clone(self))), flags::WRITE_ONLY),
        ]
    }

    /// What a program waits for that waits for its input.
    #[must_use]
    pub fn input_id(&self) -> ObjectId {
        self.input_notifier.id()
    }

    /// Lets the program see its input.
    pub fn open_gate(&self) {
        self.gate.set(false);
        self.input_notifier.raise();
    }

    /// What keeps its input from the program while it is `true`; at first it does not.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Empties all queues, for the next request of the same program.
    pub fn clear(&self) {
        self.has_input_ended.set(false);
        for queue in [&self.input, &self.output, &self.errors] {
            queue.borrow_mut().clear();
        }
    }

    /// Gives the program bytes to read.
    ///
    /// # Errors
    /// [`Errno::NOBUFS`] or [`Errno::NOMEM`] when they cannot be kept.
    pub fn give(&self, bytes: &[u8]) -> Result<(), Errno> {
        self.input.borrow_mut().push(bytes)?;
        self.input_notifier.raise();
        Ok(())
    }

    /// Nothing more will be given.
    pub fn end_input(&self) {
        self.has_input_ended.set(true);
        self.input_notifier.raise();
    }

    /// Whether the program has closed its output.
    #[must_use]
    pub fn is_output_closed(&self) -> bool {
        self.is_output_closed.get()
    }

    /// Bytes of output that wait.
    #[must_use]
    pub fn output_length(&self) -> usize {
        self.output.borrow().length()
    }

    /// Shows the oldest `count` bytes of output, in two pieces, and drops them.
    pub fn take_output<T>(&self, count: usize, take: impl FnOnce(&[u8], &[u8]) -> T) -> T {
        let mut output = self.output.borrow_mut();
        let (front, back) = output.first(count);
        let result = take(front, back);
        output.consume(count);
        drop(output);
        self.output_notifier.raise();
        result
    }

    /// Copies the next log record of at most `record` bytes, without its line end, and returns
    /// its length and whether the line goes on. A line that is neither full nor ended stays,
    /// unless `is_last`: then nothing will follow it.
    pub fn take_record(&self, record: &mut [u8], is_last: bool) -> Option<(usize, bool)> {
        let mut errors = self.errors.borrow_mut();
        // One more for the line end of a line that just fills the record.
        let (front, back) = errors.first(record.len() + 1);
        let length = front.len() + back.len();
        let mut bytes = front.iter().chain(back);
        let end = bytes.position(|byte| *byte == b'\n');
        let (count, taken, has_more) = match end {
            Some(end) => (end, end + 1, false),
            None if length > record.len() => (record.len(), record.len(), true),
            None if is_last && length > 0 => (length, length, false),
            None => return None,
        };
        for (to, from) in record[..count].iter_mut().zip(front.iter().chain(back)) {
            *to = *from;
        }
        errors.consume(taken);
        drop(errors);
        self.errors_notifier.raise();
        Some((count, has_more))
    }

    /// Whether [`ProgramIo::take_record`] has something to give.
    #[must_use]
    pub fn has_record(&self, is_last: bool) -> bool {
        let errors = self.errors.borrow();
        let (front, back) = errors.parts();
        (is_last && !errors.is_empty()) || front.contains(&b'\n') || back.contains(&b'\n')
    }
}

struct Input(Rc<ProgramIo>);
struct Output(Rc<ProgramIo>);
struct Errors(Rc<ProgramIo>);

fn stat_of(notifier: &Notifier) -> Stat {
    Stat::plain(kind::PIPE, 0o600, notifier.id().number())
}

fn path_of(notifier: &Notifier) -> Vec<u8> {
    format!("pipe:[{}]", notifier.id().number()).into_bytes()
}

impl Object for Input {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        nothing_to_keep()
    }

    fn read(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        if self.0.gate.get() {
            return Err(Errno::AGAIN);
        }
        let mut input = self.0.input.borrow_mut();
        if input.is_empty() && sink.remaining() > 0 && !self.0.has_input_ended.get() {
            return Err(Errno::AGAIN);
        }
        input.drain_into(sink)
    }

    fn readiness(&self) -> u32 {
        if self.0.gate.get() {
            return 0;
        }
        let bytes = if self.0.input.borrow().is_empty() { 0 } else { ready::IN };
        let end = if self.0.has_input_ended.get() { ready::HUP } else { 0 };
        bytes | end
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.0.input_notifier);
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        Ok(self.0.input.borrow().length())
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(stat_of(&self.0.input_notifier))
    }

    fn path(&self) -> Vec<u8> {
        path_of(&self.0.input_notifier)
    }
}

fn write(queue: &RefCell<ByteQueue>, news: &News, source: &mut Source<'_>) -> Result<usize, Errno> {
    let mut queue = queue.borrow_mut();
    if source.remaining() == 0 {
        return Ok(0);
    }
    if queue.room() == 0 {
        return Err(Errno::AGAIN);
    }
    let count = queue.fill_from(source)?;
    news.set(true);
    Ok(count)
}

fn writable(queue: &RefCell<ByteQueue>) -> u32 {
    if queue.borrow().room() > 0 { ready::OUT } else { 0 }
}

impl Object for Output {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        nothing_to_keep()
    }

    fn write(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        write(&self.0.output, &self.0.news, source)
    }

    fn readiness(&self) -> u32 {
        writable(&self.0.output)
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.0.output_notifier);
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(stat_of(&self.0.output_notifier))
    }

    fn path(&self) -> Vec<u8> {
        path_of(&self.0.output_notifier)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.0.is_output_closed.set(true);
        self.0.news.set(true);
    }
}

impl Object for Errors {
    fn keep(self: Rc<Self>) -> Option<Keeping> {
        nothing_to_keep()
    }

    fn write(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        write(&self.0.errors, &self.0.news, source)
    }

    fn readiness(&self) -> u32 {
        writable(&self.0.errors)
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.0.errors_notifier);
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(stat_of(&self.0.errors_notifier))
    }

    fn path(&self) -> Vec<u8> {
        path_of(&self.0.errors_notifier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(io: &Rc<ProgramIo>, bytes: &[u8]) {
        let [_, _, errors] = io.files();
        assert_eq!(errors.write(&mut Source::kernel(bytes)), Ok(bytes.len()));
    }

    #[test]
    fn log_lines_are_cut_at_their_ends_and_at_the_record_size() {
        let io = ProgramIo::new(&World::new(), &News::default());
        log(&io, b"one\n\nlonger than eight\nexactly8\nrest");
        let mut records = std::vec::Vec::new();
        let mut record = [0; 8];
        for is_last in [false, true] {
            while let Some((count, has_more)) = io.take_record(&mut record, is_last) {
                let text = std::string::String::from_utf8(record[..count].to_vec()).unwrap();
                records.push((text, has_more));
            }
            if !is_last {
                assert_eq!(records.len(), 6, "the rest is not ended yet");
            }
        }
        let expected =
            [("one", false), ("", false), ("longer t", true), ("han eigh", true), ("t", false)];
        for ((text, more), (expected, expected_more)) in records.iter().zip(expected) {
            assert_eq!((text.as_str(), *more), (expected, expected_more));
        }
        assert_eq!(records[5..], [("exactly8".into(), false), ("rest".into(), false)]);
    }

    #[test]
    fn input_is_read_to_its_end_and_output_waits_when_full() {
        let (world, news) = (World::new(), News::default());
        let io = ProgramIo::new(&world, &news);
        let [input, output, _] = io.files();
        let mut room = [0; 8];
        assert_eq!(input.read(&mut Sink::kernel(&mut room)), Err(Errno::AGAIN));
        io.give(b"body").unwrap();
        io.end_input();
        assert_eq!(input.read(&mut Sink::kernel(&mut room)), Ok(4));
        assert_eq!(input.read(&mut Sink::kernel(&mut room)), Ok(0));
        let bytes = std::vec![7; OUTPUT_BYTES_MAX + 1];
        assert_eq!(output.write(&mut Source::kernel(&bytes)), Ok(OUTPUT_BYTES_MAX));
        assert_eq!(output.write(&mut Source::kernel(&bytes)), Err(Errno::AGAIN));
        assert!(news.take());
        let length = io.take_output(100, |front, back| front.len() + back.len());
        assert_eq!((length, output.readiness()), (100, ready::OUT));
        drop(output);
        assert!(io.is_output_closed() && news.take());
    }
}
