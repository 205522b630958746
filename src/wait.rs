//! How a sleeping shard is woken: descriptors it did not open itself, waited on through io_uring.
//!
//! glommio only waits on files and sockets of its own making, and its one public way in is
//! `FromRawFd`. This file is the home of those conversions: an eventfd becomes a file whose read
//! completes when somebody rings, a socket becomes a stream whose peek completes when it is
//! readable. While a shard polls, neither is touched.

use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use glommio::io::BufferedFile;

/// An eventfd whose ring can be awaited.
pub(crate) struct Bell(BufferedFile);

impl Bell {
    /// Waits on `eventfd`, which must be blocking: io_uring answers for a non-blocking one at
    /// once.
    pub(crate) fn new(eventfd: OwnedFd) -> Self {
        // SAFETY: `into_raw_fd` gives up the only owner, so the file owns a descriptor nobody
        // else closes.
        Self(unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) })
    }

    /// Completes once the eventfd has been rung since the last time; takes all rings at once.
    ///
    /// # Errors
    /// The runtime's own.
    pub(crate) async fn rung(&self) -> std::io::Result<()> {
        self.0.read_at(0, 8).await.map(drop).map_err(std::io::Error::from)
    }
}

/// A client's socket whose readability can be awaited.
pub(crate) struct Ear(glommio::net::UnixStream);

impl Ear {
    /// Listens on a duplicate of `socket`.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub(crate) fn new(socket: &UnixStream) -> std::io::Result<Self> {
        let duplicate = socket.as_fd().try_clone_to_owned()?;
        // SAFETY: `into_raw_fd` gives up the only owner, so the stream owns a descriptor nobody
        // else closes.
        Ok(Self(unsafe { glommio::net::UnixStream::from_raw_fd(duplicate.into_raw_fd()) }))
    }

    /// Completes when there is something to receive, or the other side is gone.
    pub(crate) async fn readable(&self) {
        // What went wrong is seen by the shard's own receive.
        drop(self.0.peek(&mut [0]).await);
    }
}
