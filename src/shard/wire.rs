//! What carries a client's bytes: a socket, shared memory agreed on over it, or a passage from
//! another shard. Never waits.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::bridge;
use crate::invoke::Nanos;
use crate::metrics::ShardMetrics;
use crate::passage::{End, Received};
use crate::signal::{Errand, Signal};
use crate::wait::Ear;

/// How often the socket of a client in shared memory is looked at while its rings are polled: it
/// says that the client is gone, which nobody waits for.
const LIFE_NANOS: Nanos = 10_000_000;

/// One client's.
pub(super) enum Wire {
    /// A process of this machine.
    Socket(Socket),
    /// Another shard.
    Passage(End),
}

/// A socket, and the task that listens to it while nobody polls it.
pub(super) struct Socket {
    stream: UnixStream,
    hearing: Rc<Hearing>,
    ear: glommio::Task<()>,
    /// With them, the socket only wakes both sides and ends with either.
    rings: Option<Box<Rings>>,
}

/// The shard's end of shared memory.
struct Rings {
    end: bridge::End,
    looked_nanos: Nanos,
    is_gone: bool,
    /// The client was told to ring when there is room.
    waits: bool,
}

impl Rings {
    /// Says in the rings that the shard sleeps, and whether it waits for room.
    fn sleep(&mut self, waits: bool) {
        self.end.set_sleeping(true);
        if waits {
            self.end.wait_for_room(true);
            self.waits = true;
        }
    }

    fn wake(&mut self) {
        self.end.set_sleeping(false);
        if std::mem::take(&mut self.waits) {
            self.end.wait_for_room(false);
        }
    }

    /// Whether a shard that said it sleeps has something to do.
    fn has_news(&mut self) -> bool {
        self.end.has_incoming() || self.waits && self.end.has_room()
    }
}

/// What a socket's ear task shares with the shard.
struct Hearing {
    /// Tells the task to listen.
    listen: Signal,
    /// While it is to listen.
    errand: Cell<Option<Errand>>,
    is_listening: Cell<bool>,
    /// The socket was readable.
    has_heard: Cell<bool>,
}

impl Hearing {
    fn begin(&self) {
        if !self.is_listening.replace(true) {
            self.errand.set(Some(Errand::begin()));
            self.listen.raise();
        }
    }

    fn end(&self) {
        self.is_listening.set(false);
        self.errand.take();
    }
}

impl Socket {
    /// Takes a connected socket in; `wake` is raised when it was listened to and is readable.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn new(stream: UnixStream, wake: &Rc<Signal>) -> io::Result<Self> {
        let ear = Ear::new(&stream)?;
        let hearing = Rc::new(Hearing {
            listen: Signal::default(),
            errand: Cell::default(),
            is_listening: Cell::new(false),
            has_heard: Cell::new(false),
        });
        let (shared, wake) = (Rc::clone(&hearing), Rc::clone(wake));
        let ear = glommio::spawn_local(async move {
            loop {
                shared.listen.wait().await;
                ear.readable().await;
                // Its receive sees what it is; until then it may complete again, for nothing.
                shared.has_heard.set(true);
                shared.end();
                wake.raise();
            }
        });
        Ok(Self { stream, hearing, ear, rings: None })
    }

    /// Goes on in shared memory: sends `bytes` with its descriptor as the last of this socket.
    ///
    /// # Errors
    /// Out of descriptors or memory, or the client takes nothing; the connection is of no more use.
    pub(super) fn attach(&mut self, bytes: &[u8], now: Nanos) -> io::Result<()> {
        let (end, memfd) = bridge::End::make()?;
        let sent = region::message::send_now(&self.stream, bytes, &[memfd.as_fd()])?;
        if sent < bytes.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.rings = Some(Box::new(Rings { end, looked_nanos: now, is_gone: false, waits: false }));
        Ok(())
    }

    fn receive(&mut self, space: &mut [u8], now: Nanos, metrics: &mut ShardMetrics) -> Received {
        let Some(rings) = &mut self.rings else {
            if self.hearing.is_listening.get() {
                return Received::Nothing;
            }
            return receive(&self.stream, space, metrics);
        };
        if self.hearing.has_heard.take() || now.saturating_sub(rings.looked_nanos) > LIFE_NANOS {
            rings.looked_nanos = now;
            // Wake-ups; what they are about is in the rings.
            rings.is_gone |= receive(&self.stream, &mut [0; 64], metrics) == Received::Closed;
        }
        match rings.end.receive(space) {
            // What it sent before it went is still received.
            Ok(0) if rings.is_gone => Received::Closed,
            Ok(0) => Received::Nothing,
            Ok(count) => {
                metrics.ring_receives += 1;
                if rings.end.wants_ring_for_room() {
                    metrics.sends += 1;
                    rings.is_gone |= bridge::ring(&self.stream).is_err();
                }
                Received::Bytes(count)
            }
            Err(_) => Received::Closed,
        }
    }

    fn send(&mut self, bytes: &[u8], metrics: &mut ShardMetrics) -> Option<usize> {
        let Some(rings) = &mut self.rings else {
            metrics.sends += 1;
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            return match rustix::net::send(&self.stream, bytes, flags) {
                Ok(count) => Some(count),
                Err(Errno::AGAIN | Errno::INTR) => Some(0),
                Err(_) => None,
            };
        };
        let sent = rings.end.send(bytes).ok()?;
        if sent > 0 {
            metrics.ring_sends += 1;
            if rings.end.wants_ring_for_bytes() {
                metrics.sends += 1;
                bridge::ring(&self.stream).ok()?;
            }
        }
        Some(sent)
    }
}

fn receive(stream: &UnixStream, space: &mut [u8], metrics: &mut ShardMetrics) -> Received {
    let (count, received) = match rustix::net::recv(stream, space, RecvFlags::DONTWAIT) {
        Ok((0, _)) => (&mut metrics.receives, Received::Closed),
        Ok((count, _)) => (&mut metrics.receives, Received::Bytes(count)),
        Err(Errno::AGAIN | Errno::INTR) => (&mut metrics.receives_empty, Received::Nothing),
        Err(_) => (&mut metrics.receives, Received::Closed),
    };
    *count += 1;
    received
}

impl Wire {
    /// Receives into `space`.
    pub(super) fn receive(
        &mut self,
        space: &mut [u8],
        now: Nanos,
        metrics: &mut ShardMetrics,
    ) -> Received {
        match self {
            Self::Passage(end) => end.receive(space),
            Self::Socket(socket) => socket.receive(space, now, metrics),
        }
    }

    /// Sends what there is room for and returns how much that was; `None` when nobody is there.
    pub(super) fn send(&mut self, bytes: &[u8], metrics: &mut ShardMetrics) -> Option<usize> {
        match self {
            Self::Passage(end) => end.send(bytes),
            Self::Socket(socket) => socket.send(bytes, metrics),
        }
    }

    /// Stops polling a client that has been quiet for a while, until it speaks. Rings cost nothing
    /// to poll.
    pub(super) fn rest(&self) {
        if let Self::Socket(Socket { rings: None, hearing, .. }) = self {
            hearing.begin();
        }
    }

    /// Stops polling: whoever speaks next wakes the shard; who makes room in a ring too, if the
    /// shard `waits` for that.
    pub(super) fn listen(&mut self, waits: bool) {
        if let Self::Socket(socket) = self {
            if let Some(rings) = &mut socket.rings {
                rings.sleep(waits);
            }
            socket.hearing.begin();
        }
    }

    /// Polls again.
    pub(super) fn poll(&mut self) {
        if let Self::Socket(socket) = self {
            socket.hearing.end();
            if let Some(rings) = &mut socket.rings {
                rings.wake();
            }
        }
    }

    /// Whether a shard about to sleep would miss something: a passage and a ring wake nobody who
    /// is awake.
    pub(super) fn has_incoming(&mut self) -> bool {
        match self {
            Self::Passage(end) => end.has_incoming(),
            Self::Socket(Socket { rings: Some(rings), .. }) => rings.has_news(),
            Self::Socket(_) => false,
        }
    }

    /// Whether it is in shared memory.
    pub(super) fn is_bridge(&self) -> bool {
        matches!(self, Self::Socket(Socket { rings: Some(_), .. }))
    }

    /// Closes it.
    pub(super) fn close(self) {
        if let Self::Socket(socket) = self {
            // Its socket is closed when the task is dropped with its ear.
            let errand = Errand::begin();
            glommio::spawn_local(async move {
                socket.ear.cancel().await;
                drop(errand);
            })
            .detach();
        }
    }
}
