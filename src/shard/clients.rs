//! The clients of a shard: their sockets, received from and sent to without waiting.
//!
//! A client that has not spoken for a while is *quiet*: its socket is no longer polled, and a
//! task of its own waits until it is readable. A sleeping shard has only quiet clients.

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::invoke::Nanos;
use crate::signal::Signal;
use crate::socket::Connection;
use crate::wait::Ear;

/// A busy shard still polls a client this long after it last spoke.
const QUIET_AFTER_NANOS: Nanos = 100_000_000;

/// Names a client for as long as it is there; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ClientId(u64);

impl ClientId {
    /// The number, for those who only carry it around.
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// What a client's ear task shares with the shard.
struct Hearing {
    /// Tells the task to listen.
    listen: Signal,
    is_listening: Cell<bool>,
}

pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) connection: Connection,
    /// What holds for its requests that do not say otherwise.
    pub(super) logging: Option<Rc<super::logging::Logging>>,
    stream: UnixStream,
    hearing: Rc<Hearing>,
    ear: Option<glommio::Task<()>>,
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
        if self.list.len() >= self.bound {
            return Err(io::Error::other("as many clients as requests.connections_max allows"));
        }
        let ear = Ear::new(&stream)?;
        let hearing =
            Rc::new(Hearing { listen: Signal::default(), is_listening: Cell::new(false) });
        let (shared, wake) = (Rc::clone(&hearing), Rc::clone(&self.wake));
        let ear = glommio::spawn_local(async move {
            loop {
                shared.listen.wait().await;
                ear.readable().await;
                // Its receive sees what it is; until then it may complete again, for nothing.
                shared.is_listening.set(false);
                wake.raise();
            }
        });
        let id = ClientId(self.next_id);
        self.next_id += 1;
        self.list.push(Client {
            id,
            connection,
            logging: None,
            stream,
            hearing,
            ear: Some(ear),
            last_spoke_nanos: now,
            is_gone: false,
        });
        Ok(())
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

    /// Sends what is pending and closes those that are done; returns whether something moved.
    /// `gone` hears of each client that left, with its open requests.
    pub(super) fn flush(&mut self, mut gone: impl FnMut(&Client)) -> bool {
        let mut moved = false;
        let mut index = 0;
        while let Some(client) = self.list.get_mut(index) {
            moved |= client.send();
            let is_done =
                client.connection.is_closing() && client.connection.pending_output().is_empty();
            if !client.is_gone && !is_done {
                index += 1;
                continue;
            }
            let mut client = self.list.swap_remove(index);
            gone(&client);
            if let Some(ear) = client.ear.take() {
                // Its socket is closed when the task is dropped with its ear.
                glommio::spawn_local(async move {
                    ear.cancel().await;
                })
                .detach();
            }
        }
        moved
    }

    /// Makes every client quiet, because the shard is about to sleep.
    pub(super) fn listen_to_all(&mut self) {
        self.list.iter().for_each(Client::listen);
    }

    /// Polls every client again, because the shard is awake.
    pub(super) fn poll_all(&mut self) {
        self.list.iter().for_each(|client| client.hearing.is_listening.set(false));
    }

    /// Whether something waits to be sent to a client that does not read.
    pub(super) fn has_output(&self) -> bool {
        self.list.iter().any(|client| !client.connection.pending_output().is_empty())
    }
}

impl Client {
    /// Receives what is there; returns whether there was something.
    pub(super) fn receive(&mut self, now: Nanos) -> bool {
        if self.is_gone || self.hearing.is_listening.get() {
            return false;
        }
        let space = self.connection.receive_space();
        if space.is_empty() {
            return false;
        }
        match rustix::net::recv(&self.stream, space, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.is_gone = true,
            Ok((count, _)) => {
                self.connection.received(count);
                self.last_spoke_nanos = now;
                return true;
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                if now.saturating_sub(self.last_spoke_nanos) > QUIET_AFTER_NANOS {
                    self.listen();
                }
            }
            Err(_) => self.is_gone = true,
        }
        self.is_gone
    }

    fn listen(&self) {
        if !self.hearing.is_listening.replace(true) {
            self.hearing.listen.raise();
        }
    }

    fn send(&mut self) -> bool {
        let mut moved = false;
        while !self.is_gone && !self.connection.pending_output().is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, self.connection.pending_output(), flags) {
                Ok(count) => self.connection.consume(count),
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => self.is_gone = true,
            }
            moved = true;
        }
        moved
    }
}
