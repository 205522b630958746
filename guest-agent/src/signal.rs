//! Signals: sets, what a process does about each, which are pending, and the frame a handler
//! finds on its stack.
//!
//! Pure. `process::deliver` decides when a signal reaches a task and ends or diverts it.

pub mod frame;

use alloc::vec::Vec;

/// Highest signal number.
pub const SIGNAL_MAX: u32 = 64;

/// A signal's number, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signal(u8);

#[rustfmt::skip]
#[expect(missing_docs, reason = "the names are the documentation: signal(7) without the SIG")]
impl Signal {
    pub const HUP: Self = Self(1);
    pub const INT: Self = Self(2);
    pub const QUIT: Self = Self(3);
    pub const ILL: Self = Self(4);
    pub const TRAP: Self = Self(5);
    pub const ABRT: Self = Self(6);
    pub const BUS: Self = Self(7);
    pub const FPE: Self = Self(8);
    pub const KILL: Self = Self(9);
    pub const SEGV: Self = Self(11);
    pub const PIPE: Self = Self(13);
    pub const ALRM: Self = Self(14);
    pub const TERM: Self = Self(15);
    pub const CHLD: Self = Self(17);
    pub const CONT: Self = Self(18);
    pub const STOP: Self = Self(19);
    pub const TSTP: Self = Self(20);
    pub const TTIN: Self = Self(21);
    pub const TTOU: Self = Self(22);
    pub const URG: Self = Self(23);
    pub const WINCH: Self = Self(28);
    pub const SYS: Self = Self(31);
}

impl Signal {
    /// The signal with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    const fn index(self) -> usize {
        self.0 as usize - 1
    }

    /// Its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "SIGHUP",
            2 => "SIGINT",
            3 => "SIGQUIT",
            4 => "SIGILL (illegal instruction)",
            5 => "SIGTRAP (breakpoint)",
            6 => "SIGABRT (aborted)",
            7 => "SIGBUS (bad memory access)",
            8 => "SIGFPE (division by zero or overflow)",
            9 => "SIGKILL",
            10 => "SIGUSR1",
            11 => "SIGSEGV (bad memory access)",
            12 => "SIGUSR2",
            13 => "SIGPIPE (nobody reads what it writes)",
            14 => "SIGALRM",
            15 => "SIGTERM",
            31 => "SIGSYS (bad system call)",
            _ => "a signal",
        }
    }

    /// What happens when a process has set nothing else.
    #[must_use]
    pub const fn default_action(self) -> DefaultAction {
        match self {
            // There is no job control: stop signals are ignored.
            Self::CHLD
            | Self::CONT
            | Self::STOP
            | Self::TSTP
            | Self::TTIN
            | Self::TTOU
            | Self::URG
            | Self::WINCH => DefaultAction::Ignore,
            _ => DefaultAction::End,
        }
    }
}

/// What a signal does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Nothing.
    Ignore,
    /// Ends the process.
    End,
}

/// A set of signals, as programs pass it: bit `n - 1` is signal `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: Self = Self(0);

    /// From a program's mask; SIGKILL and SIGSTOP cannot be in it.
    #[must_use]
    pub const fn mask(bits: u64) -> Self {
        Self(bits & !(1 << Signal::KILL.index()) & !(1 << Signal::STOP.index()))
    }

    /// Its bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether it holds `signal`.
    #[must_use]
    pub const fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << signal.index()) != 0
    }

    /// This set with `signal`.
    #[must_use]
    pub const fn with(self, signal: Signal) -> Self {
        Self(self.0 | 1 << signal.index())
    }

    /// This set without `signal`.
    #[must_use]
    pub const fn without(self, signal: Signal) -> Self {
        Self(self.0 & !(1 << signal.index()))
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The signals in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set without the other's signals.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The signal with the lowest number in it.
    #[must_use]
    pub fn lowest(self) -> Option<Signal> {
        Signal::from_number(u64::from(self.0.trailing_zeros()) + 1)
    }
}

/// Handler value: the default action.
pub const HANDLER_DEFAULT: u64 = 0;
/// Handler value: ignore.
pub const HANDLER_IGNORE: u64 = 1;
/// `SA_NOCLDWAIT`.
pub const FLAG_NO_CHILD_WAIT: u64 = 2;
/// `SA_NODEFER`.
pub const FLAG_NO_DEFER: u64 = 0x4000_0000;
/// `SA_RESETHAND`.
pub const FLAG_RESET: u64 = 0x8000_0000;
/// `SA_RESTART`.
pub const FLAG_RESTART: u64 = 0x1000_0000;
/// `SA_ONSTACK`.
pub const FLAG_ON_STACK: u64 = 0x0800_0000;

/// What a process does about a signal (`struct kernel_sigaction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Address of the handler, or [`HANDLER_DEFAULT`], or [`HANDLER_IGNORE`].
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Address a handler returns to; it calls `rt_sigreturn`.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SignalSet,
}

impl Action {
    /// Bytes of its encoded form.
    pub const BYTES: usize = 32;

    /// As programs pass it.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Self {
            handler: word(0),
            flags: word(8),
            restorer: word(16),
            mask: SignalSet::mask(word(24)),
        }
    }

    /// As programs get it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.handler, self.flags, self.restorer, self.mask.bits()];
        for (into, word) in bytes.chunks_exact_mut(8).zip(words) {
            into.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// One [`Action`] per signal.
#[derive(Clone, Debug)]
pub struct Actions([Action; SIGNAL_MAX as usize]);

impl Default for Actions {
    fn default() -> Self {
        Self([Action::default(); SIGNAL_MAX as usize])
    }
}

impl Actions {
    /// The action for `signal`.
    #[must_use]
    pub fn get(&self, signal: Signal) -> Action {
        self.0[signal.index()]
    }

    /// Sets the action for `signal`.
    pub fn set(&mut self, signal: Signal, action: Action) {
        self.0[signal.index()] = action;
    }

    /// `execve`: handlers become default, ignored signals stay ignored.
    pub fn reset_handlers(&mut self) {
        for action in &mut self.0 {
            let is_ignored = action.handler == HANDLER_IGNORE;
            let handler = if is_ignored { HANDLER_IGNORE } else { HANDLER_DEFAULT };
            *action = Action { handler, ..Action::default() };
        }
    }

    /// Whether `signal` would change nothing and need not become pending.
    #[must_use]
    pub fn ignores(&self, signal: Signal) -> bool {
        match self.get(signal).handler {
            HANDLER_IGNORE => true,
            HANDLER_DEFAULT => signal.default_action() == DefaultAction::Ignore,
            _ => false,
        }
    }
}

/// `SI_USER`: sent by `kill`.
pub const CODE_USER: i32 = 0;
/// `SI_TIMER`.
pub const CODE_TIMER: i32 = -2;
/// `SI_KERNEL`.
pub const CODE_KERNEL: i32 = 0x80;
/// `SI_TKILL`: sent by `tkill` or `tgkill`.
pub const CODE_THREAD: i32 = -6;

/// Where a signal comes from (`siginfo_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Information {
    /// Which.
    pub signal: Signal,
    /// `si_code`.
    pub code: i32,
    /// For a fault the address; else the sender's process in the low half.
    pub value: u64,
    /// What the sender gave along (`si_value`).
    pub data: u64,
}

impl Information {
    /// Bytes of a `siginfo_t`.
    pub const BYTES: usize = 128;

    /// The `siginfo_t`.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.signal.number().to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.value.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.data.to_le_bytes());
        bytes
    }
}

/// First signal that is queued as often as it is sent.
const QUEUED_FIRST: u32 = 32;
/// Most signals that are queued.
const QUEUED_MAX: usize = 256;

/// Signals sent to a task or a process that have not reached it, in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    set: SignalSet,
    /// At most one per signal below `QUEUED_FIRST`.
    information: Vec<Information>,
}

impl Pending {
    /// Which are pending.
    #[must_use]
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds a signal; an ordinary one that is pending already stays as it is.
    pub fn add(&mut self, information: Information) {
        let is_pending = self.set.contains(information.signal);
        let is_queued =
            information.signal.number() >= QUEUED_FIRST && self.information.len() < QUEUED_MAX;
        if !is_pending || is_queued {
            self.set = self.set.with(information.signal);
            self.information.push(information);
        }
    }

    /// Takes the lowest signal that is not blocked.
    pub fn take(&mut self, blocked: SignalSet) -> Option<Information> {
        let signal = self.set.difference(blocked).lowest()?;
        let position = self.information.iter().position(|entry| entry.signal == signal)?;
        let taken = self.information.remove(position);
        if !self.information.iter().any(|entry| entry.signal == signal) {
            self.set = self.set.without(signal);
        }
        Some(taken)
    }

    /// Forgets `signal`.
    pub fn remove(&mut self, signal: Signal) {
        self.set = self.set.without(signal);
        self.information.retain(|entry| entry.signal != signal);
    }
}

/// `SS_DISABLE`.
const STACK_DISABLE: u32 = 2;
/// `SS_ONSTACK`.
const STACK_IN_USE: u32 = 1;
/// `SS_AUTODISARM`.
const STACK_AUTODISARM: u32 = 1 << 31;

/// A stack for handlers (`sigaltstack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlternateStack {
    /// Lowest address.
    pub start: u64,
    /// Bytes; 0 when there is none.
    pub bytes: u64,
    /// `SS_AUTODISARM` is set.
    pub is_disarmed_in_use: bool,
}

impl AlternateStack {
    /// None set.
    pub const NONE: Self = Self { start: 0, bytes: 0, is_disarmed_in_use: false };
    /// Bytes of a `stack_t`.
    pub const BYTES: usize = 24;
    /// Smallest one accepted (`MINSIGSTKSZ`).
    const BYTES_MIN: u64 = 2048;

    /// Reads a `stack_t`.
    ///
    /// # Errors
    /// [`crate::errno::Errno::INVAL`] for unknown flags, [`crate::errno::Errno::NOMEM`] for one
    /// that is too small.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, crate::errno::Errno> {
        let (mut start, mut size, mut flags) = ([0; 8], [0; 8], [0; 4]);
        start.copy_from_slice(&bytes[..8]);
        flags.copy_from_slice(&bytes[8..12]);
        size.copy_from_slice(&bytes[16..]);
        let flags = u32::from_le_bytes(flags);
        if flags & !(STACK_DISABLE | STACK_IN_USE | STACK_AUTODISARM) != 0 {
            return Err(crate::errno::Errno::INVAL);
        }
        if flags & STACK_DISABLE != 0 {
            return Ok(Self::NONE);
        }
        let stack = Self {
            start: u64::from_le_bytes(start),
            bytes: u64::from_le_bytes(size),
            is_disarmed_in_use: flags & STACK_AUTODISARM != 0,
        };
        let is_sane = stack.start.checked_add(stack.bytes).is_some();
        if stack.bytes < Self::BYTES_MIN || !is_sane {
            return Err(crate::errno::Errno::NOMEM);
        }
        Ok(stack)
    }

    /// Writes a `stack_t` as seen by a task whose stack pointer is `stack_pointer`.
    #[must_use]
    pub fn encode(&self, stack_pointer: u64) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut flags = if self.is_disarmed_in_use { STACK_AUTODISARM } else { 0 };
        if self.bytes == 0 {
            flags |= STACK_DISABLE;
        } else if self.holds(stack_pointer) {
            flags |= STACK_IN_USE;
        }
        bytes[..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        bytes[16..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// Whether a handler runs on it now.
    #[must_use]
    pub fn holds(&self, stack_pointer: u64) -> bool {
        !self.is_disarmed_in_use
            && stack_pointer > self.start
            && stack_pointer - self.start <= self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(signal: Signal, value: u64) -> Information {
        Information { signal, code: CODE_USER, value, data: 0 }
    }

    #[test]
    fn real_time_signals_are_queued_and_others_are_not() {
        let real_time = Signal::from_number(40).unwrap();
        let mut pending = Pending::default();
        for entry in [from(real_time, 1), from(Signal::INT, 2), from(real_time, 3)] {
            pending.add(entry);
            pending.add(from(Signal::INT, 4));
        }
        let mut taken = core::iter::from_fn(|| pending.take(SignalSet::EMPTY));
        assert_eq!(taken.next(), Some(from(Signal::INT, 4)));
        assert_eq!(taken.next(), Some(from(real_time, 1)));
        assert_eq!(taken.next(), Some(from(real_time, 3)));
        assert_eq!(taken.next(), None);
        (0..1000).for_each(|value| pending.add(from(real_time, value)));
        assert_eq!(pending.information.len(), QUEUED_MAX);
    }

    #[test]
    fn the_lowest_signal_that_is_not_blocked_comes_first() {
        let mut pending = Pending::default();
        for entry in [from(Signal::TERM, 1), from(Signal::HUP, 2), from(Signal::TERM, 3)] {
            pending.add(entry);
        }
        let blocked = SignalSet::EMPTY.with(Signal::HUP);
        assert_eq!(pending.take(blocked), Some(from(Signal::TERM, 1)));
        assert_eq!(pending.take(blocked), None);
        assert_eq!(pending.take(SignalSet::EMPTY), Some(from(Signal::HUP, 2)));
        assert_eq!(pending.set(), SignalSet::EMPTY);
    }

    #[test]
    fn kill_and_stop_cannot_be_masked() {
        let mask = SignalSet::mask(u64::MAX);
        assert!(!mask.contains(Signal::KILL) && !mask.contains(Signal::STOP));
        assert!(mask.contains(Signal::SYS));
    }

    #[test]
    fn exec_keeps_what_is_ignored_and_drops_handlers() {
        let mut actions = Actions::default();
        actions.set(Signal::PIPE, Action { handler: HANDLER_IGNORE, ..Action::default() });
        actions.set(Signal::SEGV, Action { handler: 0x1234, ..Action::default() });
        actions.reset_handlers();
        assert!(actions.ignores(Signal::PIPE) && !actions.ignores(Signal::SEGV));
        assert_eq!(actions.get(Signal::SEGV).handler, HANDLER_DEFAULT);
    }

    #[test]
    fn an_alternate_stack_survives_its_encoding() {
        let stack = AlternateStack { start: 0x1000, bytes: 8192, is_disarmed_in_use: false };
        let mut bytes = stack.encode(0x2000);
        assert_eq!(bytes[8], 1, "in use");
        bytes[8] = 0;
        assert_eq!(AlternateStack::decode(&bytes), Ok(stack));
        assert_eq!(AlternateStack::decode(&AlternateStack::NONE.encode(0)).unwrap().bytes, 0);
    }
}
