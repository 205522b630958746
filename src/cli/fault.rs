//! How a command fails: one line that says what to do, a stable code, and an exit status.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use pilotlight::NodeError;
use pilotlight::client::{ClientError, PackageError};
use pilotlight::code::Code;
use pilotlight::config::ConfigError;
use serde_json::json;

use super::report::Report;

/// A command's failure; its text says what to do.
#[derive(Debug)]
pub(crate) struct Fault {
    message: String,
    code: String,
    status: u8,
    report: Report,
    /// It is among the node's own lines on standard error already.
    is_traced: bool,
}

/// What a command ends with when nothing more exact is known.
const STATUS: u8 = 1;

impl Fault {
    /// A failure with the exit status of most of them.
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            code: Code::Failed.to_string(),
            status: STATUS,
            report: Report::default(),
            is_traced: false,
        }
    }

    /// The same failure with another exit status.
    pub(crate) fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// The same failure, told the way the command reports.
    pub(crate) fn told(self, report: Report) -> Self {
        Self { report, ..self }
    }

    /// The same failure, without a line of its own on standard error.
    pub(crate) fn traced(self) -> Self {
        Self { is_traced: true, ..self }
    }

    /// Its stable code, as in `docs/errors.md`.
    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    /// Prints the failure and returns the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        if self.report.json {
            // Whoever reads JSON from standard output finds the failure there too. If that is
            // closed, the line below is what is left.
            let error = json!({ "code": self.code, "message": self.message });
            drop(self.report.object(&json!({ "error": error })));
        }
        if self.is_traced {
            return ExitCode::from(self.status);
        }
        match self.code.as_str() {
            // One that says nothing.
            "failed" => eprintln!("pilotlight: {}", self.message),
            code => eprintln!("pilotlight: {} [{code}]", self.message),
        }
        ExitCode::from(self.status)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl<E: Error + 'static> From<E> for Fault {
    fn from(error: E) -> Self {
        let any: &(dyn Error + 'static) = &error;
        let code = if let Some(error) = any.downcast_ref::<ClientError>() {
            error.code().to_owned()
        } else if let Some(error) = any.downcast_ref::<NodeError>() {
            error.code().to_string()
        } else if let Some(error) = any.downcast_ref::<PackageError>() {
            error.code().to_string()
        } else if any.is::<ConfigError>() {
            Code::BadConfiguration.to_string()
        } else {
            Code::Failed.to_string()
        };
        Self { code, ..Self::new(error) }
    }
}
