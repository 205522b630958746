//! A bounded queue of bytes: the middle of a pipe, a connection, a program's output.
//!
//! The storage is a circle that grows by doubling up to the limit and is then reused, so that a
//! queue in steady use allocates nothing.
//! ```text
//!   storage  [ c d e . . . . a b ]      head = 7, length = 5
//!              back^         ^front
//! ```

use alloc::rc::Rc;
use alloc::vec::Vec;

use abi::layout::PAGE_BYTES;

use crate::errno::Errno;
use crate::memory::Account;
use crate::memory::transfer::{Sink, Source};

/// Storage a queue starts with.
const FIRST_BYTES: usize = 4096;
/// Storage that stays when a queue is emptied.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// First in, first out, at most `limit` bytes.
#[derive(Debug)]
pub struct ByteQueue {
    storage: Vec<u8>,
    head: usize,
    length: usize,
    limit: usize,
    /// Who pays for the storage, and the pages paid for.
    payer: Option<(Rc<Account>, u64)>,
}

impl ByteQueue {
    /// An empty queue; allocates with the first byte.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { storage: Vec::new(), head: 0, length: 0, limit, payer: None }
    }

    /// An empty queue whose storage a container pays for: programs make as many as they like.
    #[must_use]
    pub fn charged(limit: usize, account: &Rc<Account>) -> Self {
        let mut queue = Self::new(limit);
        queue.payer = Some((Rc::clone(account), 0));
        queue
    }

    /// Bytes in it.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit - self.length
    }

    /// Most bytes it may hold.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Drops everything in it and keeps the storage, unless that is large.
    pub fn clear(&mut self) {
        if self.storage.len() > KEPT_BYTES_MAX && self.payer.is_none() {
            self.storage = Vec::new();
        }
        self.head = 0;
        self.length = 0;
    }

    /// Appends what fits of `source` and returns how much that was.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when the storage cannot grow; [`Errno::FAULT`] when the source cannot be
    /// read; nothing is appended then.
    pub fn fill_from(&mut self, source: &mut Source<'_>) -> Result<usize, Errno> {
        let wanted = source.remaining().min(self.room());
        self.reserve(wanted)?;
        let mut count = 0;
        while count < wanted {
            let spare = self.spare();
            let portion = spare.len().min(wanted - count);
            let taken = match source.take(&mut spare[..portion]) {
                Ok(taken) => taken,
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
            };
            self.length += taken;
            count += taken;
            if taken < portion {
                break;
            }
        }
        Ok(count)
    }

    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// [`Errno::NOBUFS`] when they do not fit, [`Errno::NOMEM`] when the storage cannot grow;
    /// nothing is appended then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if bytes.len() > self.room() {
            return Err(Errno::NOBUFS);
        }
        self.reserve(bytes.len())?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let spare = self.spare();
            let portion = spare.len().min(rest.len());
            let (now, later) = rest.split_at(portion);
            spare[..portion].copy_from_slice(now);
            self.length += portion;
            rest = later;
        }
        Ok(())
    }

    /// Moves what the sink has room for out of the queue.
    ///
    /// # Errors
    /// [`Errno::FAULT`] when the sink cannot be written; what it took before is gone.
    pub fn drain_into(&mut self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let mut count = 0;
        while sink.remaining() > 0 && !self.is_empty() {
            let (front, _) = self.parts();
            let given = match sink.put(front) {
                Ok(given) => given,
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
            };
            if given == 0 {
                break;
            }
            self.consume(given);
            count += given;
        }
        Ok(count)
    }

    /// Copies what the sink has room for and leaves it in the queue (`MSG_PEEK`).
    ///
    /// # Errors
    /// [`Errno::FAULT`] when the sink cannot be written.
    pub fn peek_into(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let (front, back) = self.parts();
        let mut count = sink.put(front)?;
        if count == front.len() && sink.remaining() > 0 && !back.is_empty() {
            count += sink.put(back)?;
        }
        Ok(count)
    }

    /// The oldest bytes, in two pieces.
    #[must_use]
    pub fn parts(&self) -> (&[u8], &[u8]) {
        let until_wrap = (self.storage.len() - self.head).min(self.length);
        let front = &self.storage[self.head..self.head + until_wrap];
        (front, &self.storage[..self.length - until_wrap])
    }

    /// The oldest `count` bytes, in two pieces; fewer when there are fewer.
    #[must_use]
    pub fn first(&self, count: usize) -> (&[u8], &[u8]) {
        let (front, back) = self.parts();
        let in_front = front.len().min(count);
        let in_back = back.len().min(count - in_front);
        (&front[..in_front], &back[..in_back])
    }

    /// Drops the oldest `count` bytes, or all when there are fewer.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.length);
        self.length -= count;
        self.head += count;
        if self.head >= self.storage.len() {
            self.head -= self.storage.len();
        }
        if self.length == 0 {
            // Start over at the front: a quiet queue touches one page.
            self.head = 0;
        }
    }

    /// Free storage in one piece behind the newest byte.
    fn spare(&mut self) -> &mut [u8] {
        let capacity = self.storage.len();
        let tail = self.head + self.length;
        if tail < capacity {
            &mut self.storage[tail..]
        } else {
            let head = self.head;
            &mut self.storage[tail - capacity..head]
        }
    }

    /// Makes storage for `more` bytes; the caller has compared it with the limit.
    fn reserve(&mut self, more: usize) -> Result<(), Errno> {
        let needed = self.length + more;
        let capacity = self.storage.len();
        if needed <= capacity {
            return Ok(());
        }
        let doubled = needed.max(capacity * 2).max(FIRST_BYTES).min(self.limit);
        self.pay(doubled)?;
        let mut storage = Vec::new();
        storage.try_reserve_exact(doubled).map_err(|_| Errno::NOMEM)?;
        let (front, back) = self.parts();
        storage.extend_from_slice(front);
        storage.extend_from_slice(back);
        storage.resize(doubled, 0);
        self.storage = storage;
        self.head = 0;
        Ok(())
    }

    /// Pays for `bytes` of storage in all.
    fn pay(&mut self, bytes: usize) -> Result<(), Errno> {
        let Some((account, paid)) = &mut self.payer else { return Ok(()) };
        let pages = (bytes as u64).div_ceil(PAGE_BYTES);
        account.charge(pages.saturating_sub(*paid))?;
        *paid = pages.max(*paid);
        Ok(())
    }
}

impl Drop for ByteQueue {
    fn drop(&mut self) {
        if let Some((account, paid)) = &self.payer {
            account.release(*paid);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_queue_takes_what_fits_and_no_more() {
        let mut queue = ByteQueue::new(6);
        assert_eq!(queue.fill_from(&mut Source::kernel(b"abcdefgh")), Ok(6));
        assert_eq!(queue.push(b"i"), Err(Errno::NOBUFS));
        let mut bytes = [0; 4];
        assert_eq!(queue.peek_into(&mut Sink::kernel(&mut bytes)), Ok(4));
        assert_eq!(queue.drain_into(&mut Sink::kernel(&mut bytes)), Ok(4));
        assert_eq!((&bytes, queue.length(), queue.room()), (b"abcd", 2, 4));
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_queue_of_bytes(
            steps in prop::collection::vec((any::<bool>(), 0_usize..9000), 1..60),
        ) {
            let mut queue = ByteQueue::new(10_000);
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            for (pushes, count) in steps {
                if pushes {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    let taken = queue.fill_from(&mut Source::kernel(&bytes)).unwrap();
                    prop_assert_eq!(taken, count.min(10_000 - model.len()));
                    model.extend(&bytes[..taken]);
                } else {
                    let mut bytes = std::vec![0; count];
                    let given = queue.drain_into(&mut Sink::kernel(&mut bytes)).unwrap();
                    let expected: Vec<u8> = model.drain(..count.min(model.len())).collect();
                    prop_assert_eq!(&bytes[..given], &expected[..]);
                }
                prop_assert_eq!(queue.length(), model.len());
            }
        }
    }
}
