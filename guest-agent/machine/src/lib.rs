//! The guest's machine: boot, traps, page tables, user mode, heap and clock. The only place in the
//! guest with `unsafe`; everything it offers is safe.
//!
//! ```text
//!  VMM ─► boot ─► kernel_main (guest-agent)
//!                   │   ▲
//!          user::run│   │Trap        one virtual CPU, one kernel stack, IF = 0 in the kernel
//!                   ▼   │
//!              enter ─► ring 3 ─► SYSCALL | fault | preempt
//! ```
//! Invariants: the kernel half of the address space is built by the VMM and never changes; user
//! memory is only ever reached by walking its page tables and going through the direct map; every
//! root page table lies at an odd page frame; the kernel uses no vector register, so programs'
//! extended state stays in the CPU until another context needs it.
//!
//! On the host the same code runs over a buffer (see `host`), which is how the guest's tests run;
//! only instructions are missing there.

#![cfg_attr(target_os = "none", no_std)]
#![expect(unsafe_code, reason = "the guest's home for unsafe: memory, page tables, registers")]

extern crate alloc;

pub mod boot;
pub mod selfcheck;
pub mod user;
pub mod paging;
pub mod frame;
pub mod clock;
pub mod region;
pub mod window;
pub mod port;
pub mod idle;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod descriptor;
#[cfg(not(target_os = "none"))]
pub mod host;
mod instruction;
mod physical;
mod state;
