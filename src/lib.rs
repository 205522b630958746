//! Runs a user's program the moment it is asked for, each user in VMs of their own: the node.
//!
//! Modules are listed in reading order, which is dependency order: each uses only those below it.

mod node;
mod door;
mod exporter;
pub mod client;
#[doc(hidden)]
pub mod fuzzing;
mod shard;
mod librarian;
mod maker;
mod keeper;
mod pressure;
mod cell;
mod snapshot_store;
mod cgroup;
mod link;
mod passage;
mod bridge;
mod inbox;
#[expect(unsafe_code, reason = "the runtime's only way to wait on a descriptor made elsewhere")]
mod wait;
pub mod route;
pub mod pool;
pub mod store;
pub mod state;
pub mod package;
pub mod metrics;
pub mod log;
pub mod egress;
pub mod signal;
pub mod polling;
pub mod socket;
pub mod credential;
pub mod config;
pub mod invoke;
pub mod code;
mod root_image;
mod archive;
mod embedded;
mod trace;

pub use abi::layout::Flavour;
pub use cell::private_bytes;
pub use config::Config;
pub use node::{Node, NodeError, available_cores};
