//! The VMM executable: its standard input is the node's control socket.

use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cell::close_inherited();
    match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => vmm::cell::run(socket),
        Err(_) => ExitCode::FAILURE,
    }
}
