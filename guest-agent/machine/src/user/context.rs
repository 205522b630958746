//! A program's general registers while it does not run.

/// Flags a program may have: carry, parity, adjust, zero, sign, trap, direction, overflow,
/// alignment check, identification. The rest belongs to the kernel.
const FLAGS_USER: u64 = 0x24_0dd5;
/// Flags every program has: the bit that is always set, and interrupts on.
const FLAGS_ALWAYS: u64 = 0x202;
/// Trap flag.
const FLAG_TRAP: u64 = 0x100;

/// Registers by their numbers in instruction encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "names of registers")]
pub enum Register {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

/// Order of system call arguments (x86-64 psABI, section A.2.1).
const ARGUMENTS: [Register; 6] =
    [Register::Rdi, Register::Rsi, Register::Rdx, Register::R10, Register::R8, Register::R9];

/// A program's registers. The assembly in `enter` knows the offsets.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Context {
    pub(super) registers: [u64; 16],
    pub(super) rip: u64,
    pub(super) rflags: u64,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    /// Why it stopped, as the stubs saw it.
    pub(super) vector: u64,
    pub(super) code: u64,
    /// 1 while RCX and R11 hold nothing but RIP and RFLAGS, so that SYSRET restores all.
    pub(super) is_in_syscall: u64,
}

impl Context {
    /// A program about to start: all registers but the two given are 0.
    #[must_use]
    pub fn new(rip: u64, rsp: u64) -> Self {
        let mut registers = [0; 16];
        registers[Register::Rsp as usize] = rsp;
        Self {
            registers,
            rip,
            rflags: FLAGS_ALWAYS,
            fs_base: 0,
            gs_base: 0,
            vector: 0,
            code: 0,
            is_in_syscall: 0,
        }
    }

    /// Number of the system call it makes.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.get(Register::Rax)
    }

    /// The system call's argument `n`, from 0 to 5.
    ///
    /// # Panics
    /// When there is no such argument.
    #[must_use]
    pub fn argument(&self, n: usize) -> u64 {
        self.get(ARGUMENTS[n])
    }

    /// Sets the system call's result: a value, or a negated errno.
    pub fn set_result(&mut self, result: i64) {
        self.registers[Register::Rax as usize] = result.cast_unsigned();
    }

    /// What a system call's result register holds.
    #[must_use]
    pub fn result(&self) -> i64 {
        self.get(Register::Rax).cast_signed()
    }

    /// Makes it look as if it had just made this system call: how calls are restarted, and what
    /// scripted programs on the host do.
    pub fn set_syscall(&mut self, number: u64, arguments: [u64; 6]) {
        self.registers[Register::Rax as usize] = number;
        for (register, value) in ARGUMENTS.into_iter().zip(arguments) {
            self.registers[register as usize] = value;
        }
    }

    /// A register's value.
    #[must_use]
    pub fn get(&self, register: Register) -> u64 {
        self.registers[register as usize]
    }

    /// Sets a register.
    pub fn set(&mut self, register: Register, value: u64) {
        self.registers[register as usize] = value;
        if matches!(register, Register::Rcx | Register::R11) {
            self.is_in_syscall = 0;
        }
    }

    /// Instruction pointer.
    #[must_use]
    pub fn rip(&self) -> u64 {
        self.rip
    }

    /// Sets the instruction pointer; any value is safe.
    pub fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
        self.is_in_syscall = 0;
    }

    /// Stack pointer.
    #[must_use]
    pub fn rsp(&self) -> u64 {
        self.get(Register::Rsp)
    }

    /// Sets the stack pointer.
    pub fn set_rsp(&mut self, rsp: u64) {
        self.set(Register::Rsp, rsp);
    }

    /// Flags.
    #[must_use]
    pub fn rflags(&self) -> u64 {
        self.rflags
    }

    /// Sets the flags; those a program may not have are ignored.
    pub fn set_rflags(&mut self, rflags: u64) {
        self.rflags = rflags & FLAGS_USER | FLAGS_ALWAYS;
        self.is_in_syscall = 0;
    }

    /// Base of the FS segment: the thread pointer.
    #[must_use]
    pub fn fs_base(&self) -> u64 {
        self.fs_base
    }

    /// Sets the base of the FS segment. `false`, and nothing changes, for an address outside the
    /// user half.
    pub fn set_fs_base(&mut self, base: u64) -> bool {
        let is_user = base < abi::layout::USER_END;
        if is_user {
            self.fs_base = base;
        }
        is_user
    }

    /// Base of the GS segment.
    #[must_use]
    pub fn gs_base(&self) -> u64 {
        self.gs_base
    }

    /// Sets the base of the GS segment. `false`, and nothing changes, for an address outside the
    /// user half.
    pub fn set_gs_base(&mut self, base: u64) -> bool {
        let is_user = base < abi::layout::USER_END;
        if is_user {
            self.gs_base = base;
        }
        is_user
    }

    /// Whether it traps behind its next instruction.
    #[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "the host enters no program"))]
    pub(super) fn is_traced(&self) -> bool {
        self.rflags & FLAG_TRAP != 0
    }

    /// Clears what SYSRET or IRET must not see, before the program is entered.
    #[cfg_attr(
        not(any(target_os = "none", test)),
        expect(dead_code, reason = "the host enters no program")
    )]
    pub(super) fn sanitise(&mut self) {
        self.rflags = self.rflags & FLAGS_USER | FLAGS_ALWAYS;
        if self.rflags & FLAG_TRAP != 0 {
            self.is_in_syscall = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_kernel_cannot_be_set() {
        let mut context = Context::new(0, 0);
        context.set_rflags(u64::MAX);
        let interrupt_off_and_io = 0x3000;
        assert_eq!(context.rflags() & (interrupt_off_and_io | 0x4000), 0);
        assert_eq!(context.rflags() & 0x202, 0x202);
    }

    #[test]
    fn a_context_stopped_in_a_call_leaves_the_fast_way_when_more_than_its_result_changes() {
        let mut context = Context::new(0x1000, 0);
        context.is_in_syscall = 1;
        context.set_result(-2);
        context.set(Register::Rdx, 1);
        assert_eq!((context.is_in_syscall, context.result()), (1, -2));
        for change in [
            |context: &mut Context| context.set_rip(0x2000),
            |context: &mut Context| context.set(Register::Rcx, 1),
            |context: &mut Context| context.set(Register::R11, 1),
            |context: &mut Context| context.set_rflags(0),
        ] {
            context.is_in_syscall = 1;
            change(&mut context);
            assert_eq!(context.is_in_syscall, 0);
        }
        context.is_in_syscall = 1;
        context.rflags |= FLAG_TRAP;
        context.sanitise();
        assert_eq!(context.is_in_syscall, 0);
    }

    #[test]
    fn segment_bases_stay_in_the_user_half() {
        let mut context = Context::new(0, 0);
        assert!(context.set_fs_base(0x7fff_0000_0000));
        assert!(!context.set_fs_base(u64::MAX));
        assert!(!context.set_gs_base(1 << 47));
        assert_eq!((context.fs_base(), context.gs_base()), (0x7fff_0000_0000, 0));
    }
}
