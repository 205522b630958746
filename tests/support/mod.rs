//! What end-to-end tests stand on: programs to deploy and a logging service.

pub(crate) mod programs;
pub(crate) mod rsyslog;
