//! The peers a figure is held against: what the same machine takes, in the same run, for the same
//! bytes without a virtual machine of ours.
//!
//! A peer's answer is checked each time. Those that come from elsewhere ([`Bubblewrap`],
//! [`Runc`], [`Wasmtime`]) may be [`Absent`].

mod absent;
mod process;
mod bubblewrap;
mod echo;
mod runc;
mod spawn;
mod wasmtime;

pub use absent::Absent;
pub use bubblewrap::Bubblewrap;
pub use echo::{Echo, EchoKind};
pub use runc::Runc;
pub use spawn::Spawn;
pub use wasmtime::{WASMTIME_REQUEST_BYTES_MAX, Wasmtime, serve_wasmtime};
