//! Runs a user's program the moment it is asked for, each user in VMs of their own: the node.
//!
//! Modules are listed in reading order, which is dependency order: each uses only those below it.

pub mod route;
pub mod pool;
pub mod store;
pub mod package;
pub mod metrics;
pub mod log;
pub mod egress;
pub mod signal;
pub mod credential;
pub mod config;
pub mod invoke;
mod archive;
