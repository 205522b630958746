//! The programs the library carries, all built by `build.rs`: the VMM and the guest kernel, and
//! four ordinary Linux programs the command line deploys to show and to measure.
//!
//! An embedding program needs no second file: the node writes the first two into sealed memfds
//! and starts the VMM from there. A documentation build on docs.rs leaves them all empty.

/// The VMM: a static Linux executable.
pub(crate) static VMM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vmm"));

/// The guest kernel: an ELF image linked at `abi::layout::KERNEL_BASE`.
pub(crate) static GUEST_KERNEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-agent"));

/// Contract `program`: answers a request with its own bytes.
pub(crate) static ECHO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/echo"));

/// Contract `stream`: answers each request with its own bytes.
pub(crate) static ECHO_STREAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/echo-stream"));

/// Contract `program`: does nothing, successfully.
pub(crate) static NOOP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/noop"));

/// Contract `program`: greets whom the request names and logs where it ran.
pub(crate) static GREET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/greet"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_elf_programs() {
        for program in [VMM, GUEST_KERNEL, ECHO, ECHO_STREAM, NOOP, GREET] {
            assert!(program.starts_with(b"\x7fELF\x02\x01"));
        }
    }
}
