//! The whole kernel on the host.
