//! The whole kernel on the host.

mod rewind;
