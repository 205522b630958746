//! What carries a client's bytes: a socket, or a passage from another shard. Never waits.

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::metrics::ShardMetrics;
use crate::passage::{End, Received};
use crate::signal::{Errand, Signal};
use crate::wait::Ear;

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
}

/// What a socket's ear task shares with the shard.
struct Hearing {
    /// Tells the task to listen.
    listen: Signal,
    /// While it is to listen.
    errand: Cell<Option<Errand>>,
    is_listening: Cell<bool>,
}

impl Hearing {
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
        });
        let (shared, wake) = (Rc::clone(&hearing), Rc::clone(wake));
        let ear = glommio::spawn_local(async move {
            loop {
                shared.listen.wait().await;
                ear.readable().await;
                // Its receive sees what it is; until then it may complete again, for nothing.
                shared.end();
                wake.raise();
            }
        });
        Ok(Self { stream, hearing, ear })
    }
}

impl Wire {
    /// Receives into `space`.
    pub(super) fn receive(&mut self, space: &mut [u8], metrics: &mut ShardMetrics) -> Received {
        match self {
            Self::Passage(end) => end.receive(space),
            Self::Socket(socket) if socket.hearing.is_listening.get() => Received::Nothing,
            Self::Socket(socket) => {
                let received = rustix::net::recv(&socket.stream, space, RecvFlags::DONTWAIT);
                let (count, received) = match received {
                    Ok((0, _)) => (&mut metrics.receives, Received::Closed),
                    Ok((count, _)) => (&mut metrics.receives, Received::Bytes(count)),
                    Err(Errno::AGAIN | Errno::INTR) => {
                        (&mut metrics.receives_empty, Received::Nothing)
                    }
                    Err(_) => (&mut metrics.receives, Received::Closed),
                };
                *count += 1;
                received
            }
        }
    }

    /// Sends what there is room for and returns how much that was; `None` when nobody is there.
    pub(super) fn send(&mut self, bytes: &[u8], metrics: &mut ShardMetrics) -> Option<usize> {
        match self {
            Self::Passage(end) => end.send(bytes),
            Self::Socket(socket) => {
                metrics.sends += 1;
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                match rustix::net::send(&socket.stream, bytes, flags) {
                    Ok(count) => Some(count),
                    Err(Errno::AGAIN | Errno::INTR) => Some(0),
                    Err(_) => None,
                }
            }
        }
    }

    /// Stops polling: whoever speaks next wakes the shard.
    pub(super) fn listen(&self) {
        if let Self::Socket(socket) = self
            && !socket.hearing.is_listening.replace(true)
        {
            socket.hearing.errand.set(Some(Errand::begin()));
            socket.hearing.listen.raise();
        }
    }

    /// Polls again.
    pub(super) fn poll(&self) {
        if let Self::Socket(socket) = self {
            socket.hearing.end();
        }
    }

    /// Whether a shard about to sleep would miss something: a passage rings nobody who is awake.
    pub(super) fn has_incoming(&self) -> bool {
        matches!(self, Self::Passage(end) if end.has_incoming())
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
