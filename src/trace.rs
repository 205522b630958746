//! The node's own output: lines for its operator on standard error. (What programs log goes to
//! their users: [`crate::log`].)

use std::fmt;
use std::io::{self, Write};

/// Writes one line. An operator who no longer listens is no reason to stop serving.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "pilotlight: {text}");
}
