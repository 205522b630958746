//! What travels: names, numbers, the request (`Invoke`), its answer (`Outcome` or
//! [`InvokeError`]). Every other module speaks these types; outside bytes become them at the edge
//! and are not checked again.
//!
//! Invariants: a [`Name`] is short, printable and safe in a path; identifiers are opaque numbers
//! of one node run; errors are data with a stable code, their text says what to do.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use abi::frame::outcome::Status;

/// Nanoseconds of the node's monotonic clock (`CLOCK_MONOTONIC`), the guest's too.
pub type Nanos = u64;

/// Most bytes of a user's or function's name: with its length 56 bytes, so that an error naming both
/// stays small enough to be returned by value.
pub const NAME_BYTES_MAX: usize = 55;

/// A checked name, kept inline: copying one allocates nothing.
///
/// 1 to [`NAME_BYTES_MAX`] bytes of `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`: safe as a
/// file name, an argument and a syslog field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    length: u8,
}

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// [`ClientFault::BadName`] when it breaks the rule above.
    pub fn new(text: &str) -> Result<Self, ClientFault> {
        let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        let length = u8::try_from(text.len()).ok();
        let length = length.filter(|length| usize::from(*length) <= NAME_BYTES_MAX && *length > 0);
        let is_plain = text.bytes().all(|byte| is_allowed(&byte));
        match length {
            Some(length) if is_plain && !text.starts_with(['.', '-']) => {
                let mut bytes = [0; NAME_BYTES_MAX];
                bytes[..text.len()].copy_from_slice(text.as_bytes());
                Ok(Self { bytes, length })
            }
            _ => Err(ClientFault::BadName { given: text.chars().take(80).collect() }),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or("")
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.as_str())
    }
}

/// Whose program it is, and for whom it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct User(Name);

/// A program's name among its user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName(Name);

impl User {
    /// Checks a user's name.
    ///
    /// # Errors
    /// [`ClientFault::BadName`] as for [`Name::new`].
    pub fn new(text: &str) -> Result<Self, ClientFault> {
        Name::new(text).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FunctionName {
    /// Checks a function's name.
    ///
    /// # Errors
    /// [`ClientFault::BadName`] as for [`Name::new`].
    pub fn new(text: &str) -> Result<Self, ClientFault> {
        Name::new(text).map(Self)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl TryFrom<String> for User {
    type Error = ClientFault;
    fn try_from(text: String) -> Result<Self, ClientFault> {
        Self::new(&text)
    }
}

impl TryFrom<String> for FunctionName {
    type Error = ClientFault;
    fn try_from(text: String) -> Result<Self, ClientFault> {
        Self::new(&text)
    }
}

impl From<User> for String {
    fn from(user: User) -> Self {
        user.as_str().to_owned()
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> Self {
        name.as_str().to_owned()
    }
}

/// SHA-256 of a package.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{self}")
    }
}

impl FromStr for Digest {
    type Err = ClientFault;
    fn from_str(text: &str) -> Result<Self, ClientFault> {
        let bad = || ClientFault::BadRequest { what: "a digest is 64 hexadecimal digits".into() };
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = ClientFault;
    fn try_from(text: String) -> Result<Self, ClientFault> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// One invoke of one node run; never 0, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InvokeId(pub u64);

impl fmt::Display for InvokeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// One VM of one node run; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmId(pub u64);

impl fmt::Display for VmId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "vm-{}", self.0)
    }
}

/// One container of one VM, numbered by the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(pub u32);

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

/// How log records reach a logging service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogProtocol {
    /// RFC 5424 over TLS (RFC 5425).
    #[serde(rename = "syslog-tls")]
    SyslogTls,
    /// RFC 5424 over TCP, octet-counted (RFC 6587).
    #[serde(rename = "syslog-tcp")]
    SyslogTcp,
    /// Nowhere but back to the client.
    #[default]
    #[serde(rename = "none")]
    None,
}

impl LogProtocol {
    /// `syslog-tls`, `syslog-tcp` or `none`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SyslogTls => "syslog-tls",
            Self::SyslogTcp => "syslog-tcp",
            Self::None => "none",
        }
    }
}

impl fmt::Display for LogProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for LogProtocol {
    type Err = ClientFault;
    fn from_str(text: &str) -> Result<Self, ClientFault> {
        match text {
            "syslog-tls" => Ok(Self::SyslogTls),
            "syslog-tcp" => Ok(Self::SyslogTcp),
            "none" => Ok(Self::None),
            _ => Err(ClientFault::BadLogging {
                what: format!("protocol {text:?}: use syslog-tls, syslog-tcp or none"),
            }),
        }
    }
}

/// A user's logging service, without the credential for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoggingService {
    /// `host:port` as given; empty for protocol `none`.
    pub address: String,
    /// What the host resolved to; `None` until it is looked up, and for protocol `none`.
    pub resolved: Option<SocketAddr>,
    /// Name the service's certificate is checked against: the host as given.
    pub server_name: String,
    /// How it is spoken to.
    pub protocol: LogProtocol,
}

impl LoggingService {
    /// No logging service: records go back to the client only.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Checks an address; it is resolved only if it is an IP address already.
    ///
    /// # Errors
    /// [`ClientFault::BadLogging`] when it is not `host:port`, missing, or given with `none`.
    pub fn new(protocol: LogProtocol, address: &str) -> Result<Self, ClientFault> {
        let bad = |what: &str| ClientFault::BadLogging { what: what.to_owned() };
        if protocol == LogProtocol::None {
            return match address {
                "" => Ok(Self::none()),
                _ => Err(bad("an address needs a protocol: syslog-tls or syslog-tcp")),
            };
        }
        let form = "the address is HOST:PORT, as in logs.example.com:6514 or [::1]:6514";
        let (host, port) = address.rsplit_once(':').ok_or_else(|| bad(form))?;
        let port: u16 = port.parse().map_err(|_| bad(form))?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = inner.unwrap_or(host);
        let is_plain = host.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || host.len() > 253 || port == 0 || !is_plain {
            return Err(bad(form));
        }
        let resolved = host.parse().ok().map(|ip| SocketAddr::new(ip, port));
        if resolved.is_none() && host.contains(':') {
            return Err(bad(form));
        }
        Ok(Self { address: address.to_owned(), resolved, server_name: host.to_owned(), protocol })
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
    /// Memory its container may use, MiB.
    pub memory_mib: u32,
    /// How long one invoke may take from its arrival, milliseconds.
    pub timeout_millis: u64,
}

impl Function {
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

/// What became of an invoke's log records. For one invoke:
/// `produced = handed_over + dropped + still waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAccount {
    /// Records the program wrote.
    pub produced: u64,
    /// Given to the transport of the logging service.
    pub handed_over: u64,
    /// Confirmed by the logging service; `None` when its protocol cannot.
    pub acknowledged: Option<u64>,
    /// Given up: spool full, service refused or out of reach.
    pub dropped: u64,
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
        /// How large it may be, bytes.
        bytes_max: u64,
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
    /// VMs do not start: the node's messages say why.
    VmsDoNotStart,
}

/// What the node could not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeFault {
    /// No room; try again later.
    Busy(BusyReason),
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
    pub fn code(&self) -> &'static str {
        match self {
            Self::Client(fault) => fault.code(),
            Self::Guest(GuestFault::VmGone { .. }) => "vm-gone",
            Self::Guest(GuestFault::Unresponsive { .. }) => "vm-unresponsive",
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
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownFunction { .. } => "unknown-function",
            Self::BadName { .. } => "bad-name",
            Self::BadRequest { .. } => "bad-request",
            Self::BadLogging { .. } => "bad-logging",
            Self::NotAllowed { .. } => "not-allowed",
            Self::TooLarge { .. } => "too-large",
            Self::TooMuchMemory { .. } => "too-much-memory",
            Self::Cancelled => "cancelled",
        }
    }
}

impl NodeFault {
    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::DeadlineInQueue => "deadline",
            Self::VmLost { .. } => "vm-lost",
            Self::PackageUnavailable { .. } => "package-unavailable",
            Self::Stopping => "stopping",
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
            Self::TooLarge { what, bytes_max } => {
                write!(formatter, "{what} is larger than the {bytes_max} bytes it may have")
            }
            Self::TooMuchMemory { memory_mib, memory_mib_max } => write!(
                formatter,
                "the function asks for {memory_mib} MiB but a VM of this node gives at most \
                 {memory_mib_max}; deploy it with less --memory or raise ram_mib"
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
            Self::Busy(reason) => write!(formatter, "busy: {reason}"),
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
            Self::WaitedTooLong => "no VM was free in time; try again later or raise vms_max",
            Self::VmsDoNotStart => "VMs do not start; `pilotlight doctor` says what is missing",
        })
    }
}

impl std::error::Error for InvokeError {}
impl std::error::Error for ClientFault {}
impl std::error::Error for GuestFault {}
impl std::error::Error for NodeFault {}
