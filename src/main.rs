//! The command line: a node, and clients of one.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
