//! What carries a client's bytes: a socket, or a passage from another shard. Never waits.

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::passage::{End, Received};
use crate::signal::Signal;
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
    is_listening: Cell<bool>,
}

impl Socket {
    /// Takes a connected socket in; `wake` is raised when it was listened to and is readable.
    ///
    /// # Errors
    /// Out of descriptors.
    pub(super) fn new(stream: UnixStream, wake: &Rc<Signal>) -> io::Result<Self> {
        let ear = Ear::new(&stream)?;
        let hearing =
            Rc::new(Hearing { listen: Signal::default(), is_listening: Cell::new(false) });
        let (shared, wake) = (Rc::clone(&hearing), Rc::clone(wake));
        let ear = glommio::spawn_local(async move {
            loop {
                shared.listen.wait().await;
                ear.readable().await;
                // Its receive sees what it is; until then it may complete again, for nothing.
                shared.is_listening.set(false);
                wake.raise();
            }
        });
        Ok(Self { stream, hearing, ear })
    }
}

impl Wire {
    /// Receives into `space`.
    pub(super) fn receive(&mut self, space: &mut [u8]) -> Received {
        match self {
            Self::Passage(end) => end.receive(space),
            Self::Socket(socket) if socket.hearing.is_listening.get() => Received::Nothing,
            Self::Socket(socket) => {
                match rustix::net::recv(&socket.stream, space, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => Received::Closed,
                    Ok((count, _)) => Received::Bytes(count),
                    Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
                    Err(_) => Received::Closed,
                }
            }
        }
    }

    /// Sends what there is room for and returns how much that was; `None` when nobody is there.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Passage(end) => end.send(bytes),
            Self::Socket(socket) => {
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
            socket.hearing.listen.raise();
        }
    }

    /// Polls again.
    pub(super) fn poll(&self) {
        if let Self::Socket(socket) = self {
            socket.hearing.is_listening.set(false);
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
            glommio::spawn_local(async move {
                socket.ear.cancel().await;
            })
            .detach();
        }
    }
}
