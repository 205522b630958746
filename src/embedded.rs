//! The programs the library carries, built by `build.rs`: the VMM and the guest kernel.
//!
//! An embedding program needs no second file: the node writes both into sealed memfds and starts
//! the VMM from there. A documentation build on docs.rs leaves them empty.

/// The VMM: a static Linux executable.
pub(crate) static VMM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vmm"));

/// The guest kernel: an ELF image linked at `abi::layout::KERNEL_BASE`.
pub(crate) static GUEST_KERNEL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-agent"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_elf_programs() {
        for program in [VMM, GUEST_KERNEL] {
            assert!(program.starts_with(b"\x7fELF\x02\x01"));
        }
    }
}
