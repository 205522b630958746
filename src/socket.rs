//! The invoke socket: bytes to frames to requests, and answers back to bytes. No I/O and no clock
//! here: the shard receives and sends.
//!
//! ```text
//!  client ─► bytes ─► Connection::next_request ─► Incoming ─► shard ─► route, pool
//!  client ◄─ bytes ◄─ Connection::pending_output ◄─ response, outcome ◄─ shard
//! ```
//! Whatever a client sends ends in an answer or in a closed connection, never in a panic; every
//! buffer has a limit, and an invoke allocates nothing once a connection has warmed up.
//! `docs/protocol.md` describes every byte; [`crate::client`] speaks the other side.

pub mod frame;
pub mod logging;
pub mod settings;
pub mod request;
pub mod answer;
pub(crate) mod buffer;
mod inflight;
pub mod peer;
mod gate;
pub mod connection;

use crate::config::Requests;

pub use connection::{Connection, Incoming};
pub use peer::Peer;

/// What one connection is held to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes_max: u64,
    /// Bytes of a package.
    pub package_bytes_max: u64,
    /// Requests that may be open at once.
    pub requests_max: u32,
}

impl From<&Requests> for Limits {
    fn from(requests: &Requests) -> Self {
        Self {
            body_bytes_max: requests.body_bytes_max,
            package_bytes_max: requests.package_bytes_max,
            requests_max: requests.pipeline_max,
        }
    }
}
