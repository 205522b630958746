//! The bytes of one connection on their way in and out. Both buffers keep their memory, so that
//! nothing is allocated once a connection has warmed up, and both have a limit.

use abi::wire::Malformed;

use super::answer::Answer;
use super::frame::{FRAME_BYTES_MAX, Header, TooLong};

/// Bytes of an input buffer at first; most connections never carry a larger frame.
const INPUT_BYTES_MIN: usize = 16 * 1024;
/// Bytes that may wait for a client that does not read. A whole response fits, twice over.
pub(super) const OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Memory of an output buffer that is kept when it is empty: most answers never need more.
const OUTPUT_BYTES_KEPT: usize = 256 * 1024;

/// Bytes received and not yet used.
pub(crate) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// Lengths only: requests carry credentials.
impl std::fmt::Debug for Input {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Input({} bytes)", self.bytes().len())
    }
}

/// Lengths only: responses are users' data.
impl std::fmt::Debug for Output {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Output({} bytes)", self.pending().len())
    }
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; INPUT_BYTES_MIN], start: 0, end: 0 }
    }

    /// Where to receive to; empty when the buffer is full of frames nobody has taken.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let wanted = self.frame_bytes_wanted();
        if self.start > 0 && self.buffer.len() - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < wanted {
            self.buffer.resize(Header::BYTES + FRAME_BYTES_MAX, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Bytes that the frame at the front needs, as far as its header has arrived.
    fn frame_bytes_wanted(&self) -> usize {
        match Header::decode(self.bytes()) {
            Ok(Some(header)) => Header::BYTES + header.length,
            Ok(None) | Err(Malformed) => Header::BYTES,
        }
    }

    /// `count` bytes were received into [`Input::space`].
    pub(crate) fn received(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.buffer.len());
    }

    /// What has not been used.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The frame at the front if all of it is there; it is used then.
    ///
    /// # Errors
    /// [`Malformed`] when no frame starts like this.
    pub(crate) fn take_frame(&mut self) -> Result<Option<(Header, &[u8])>, Malformed> {
        let Some(header) = Header::decode(self.bytes())? else { return Ok(None) };
        let start = self.start + Header::BYTES;
        if self.end < start + header.length {
            return Ok(None);
        }
        self.start = start + header.length;
        Ok(Some((header, &self.buffer[start..self.start])))
    }

    /// All that is in the buffer, and the position of its first byte that has not been used: to
    /// be moved by whoever uses more.
    pub(crate) fn split(&mut self) -> (&[u8], &mut usize) {
        (&self.buffer[..self.end], &mut self.start)
    }

    /// Continues at a position seen in [`Input::split`].
    pub(crate) fn seek(&mut self, position: usize) {
        self.start = position.min(self.end);
    }
}

/// Bytes to send.
#[derive(Default)]
pub(super) struct Output {
    buffer: Vec<u8>,
    sent: usize,
}

/// The client does not read: [`OUTPUT_BYTES_MAX`] wait for it already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Output {
    pub(super) fn pending(&self) -> &[u8] {
        &self.buffer[self.sent..]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count).min(self.buffer.len());
        if self.sent == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(OUTPUT_BYTES_KEPT);
            self.sent = 0;
        } else if self.buffer.capacity() > OUTPUT_BYTES_KEPT {
            self.compact();
            self.buffer.shrink_to(OUTPUT_BYTES_KEPT.max(2 * self.buffer.len()));
        }
    }

    /// Bytes of memory this holds because of what waits.
    pub(super) fn memory(&self) -> usize {
        match self.buffer.capacity() {
            ..=OUTPUT_BYTES_KEPT => self.pending().len(),
            bytes => bytes,
        }
    }

    /// Gives the room of what was sent to what follows, once that is most of it.
    fn compact(&mut self) {
        if self.sent > self.buffer.len() / 2 {
            self.buffer.copy_within(self.sent.., 0);
            self.buffer.truncate(self.buffer.len() - self.sent);
            self.sent = 0;
        }
    }

    pub(super) fn room(&self) -> usize {
        OUTPUT_BYTES_MAX.saturating_sub(self.pending().len())
    }

    /// Makes sure that `bytes` more may wait.
    pub(super) fn reserve(&self, bytes: usize) -> Result<(), Full> {
        if self.room() < bytes { Err(Full) } else { Ok(()) }
    }

    /// Appends a frame. One that would not fit a frame is a mistake of ours; it is not sent.
    pub(super) fn put(&mut self, answer: &Answer<'_>, id: u64, more: bool) -> Result<(), Full> {
        self.reserve(Header::BYTES + FRAME_BYTES_MAX)?;
        self.compact();
        let appended = answer.append(&mut self.buffer, id, more);
        debug_assert!(appended.is_ok(), "callers cut what they send to a frame");
        appended.map_err(|TooLong| Full)
    }
}
