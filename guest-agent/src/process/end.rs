//! How processes end, and what the agent hears of it.

use alloc::format;
use alloc::string::String;

use abi::frame::outcome::Status;

use super::ProcessId;
use super::family::Parting;
use crate::signal::Signal;

/// Why a process is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It called `exit_group`, or its last task `exit`, with this status.
    Exited(u8),
    /// A signal it did not handle ended it.
    Signalled(Signal),
    /// A fault ended it: the signal, and the address it is about.
    Faulted(Signal, u64),
    /// A fault just below one of its stacks ended it, at this address.
    StackOverflow(u64),
    /// It touched memory when its container or the VM had none left.
    MemoryExhausted,
}

impl Ending {
    /// Status and detail of the outcome.
    #[must_use]
    pub fn status(self) -> (Status, u32) {
        match self {
            Self::Exited(status) => (Status::Exited, u32::from(status)),
            Self::Signalled(signal) | Self::Faulted(signal, _) => {
                (Status::Signalled, signal.number())
            }
            Self::StackOverflow(_) => (Status::StackOverflow, Signal::SEGV.number()),
            Self::MemoryExhausted => (Status::MemoryExhausted, Signal::KILL.number()),
        }
    }

    /// What its parent hears, if that is a process.
    #[must_use]
    pub fn parting(self) -> Parting {
        match self {
            Self::Exited(status) => Parting::Exited(status),
            Self::Signalled(signal) | Self::Faulted(signal, _) => Parting::Signalled(signal),
            Self::StackOverflow(_) => Parting::Signalled(Signal::SEGV),
            Self::MemoryExhausted => Parting::Signalled(Signal::KILL),
        }
    }

    /// What a person needs to know beyond the status.
    #[must_use]
    pub fn reason(self, limit_bytes: u64) -> String {
        match self {
            Self::Exited(_) => String::new(),
            Self::Signalled(signal) => format!("ended by {}", signal.name()),
            Self::Faulted(signal, address) => {
                format!("ended by {} at address {address:#x}", signal.name())
            }
            Self::StackOverflow(address) => format!("stack overflow at address {address:#x}"),
            Self::MemoryExhausted => {
                format!("it needed more memory than its limit of {} MiB", limit_bytes >> 20)
            }
        }
    }
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time its tasks ran.
    pub run_nanos: u64,
    /// Most memory its container held at once.
    pub memory_peak_bytes: u64,
}

/// What the agent hears of processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A process the agent started is over.
    Ended {
        /// Which.
        process: ProcessId,
        /// Its container.
        container: u32,
        /// For the outcome.
        status: Status,
        /// Exit status or signal number.
        detail: u32,
        /// For a person; may be empty.
        reason: String,
        /// What it used.
        usage: Usage,
    },
    /// A process made a system call this kernel does not have, for the first time in this invoke.
    Missing {
        /// Which.
        process: ProcessId,
        /// Its container.
        container: u32,
        /// The call's number.
        number: u32,
    },
}
