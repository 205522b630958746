//! The guest kernel's image: what `machine` calls once it has booted. On the host there is
//! nothing to run; the library's tests are what runs there.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the boot symbol: `machine` calls it by this name")]
#[unsafe(no_mangle)]
fn kernel_main() -> ! {
    guest_agent::kernel::run()
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the guest kernel runs in a VM: build it with --target x86_64-unknown-none");
}
