//! A VMM process to be ended and reaped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use rustix::process::Signal;

use crate::cgroup::Group;

/// One VMM process, as the keeper sees it.
#[derive(Debug)]
pub(crate) struct Infant {
    /// The VM it runs.
    pub(crate) vm: u64,
    pub(super) child: Child,
    pub(super) pidfd: OwnedFd,
    pub(super) group: Option<Group>,
}

impl Infant {
    /// Readable once the process is over.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it only gets what other VMs leave of their core.
    pub(crate) fn set_quiet(&self, is_quiet: bool) {
        if let Some(group) = &self.group {
            group.set_quiet(is_quiet);
        }
    }

    /// Ends the process, whatever it does.
    pub(crate) fn kill(&self) {
        // It may be over already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for the process' end, removes its group and says how it ended.
    pub(crate) fn reap(&mut self) -> String {
        let ending = match self.child.wait() {
            Ok(status) => describe_ending(status),
            Err(error) => format!("was lost: {error}"),
        };
        self.group = None;
        ending
    }
}

fn describe_ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
