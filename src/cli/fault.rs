//! How a command fails: one line that says what to do, and an exit status.

use std::fmt;
use std::process::ExitCode;

/// A command's failure; its text says what to do.
#[derive(Debug)]
pub(crate) struct Fault {
    message: String,
    status: u8,
}

/// What a command ends with when nothing more exact is known.
const STATUS: u8 = 1;

impl Fault {
    /// A failure with the exit status of most of them.
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), status: STATUS }
    }

    /// The same failure with another exit status.
    pub(crate) fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// Prints the failure and returns the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("pilotlight: {}", self.message);
        ExitCode::from(self.status)
    }
}

impl<E: std::error::Error> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}
