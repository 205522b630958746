//! An eventfd as a doorbell: it stays rung until somebody drains it, so a ring before the wait
//! is never lost.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec, read, write};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One doorbell. It is *blocking*, so that io_uring can wait on it with a read; the functions
/// here never block where they do not say so. At most one process may drain it.
#[derive(Debug)]
pub struct Doorbell(OwnedFd);

impl Doorbell {
    /// A new one, not rung.
    ///
    /// # Errors
    /// What the kernel says when it has no descriptor or no memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    /// Rings. Ringing twice is ringing once.
    ///
    /// # Errors
    /// What the kernel says when this is no eventfd.
    pub fn ring(&self) -> io::Result<()> {
        write(&self.0, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    /// Whether it was rung since the last drain; it is silent afterwards. Does not wait.
    ///
    /// # Errors
    /// What the kernel says when this is no eventfd.
    pub fn drain(&self) -> io::Result<bool> {
        self.wait(Some(Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Waits until it is rung, the time is over (`None`: no limit) or a signal arrives, and drains
    /// it. Returns whether it was rung.
    ///
    /// # Errors
    /// What the kernel says when this is no eventfd.
    pub fn wait(&self, limit: Option<Timespec>) -> io::Result<bool> {
        let mut entries = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut entries, limit.as_ref()) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => {
                read(&self.0, &mut [0; 8])?;
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Another descriptor of the same doorbell.
    ///
    /// # Errors
    /// What the kernel says when it has no descriptor.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(fcntl_dupfd_cloexec(&self.0, 3)?)
    }
}

impl From<OwnedFd> for Doorbell {
    fn from(eventfd: OwnedFd) -> Self {
        Self(eventfd)
    }
}

impl From<Doorbell> for OwnedFd {
    fn from(doorbell: Doorbell) -> Self {
        doorbell.0
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_rung_until_drained() {
        let doorbell = Doorbell::new().unwrap();
        assert!(!doorbell.drain().unwrap());
        let other = Doorbell::from(doorbell.duplicate().unwrap());
        other.ring().unwrap();
        other.ring().unwrap();
        assert!(doorbell.wait(None).unwrap());
        assert!(!doorbell.drain().unwrap());
    }
}
