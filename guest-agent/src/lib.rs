//! The guest: a small kernel that speaks the Linux system-call ABI to ordinary ELF programs, and
//! the agent that runs them in containers for the node.
//!
//! ```text
//!  invoke, code ══► agent ─► container ─► process ─► task ─► user mode
//!                     ▲                       │ trap
//!  outcome, log ◄═════╯                    syscall ─► memory, file, socket, futex, signal, time
//! ```
//! Modules are listed in reading order; each uses only those below it. Everything is owned by
//! [`kernel::Kernel`]: one virtual CPU, one kernel stack, no locks. The kernel is never preempted
//! and never sleeps inside a system call: a call that has to wait parks its task and is executed
//! again when something it waits for has changed.
//!
//! On the host the same code runs over `machine::host`, which is how its tests run.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod kernel;
pub mod agent;
pub mod container;
pub mod response;
pub mod program_io;
pub mod rings;
pub mod syscall;
pub mod process;
pub mod futex;
pub mod signal;
pub mod vdso;
pub mod socket;
pub mod filesystem;
pub mod file;
pub mod elf;
pub mod memory;
pub mod identity;
pub mod world;
pub mod time;
pub mod entropy;
pub mod errno;
