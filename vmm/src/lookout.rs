//! When the control thread looks at the guest's deadline without having been asked to.
//!
//! A guest that goes on after a halt would ask for that with the first turn of a program, which wakes a
//! thread on the very core it is about to run on. The vCPU's thread knows that it goes on: it sets a
//! timer instead, tells the guest when that goes off, and takes it back when the guest halts again,
//! mostly long before.

use rustix::io::{Errno, read};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How long after a halt the first look is: within the guest's time slice, so that it need not ask either
/// when others are ready.
pub(crate) const FIRST_LOOK_NANOS: i64 = 3_000_000;

const NEVER: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
const FIRST_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: FIRST_LOOK_NANOS };

/// The timer: set and taken back by the vCPU's thread, watched by the control thread.
#[derive(Debug)]
pub(crate) struct Lookout(OwnedFd);

impl Lookout {
    /// A timer that is not set.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Goes off once, [`FIRST_LOOK_NANOS`] from now.
    pub(crate) fn set(&self) -> io::Result<()> {
        self.set_to(FIRST_LOOK)
    }

    /// Does not go off any more.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.set_to(NEVER)
    }

    fn set_to(&self, it_value: Timespec) -> io::Result<()> {
        let once = Itimerspec { it_interval: NEVER, it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Whether it went off since this was asked last.
    pub(crate) fn has_gone_off(&self) -> io::Result<bool> {
        match read(&self.0, &mut [0; 8]) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Lookout {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    #[test]
    fn goes_off_once_and_not_at_all_when_cleared() {
        let lookout = Lookout::new().unwrap();
        let waits = |lookout: &Lookout, limit: Option<&Timespec>| {
            poll(&mut [PollFd::new(lookout, PollFlags::IN)], limit).unwrap() == 0
        };
        lookout.set().unwrap();
        assert!(!waits(&lookout, None));
        assert!(lookout.has_gone_off().unwrap() && !lookout.has_gone_off().unwrap());
        lookout.set().unwrap();
        lookout.clear().unwrap();
        let twice = Timespec { tv_sec: 0, tv_nsec: 2 * FIRST_LOOK_NANOS };
        assert!(waits(&lookout, Some(&twice)));
    }
}
