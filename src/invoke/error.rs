//! Why an invoke has no outcome: data with a stable code, sorted by whose fault it is.

use std::fmt;

use crate::code::Code;

use super::name::{FunctionName, NAME_BYTES_MAX, User, VmId};

/// Why an invoke has no outcome, by whose fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvokeError {
    /// The request cannot be served as it is: answer, nothing else.
    Client(ClientFault),
    /// The guest broke a rule: answer, retire that VM.
    Guest(GuestFault),
    /// The node could not do its part.
    Node(NodeFault),
}

/// A limit that was met: its key in the configuration, and its value there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// As `table.key`.
    pub key: &'static str,
    /// In the unit the key says.
    pub value: u64,
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} = {}", self.key, self.value)
    }
}

/// What the client can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// No such function.
    UnknownFunction {
        /// Whose functions were searched.
        user: User,
        /// For this one.
        name: FunctionName,
    },
    /// A name breaks the rule for names.
    BadName {
        /// It (its beginning).
        given: String,
    },
    /// The request makes no sense.
    BadRequest {
        /// What about it.
        what: String,
    },
    /// The logging service or its credential makes no sense.
    BadLogging {
        /// What about it.
        what: String,
    },
    /// This caller may not act for that user.
    NotAllowed {
        /// The user.
        user: User,
    },
    /// Body or response is larger than allowed.
    TooLarge {
        /// What is too large.
        what: String,
        /// How many bytes it may have.
        limit: Limit,
    },
    /// With this, the user would have more than their share.
    OverLimit {
        /// Of what.
        what: String,
        /// The limit.
        limit: Limit,
    },
    /// The function wants more memory than any VM has.
    TooMuchMemory {
        /// What it wants, MiB.
        memory_mib: u32,
        /// What a VM can give, MiB.
        memory_mib_max: u32,
    },
    /// The client withdrew it.
    Cancelled,
}

/// What the VM did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestFault {
    /// It ended, or broke a rule of its rings and was ended.
    VmGone {
        /// Which.
        vm: VmId,
    },
    /// It did not answer in time, not even to say so.
    Unresponsive {
        /// Which.
        vm: VmId,
    },
}

/// Why the node has no room for an invoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyReason {
    /// The queue of waiting invokes is full.
    QueueFull,
    /// This user already has as many invokes waiting as one user may.
    UserQueueFull,
    /// No VM was free before the wait was over.
    WaitedTooLong,
    /// As fast as those ahead get their VMs, none would be free before the wait is over.
    WouldWaitTooLong,
    /// VMs do not start: the node's messages say why.
    VmsDoNotStart,
    /// As many bytes of bodies wait for VMs as may.
    BodiesFull,
    /// As many bytes of packages are being stored as may.
    PackagesFull,
    /// As many clients use shared memory as may.
    SharedMemoryFull,
}

/// What the node could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeFault {
    /// No room; try again later.
    Busy {
        /// For what.
        reason: BusyReason,
        /// The limit that was met, if it is one.
        limit: Option<Limit>,
    },
    /// The deadline passed before a VM was free.
    DeadlineInQueue,
    /// The VM's process ended or failed.
    VmLost {
        /// Which.
        vm: VmId,
    },
    /// The code store no longer gives the package.
    PackageUnavailable {
        /// What happened.
        what: String,
    },
    /// The node is shutting down.
    Stopping,
}

impl InvokeError {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Client(fault) => fault.code(),
            Self::Guest(GuestFault::VmGone { .. }) => Code::VmGone,
            Self::Guest(GuestFault::Unresponsive { .. }) => Code::VmUnresponsive,
            Self::Node(fault) => fault.code(),
        }
    }

    /// `client`, `guest` or `node`.
    #[must_use]
    pub fn blame(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Guest(_) => "guest",
            Self::Node(_) => "node",
        }
    }
}

impl ClientFault {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownFunction { .. } => Code::UnknownFunction,
            Self::BadName { .. } => Code::BadName,
            Self::BadRequest { .. } => Code::BadRequest,
            Self::BadLogging { .. } => Code::BadLogging,
            Self::NotAllowed { .. } => Code::NotAllowed,
            Self::TooLarge { .. } => Code::TooLarge,
            Self::OverLimit { .. } => Code::OverLimit,
            Self::TooMuchMemory { .. } => Code::TooMuchMemory,
            Self::Cancelled => Code::Cancelled,
        }
    }
}

impl NodeFault {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Busy { .. } => Code::Busy,
            Self::DeadlineInQueue => Code::Deadline,
            Self::VmLost { .. } => Code::VmLost,
            Self::PackageUnavailable { .. } => Code::PackageUnavailable,
            Self::Stopping => Code::Stopping,
        }
    }
}

impl From<ClientFault> for InvokeError {
    fn from(fault: ClientFault) -> Self {
        Self::Client(fault)
    }
}

impl From<GuestFault> for InvokeError {
    fn from(fault: GuestFault) -> Self {
        Self::Guest(fault)
    }
}

impl From<NodeFault> for InvokeError {
    fn from(fault: NodeFault) -> Self {
        Self::Node(fault)
    }
}

impl fmt::Display for InvokeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(fault) => fault.fmt(formatter),
            Self::Guest(fault) => fault.fmt(formatter),
            Self::Node(fault) => fault.fmt(formatter),
        }
    }
}

impl fmt::Display for ClientFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFunction { user, name } => write!(
                formatter,
                "user {user} has no function {name}; `pilotlight list` shows what there is, \
                 `pilotlight deploy {name} --program PATH` adds it"
            ),
            Self::BadName { given } => write!(
                formatter,
                "{given:?} is not a name: use 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - and \
                 start with a letter, a digit or _"
            ),
            Self::BadRequest { what } => write!(formatter, "bad request: {what}"),
            Self::BadLogging { what } => write!(formatter, "bad logging service: {what}"),
            Self::NotAllowed { user } => write!(
                formatter,
                "you may not act for user {user}; ask the operator, or leave out --user"
            ),
            Self::TooLarge { what, limit } => {
                write!(formatter, "{what} has more bytes than it may have ({limit})")
            }
            Self::OverLimit { what, limit } => write!(
                formatter,
                "more {what} than there may be ({limit}); remove some, or ask the operator for more"
            ),
            Self::TooMuchMemory { memory_mib, memory_mib_max } => write!(
                formatter,
                "the function asks for {memory_mib} MiB but a VM of this node gives at most \
                 {memory_mib_max}; deploy it with less --memory, or raise vm.ram_mib"
            ),
            Self::Cancelled => formatter.write_str("cancelled by the client"),
        }
    }
}

impl fmt::Display for GuestFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VmGone { vm } => write!(
                formatter,
                "{vm} broke a rule or crashed and was ended; other VMs are not affected, \
                 the invoke may be tried again"
            ),
            Self::Unresponsive { vm } => write!(
                formatter,
                "{vm} did not answer by the deadline and was ended; the invoke may be tried again"
            ),
        }
    }
}

impl fmt::Display for NodeFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { reason, limit: Some(limit) } => {
                write!(formatter, "busy: {reason} ({limit})")
            }
            Self::Busy { reason, limit: None } => write!(formatter, "busy: {reason}"),
            Self::DeadlineInQueue => formatter.write_str(
                "the deadline passed before a VM was free; try again later or with a longer timeout",
            ),
            Self::VmLost { vm } => {
                write!(formatter, "the process of {vm} ended; the invoke may be tried again")
            }
            Self::PackageUnavailable { what } => write!(
                formatter,
                "the function's package cannot be used: {what}; deploy the function again"
            ),
            Self::Stopping => formatter.write_str("the node is shutting down; try another"),
        }
    }
}

impl fmt::Display for BusyReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::QueueFull => "too many invokes wait already; try again later",
            Self::UserQueueFull => "too many invokes of this user wait already; try again later",
            Self::WaitedTooLong => "no VM was free in time; try again later",
            Self::WouldWaitTooLong => "those ahead take longer than it may wait; try again later",
            Self::VmsDoNotStart => "VMs do not start; `pilotlight doctor` says what is missing",
            Self::BodiesFull => "too many bytes of bodies wait for VMs; try again later",
            Self::PackagesFull => "too many bytes of packages are being stored; try again later",
            Self::SharedMemoryFull => "too many clients use shared memory; the socket serves too",
        })
    }
}

impl std::error::Error for InvokeError {}
impl std::error::Error for ClientFault {}
impl std::error::Error for GuestFault {}
impl std::error::Error for NodeFault {}
