//! Connections and their frames in the stream rings (`abi::frame::stream`).
//!
//! ```text
//!  send ─► outgoing ─ DATA within credit ─► ring        CREDIT makes credit
//!  receive ◄─ received ◄─ DATA ◄─ ring                  CREDIT for what was received
//! ```
//! A connection outlives its socket until what was sent has left and the node has answered CLOSE:
//! only then is its number free.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use abi::frame::Header;
use abi::frame::stream::{self, Address, WINDOW_BYTES};
use abi::layout::region;

use crate::errno::Errno;
use crate::file::Notifier;
use crate::file::byte_queue::ByteQueue;
use crate::file::flags::ready;
use crate::memory::transfer::{Sink, Source};
use crate::world::World;

/// Connections of a VM at once: their windows bound what they can hold.
const CONNECTIONS_MAX: usize = 256;
const WINDOW: usize = WINDOW_BYTES as usize;
/// Credit is given back in lots of this, or when nothing is left to receive.
const CREDIT_LOT_BYTES: u32 = WINDOW_BYTES / 4;
/// Bytes of one DATA frame.
const DATA_BYTES_MAX: usize = region::STREAM_OUT.slot_bytes() - Header::BYTES;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The node has been, or will be, asked.
    Opening,
    /// Bytes flow.
    Open,
    /// Not made, or broken.
    Failed,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    has_asked: bool,
    error: Option<Errno>,
    local: Option<Address>,
    received: ByteQueue,
    has_remote_ended: bool,
    /// Bytes the program took and the node was not credited for.
    uncredited: u32,
    outgoing: ByteQueue,
    credit: u32,
    wants_end: bool,
    has_ended: bool,
    wants_close: bool,
    has_closed: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    number: u32,
    container: u32,
    remote: Address,
    notifier: Notifier,
    state: RefCell<State>,
    /// In [`Connections::busy`].
    is_listed: Cell<bool>,
    busy: Rc<RefCell<VecDeque<u32>>>,
}

impl Connection {
    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.state.borrow().phase
    }

    /// The other side's address.
    #[must_use]
    pub fn remote(&self) -> Address {
        self.remote
    }

    /// Own address, once open.
    #[must_use]
    pub fn local(&self) -> Option<Address> {
        self.state.borrow().local
    }

    /// Raised when its readiness may have grown.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Lets waiters look again.
    pub fn raise(&self) {
        self.notifier.raise();
    }

    /// Why it failed, told once.
    #[must_use]
    pub fn take_error(&self) -> Option<Errno> {
        self.state.borrow_mut().error.take()
    }

    /// Bytes that can be received now.
    #[must_use]
    pub fn readable_bytes(&self) -> usize {
        self.state.borrow().received.length()
    }

    /// Takes received bytes, or a copy of them.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there are none yet, or why the connection broke.
    pub fn receive(&self, sink: &mut Sink<'_>, is_peek: bool) -> Result<usize, Errno> {
        let mut state = self.state.borrow_mut();
        if state.received.is_empty() {
            return match (state.error.take(), state.phase) {
                (Some(error), _) => Err(error),
                (None, Phase::Failed) => Ok(0),
                (None, Phase::Opening) => Err(Errno::AGAIN),
                (None, Phase::Open) if state.has_remote_ended => Ok(0),
                (None, Phase::Open) => Err(Errno::AGAIN),
            };
        }
        if is_peek {
            return state.received.peek_into(sink);
        }
        let count = state.received.drain_into(sink)?;
        state.uncredited += u32::try_from(count).unwrap_or(0);
        drop(state);
        self.list();
        Ok(count)
    }

    /// Queues bytes to be sent.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is no room, [`Errno::PIPE`] behind the end, or why the
    /// connection broke.
    pub fn send(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        let mut state = self.state.borrow_mut();
        match state.phase {
            Phase::Failed => return Err(state.error.take().unwrap_or(Errno::PIPE)),
            Phase::Opening => return Err(Errno::AGAIN),
            Phase::Open if state.wants_end => return Err(Errno::PIPE),
            Phase::Open => {}
        }
        if source.remaining() == 0 {
            return Ok(0);
        }
        if state.outgoing.room() == 0 {
            return Err(Errno::AGAIN);
        }
        let count = state.outgoing.fill_from(source)?;
        drop(state);
        self.list();
        Ok(count)
    }

    /// Sends no more.
    pub fn end(&self) {
        self.state.borrow_mut().wants_end = true;
        self.list();
    }

    /// Nobody uses it any more; what was sent still leaves.
    pub fn close(&self) {
        self.state.borrow_mut().wants_close = true;
        self.list();
    }

    /// `POLL*` bits.
    #[must_use]
    pub fn readiness(&self) -> u32 {
        let state = self.state.borrow();
        match state.phase {
            Phase::Opening => 0,
            Phase::Failed => ready::IN | ready::OUT | ready::ERR | ready::HUP | ready::RDHUP,
            Phase::Open => {
                let has_input = !state.received.is_empty() || state.has_remote_ended;
                let has_room = state.outgoing.room() > 0 && !state.wants_end;
                let is_over = state.has_remote_ended && state.wants_end;
                let bit = |holds: bool, bit: u32| if holds { bit } else { 0 };
                bit(has_input, ready::IN)
                    | bit(has_room || state.wants_end, ready::OUT)
                    | bit(state.has_remote_ended, ready::RDHUP)
                    | bit(is_over, ready::HUP)
            }
        }
    }

    /// Puts itself on the list of those with a frame to send.
    fn list(&self) {
        if !self.is_listed.replace(true) {
            self.busy.borrow_mut().push_back(self.number);
        }
    }

    /// Writes the next frame's payload to `payload` and returns kind and length, if there is one
    /// to send now.
    fn next_frame(&self, payload: &mut [u8]) -> Option<(u8, usize)> {
        let state = &mut *self.state.borrow_mut();
        if state.has_closed {
            return None;
        }
        if !state.has_asked {
            state.has_asked = true;
            payload[..Address::BYTES].copy_from_slice(&self.remote.encode());
            return Some((stream::OPEN, Address::BYTES));
        }
        let is_open = state.phase == Phase::Open;
        if is_open && !state.outgoing.is_empty() && state.credit > 0 {
            let credit = usize::try_from(state.credit).unwrap_or(0);
            let most = credit.min(payload.len());
            let (front, back) = state.outgoing.first(most);
            let count = front.len() + back.len();
            payload[..front.len()].copy_from_slice(front);
            payload[front.len()..count].copy_from_slice(back);
            state.outgoing.consume(count);
            state.credit -= u32::try_from(count).unwrap_or(0);
            return Some((stream::DATA, count));
        }
        let has_left = !is_open || state.outgoing.is_empty();
        if state.wants_close {
            if !has_left {
                return None;
            }
            state.has_closed = true;
            return Some((stream::CLOSE, 0));
        }
        if is_open && state.wants_end && has_left && !state.has_ended {
            state.has_ended = true;
            return Some((stream::FIN, 0));
        }
        let is_due = state.uncredited >= CREDIT_LOT_BYTES || state.received.is_empty();
        if is_open && state.uncredited > 0 && is_due {
            payload[..4].copy_from_slice(&state.uncredited.to_le_bytes());
            state.uncredited = 0;
            return Some((stream::CREDIT, 4));
        }
        None
    }

    fn take(&self, kind: u8, payload: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        match kind {
            stream::OPENED => {
                state.phase = Phase::Open;
                state.local = Address::decode(payload).ok();
            }
            stream::FAILED => {
                let number = payload.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
                state.phase = Phase::Failed;
                state.error = Some(Errno::from_number(number).unwrap_or(Errno::IO));
            }
            stream::DATA if !state.wants_close => {
                let stored = state.received.push(payload);
                assert!(stored.is_ok(), "the node keeps to the window");
            }
            stream::FIN => state.has_remote_ended = true,
            stream::CREDIT => {
                let bytes = payload.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                state.credit = state.credit.saturating_add(bytes).min(WINDOW_BYTES);
            }
            _ => {}
        }
        self.list();
        self.notifier.raise();
    }
}

/// All connections of the VM.
#[derive(Debug)]
pub struct Connections {
    world: World,
    table: RefCell<BTreeMap<u32, Rc<Connection>>>,
    busy: Rc<RefCell<VecDeque<u32>>>,
    next: Cell<u32>,
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            table: RefCell::new(BTreeMap::new()),
            busy: Rc::default(),
            next: Cell::new(0),
        }
    }

    /// The world their events belong to.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Starts a connection for a container.
    ///
    /// # Errors
    /// [`Errno::NOBUFS`] when there are too many.
    pub fn open(&self, container: u32, remote: Address) -> Result<Rc<Connection>, Errno> {
        let mut table = self.table.borrow_mut();
        if table.len() >= CONNECTIONS_MAX {
            return Err(Errno::NOBUFS);
        }
        let number = loop {
            let number = self.next.get();
            self.next.set(number.wrapping_add(1));
            if !table.contains_key(&number) {
                break number;
            }
        };
        let connection = Rc::new(Connection {
            number,
            container,
            remote,
            notifier: Notifier::new(&self.world),
            state: RefCell::new(State {
                phase: Phase::Opening,
                has_asked: false,
                error: None,
                local: None,
                received: ByteQueue::new(WINDOW),
                has_remote_ended: false,
                uncredited: 0,
                outgoing: ByteQueue::new(WINDOW),
                credit: WINDOW_BYTES,
                wants_end: false,
                has_ended: false,
                wants_close: false,
                has_closed: false,
            }),
            is_listed: Cell::new(false),
            busy: Rc::clone(&self.busy),
        });
        table.insert(number, Rc::clone(&connection));
        connection.list();
        Ok(connection)
    }

    /// Whether a connection may have a frame to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.busy.borrow().is_empty()
    }

    /// Takes a frame of the node.
    pub fn take_frame(&self, header: Header, payload: &[u8]) {
        let connection = self.table.borrow().get(&header.channel).cloned();
        let Some(connection) = connection else { return };
        if header.kind == stream::CLOSE {
            self.table.borrow_mut().remove(&header.channel);
        } else {
            connection.take(header.kind, payload);
        }
    }

    /// Hands frames to `send` until there are none or it has no room (`false`); returns whether
    /// it handed any. The frame refused is not lost: `send` is asked for room first.
    pub fn drain(
        &self,
        mut has_room: impl FnMut() -> bool,
        mut send: impl FnMut(Header, &[u8]),
    ) -> bool {
        let mut payload = [0; DATA_BYTES_MAX];
        let mut has_sent = false;
        while has_room() {
            let Some(number) = self.busy.borrow_mut().pop_front() else { break };
            let connection = self.table.borrow().get(&number).cloned();
            let Some(connection) = connection else { continue };
            connection.is_listed.set(false);
            let Some((kind, count)) = connection.next_frame(&mut payload) else { continue };
            let id = u64::from(connection.container);
            send(Header { kind, flags: 0, channel: number, id }, &payload[..count]);
            has_sent = true;
            // There may be more; others have their turn first.
            connection.list();
            if kind == stream::DATA {
                connection.notifier.raise();
            }
        }
        has_sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const REMOTE: Address = Address { ip: [1; 16], port: 6514 };

    fn frames(connections: &Connections) -> Vec<(u8, Vec<u8>)> {
        let mut frames = Vec::new();
        connections.drain(|| true, |header, payload| frames.push((header.kind, payload.to_vec())));
        frames
    }

    fn give(connections: &Connections, kind: u8, payload: &[u8]) {
        connections.take_frame(Header { kind, flags: 0, channel: 0, id: 0 }, payload);
    }

    #[test]
    fn a_connection_opens_moves_bytes_and_closes() {
        let connections = Connections::new(&World::new());
        let connection = connections.open(7, REMOTE).unwrap();
        assert_eq!(frames(&connections), [(stream::OPEN, REMOTE.encode().to_vec())]);
        assert_eq!((connection.readiness(), connection.phase()), (0, Phase::Opening));
        give(&connections, stream::OPENED, &REMOTE.encode());
        assert_eq!(connection.send(&mut Source::kernel(b"hello")), Ok(5));
        connection.end();
        assert_eq!(
            frames(&connections),
            [(stream::DATA, b"hello".to_vec()), (stream::FIN, Vec::new())]
        );
        give(&connections, stream::DATA, b"answer");
        give(&connections, stream::FIN, &[]);
        let mut room = [0; 16];
        assert_eq!(connection.receive(&mut Sink::kernel(&mut room), false), Ok(6));
        assert_eq!(connection.receive(&mut Sink::kernel(&mut room), false), Ok(0));
        assert_eq!(frames(&connections), [(stream::CREDIT, 6_u32.to_le_bytes().to_vec())]);
        connection.close();
        assert_eq!(frames(&connections), [(stream::CLOSE, Vec::new())]);
        give(&connections, stream::CLOSE, &[]);
        assert!(connections.table.borrow().is_empty());
    }

    #[test]
    fn no_more_is_sent_than_was_credited_and_a_close_waits_for_it() {
        let connections = Connections::new(&World::new());
        let connection = connections.open(7, REMOTE).unwrap();
        give(&connections, stream::OPENED, &REMOTE.encode());
        let bytes = std::vec![1; 2 * WINDOW];
        assert_eq!(connection.send(&mut Source::kernel(&bytes)), Ok(WINDOW));
        let sent = |connections: &Connections| {
            let data = frames(connections);
            let data = data.iter().filter(|(kind, _)| *kind == stream::DATA);
            data.map(|(_, bytes)| bytes.len()).sum::<usize>()
        };
        assert_eq!(sent(&connections), WINDOW);
        assert_eq!(connection.send(&mut Source::kernel(&bytes)), Ok(WINDOW));
        connection.close();
        assert_eq!(sent(&connections), 0);
        give(&connections, stream::CREDIT, &1000_u32.to_le_bytes());
        assert_eq!(sent(&connections), 1000);
        give(&connections, stream::CREDIT, &WINDOW_BYTES.to_le_bytes());
        let rest = frames(&connections);
        assert_eq!(rest.last(), Some(&(stream::CLOSE, Vec::new())));
    }

    #[test]
    fn a_refused_connection_tells_why_once() {
        let connections = Connections::new(&World::new());
        let connection = connections.open(7, REMOTE).unwrap();
        give(&connections, stream::FAILED, &13_u32.to_le_bytes());
        assert_eq!(connection.phase(), Phase::Failed);
        assert_eq!(connection.take_error(), Some(Errno::ACCES));
        assert_eq!(connection.take_error(), None);
        assert_eq!(connection.receive(&mut Sink::kernel(&mut [0]), false), Ok(0));
    }
}
