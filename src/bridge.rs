//! The shared-memory transport between a client and its shard: two rings in one sealed memfd of
//! the node's, and the socket they were agreed on.
//!
//! ```text
//!  client: End ══ ring of chunks ══► End :shard        both map the same memfd
//!              ◄══ ring of chunks ══
//!              ───── socket ────────                   a byte wakes, the end of it ends both
//! ```
//! The rings carry the bytes a socket would, cut into chunks that mean nothing. They are those of
//! [`abi::ring`]: what the other side writes is copied and then checked, and one that breaks a rule
//! is a [`RingFault`], after which the connection is closed. Neither side ever waits here.
//!
//! Neither side has a descriptor whose flags or counter the other could change: an eventfd would
//! be one (`docs/decisions/0112-shared-memory-transport.md`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use abi::ring::{Consumer, Producer, PushError, QueueLayout, RingFault, SLOTS_MAX};
use region::{Region, sealed};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::socket::answer::Attached;

/// Chunks of one ring.
const SLOTS: u16 = 64;
/// Bytes of a chunk. With the slots: as much as waits in a Unix socket, twice over.
pub(crate) const SLOT_BYTES: u32 = 8192;
/// Largest chunk a client accepts from a node of another version.
const SLOT_BYTES_MAX: u32 = 1 << 20;

/// What the node makes.
pub(crate) const ATTACHED: Attached = {
    let bytes = QueueLayout::first(0, SLOTS, SLOT_BYTES).next(SLOTS, SLOT_BYTES).end();
    Attached { bytes, slots: SLOTS, slot_bytes: SLOT_BYTES }
};

/// One side's ends of both rings.
pub(crate) struct End {
    incoming: Consumer<Region>,
    outgoing: Producer<Region>,
    /// A chunk of which only the first bytes were received.
    chunk: Box<[u8]>,
    taken: usize,
    length: usize,
}

impl End {
    /// The node's end of new rings, and the memfd to hand to the client.
    ///
    /// # Errors
    /// The process is out of descriptors or memory.
    pub(crate) fn make() -> io::Result<(Self, OwnedFd)> {
        let memfd = sealed::shared("client", u64::from(ATTACHED.bytes))?;
        let region = Region::map(&memfd, ATTACHED.bytes, 0)?;
        let (to_node, to_client) = layouts(ATTACHED)?;
        Ok((Self::new(&region, to_node, to_client), memfd))
    }

    /// The client's end of the rings the node described.
    ///
    /// # Errors
    /// The memfd is not what was described, or not sealed.
    pub(crate) fn open(memfd: impl AsFd, attached: Attached) -> io::Result<Self> {
        let (to_node, to_client) = layouts(attached)?;
        let region = Region::map(memfd, attached.bytes, 0)?;
        Ok(Self::new(&region, to_client, to_node))
    }

    fn new(region: &Region, incoming: QueueLayout, outgoing: QueueLayout) -> Self {
        Self {
            incoming: Consumer::new(region.clone(), incoming),
            outgoing: Producer::new(region.clone(), outgoing),
            chunk: vec![0; incoming.slot_bytes()].into(),
            taken: 0,
            length: 0,
        }
    }

    /// Receives what is there into `space`; 0 bytes when there is nothing.
    ///
    /// # Errors
    /// The other side broke the ring; the connection is over.
    pub(crate) fn receive(&mut self, space: &mut [u8]) -> Result<usize, RingFault> {
        let mut count = self.take_rest(space);
        // One ring's worth: who refills as fast as it is drained must not keep us.
        for _ in 0..SLOTS_MAX {
            let space = &mut space[count..];
            if space.is_empty() {
                break;
            }
            // Chunks mostly fit, and are then copied once.
            let fits = space.len() >= self.chunk.len();
            let chunk = if fits { &mut *space } else { &mut *self.chunk };
            match self.incoming.pop(chunk)? {
                None => break,
                Some(length) if fits => count += length,
                Some(length) => {
                    (self.taken, self.length) = (0, length);
                    count += self.take_rest(space);
                }
            }
        }
        Ok(count)
    }

    fn take_rest(&mut self, space: &mut [u8]) -> usize {
        let rest = &self.chunk[self.taken..self.length];
        let count = rest.len().min(space.len());
        space[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        count
    }

    /// Sends as many of `bytes` as there is room for and returns how many that were.
    ///
    /// # Errors
    /// The other side broke the ring; the connection is over.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, RingFault> {
        let mut sent = 0;
        for chunk in bytes.chunks(self.chunk.len()) {
            match self.outgoing.push(&[chunk]) {
                Ok(()) => sent += chunk.len(),
                Err(PushError::Full) => break,
                Err(PushError::Fault(fault)) => return Err(fault),
                Err(PushError::TooLong) => unreachable!("chunks of both rings are alike"),
            }
        }
        Ok(sent)
    }

    /// Whether [`End::receive`] has something, a fault included.
    pub(crate) fn has_incoming(&self) -> bool {
        self.taken < self.length || !self.incoming.is_empty()
    }

    /// Whether [`End::send`] has room, or a fault to tell.
    pub(crate) fn has_room(&mut self) -> bool {
        self.outgoing.room() != Ok(0)
    }

    /// Says whether this side sleeps until something comes in. After `true` it looks at
    /// [`End::has_incoming`] once more.
    pub(crate) fn set_sleeping(&mut self, sleeps: bool) {
        self.incoming.set_sleeping(sleeps);
    }

    /// Says whether this side sleeps until there is room. After `true` it looks at
    /// [`End::has_room`] once more.
    pub(crate) fn wait_for_room(&mut self, waits: bool) {
        self.outgoing.wait_for_room(waits);
    }

    /// Whether the other side sleeps until it hears of what was sent.
    pub(crate) fn wants_ring_for_bytes(&self) -> bool {
        self.outgoing.needs_doorbell()
    }

    /// Whether the other side sleeps until it hears of what was received.
    pub(crate) fn wants_ring_for_room(&self) -> bool {
        self.incoming.needs_doorbell()
    }
}

/// Ring to the node and ring to the client.
fn layouts(attached: Attached) -> io::Result<(QueueLayout, QueueLayout)> {
    let Attached { bytes, slots, slot_bytes } = attached;
    let is_sound = slots.is_power_of_two()
        && slots <= SLOTS_MAX
        && (1..=SLOT_BYTES_MAX).contains(&slot_bytes)
        && slot_bytes.is_multiple_of(8);
    if is_sound {
        let to_node = QueueLayout::first(0, slots, slot_bytes);
        let to_client = to_node.next(slots, slot_bytes);
        if to_client.end() == bytes {
            return Ok((to_node, to_client));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the node describes rings that are none"))
}

/// Wakes who sleeps at the other end of `socket`. What does not fit is not needed: there is a
/// wake-up under way.
///
/// # Errors
/// Nobody is there.
pub(crate) fn ring(socket: impl AsFd) -> io::Result<()> {
    match rustix::net::send(socket, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes wake-ups off `socket`, waiting for one unless `flags` say not to. Returns whether the other
/// side is still there.
///
/// # Errors
/// `WouldBlock` when there is none, now or within the socket's time limit.
pub(crate) fn hear(socket: impl AsFd, flags: RecvFlags) -> io::Result<bool> {
    match rustix::net::recv(socket, &mut [0; 64], flags) {
        Ok((count, _)) => Ok(count > 0),
        Err(Errno::INTR) => Ok(true),
        Err(Errno::CONNRESET) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (End, End) {
        let (node, memfd) = End::make().unwrap();
        (node, End::open(memfd, ATTACHED).unwrap())
    }

    #[test]
    fn bytes_cross_in_order_through_spaces_of_every_size() {
        let (mut node, mut client) = ends();
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(3 << 20).collect();
        let (mut sent, mut got) = (0, Vec::new());
        let sizes = [1, 100, 8_191, 8_192, 8_193, 100_000];
        for size in sizes.iter().cycle() {
            sent += client.send(&bytes[sent..]).unwrap();
            let mut space = vec![0; *size];
            let count = node.receive(&mut space).unwrap();
            got.extend_from_slice(&space[..count]);
            if got.len() == bytes.len() {
                break;
            }
        }
        assert!(got == bytes);
        assert_eq!(node.receive(&mut [0; 8]), Ok(0));
        assert!(!node.has_incoming() && client.has_room());
    }

    #[test]
    fn the_memory_is_as_documented() {
        assert_eq!(ATTACHED, Attached { bytes: 1_056_768, slots: 64, slot_bytes: 8192 });
    }

    #[test]
    fn a_full_ring_says_so_and_who_waits_is_rung() {
        let (mut node, mut client) = ends();
        let ring_bytes = usize::from(SLOTS) * SLOT_BYTES as usize;
        assert_eq!(node.send(&vec![1; ring_bytes + 1]), Ok(ring_bytes));
        assert!(!node.wants_ring_for_bytes(), "the client does not sleep");
        client.set_sleeping(true);
        assert!(node.wants_ring_for_bytes() && client.has_incoming());
        assert!(!client.wants_ring_for_room());
        node.wait_for_room(true);
        assert!(!node.has_room());
        client.receive(&mut [0; 10]).unwrap();
        assert!(client.wants_ring_for_room() && node.has_room());
    }

    #[test]
    fn a_node_that_describes_nonsense_is_not_believed() {
        let (_, memfd) = End::make().unwrap();
        for slots in [0, 3, 32, 256] {
            assert!(End::open(&memfd, Attached { slots, ..ATTACHED }).is_err());
        }
        for slot_bytes in [0, 7, 4096, 1 << 21, u32::MAX] {
            assert!(End::open(&memfd, Attached { slot_bytes, ..ATTACHED }).is_err());
        }
        assert!(End::open(&memfd, Attached { bytes: 4096, ..ATTACHED }).is_err());
        let unsealed = sealed::unsealed("test").unwrap();
        assert!(End::open(unsealed, ATTACHED).is_err());
    }
}
