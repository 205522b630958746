//! How a signal reaches a task: the process ends, or the task goes on in a handler and returns
//! by `rt_sigreturn`.

use abi::layout::PAGE_BYTES;
use machine::user::{Register, Trap, area_bytes};

use super::{Call, Ending};
use crate::errno::Errno;
use crate::memory::fault::Touch;
use crate::memory::{Fault, Kind, Range};
use crate::signal::frame::{
    self, FRAME_BYTES, FaultContext, MARK_BYTES, Place, Registers, Restored, SignalFrame,
};
use crate::signal::{
    AlternateStack, FLAG_NO_DEFER, FLAG_ON_STACK, FLAG_RESET, FLAG_RESTART, HANDLER_DEFAULT,
    HANDLER_IGNORE, Information, Signal, SignalSet,
};

/// Bytes of the SYSCALL instruction: going back over it makes the call again.
const SYSCALL_BYTES: u64 = 2;
/// How far below a stack a fault still counts as that stack's overflow.
const OVERFLOW_BYTES: u64 = 1 << 20;
/// How far a stack pointer may be from a fault that it caused: a large frame.
const FRAME_REACH_BYTES: u64 = 256 << 10;

const CODE_MAP_ERROR: i32 = 1;
const CODE_ACCESS_ERROR: i32 = 2;
const CODE_ILLEGAL_OPCODE: i32 = 2;
const CODE_INTEGER_DIVIDE: i32 = 1;
const CODE_FLOAT: i32 = 3;
const CODE_TRAP: i32 = 1;
const CODE_ALIGNMENT: i32 = 1;

const VECTOR_PAGE_FAULT: u64 = 14;

/// Registers in the order a signal frame has them, less rip and flags.
const ORDER: [Register; 16] = [
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
    Register::Rdi,
    Register::Rsi,
    Register::Rbp,
    Register::Rbx,
    Register::Rdx,
    Register::Rax,
    Register::Rcx,
    Register::Rsp,
];

impl Call<'_> {
    /// Answers a page fault: makes the page, or sends SIGSEGV.
    ///
    /// # Errors
    /// How the process ends.
    pub fn page_fault(&mut self, trap: Trap) -> Result<(), Ending> {
        let Trap::PageFault { address, is_write, is_fetch, is_present } = trap else {
            return Ok(());
        };
        let touch = match (is_write, is_fetch) {
            (_, true) => Touch::Fetch,
            (true, false) => Touch::Write,
            (false, false) => Touch::Read,
        };
        let code = match self.process.memory.touch(address, touch) {
            Ok(()) => return Ok(()),
            Err(Fault::Exhausted) => return Err(Ending::MemoryExhausted),
            Err(Fault::Unmapped) => CODE_MAP_ERROR,
            Err(Fault::Denied) => CODE_ACCESS_ERROR,
        };
        self.process.has_overflowed = self.is_overflow(address);
        let error =
            u64::from(is_present) | u64::from(is_write) << 1 | 1 << 2 | u64::from(is_fetch) << 4;
        let context = FaultContext { trap: VECTOR_PAGE_FAULT, error, address };
        self.fault(Information { signal: Signal::SEGV, code, value: address, data: 0 }, context)
    }

    /// Answers any other fault of the CPU with its signal.
    ///
    /// # Errors
    /// How the process ends.
    pub fn cpu_fault(&mut self, vector: u8, code: u64) -> Result<(), Ending> {
        let (signal, signal_code) = match vector {
            0 => (Signal::FPE, CODE_INTEGER_DIVIDE),
            1 | 3 => (Signal::TRAP, CODE_TRAP),
            6 => (Signal::ILL, CODE_ILLEGAL_OPCODE),
            16 | 19 => (Signal::FPE, CODE_FLOAT),
            12 => (Signal::BUS, crate::signal::CODE_KERNEL),
            17 => (Signal::BUS, CODE_ALIGNMENT),
            _ => (Signal::SEGV, crate::signal::CODE_KERNEL),
        };
        let has_address = !matches!(signal, Signal::SEGV | Signal::BUS);
        let value = if has_address { self.task.context.rip() } else { 0 };
        self.process.has_overflowed = false;
        let context = FaultContext { trap: u64::from(vector), error: code, address: 0 };
        self.fault(Information { signal, code: signal_code, value, data: 0 }, context)
    }

    /// Delivers signals that can be taken now. `is_interrupted`: the task was in a system call
    /// that such a signal interrupts.
    ///
    /// # Errors
    /// How the process ends.
    pub fn deliver(&mut self, is_interrupted: bool) -> Result<(), Ending> {
        let mut is_interrupted = is_interrupted;
        while let Some(information) = self.take_signal() {
            let action = self.process.actions.get(information.signal);
            match action.handler {
                HANDLER_IGNORE => {}
                HANDLER_DEFAULT if self.process.actions.ignores(information.signal) => {}
                HANDLER_DEFAULT => return Err(self.ending_of(information.signal)),
                _ => {
                    if core::mem::take(&mut is_interrupted) {
                        self.leave_call(action.flags & FLAG_RESTART != 0);
                    }
                    self.enter_handler(information, FaultContext::default())?;
                }
            }
        }
        if is_interrupted {
            self.leave_call(true);
        }
        Ok(())
    }

    /// `rt_sigreturn`: goes back to where the handler's frame says.
    ///
    /// # Errors
    /// How the process ends when the frame is none.
    pub fn return_from_handler(&mut self) -> Result<(), Ending> {
        let bad = Ending::Faulted(Signal::SEGV, self.task.context.rsp());
        let mut bytes = [0; FRAME_BYTES];
        let address = frame::frame_of(self.task.context.rsp());
        self.process.memory.read(address, &mut bytes).map_err(|_| bad)?;
        let restored = Restored::decode(&bytes);
        if restored.extended != 0 {
            let mut area = alloc::vec![0; area_bytes()];
            self.process.memory.read(restored.extended, &mut area).map_err(|_| bad)?;
            self.task.extended.write(&area);
        }
        let context = &mut self.task.context;
        let [general @ .., rip, flags] = restored.registers.words;
        for (register, value) in ORDER.into_iter().zip(general) {
            context.set(register, value);
        }
        context.set_rip(rip);
        context.set_rflags(flags);
        self.task.blocked = restored.mask;
        if let Ok(stack) = AlternateStack::decode(&restored.stack) {
            self.task.stack = stack;
        }
        Ok(())
    }

    /// A fault's signal cannot wait: blocked or ignored, it ends the process.
    fn fault(&mut self, information: Information, context: FaultContext) -> Result<(), Ending> {
        let signal = information.signal;
        let action = self.process.actions.get(signal);
        let is_handled = !matches!(action.handler, HANDLER_DEFAULT | HANDLER_IGNORE);
        if is_handled && !self.task.blocked.contains(signal) {
            return self.enter_handler(information, context);
        }
        Err(if self.process.has_overflowed {
            Ending::StackOverflow(context.address)
        } else if context.trap == VECTOR_PAGE_FAULT {
            Ending::Faulted(signal, context.address)
        } else {
            Ending::Faulted(signal, self.task.context.rip())
        })
    }

    /// A handler that recognised a stack overflow ends the program by `abort`: the overflow is
    /// what a person wants to hear of.
    fn ending_of(&self, signal: Signal) -> Ending {
        if signal == Signal::ABRT && self.process.has_overflowed {
            Ending::StackOverflow(self.task.context.rsp())
        } else {
            Ending::Signalled(signal)
        }
    }

    fn take_signal(&mut self) -> Option<Information> {
        let blocked = self.task.blocked;
        self.task.pending.take(blocked).or_else(|| self.process.pending.take(blocked))
    }

    fn leave_call(&mut self, is_restarted: bool) {
        let context = &mut self.task.context;
        if is_restarted {
            context.set_rip(context.rip().wrapping_sub(SYSCALL_BYTES));
        } else {
            context.set_result(-i64::from(Errno::INTR.number()));
        }
    }

    fn enter_handler(
        &mut self,
        information: Information,
        fault: FaultContext,
    ) -> Result<(), Ending> {
        let signal = information.signal;
        let action = self.process.actions.get(signal);
        let stack_pointer = self.task.context.rsp();
        let stack = (action.flags & FLAG_ON_STACK != 0).then_some(&self.task.stack);
        let extended_bytes = area_bytes() as u64;
        let overflow = Ending::StackOverflow(stack_pointer);
        let place = Place::below(stack_pointer, stack, extended_bytes).ok_or(overflow)?;
        // `sigsuspend` and its kind go back to the mask before the call.
        let mask = self.task.call.mask.take().unwrap_or(self.task.blocked);
        let content = SignalFrame {
            restorer: action.restorer,
            registers: self.registers(),
            fault,
            mask,
            stack: self.task.stack,
            information,
            extended: place.extended,
        };
        let mut area = alloc::vec![0; area_bytes()];
        self.task.extended.read(&mut area);
        frame::describe_extended(&mut area, machine::boot::info().xsave_mask);
        let mark_at = place.extended + extended_bytes;
        let memory = &mut self.process.memory;
        debug_assert!(mark_at + MARK_BYTES <= place.end, "the frame fits its place");
        memory
            .write(place.frame, &content.encode())
            .and_then(|()| memory.write(place.extended, &area))
            .and_then(|()| memory.write(mark_at, &frame::end_mark()))
            .map_err(|_| overflow)?;
        if action.flags & FLAG_RESET != 0 {
            self.process.actions.set(signal, crate::signal::Action::default());
        }
        let mut blocked = self.task.blocked.union(action.mask);
        if action.flags & FLAG_NO_DEFER == 0 {
            blocked = blocked.with(signal);
        }
        self.task.blocked = SignalSet::mask(blocked.bits());
        if self.task.stack.is_disarmed_in_use {
            self.task.stack = AlternateStack::NONE;
        }
        self.start_handler(action.handler, signal, &place);
        Ok(())
    }

    fn start_handler(&mut self, handler: u64, signal: Signal, place: &Place) {
        /// Direction and trap flag: a handler starts without either.
        const FLAGS_CLEARED: u64 = 0x400 | 0x100;
        let context = &mut self.task.context;
        context.set(Register::Rax, 0);
        context.set(Register::Rdi, u64::from(signal.number()));
        context.set(Register::Rsi, place.information());
        context.set(Register::Rdx, place.context());
        context.set_rsp(place.frame);
        context.set_rip(handler);
        context.set_rflags(context.rflags() & !FLAGS_CLEARED);
    }

    fn registers(&self) -> Registers {
        let mut registers = Registers::default();
        let [general @ .., rip, flags] = &mut registers.words;
        for (into, register) in general.iter_mut().zip(ORDER) {
            *into = self.task.context.get(register);
        }
        *rip = self.task.context.rip();
        *flags = self.task.context.rflags();
        registers
    }

    /// Whether a fault at `address` is a stack that was too small: it lies where nothing may be
    /// touched, just below an area that can be written, and near the stack pointer.
    fn is_overflow(&self, address: u64) -> bool {
        let stack_pointer = self.task.context.rsp();
        if address.abs_diff(stack_pointer) > FRAME_REACH_BYTES {
            return false;
        }
        let memory = &self.process.memory;
        let below = |range: Range| address < range.start && range.start - address <= OVERFLOW_BYTES;
        memory.areas().any(|(range, area)| {
            let is_stack = matches!(area.kind, Kind::Stack | Kind::Mapped);
            is_stack && area.access.is_writable && below(range)
        }) && memory
            .area_at(address & !(PAGE_BYTES - 1))
            .is_none_or(|(_, area)| area.access.is_none())
    }
}
