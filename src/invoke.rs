//! What travels: names, numbers, the request (`Invoke`), its answer (`Outcome` or
//! [`InvokeError`]). Every other module speaks these types; outside bytes become them at the edge
//! and are not checked again.
//!
//! Invariants: a [`Name`] is short, printable and safe in a path; identifiers are opaque numbers
//! of one node run; errors are data with a stable code, their text says what to do.

pub mod error;
pub mod logging;
pub mod name;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use abi::frame::outcome::Status;
pub use error::{BusyReason, ClientFault, GuestFault, InvokeError, Limit, NodeFault};
pub use logging::{LogAccount, LogProtocol, LoggingService};
pub use name::{ContainerId, Digest, FunctionName, InvokeId, NAME_BYTES_MAX, Name, User, VmId};

/// Nanoseconds of the node's monotonic clock (`CLOCK_MONOTONIC`), the guest's too.
pub type Nanos = u64;
/// How a program meets its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contract {
    /// A fresh process per request: body on stdin, response on stdout, log on stderr.
    #[default]
    Program,
    /// A resident process that reads and writes frames behind their length.
    Stream,
}

impl Contract {
    /// `program` or `stream`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Stream => "stream",
        }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Contract {
    type Err = ClientFault;
    fn from_str(text: &str) -> Result<Self, ClientFault> {
        match text {
            "program" => Ok(Self::Program),
            "stream" => Ok(Self::Stream),
            _ => Err(ClientFault::BadRequest {
                what: format!("contract {text:?}: it is `program` or `stream`"),
            }),
        }
    }
}

impl From<Contract> for abi::frame::invoke::Contract {
    fn from(contract: Contract) -> Self {
        match contract {
            Contract::Program => Self::Program,
            Contract::Stream => Self::Stream,
        }
    }
}

/// What a request finds of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// The container stays: a resident process with all it remembers, or a program that is rewound
    /// to where it first looked outside itself.
    #[default]
    Reuse,
    /// A copy of the container as it was when it first asked for a request.
    Fork,
    /// A VM that was restored or reset since the request before.
    Vm,
}

impl Freshness {
    /// `reuse`, `fork` or `vm`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reuse => "reuse",
            Self::Fork => "fork",
            Self::Vm => "vm",
        }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Freshness {
    type Err = ClientFault;
    fn from_str(text: &str) -> Result<Self, ClientFault> {
        match text {
            "reuse" => Ok(Self::Reuse),
            "fork" => Ok(Self::Fork),
            "vm" => Ok(Self::Vm),
            _ => Err(ClientFault::BadRequest {
                what: format!("freshness {text:?}: it is `reuse`, `fork` or `vm`"),
            }),
        }
    }
}

impl From<Freshness> for abi::frame::invoke::Freshness {
    fn from(freshness: Freshness) -> Self {
        match freshness {
            Freshness::Reuse => Self::Reuse,
            Freshness::Fork => Self::Fork,
            Freshness::Vm => Self::Vm,
        }
    }
}

/// A deployed program: what the store knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// Whose it is.
    pub user: User,
    /// Its name.
    pub name: FunctionName,
    /// How often this name was deployed since it was last new.
    #[serde(default = "first_version")]
    pub version: u32,
    /// Its code in the store.
    pub package: Digest,
    /// Bytes of the package.
    pub package_bytes: u64,
    /// File in the package that is executed.
    pub entry: String,
    /// Arguments, the program's name (base name of what was deployed) first.
    pub arguments: Vec<String>,
    /// Variables it gets.
    pub environment: Vec<(String, String)>,
    /// How it meets requests.
    pub contract: Contract,
    /// What a request finds of those before it.
    #[serde(default)]
    pub freshness: Freshness,
    /// Memory its container may use, MiB.
    pub memory_mib: u32,
    /// How long one invoke may take from its arrival, milliseconds.
    pub timeout_millis: u64,
}

/// Of records and nodes that know no versions.
fn first_version() -> u32 {
    1
}

impl Function {
    /// The message that makes a container for it ([`abi::frame::invoke::Acquire`]). What was
    /// stored was checked to fit.
    pub(crate) fn acquire_message(&self) -> Vec<u8> {
        let arguments: Vec<&[u8]> = self.arguments.iter().map(String::as_bytes).collect();
        let environment: Vec<String> =
            self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let environment: Vec<&[u8]> = environment.iter().map(String::as_bytes).collect();
        let mut buffer = vec![0; abi::frame::invoke::MESSAGE_BYTES_MAX];
        let mut writer = abi::wire::Writer::new(&mut buffer);
        let memory_bytes = u64::from(self.memory_mib) << 20;
        let fixed =
            (self.contract.into(), self.freshness.into(), memory_bytes, self.entry.as_str());
        let encoded =
            abi::frame::invoke::Acquire::encode(&mut writer, fixed, &arguments, &environment);
        let length = writer.length();
        assert!(encoded.is_ok(), "the store keeps arguments within ARGUMENT_BYTES_MAX");
        buffer.truncate(length);
        buffer.shrink_to_fit();
        buffer
    }

    /// How long one invoke may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_millis)
    }
}

/// A request to run a function, parsed and checked. Its body follows in chunks; the credential for
/// its logging service travels beside it, because it can be spent only once.
#[derive(Clone, Debug)]
pub struct Invoke {
    /// Its number, given by the node.
    pub id: InvokeId,
    /// For whom.
    pub user: User,
    /// What to run.
    pub function: FunctionName,
    /// Where its log goes.
    pub logging: LoggingService,
    /// When it has to be over; 0: arrival plus the function's timeout.
    pub deadline_nanos: Nanos,
}

/// Where the time of an invoke went, nanoseconds; stages follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// First byte read to request parsed.
    pub accept_nanos: u64,
    /// To the choice of a room, waiting in the queue included.
    pub route_nanos: u64,
    /// To the container's frames in the ring (assign, acquire).
    pub acquire_nanos: u64,
    /// To the package in the VM; 0 when it was there.
    pub load_nanos: u64,
    /// To the outcome frame.
    pub run_nanos: u64,
    /// To the answer's last byte handed to the socket.
    pub reply_nanos: u64,
}

/// How an invoke that ran ended. Response bytes travel in chunks before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Exit status or signal number.
    pub detail: u32,
    /// What a person needs to know beyond that; may be empty.
    pub reason: String,
    /// Where it ran.
    pub vm: VmId,
    /// In which of the VM's containers.
    pub container: ContainerId,
    /// Time its processes ran, as the guest says, nanoseconds.
    pub run_nanos: u64,
    /// Most memory its processes held at once, as the guest says, bytes.
    pub memory_peak_bytes: u64,
    /// What became of its log.
    pub log: LogAccount,
    /// Where the time went.
    pub timings: Timings,
}

/// Stable name of a status, for machines.
#[must_use]
pub fn status_name(status: Status) -> &'static str {
    match status {
        Status::Exited => "exited",
        Status::Signalled => "signalled",
        Status::StackOverflow => "stack-overflow",
        Status::MemoryExhausted => "memory-exhausted",
        Status::DeadlineExceeded => "deadline-exceeded",
        Status::Cancelled => "cancelled",
        Status::NotExecutable => "not-executable",
        Status::ContractBroken => "contract-broken",
        Status::NoRoom => "no-room",
    }
}
