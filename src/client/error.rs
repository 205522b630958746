//! What can go wrong for a client, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use abi::wire::Malformed;

use crate::code::Code;
use crate::socket::frame::TooLong;

/// Why a request has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens at the socket.
    NoNode {
        /// Where.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The node closed the connection without a word: it stopped or crashed.
    Closed,
    /// The connection failed.
    Io(io::Error),
    /// The node sent something else than the protocol allows.
    Protocol(&'static str),
    /// The body is larger than the node takes.
    BodyTooLarge {
        /// What it takes, bytes.
        bytes_max: u64,
    },
    /// A name, a text or credentials do not fit a frame.
    TooLong,
    /// The node did not do it.
    Refused {
        /// Stable, for programs: a [`Code`]'s text, if the node is no newer than this client.
        code: String,
        /// What happened and what to do, for people.
        message: String,
    },
}

impl ClientError {
    pub(super) fn no_node(socket: &Path, source: io::Error) -> Self {
        Self::NoNode { socket: socket.to_owned(), source }
    }

    pub(super) fn refused(code: &str, message: &str) -> Self {
        Self::Refused { code: code.to_owned(), message: message.to_owned() }
    }

    /// Its stable code: the text of a [`Code`], or one that a newer node has.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::NoNode { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Code::NoAccess.as_str()
            }
            Self::NoNode { .. } => Code::NoNode.as_str(),
            Self::Closed => Code::ConnectionClosed.as_str(),
            Self::Io(_) => Code::ConnectionFailed.as_str(),
            Self::Protocol(_) => Code::ProtocolBroken.as_str(),
            Self::BodyTooLarge { .. } | Self::TooLong => Code::TooLarge.as_str(),
            Self::Refused { code, .. } => code,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNode { socket, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    formatter,
                    "you may not open {}; ask the operator for access to that folder",
                    socket.display()
                )
            }
            Self::NoNode { socket, .. } => write!(
                formatter,
                "no node at {socket}; start one with `pilotlight serve`, or name the socket of \
                 another with --socket",
                socket = socket.display()
            ),
            Self::Closed => formatter.write_str(
                "the node closed the connection: it stopped, or its own output says why",
            ),
            Self::Io(error) => write!(formatter, "the connection to the node failed: {error}"),
            Self::Protocol(what) => write!(
                formatter,
                "the node does not speak this protocol ({what}); use the same version of \
                 pilotlight on both sides"
            ),
            Self::BodyTooLarge { bytes_max } => {
                write!(formatter, "the body is larger than the {bytes_max} bytes it may have")
            }
            Self::TooLong => formatter.write_str("a name or credential file is too long to send"),
            Self::Refused { message, .. } => formatter.write_str(message),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoNode { source, .. } => Some(source),
            Self::Io(error) => Some(error),
            Self::Closed
            | Self::Protocol(_)
            | Self::BodyTooLarge { .. }
            | Self::TooLong
            | Self::Refused { .. } => None,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<TooLong> for ClientError {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

impl From<Malformed> for ClientError {
    fn from(_: Malformed) -> Self {
        Self::Protocol("a frame does not parse")
    }
}
