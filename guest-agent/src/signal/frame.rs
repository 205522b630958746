//! The frame below which a signal handler runs (`struct rt_sigframe` of x86-64) and from which
//! `rt_sigreturn` restores.
//!
//! ```text
//!   high   interrupted stack, less its 128-byte red zone
//!          extended state (XSAVE standard format, 64-aligned), then its end mark
//!          siginfo_t, 128 bytes
//!          ucontext, 304 bytes: flags, link, stack, registers, mask
//!   rsp ►  return address: the action's restorer
//! ```

use super::{AlternateStack, Information, SignalSet};

/// General registers in the order of `struct sigcontext`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, flags.
    pub words: [u64; 18],
}

/// Position of rsp in [`Registers::words`].
pub const RSP: usize = 15;

/// What a fault adds to the registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultContext {
    /// Vector.
    pub trap: u64,
    /// Error code.
    pub error: u64,
    /// Address of a page fault (CR2).
    pub address: u64,
}

/// Bytes between stack pointer and what a leaf function may use below it.
const RED_ZONE_BYTES: u64 = 128;
const CONTEXT_AT: usize = 8;
const CONTEXT_BYTES: usize = 304;
const INFORMATION_AT: usize = CONTEXT_AT + CONTEXT_BYTES;
/// Bytes of the frame without the extended state.
pub const FRAME_BYTES: usize = INFORMATION_AT + Information::BYTES;
const REGISTERS_AT: usize = CONTEXT_AT + 40;
const SEGMENTS_AT: usize = REGISTERS_AT + 18 * 8;
const EXTENDED_AT: usize = SEGMENTS_AT + 8 + 32;
const MASK_AT: usize = REGISTERS_AT + 256;
/// Bytes behind the extended state: `FP_XSTATE_MAGIC2`.
pub const MARK_BYTES: u64 = 4;
const MARK: [u8; 4] = 0x4650_5845_u32.to_le_bytes();
/// Where software finds what the extended state holds, inside its legacy part.
const SOFTWARE_AT: usize = 464;
const SOFTWARE_MAGIC: u32 = 0x4650_5853;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const CONTEXT_FLAGS: u64 = 7;
/// User code and stack selectors as Linux' programs know them.
const SELECTORS: u64 = 0x002b_0000_0000_0033;

/// Where the parts of a frame lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frame; also the handler's stack pointer.
    pub frame: u64,
    /// The extended state.
    pub extended: u64,
    /// First byte behind everything.
    pub end: u64,
}

impl Place {
    /// Lays a frame out below `stack_pointer`, on `stack` if the action wants that and no handler
    /// is there yet.
    #[must_use]
    pub fn below(
        stack_pointer: u64,
        stack: Option<&AlternateStack>,
        extended_bytes: u64,
    ) -> Option<Self> {
        let end = match stack {
            Some(stack) if stack.bytes != 0 && !stack.holds(stack_pointer) => {
                stack.start.checked_add(stack.bytes)?
            }
            _ => stack_pointer.checked_sub(RED_ZONE_BYTES)?,
        };
        let extended = end.checked_sub(extended_bytes + MARK_BYTES)? & !63;
        // A function starts with its stack pointer 8 below a multiple of 16.
        let frame = (extended.checked_sub(FRAME_BYTES as u64)? & !15).checked_sub(8)?;
        let overflows = stack.is_some_and(|stack| {
            stack.bytes != 0 && end == stack.start + stack.bytes && frame < stack.start
        });
        (!overflows).then_some(Self { frame, extended, end })
    }

    /// Address of the `siginfo_t`.
    #[must_use]
    pub fn information(&self) -> u64 {
        self.frame + INFORMATION_AT as u64
    }

    /// Address of the `ucontext`.
    #[must_use]
    pub fn context(&self) -> u64 {
        self.frame + CONTEXT_AT as u64
    }
}

/// Where `rt_sigreturn` finds the frame: its return address has been popped.
#[must_use]
pub fn frame_of(stack_pointer: u64) -> u64 {
    stack_pointer.wrapping_sub(CONTEXT_AT as u64)
}

/// What a frame holds besides the extended state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalFrame {
    /// Return address.
    pub restorer: u64,
    /// The interrupted registers.
    pub registers: Registers,
    /// The fault, when it was one.
    pub fault: FaultContext,
    /// Blocked signals to go back to.
    pub mask: SignalSet,
    /// The alternate stack as it was.
    pub stack: AlternateStack,
    /// Why the handler runs.
    pub information: Information,
    /// Address of the extended state.
    pub extended: u64,
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl SignalFrame {
    /// The bytes at [`Place::frame`].
    #[must_use]
    pub fn encode(&self) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        put(&mut bytes, 0, self.restorer);
        put(&mut bytes, CONTEXT_AT, CONTEXT_FLAGS);
        let stack = self.stack.encode(self.registers.words[RSP]);
        bytes[CONTEXT_AT + 16..CONTEXT_AT + 40].copy_from_slice(&stack);
        for (index, value) in self.registers.words.iter().enumerate() {
            put(&mut bytes, REGISTERS_AT + index * 8, *value);
        }
        put(&mut bytes, SEGMENTS_AT, SELECTORS);
        put(&mut bytes, SEGMENTS_AT + 8, self.fault.error);
        put(&mut bytes, SEGMENTS_AT + 16, self.fault.trap);
        put(&mut bytes, SEGMENTS_AT + 24, self.mask.bits());
        put(&mut bytes, SEGMENTS_AT + 32, self.fault.address);
        put(&mut bytes, EXTENDED_AT, self.extended);
        put(&mut bytes, MASK_AT, self.mask.bits());
        bytes[INFORMATION_AT..].copy_from_slice(&self.information.encode());
        bytes
    }
}

/// What `rt_sigreturn` takes from a frame, as the handler left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Registers to go on with.
    pub registers: Registers,
    /// Blocked signals.
    pub mask: SignalSet,
    /// The `stack_t` bytes.
    pub stack: [u8; AlternateStack::BYTES],
    /// Address of the extended state; 0 for none.
    pub extended: u64,
}

impl Restored {
    /// Reads the frame.
    #[must_use]
    pub fn decode(bytes: &[u8; FRAME_BYTES]) -> Self {
        let mut registers = Registers::default();
        for (index, value) in registers.words.iter_mut().enumerate() {
            *value = word(bytes, REGISTERS_AT + index * 8);
        }
        let mut stack = [0; AlternateStack::BYTES];
        stack.copy_from_slice(&bytes[CONTEXT_AT + 16..CONTEXT_AT + 40]);
        Self {
            registers,
            mask: SignalSet::mask(word(bytes, MASK_AT)),
            stack,
            extended: word(bytes, EXTENDED_AT),
        }
    }
}

/// Fills in what software finds in the extended state's legacy part: `struct _fpx_sw_bytes`.
pub fn describe_extended(bytes: &mut [u8], mask: u64) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let total = length.saturating_add(4);
    let Some(software) = bytes.get_mut(SOFTWARE_AT..SOFTWARE_AT + 48) else { return };
    software.fill(0);
    software[..4].copy_from_slice(&SOFTWARE_MAGIC.to_le_bytes());
    software[4..8].copy_from_slice(&total.to_le_bytes());
    software[8..16].copy_from_slice(&mask.to_le_bytes());
    software[16..20].copy_from_slice(&length.to_le_bytes());
}

/// The bytes behind the extended state.
#[must_use]
pub const fn end_mark() -> [u8; 4] {
    MARK
}

/// Most bytes a frame takes, for `AT_MINSIGSTKSZ`: alignment and red zone included.
#[must_use]
pub const fn stack_bytes(extended_bytes: u64) -> u64 {
    extended_bytes + MARK_BYTES + 63 + FRAME_BYTES as u64 + 15 + 8 + RED_ZONE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{CODE_USER, Signal};

    /// `REG_RIP` of `ucontext.h`: index of rip in `gregs`, which start 40 bytes into the context.
    const REG_RIP: usize = 16;

    #[test]
    fn the_frame_has_the_layout_of_the_c_headers() {
        let mut registers = Registers::default();
        registers.words[REG_RIP] = 0x1122_3344;
        registers.words[RSP] = 0x7fff_0000;
        let frame = SignalFrame {
            restorer: 0x4000,
            registers,
            fault: FaultContext { trap: 14, error: 6, address: 0xdead },
            mask: SignalSet::EMPTY.with(Signal::INT),
            stack: AlternateStack::NONE,
            information: Information { signal: Signal::SEGV, code: 1, value: 0xdead, data: 0 },
            extended: 0x7ffe_0000,
        };
        let bytes = frame.encode();
        assert_eq!(word(&bytes, 8 + 40 + 8 * REG_RIP), 0x1122_3344);
        assert_eq!(word(&bytes, 8 + 40 + 8 * 19), 6, "REG_ERR");
        assert_eq!(word(&bytes, 8 + 40 + 8 * 20), 14, "REG_TRAPNO");
        assert_eq!(word(&bytes, 8 + 40 + 8 * 22), 0xdead, "REG_CR2");
        assert_eq!(word(&bytes, 8 + 40 + 8 * 23), 0x7ffe_0000, "fpregs");
        assert_eq!(word(&bytes, 8 + 296), 2, "uc_sigmask");
        assert_eq!(word(&bytes, 8 + 304) & 0xff, 11, "si_signo");
        assert_eq!(word(&bytes, 8 + 304 + 16), 0xdead, "si_addr");
        let restored = Restored::decode(&bytes);
        assert_eq!((restored.registers, restored.mask), (registers, frame.mask));
        assert_eq!(restored.extended, frame.extended);
    }

    #[test]
    fn a_handler_starts_with_an_aligned_stack_and_a_free_red_zone() {
        for stack_pointer in 0x10_0000..0x10_0080_u64 {
            let place = Place::below(stack_pointer, None, 2696).unwrap();
            assert_eq!((place.frame + 8) % 16, 0);
            assert_eq!(place.extended % 64, 0);
            assert!(place.frame + FRAME_BYTES as u64 <= place.extended);
            assert!(place.extended + 2696 + MARK_BYTES <= stack_pointer - 128);
            assert!(stack_pointer - place.frame <= stack_bytes(2696));
        }
    }

    #[test]
    fn the_alternate_stack_is_used_once_and_never_overrun() {
        let stack = AlternateStack { start: 0x5000, bytes: 0x2000, is_disarmed_in_use: false };
        let place = Place::below(0x10_0000, Some(&stack), 576).unwrap();
        assert!(place.end == 0x7000 && place.frame > 0x5000);
        let nested = Place::below(place.frame, Some(&stack), 576).unwrap();
        assert!(nested.end < place.frame);
        let small = AlternateStack { bytes: 2048, ..stack };
        assert_eq!(Place::below(0x10_0000, Some(&small), 2696), None);
        let information = Information { signal: Signal::INT, code: CODE_USER, value: 0, data: 0 };
        assert_eq!(information.encode()[0], 2);
    }
}
