//! The clients of a shard: received from and sent to without waiting.
//!
//! A client that has not spoken for a while is *quiet*: its socket is no longer polled, and a
//! task of its own waits until it is readable. A sleeping shard has only quiet clients.

use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use super::wire::{Socket, Wire};
use crate::bridge::ATTACHED;
use crate::invoke::Nanos;
use crate::metrics::ShardMetrics;
use crate::passage::{End, Received};
use crate::signal::Signal;
use crate::socket::Connection;

/// A busy shard still polls a client this long after it last spoke.
const QUIET_AFTER_NANOS: Nanos = 100_000_000;

/// Bytes that may always wait for a client: a few frames.
const SHARE_BYTES_MIN: u64 = 256 * 1024;

/// Names a client for as long as it is there; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientId(u64);

impl ClientId {
    /// The number, for those who only carry it around.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) connection: Connection,
    /// What holds for its requests that do not say otherwise.
    pub(super) logging: Option<Rc<super::logging::Logging>>,
    /// Frames taken from it in this turn.
    pub(super) taken: usize,
    wire: Wire,
    last_spoke_nanos: Nanos,
    is_gone: bool,
}

/// All clients of a shard.
pub(super) struct Clients {
    list: Vec<Client>,
    next_id: u64,
    wake: Rc<Signal>,
    bound: usize,
}

impl Clients {
    pub(super) fn new(bound: usize, wake: Rc<Signal>) -> Self {
        Self { list: Vec::new(), next_id: 1, wake, bound }
    }

    /// Takes a connection in.
    ///
    /// # Errors
    /// Out of descriptors, or as many clients as there may be; the connection is closed.
    pub(super) fn adopt(
        &mut self,
        stream: UnixStream,
        connection: Connection,
        now: Nanos,
    ) -> io::Result<()> {
        let processes = self.list.iter().filter(|client| !client.is_neighbour());
        if processes.count() >= self.bound {
            return Err(io::Error::other("as many clients as requests.connections_max allows"));
        }
        let wire = Wire::Socket(Socket::new(stream, &self.wake)?);
        self.add(wire, connection, now);
        Ok(())
    }

    /// Takes another shard in as a client.
    pub(super) fn adopt_passage(&mut self, end: End, connection: Connection) {
        self.add(Wire::Passage(end), connection, 0);
    }

    fn add(&mut self, wire: Wire, connection: Connection, now: Nanos) {
        let id = ClientId(self.next_id);
        self.next_id += 1;
        let (logging, last_spoke_nanos, is_gone) = (None, now, false);
        self.list.push(Client {
            id,
            connection,
            logging,
            taken: 0,
            wire,
            last_spoke_nanos,
            is_gone,
        });
    }

    /// The client with this name, if it is still there.
    pub(super) fn find(&mut self, id: ClientId) -> Option<&mut Client> {
        self.list.iter_mut().find(|client| client.id == id)
    }

    /// The client whose number came back.
    pub(super) fn find_number(&mut self, number: u64) -> Option<&mut Client> {
        self.find(ClientId(number))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.list.iter_mut()
    }

    /// How many of `frames` each client may give in this turn, going by how many gave some in the
    /// last one.
    pub(super) fn share_of(&self, frames: usize) -> usize {
        let speakers = self.list.iter().filter(|client| client.taken > 0).count();
        (frames / speakers.max(1)).max(1)
    }

    /// Sends what is pending and closes those that are done; returns whether something moved.
    /// `gone` hears of each client that left, with its open requests.
    pub(super) fn flush(
        &mut self,
        metrics: &mut ShardMetrics,
        mut gone: impl FnMut(&Client),
    ) -> bool {
        let mut moved = false;
        let mut index = 0;
        while let Some(client) = self.list.get_mut(index) {
            moved |= client.send(metrics);
            let is_done =
                client.connection.is_closing() && client.connection.pending_output().is_empty();
            if !client.is_gone && !is_done {
                index += 1;
                continue;
            }
            let client = self.list.swap_remove(index);
            gone(&client);
            client.wire.close();
        }
        moved
    }

    /// Makes every client quiet, because the shard is about to sleep.
    pub(super) fn listen_to_all(&mut self) {
        for client in &mut self.list {
            client.wire.listen(!client.connection.pending_output().is_empty());
        }
    }

    /// Polls every client again, because the shard is awake.
    pub(super) fn poll_all(&mut self) {
        self.list.iter_mut().for_each(|client| client.wire.poll());
    }

    /// Those that are sent nothing more until they have read: one for which too much waits, or, when
    /// much waits for all of them, more than its share of half of `bytes_max`.
    pub(super) fn congested(&self, bytes_max: u64) -> impl Iterator<Item = ClientId> {
        let waiting = |client: &Client| client.connection.output_memory() as u64;
        let all: u64 = self.list.iter().map(waiting).sum();
        let half = bytes_max / 2;
        let share = match all <= half {
            true => u64::MAX,
            false => {
                let many = self.list.iter().filter(|client| waiting(client) > SHARE_BYTES_MIN);
                (half / (many.count() as u64).max(1)).max(SHARE_BYTES_MIN)
            }
        };
        let congested = self
            .list
            .iter()
            .filter(move |client| client.connection.is_congested() || waiting(client) > share);
        congested.map(|client| client.id)
    }

    /// How many are in shared memory.
    pub(super) fn bridges(&self) -> usize {
        self.list.iter().filter(|client| client.wire.is_bridge()).count()
    }

    /// Whether something waits to be sent to a client that does not read.
    pub(super) fn has_output(&self) -> bool {
        self.list.iter().any(|client| !client.connection.pending_output().is_empty())
    }

    /// Whether another shard said something that was not received yet.
    pub(super) fn has_incoming(&mut self) -> bool {
        self.list.iter_mut().any(|client| client.wire.has_incoming())
    }
}

impl Client {
    /// Whether it is another shard.
    pub(super) fn is_neighbour(&self) -> bool {
        matches!(self.wire, Wire::Passage(_))
    }

    /// Whether it is in shared memory.
    pub(super) fn is_bridge(&self) -> bool {
        self.wire.is_bridge()
    }

    /// Goes on in shared memory, as its request asks, with nothing else under way.
    ///
    /// # Errors
    /// Why that is not possible; the client is gone then.
    pub(super) fn attach(&mut self, request: u64, now: Nanos) -> io::Result<()> {
        let Wire::Socket(socket) = &mut self.wire else {
            return Err(io::Error::other("another shard has no socket"));
        };
        // Nothing waits in its output, so there is room.
        let _ = self.connection.attached(request, ATTACHED);
        let answer = self.connection.pending_output();
        let (bytes, attached) = (answer.len(), socket.attach(answer, now));
        self.connection.consume(bytes);
        self.is_gone = attached.is_err();
        attached
    }

    /// Nothing was taken from it in this turn yet.
    pub(super) fn begin_turn(&mut self) {
        self.taken = 0;
    }

    /// Receives what is there; returns whether there was something.
    pub(super) fn receive(&mut self, now: Nanos, metrics: &mut ShardMetrics) -> bool {
        if self.is_gone {
            return false;
        }
        let space = self.connection.receive_space();
        if space.is_empty() {
            return false;
        }
        match self.wire.receive(space, now, metrics) {
            Received::Bytes(count) => {
                self.connection.received(count);
                self.last_spoke_nanos = now;
                true
            }
            Received::Nothing => {
                if now.saturating_sub(self.last_spoke_nanos) > QUIET_AFTER_NANOS {
                    self.wire.rest();
                }
                false
            }
            Received::Closed => {
                self.is_gone = true;
                true
            }
        }
    }

    fn send(&mut self, metrics: &mut ShardMetrics) -> bool {
        let mut moved = false;
        while !self.is_gone && !self.connection.pending_output().is_empty() {
            match self.wire.send(self.connection.pending_output(), metrics) {
                Some(0) => break,
                Some(count) => self.connection.consume(count),
                None => self.is_gone = true,
            }
            moved = true;
        }
        moved
    }
}
