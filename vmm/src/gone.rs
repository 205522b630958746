//! Why a VM is over: the one error of this process. It ends in a `Gone` reply to the node.

use crate::snapshot::SnapshotFault;
use abi::control::Blame;
use std::fmt;
use std::io;

/// Why a VM is over.
#[derive(Debug)]
pub enum Gone {
    /// The node asked for it.
    Asked,
    /// The guest kernel gave up and said why.
    Panicked(String),
    /// A program halted the VM or used a port.
    UserExit {
        /// What it did.
        what: &'static str,
        /// Where.
        rip: u64,
    },
    /// The guest kernel used a port that does not exist here.
    UnknownPort(u16),
    /// The guest touched guest-physical memory that is not there: an unplaced part of the image
    /// window, or no memory at all.
    NoMemory {
        /// The address, where the host tells it.
        gpa: Option<u64>,
    },
    /// The guest ran into a state the CPU cannot go on from.
    Dead(&'static str),
    /// The message the node sent is not one this VMM can serve.
    Request(&'static str),
    /// The snapshot cannot be used.
    Snapshot(SnapshotFault),
    /// A VM that was reset is not as its snapshot has it.
    Different(Difference),
    /// The host refused something.
    Host {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl Gone {
    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Asked => Blame::Nobody,
            Self::Panicked(_)
            | Self::UserExit { .. }
            | Self::UnknownPort(_)
            | Self::NoMemory { .. }
            | Self::Dead(_) => Blame::Guest,
            Self::Request(_) | Self::Snapshot(_) | Self::Different(_) | Self::Host { .. } => {
                Blame::Host
            }
        }
    }
}

impl fmt::Display for Gone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => formatter.write_str("stopped"),
            Self::Panicked(message) => write!(formatter, "guest kernel: {message}"),
            Self::UserExit { what, rip } => write!(formatter, "a program {what} at {rip:#x}"),
            Self::UnknownPort(port) => write!(formatter, "guest kernel used port {port:#x}"),
            Self::NoMemory { gpa: Some(gpa) } => {
                write!(formatter, "guest touched {gpa:#x}, where no memory is")
            }
            Self::NoMemory { gpa: None } => {
                formatter.write_str("guest touched an unplaced part of the image window")
            }
            Self::Dead(how) => write!(formatter, "guest {how}"),
            Self::Request(what) => write!(formatter, "control message: {what}"),
            Self::Snapshot(fault) => write!(formatter, "snapshot: {fault}"),
            Self::Different(what) => write!(formatter, "reset left {what} different"),
            Self::Host { doing, error } => write!(formatter, "cannot {doing}: {error}"),
        }
    }
}

/// What a reset did not put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A page of RAM, by number.
    Page(u32),
    /// Registers, by name.
    Register(String),
    /// A byte of the region, by offset.
    Region(u32),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Page(number) => write!(formatter, "page {number:#x}"),
            Self::Register(name) => formatter.write_str(name),
            Self::Region(offset) => write!(formatter, "region byte {offset:#x}"),
        }
    }
}

/// Says what was being done when the host refused.
pub(crate) trait Doing<T> {
    /// Turns the error into [`Gone::Host`].
    fn doing(self, doing: &'static str) -> Result<T, Gone>;
}

impl<T, E: Into<HostError>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, Gone> {
        self.map_err(|error| Gone::Host { doing, error: error.into().0 })
    }
}

/// Any of the error types the crates below use for an errno.
pub(crate) struct HostError(io::Error);

impl From<io::Error> for HostError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<rustix::io::Errno> for HostError {
    fn from(error: rustix::io::Errno) -> Self {
        Self(error.into())
    }
}

impl From<vmm_sys_util::errno::Error> for HostError {
    fn from(error: vmm_sys_util::errno::Error) -> Self {
        Self(error.into())
    }
}
