//! A passage between two shards: bytes both ways through bounded lock-free lanes, so that one
//! shard can be the client of another by the same protocol as everybody else.
//!
//! ```text
//!  shard A: End ══ lane of chunks ══► End :shard B
//!               ◄══ lane of chunks ══
//! ```
//! One end sends, one receives on each lane. Sending rings the other shard's doorbell if it
//! sleeps; a shard about to sleep says so first and then looks at [`End::has_incoming`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::inbox::Inbox;
use crate::shard::Letter;

/// Chunks that may wait in a lane: with the largest chunk, 4 MiB.
const CHUNKS_MAX: usize = 64;
/// Bytes of a chunk.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
struct Lane {
    chunks: ArrayQueue<Vec<u8>>,
    is_closed: AtomicBool,
}

impl Lane {
    fn new() -> Arc<Self> {
        Arc::new(Self { chunks: ArrayQueue::new(CHUNKS_MAX), is_closed: AtomicBool::new(false) })
    }
}

/// What [`End::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The other end is gone and everything it sent was received.
    Closed,
}

/// One shard's end of a passage. Dropping it closes both lanes.
pub(crate) struct End {
    incoming: Arc<Lane>,
    outgoing: Arc<Lane>,
    other: Arc<Inbox<Letter>>,
    /// A chunk of which only the first bytes were received.
    chunk: Vec<u8>,
    received: usize,
}

impl End {
    /// The two ends of a passage between the owners of two mailboxes.
    pub(crate) fn pair(one: &Arc<Inbox<Letter>>, other: &Arc<Inbox<Letter>>) -> (Self, Self) {
        let (forth, back) = (Lane::new(), Lane::new());
        let end = |incoming: &Arc<Lane>, outgoing: &Arc<Lane>, other: &Arc<Inbox<Letter>>| Self {
            incoming: Arc::clone(incoming),
            outgoing: Arc::clone(outgoing),
            other: Arc::clone(other),
            chunk: Vec::new(),
            received: 0,
        };
        (end(&back, &forth, other), end(&forth, &back, one))
    }

    /// Receives into `space`.
    pub(crate) fn receive(&mut self, space: &mut [u8]) -> Received {
        if self.received == self.chunk.len() {
            // Acquire: pairs with the release in `drop`. Read before the lane: what was sent
            // before the end was closed is found below.
            let is_closed = self.incoming.is_closed.load(Ordering::Acquire);
            match self.incoming.chunks.pop() {
                Some(chunk) => (self.chunk, self.received) = (chunk, 0),
                None if is_closed => return Received::Closed,
                None => return Received::Nothing,
            }
        }
        let rest = &self.chunk[self.received..];
        let count = rest.len().min(space.len());
        space[..count].copy_from_slice(&rest[..count]);
        self.received += count;
        Received::Bytes(count)
    }

    /// Sends as many of `bytes` as there is room for and returns how many that were; `None` when
    /// the other end is gone.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Option<usize> {
        // Acquire: pairs with the release in `drop`; publishes nothing else.
        if self.outgoing.is_closed.load(Ordering::Acquire) {
            return None;
        }
        let mut sent = 0;
        for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
            if self.outgoing.chunks.is_full() {
                break;
            }
            // Nobody else sends on this lane: what was not full still is not.
            drop(self.outgoing.chunks.push(chunk.to_vec()));
            sent += chunk.len();
        }
        if sent > 0 {
            self.other.nudge();
        }
        Some(sent)
    }

    /// Whether [`End::receive`] has something to say.
    pub(crate) fn has_incoming(&self) -> bool {
        self.received < self.chunk.len()
            || !self.incoming.chunks.is_empty()
            // Acquire: pairs with the release in `drop`.
            || self.incoming.is_closed.load(Ordering::Acquire)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for lane in [&self.incoming, &self.outgoing] {
            // Release: pairs with the acquires above; what was sent before is seen by who sees this.
            lane.is_closed.store(true, Ordering::Release);
        }
        self.other.nudge();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage() -> (End, End) {
        let inbox = || Arc::new(Inbox::new(1).unwrap());
        End::pair(&inbox(), &inbox())
    }

    #[test]
    fn bytes_arrive_in_order_and_a_full_lane_says_so() {
        let (mut one, mut other) = passage();
        let bytes: Vec<u8> =
            (0..=u8::MAX).cycle().take((CHUNKS_MAX + 3) * CHUNK_BYTES_MAX).collect();
        let sent = one.send(&bytes).unwrap();
        assert_eq!(sent, CHUNKS_MAX * CHUNK_BYTES_MAX);
        assert_eq!(one.send(&bytes[sent..]), Some(0));
        let mut got = Vec::new();
        let mut space = [0; 1000];
        while let Received::Bytes(count) = other.receive(&mut space) {
            got.extend_from_slice(&space[..count]);
        }
        assert_eq!(got, bytes[..sent]);
        assert_eq!(other.receive(&mut space), Received::Nothing);
    }

    #[test]
    fn what_was_sent_before_the_end_is_received() {
        let (mut one, mut other) = passage();
        one.send(b"last words").unwrap();
        drop(one);
        let mut space = [0; 4];
        assert!(other.has_incoming());
        assert_eq!(other.receive(&mut space), Received::Bytes(4));
        assert_eq!(other.receive(&mut space), Received::Bytes(4));
        assert_eq!(other.receive(&mut space), Received::Bytes(2));
        assert_eq!(other.receive(&mut space), Received::Closed);
        assert_eq!(other.send(b"nobody"), None);
    }
}
