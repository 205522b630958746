//! The peers a figure is held against: what the same machine takes, in the same run, for the same
//! bytes without a virtual machine.

mod echo;
mod spawn;

pub use echo::{Echo, EchoKind};
pub use spawn::Spawn;
