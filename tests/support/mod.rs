//! What end-to-end tests stand on: a node, programs to deploy and a logging service.

pub(crate) mod bad_service;
pub(crate) mod held;
pub(crate) mod node;
pub(crate) mod programs;
pub(crate) mod region;
pub(crate) mod rsyslog;
pub(crate) mod served;
pub(crate) mod service;
