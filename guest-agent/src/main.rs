//! The guest kernel's image: what `machine` calls once it has booted. On the host there is
//! nothing to run; the library's tests are what runs there.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
use machine::{idle, port, selfcheck};

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the boot symbol: `machine` calls it by this name")]
#[unsafe(no_mangle)]
fn kernel_main() -> ! {
    assert!(!selfcheck::is_emulated(), "the host emulates the kernel");
    port::ready();
    let memory = machine::region::memory();
    abi::ring::Memory::store_u64(&memory, abi::layout::region::DEADLINE, u64::MAX);
    let mut outcome = abi::ring::Producer::new(memory, abi::layout::region::OUTCOME);
    let header = abi::frame::Header {
        kind: abi::frame::outcome::READY,
        flags: 0,
        channel: 0,
        id: machine::clock::generation(),
    };
    assert!(outcome.push(&[&header.encode()]).is_ok(), "a fresh ring has room");
    port::ring_node();
    loop {
        idle::halt();
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the guest kernel runs in a VM: build it with --target x86_64-unknown-none");
}
