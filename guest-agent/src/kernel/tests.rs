//! The whole kernel on the host.

mod prepare;
mod rewind;
