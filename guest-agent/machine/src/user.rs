//! Running programs: their registers, and why they stopped.
//!
//! ```text
//!            user::run
//!               │  address space into CR3, extended state into the CPU, FS and GS base
//!               ▼
//!            enter ── SYSRET or IRET ─► ring 3
//!  Trap ◄── Context filled ◄── SYSCALL entry, or a stub of the IDT
//! ```
//! The kernel has one stack; a program's trap unwinds nothing and keeps nothing on it, so `run`
//! simply returns.

mod context;
mod extended;
#[cfg(target_os = "none")]
pub(crate) mod enter;

pub use context::{Context, Register};
pub(crate) use extended::Area;
pub use extended::{ExtendedState, area_bytes};

use abi::layout::{PAGE_BYTES, USER_END};

use crate::paging::AddressSpace;
use crate::state::state;

/// Why a program stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// It made a system call; number and arguments are in its context.
    Syscall,
    /// It touched a page it may not touch that way.
    PageFault {
        /// The address it touched.
        address: u64,
        /// It stored.
        is_write: bool,
        /// It fetched an instruction.
        is_fetch: bool,
        /// Something is mapped there, but not for this.
        is_present: bool,
    },
    /// Another fault of the CPU.
    Fault {
        /// Its vector (AMD64 manual volume 2, section 8.2).
        vector: u8,
        /// Its error code, 0 where it has none.
        code: u64,
    },
    /// The VMM took the CPU away.
    Interrupt,
}

const VECTOR_PAGE_FAULT: u8 = 14;
/// First vector that is not a fault of the CPU.
const VECTOR_INTERRUPTS: u8 = 32;

impl Trap {
    /// The trap behind a vector of the IDT.
    #[cfg_attr(
        not(any(target_os = "none", test)),
        expect(dead_code, reason = "vectors only exist in the kernel")
    )]
    fn from_vector(vector: u8, code: u64, fault_address: impl FnOnce() -> u64) -> Self {
        match vector {
            VECTOR_PAGE_FAULT => Self::PageFault {
                address: fault_address(),
                is_present: code & 1 != 0,
                is_write: code & 2 != 0,
                is_fetch: code & 16 != 0,
            },
            VECTOR_INTERRUPTS.. => Self::Interrupt,
            _ => Self::Fault { vector, code },
        }
    }
}

/// Where the kernel has to be made to go on when the CPU is taken from a program, which
/// `region::PREEMPT_ENTRY` tells the VMM; 0 for an interrupt.
#[must_use]
pub fn preempt_entry() -> u64 {
    #[cfg(target_os = "none")]
    let entry = enter::preempt_entry();
    #[cfg(not(target_os = "none"))]
    let entry = 0;
    entry
}

/// Runs a program until it traps.
///
/// A context whose instruction pointer lies outside the user half is not entered: it traps at
/// once, as the fetch would.
pub fn run(context: &mut Context, extended: &mut ExtendedState, space: &AddressSpace) -> Trap {
    if context.rip() >= USER_END {
        return Trap::PageFault {
            address: context.rip(),
            is_write: false,
            is_fetch: true,
            is_present: false,
        };
    }
    loop {
        space.activate();
        extended.activate();
        state().faulted_page.set(u64::MAX);
        let trap = enter(context, space);
        let Trap::PageFault { address, is_write, is_fetch, is_present: true } = trap else {
            return trap;
        };
        // A fault by an entry the CPU remembered from before it got more rights: having faulted,
        // it has forgotten it, so the access succeeds now.
        if !space.is_allowed(address, is_write, is_fetch) {
            state().faulted_page.set(address & !(PAGE_BYTES - 1));
            return trap;
        }
    }
}

#[cfg(target_os = "none")]
fn enter(context: &mut Context, _space: &AddressSpace) -> Trap {
    enter::enter(context)
}

#[cfg(not(target_os = "none"))]
fn enter(context: &mut Context, space: &AddressSpace) -> Trap {
    crate::host::run_program(context, space)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn a_page_fault_says_what_was_tried() {
        let trap = Trap::from_vector(14, 0b1_0101, || 0x1234);
        let expected =
            Trap::PageFault { address: 0x1234, is_write: false, is_fetch: true, is_present: true };
        assert_eq!(trap, expected);
        let trap = Trap::from_vector(14, 0b110, || 8);
        let expected =
            Trap::PageFault { address: 8, is_write: true, is_fetch: false, is_present: false };
        assert_eq!(trap, expected);
        assert_eq!(Trap::from_vector(13, 0x82, || 0), Trap::Fault { vector: 13, code: 0x82 });
        assert_eq!(Trap::from_vector(0x30, 0, || 0), Trap::Interrupt);
    }

    #[test]
    fn a_context_outside_the_user_half_is_never_entered() {
        host::init(8 << 20);
        let space = AddressSpace::new().unwrap();
        let mut extended = ExtendedState::fresh();
        for rip in [USER_END, 1 << 47, abi::layout::KERNEL_BASE, u64::MAX] {
            let mut context = Context::new(rip, 0);
            let trap = run(&mut context, &mut extended, &space);
            assert!(
                matches!(trap, Trap::PageFault { is_fetch: true, address, .. } if address == rip)
            );
        }
    }

    #[test]
    fn a_scripted_program_makes_calls_and_sees_results() {
        host::init(8 << 20);
        let space = AddressSpace::new().unwrap();
        let mut seen = Vec::new();
        host::set_program(move |context, _| {
            seen.push(context.result());
            context.set_syscall(39, [1, 2, 3, 4, 5, 6]);
            if seen == [0, 42] { Trap::Interrupt } else { Trap::Syscall }
        });
        let (mut context, mut extended) = (Context::new(0x1000, 0x2000), ExtendedState::fresh());
        assert_eq!(run(&mut context, &mut extended, &space), Trap::Syscall);
        assert_eq!((context.number(), context.argument(3)), (39, 4));
        context.set_result(42);
        assert_eq!(run(&mut context, &mut extended, &space), Trap::Interrupt);
    }
}
