//! Where a file's bytes go to and come from: a program's buffers (`read`, `writev`, ...) or the
//! kernel's own.

use alloc::vec::Vec;

use super::Memory;
use crate::errno::Errno;

/// One of a program's buffers: address and length (`struct iovec`).
pub type Vector = (u64, u64);

/// Most buffers of one call (`IOV_MAX`).
pub const VECTORS_MAX: usize = 1024;
/// Buffers kept without allocating; programs pass one or two.
const VECTORS_INLINE: usize = 8;
/// Most bytes one call moves, as Linux' `MAX_RW_COUNT`.
const BYTES_MAX: u64 = 0x7fff_f000;

/// The buffers of one call.
#[derive(Clone, Debug)]
pub struct Vectors {
    inline: [Vector; VECTORS_INLINE],
    more: Vec<Vector>,
    count: usize,
}

impl Vectors {
    /// A single buffer.
    #[must_use]
    pub fn single(address: u64, bytes: u64) -> Self {
        let mut inline = [(0, 0); VECTORS_INLINE];
        inline[0] = (address, bytes.min(BYTES_MAX));
        Self { inline, more: Vec::new(), count: 1 }
    }

    /// Reads an array of `struct iovec`.
    ///
    /// # Errors
    /// [`Errno::INVAL`] when it is too long or its sum is, [`Errno::FAULT`] when it cannot be
    /// read.
    pub fn read(memory: &mut Memory, address: u64, count: u64) -> Result<Self, Errno> {
        let count = usize::try_from(count).map_err(|_| Errno::INVAL)?;
        if count > VECTORS_MAX {
            return Err(Errno::INVAL);
        }
        let mut vectors = Self { count, ..Self::single(0, 0) };
        if count > VECTORS_INLINE {
            vectors.more.resize(count, (0, 0));
        }
        let mut left = BYTES_MAX;
        for (index, slot) in vectors.slots_mut().iter_mut().enumerate() {
            let mut bytes = [0; 16];
            memory.read(address.wrapping_add(index as u64 * 16), &mut bytes)?;
            let word = |at: usize| {
                let mut word = [0; 8];
                word.copy_from_slice(&bytes[at..at + 8]);
                u64::from_le_bytes(word)
            };
            let length = word(8);
            if i64::try_from(length).is_err() {
                return Err(Errno::INVAL);
            }
            *slot = (word(0), length.min(left));
            left -= slot.1;
        }
        Ok(vectors)
    }

    /// Bytes of all buffers together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slots().iter().map(|(_, bytes)| bytes).sum()
    }

    fn slots(&self) -> &[Vector] {
        if self.more.is_empty() { &self.inline[..self.count] } else { &self.more }
    }

    fn slots_mut(&mut self) -> &mut [Vector] {
        if self.more.is_empty() { &mut self.inline[..self.count] } else { &mut self.more }
    }

    /// The part of the buffers at `done`: an address and how many bytes lie there in a row.
    fn at(&self, done: u64) -> Option<Vector> {
        let mut before = 0;
        for (address, bytes) in self.slots() {
            if done < before + bytes {
                let into = done - before;
                return Some((address.wrapping_add(into), bytes - into));
            }
            before += bytes;
        }
        None
    }
}

#[derive(Debug)]
enum To<'a> {
    User(&'a mut Memory, &'a Vectors),
    Kernel(&'a mut [u8]),
}

/// Where a read puts its bytes.
#[derive(Debug)]
pub struct Sink<'a> {
    to: To<'a>,
    done: u64,
    total: u64,
}

impl<'a> Sink<'a> {
    /// Into a program's buffers, from byte `done` of them on.
    #[must_use]
    pub fn user(memory: &'a mut Memory, vectors: &'a Vectors, done: u64) -> Self {
        let total = vectors.bytes();
        Self { to: To::User(memory, vectors), done, total }
    }

    /// Into a buffer of the kernel.
    #[must_use]
    pub fn kernel(bytes: &'a mut [u8]) -> Self {
        let total = bytes.len() as u64;
        Self { to: To::Kernel(bytes), done: 0, total }
    }

    /// Bytes there is room for.
    #[must_use]
    pub fn remaining(&self) -> usize {
        usize::try_from(self.total.saturating_sub(self.done)).unwrap_or(usize::MAX)
    }

    /// Takes as many of `bytes` as there is room for and says how many.
    ///
    /// # Errors
    /// [`Errno::FAULT`] when the program's buffer is not one; what fitted before is taken.
    pub fn put(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut rest = &bytes[..bytes.len().min(self.remaining())];
        let count = rest.len();
        while !rest.is_empty() {
            let part = self.part(rest.len());
            let (now, later) = rest.split_at(part);
            match &mut self.to {
                To::User(memory, vectors) => {
                    let (address, _) = vectors.at(self.done).unwrap_or((0, 0));
                    memory.write(address, now)?;
                }
                To::Kernel(into) => {
                    let start = usize::try_from(self.done).unwrap_or(usize::MAX);
                    into[start..start + part].copy_from_slice(now);
                }
            }
            self.done += part as u64;
            rest = later;
        }
        Ok(count)
    }

    /// Puts `count` times `byte`, or as often as there is room, and says how often.
    ///
    /// # Errors
    /// As [`Sink::put`].
    pub fn fill(&mut self, count: usize, byte: u8) -> Result<usize, Errno> {
        let block = [byte; 256];
        let count = count.min(self.remaining());
        let mut left = count;
        while left != 0 {
            left -= self.put(&block[..left.min(block.len())])?;
        }
        Ok(count)
    }

    fn part(&self, wanted: usize) -> usize {
        match &self.to {
            To::User(_, vectors) => {
                let (_, bytes) = vectors.at(self.done).unwrap_or((0, 0));
                usize::try_from(bytes).unwrap_or(usize::MAX).min(wanted)
            }
            To::Kernel(_) => wanted,
        }
    }
}

#[derive(Debug)]
enum From<'a> {
    User(&'a mut Memory, &'a Vectors),
    Kernel(&'a [u8]),
}

/// Where a write takes its bytes from.
#[derive(Debug)]
pub struct Source<'a> {
    from: From<'a>,
    done: u64,
    total: u64,
}

impl<'a> Source<'a> {
    /// From a program's buffers, from byte `done` of them on.
    #[must_use]
    pub fn user(memory: &'a mut Memory, vectors: &'a Vectors, done: u64) -> Self {
        let total = vectors.bytes();
        Self { from: From::User(memory, vectors), done, total }
    }

    /// From a buffer of the kernel.
    #[must_use]
    pub fn kernel(bytes: &'a [u8]) -> Self {
        Self { from: From::Kernel(bytes), done: 0, total: bytes.len() as u64 }
    }

    /// Bytes not taken yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        usize::try_from(self.total.saturating_sub(self.done)).unwrap_or(usize::MAX)
    }

    /// Fills `bytes` from the front with as many bytes as there are and says how many.
    ///
    /// # Errors
    /// [`Errno::FAULT`] when the program's buffer is not one; what was taken before counts.
    pub fn take(&mut self, bytes: &mut [u8]) -> Result<usize, Errno> {
        let count = bytes.len().min(self.remaining());
        let mut rest = &mut bytes[..count];
        while !rest.is_empty() {
            let part = self.part(rest.len());
            let (now, later) = rest.split_at_mut(part);
            match &mut self.from {
                From::User(memory, vectors) => {
                    let (address, _) = vectors.at(self.done).unwrap_or((0, 0));
                    memory.read(address, now)?;
                }
                From::Kernel(from) => {
                    let start = usize::try_from(self.done).unwrap_or(usize::MAX);
                    now.copy_from_slice(&from[start..start + part]);
                }
            }
            self.done += part as u64;
            rest = later;
        }
        Ok(count)
    }

    fn part(&self, wanted: usize) -> usize {
        match &self.from {
            From::User(_, vectors) => {
                let (_, bytes) = vectors.at(self.done).unwrap_or((0, 0));
                usize::try_from(bytes).unwrap_or(usize::MAX).min(wanted)
            }
            From::Kernel(_) => wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_sink_takes_what_fits_and_a_source_gives_what_is_there() {
        let mut room = [0; 5];
        let mut sink = Sink::kernel(&mut room);
        assert_eq!(sink.put(b"abc"), Ok(3));
        assert_eq!(sink.fill(9, b'x'), Ok(2));
        assert_eq!((sink.put(b"z"), sink.remaining()), (Ok(0), 0));
        assert_eq!(&room, b"abcxx");
        let mut source = Source::kernel(b"hello");
        let mut part = [0; 3];
        assert_eq!(source.take(&mut part), Ok(3));
        assert_eq!(&part, b"hel");
        assert_eq!(source.take(&mut part), Ok(2));
        assert_eq!((source.remaining(), source.take(&mut part)), (0, Ok(0)));
    }

    #[test]
    fn a_position_in_several_buffers_is_found() {
        let vectors = Vectors { count: 3, ..Vectors::single(0x1000, 4) };
        let mut vectors = vectors;
        vectors.inline[1] = (0x2000, 0);
        vectors.inline[2] = (0x3000, 2);
        assert_eq!(vectors.at(3), Some((0x1003, 1)));
        assert_eq!(vectors.at(4), Some((0x3000, 2)));
        assert_eq!(vectors.at(6), None);
    }
}
