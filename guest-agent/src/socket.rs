//! The network of a container.

/// A container's network.
#[derive(Debug)]
pub struct Network;
