//! What a client sends: the codec of its frames. Pure; used by [`super::Connection`] to read and
//! by [`crate::client`] to write.

use abi::wire::{Malformed, Reader};

use super::frame::{
    self, FLAG_MORE, Header, MAGIC, TooLong, kind, put_blob, put_short, take_short,
};
use super::logging::Logging;

/// The invoke's answer is held back until its log records are delivered or given up.
pub const OPTION_SETTLE_LOGS: u8 = 1;
/// The invoke's log records are sent to this client as well.
pub const OPTION_WANT_LOG: u8 = 2;
/// The invoke names its logging service; otherwise the connection's default applies.
const OPTION_LOGGING: u8 = 4;

/// A client's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version the client speaks.
    pub version_min: u16,
    /// Newest version the client speaks.
    pub version_max: u16,
}

impl Hello {
    /// Appends the frame.
    ///
    /// # Errors
    /// Never: it is short.
    pub fn append(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        frame::append(out, (kind::HELLO, 0, 0), |out| {
            out.extend_from_slice(&MAGIC);
            out.extend_from_slice(&self.version_min.to_le_bytes());
            out.extend_from_slice(&self.version_max.to_le_bytes());
            Ok(())
        })
    }

    /// Reads the payload. A later version may add bytes; they are passed over.
    ///
    /// # Errors
    /// [`Malformed`] when it is not one.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.array()? != MAGIC {
            return Err(Malformed);
        }
        Ok(Self { version_min: reader.u16()?, version_max: reader.u16()? })
    }
}

/// One invoke, with its body's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invoke<'a> {
    /// Whose function; empty: the client's own login.
    pub user: &'a str,
    /// Its name.
    pub function: &'a str,
    /// [`OPTION_SETTLE_LOGS`] and [`OPTION_WANT_LOG`].
    pub options: u8,
    /// Nanoseconds it may take from its arrival, if less than the function's own; 0: the function's.
    pub timeout_nanos: u64,
    /// The logging service; none: the connection's default.
    pub logging: Option<Logging<'a>>,
    /// The body's first bytes.
    pub body: &'a [u8],
}

/// A function to store, with its package's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deploy<'a> {
    /// Whose function; empty: the client's own login.
    pub user: &'a str,
    /// Its name.
    pub function: &'a str,
    /// JSON: see `docs/protocol.md`.
    pub settings: &'a str,
    /// The first bytes of the ELF file or tar archive.
    pub package: &'a [u8],
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Run a function.
    Invoke(Invoke<'a>),
    /// More of an invoke's body.
    Body(&'a [u8]),
    /// End an invoke now.
    Cancel,
    /// The logging service of later invokes that name none.
    SetLogging(Logging<'a>),
    /// Store a function.
    Deploy(Deploy<'a>),
    /// More of a deploy's package. On the wire it is a body.
    Package(&'a [u8]),
    /// Name the functions of a user (empty: the client's own login).
    List(&'a str),
    /// Forget a function.
    Remove {
        /// Whose; empty: the client's own login.
        user: &'a str,
        /// Its name.
        function: &'a str,
    },
    /// Counters and pools.
    Status,
    /// Go on in shared memory.
    Attach,
}

impl<'a> Request<'a> {
    fn kind(&self) -> u8 {
        match self {
            Self::Invoke(_) => kind::INVOKE,
            Self::Body(_) | Self::Package(_) => kind::BODY,
            Self::Cancel => kind::CANCEL,
            Self::SetLogging(_) => kind::SET_LOGGING,
            Self::Deploy(_) => kind::DEPLOY,
            Self::List(_) => kind::LIST,
            Self::Remove { .. } => kind::REMOVE,
            Self::Status => kind::STATUS,
            Self::Attach => kind::ATTACH,
        }
    }

    /// Appends the frame of request `id`.
    ///
    /// # Errors
    /// [`TooLong`] when it does not fit one frame; `out` is unchanged then.
    pub fn append(&self, out: &mut Vec<u8>, id: u64, has_more: bool) -> Result<(), TooLong> {
        let flags = if has_more { FLAG_MORE } else { 0 };
        frame::append(out, (self.kind(), flags, id), |out| self.encode(out))
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        match self {
            Self::Invoke(invoke) => invoke.encode(out)?,
            Self::Body(bytes) | Self::Package(bytes) => out.extend_from_slice(bytes),
            Self::Cancel | Self::Status | Self::Attach => {}
            Self::SetLogging(logging) => logging.encode(out)?,
            Self::Deploy(deploy) => {
                put_short(out, deploy.user.as_bytes())?;
                put_short(out, deploy.function.as_bytes())?;
                put_blob(out, deploy.settings.as_bytes())?;
                out.extend_from_slice(deploy.package);
            }
            Self::List(user) => put_short(out, user.as_bytes())?,
            Self::Remove { user, function } => {
                put_short(out, user.as_bytes())?;
                put_short(out, function.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Reads the payload of a frame that is no hello.
    ///
    /// # Errors
    /// [`Malformed`] when it is not one, or bytes are left over.
    pub fn decode(header: Header, payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let request = match header.kind {
            kind::INVOKE => return Ok(Self::Invoke(Invoke::decode(&mut reader)?)),
            kind::BODY => return Ok(Self::Body(payload)),
            kind::DEPLOY => {
                return Ok(Self::Deploy(Deploy {
                    user: take_short(&mut reader)?,
                    function: take_short(&mut reader)?,
                    settings: reader.text()?,
                    package: reader.rest(),
                }));
            }
            kind::CANCEL => Self::Cancel,
            kind::SET_LOGGING => Self::SetLogging(Logging::decode(&mut reader)?),
            kind::LIST => Self::List(take_short(&mut reader)?),
            kind::REMOVE => {
                Self::Remove { user: take_short(&mut reader)?, function: take_short(&mut reader)? }
            }
            kind::STATUS => Self::Status,
            kind::ATTACH => Self::Attach,
            _ => return Err(Malformed),
        };
        if reader.rest().is_empty() && !header.has_more() { Ok(request) } else { Err(Malformed) }
    }
}

impl<'a> Invoke<'a> {
    /// An invoke of a function of the client's own login, with nothing special.
    #[must_use]
    pub fn new(function: &'a str, body: &'a [u8]) -> Self {
        Self { user: "", function, options: 0, timeout_nanos: 0, logging: None, body }
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLong> {
        let has_logging = if self.logging.is_some() { OPTION_LOGGING } else { 0 };
        out.push(self.options & !OPTION_LOGGING | has_logging);
        put_short(out, self.user.as_bytes())?;
        put_short(out, self.function.as_bytes())?;
        out.extend_from_slice(&self.timeout_nanos.to_le_bytes());
        if let Some(logging) = &self.logging {
            logging.encode(out)?;
        }
        out.extend_from_slice(self.body);
        Ok(())
    }

    fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let options = reader.u8()?;
        if options & !(OPTION_SETTLE_LOGS | OPTION_WANT_LOG | OPTION_LOGGING) != 0 {
            return Err(Malformed);
        }
        let (user, function) = (take_short(reader)?, take_short(reader)?);
        let timeout_nanos = reader.u64()?;
        let has_logging = options & OPTION_LOGGING != 0;
        let logging = if has_logging { Some(Logging::decode(reader)?) } else { None };
        let options = options & !OPTION_LOGGING;
        Ok(Self { user, function, options, timeout_nanos, logging, body: reader.rest() })
    }
}
