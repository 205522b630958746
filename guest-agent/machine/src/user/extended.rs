//! Extended state (x87, SSE, AVX and so on) of programs: an XSAVE area per context, kept lazily.
//!
//! The kernel uses none of these registers, so they hold a program's values across its system
//! calls and are only saved when another context needs them.
//! ```text
//! registers ──(another context runs, or its bytes are asked for)──► area
//! area      ──(its context runs and the registers hold another's)──► registers
//! ```

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use crate::instruction;
use crate::state::state;

/// Bytes of the legacy region, which every area has, and of the header behind it (AMD64 manual
/// volume 2, section 11.5).
const LEGACY_BYTES: usize = 512;
const HEADER_BYTES: usize = 64;
const CONTROL_WORD: usize = 0;
const MXCSR: usize = 24;
const ALIGNMENT: usize = 64;
/// Bits of MXCSR that may be set.
const MXCSR_MASK: u32 = 0xffff;

/// Memory of one XSAVE area in its standard format.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
struct Line([u8; ALIGNMENT]);

/// One XSAVE area.
#[derive(Clone, Debug)]
pub(crate) struct Area {
    lines: Vec<Line>,
    bytes: usize,
}

impl Area {
    fn fresh() -> Self {
        let bytes = area_bytes();
        let lines = vec![Line([0; ALIGNMENT]); bytes.div_ceil(ALIGNMENT)];
        let mut area = Self { lines, bytes };
        area.write(CONTROL_WORD, &0x37f_u16.to_le_bytes());
        area.write(MXCSR, &0x1f80_u32.to_le_bytes());
        area
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        let all = self.lines.iter().flat_map(|line| &line.0);
        for (to, from) in bytes.iter_mut().zip(all.skip(offset)) {
            *to = *from;
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let all = self.lines.iter_mut().flat_map(|line| &mut line.0);
        for (to, from) in all.skip(offset).zip(bytes) {
            *to = *from;
        }
    }

    /// Makes whatever bytes it holds restorable: XRSTOR faults on reserved bits.
    fn sanitise(&mut self) {
        let mut mxcsr = [0; 4];
        self.read(MXCSR, &mut mxcsr);
        let mxcsr = u32::from_le_bytes(mxcsr) & MXCSR_MASK;
        self.write(MXCSR, &mxcsr.to_le_bytes());
        let mut parts = [0; 8];
        self.read(LEGACY_BYTES, &mut parts);
        let parts = u64::from_le_bytes(parts) & mask();
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&parts.to_le_bytes());
        self.write(LEGACY_BYTES, &header);
    }

    fn save(&mut self) {
        instruction::xsave(self.lines.as_mut_ptr().cast(), mask());
    }

    fn restore(&self) {
        instruction::xrstor(self.lines.as_ptr().cast(), mask());
    }
}

/// Extended state of one context.
#[derive(Debug)]
pub struct ExtendedState(Rc<RefCell<Area>>);

impl ExtendedState {
    /// The state a program starts with.
    #[must_use]
    pub fn fresh() -> Self {
        Self(Rc::new(RefCell::new(Area::fresh())))
    }

    /// A copy: what a forked process or a new thread starts with.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        self.store_registers();
        Self(Rc::new(RefCell::new(self.0.borrow().clone())))
    }

    /// Copies the area (standard XSAVE format, [`area_bytes`] long) to the front of `bytes`.
    pub fn read(&self, bytes: &mut [u8]) {
        self.store_registers();
        self.0.borrow().read(0, bytes);
    }

    /// Sets the state from the bytes of an area; any bytes are safe. What `bytes` is too short
    /// for keeps its initial value.
    pub fn write(&mut self, bytes: &[u8]) {
        self.forget_registers();
        let mut area = self.0.borrow_mut();
        *area = Area::fresh();
        let length = bytes.len().min(area.bytes);
        area.write(0, &bytes[..length]);
        area.sanitise();
    }

    /// Back to the state a program starts with, as `exec` does.
    pub fn reset(&mut self) {
        self.forget_registers();
        *self.0.borrow_mut() = Area::fresh();
    }

    /// Brings the state into the CPU's registers.
    pub(crate) fn activate(&mut self) {
        let mut live = state().live.borrow_mut();
        if live.as_ref().is_some_and(|live| Rc::ptr_eq(live, &self.0)) {
            return;
        }
        // An area nobody else holds belonged to a context that is gone.
        if let Some(other) = live.take().filter(|other| Rc::strong_count(other) > 1) {
            other.borrow_mut().save();
        }
        self.0.borrow().restore();
        *live = Some(Rc::clone(&self.0));
    }

    fn is_live(&self) -> bool {
        state().live.borrow().as_ref().is_some_and(|live| Rc::ptr_eq(live, &self.0))
    }

    fn store_registers(&self) {
        if self.is_live() {
            self.0.borrow_mut().save();
        }
    }

    fn forget_registers(&self) {
        if self.is_live() {
            state().live.take();
        }
    }
}

/// Bytes of an XSAVE area on this machine.
#[must_use]
pub fn area_bytes() -> usize {
    let least = LEGACY_BYTES + HEADER_BYTES;
    let bytes = state().info.get().map_or(0, |info| info.xsave_bytes);
    usize::try_from(bytes).unwrap_or(least).max(least)
}

fn mask() -> u64 {
    state().info.get().map_or(0, |info| info.xsave_mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    fn bytes_of(state: &ExtendedState) -> Vec<u8> {
        let mut bytes = vec![0; area_bytes()];
        state.read(&mut bytes);
        bytes
    }

    #[test]
    fn a_fresh_state_has_the_masks_of_the_abi() {
        host::init(8 << 20);
        let bytes = bytes_of(&ExtendedState::fresh());
        assert_eq!((&bytes[..2], &bytes[24..28]), (&[0x7f, 3][..], &[0x80, 0x1f, 0, 0][..]));
        assert!(bytes[512..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn registers_of_two_contexts_do_not_mix() {
        host::init(8 << 20);
        let (mut first, mut second) = (ExtendedState::fresh(), ExtendedState::fresh());
        first.activate();
        host::set_vector_register(1);
        second.activate();
        assert_eq!(host::vector_register(), 0);
        host::set_vector_register(2);
        first.activate();
        assert_eq!(host::vector_register(), 1);
        let mut copy = first.duplicate();
        host::set_vector_register(7);
        copy.activate();
        assert_eq!(host::vector_register(), 1);
        drop(copy);
        second.activate();
        assert_eq!(host::vector_register(), 2);
    }

    #[test]
    fn bytes_from_a_program_are_made_safe() {
        host::init(8 << 20);
        let mut state = ExtendedState::fresh();
        state.activate();
        state.write(&vec![0xff; area_bytes() + 100]);
        let bytes = bytes_of(&state);
        assert_eq!(bytes[26..28], [0, 0]);
        assert_eq!(bytes[512..520], mask().to_le_bytes());
        assert!(bytes[520..576].iter().all(|byte| *byte == 0));
        state.activate();
        state.write(&[1, 2]);
        assert_eq!(bytes_of(&state)[..2], [1, 2]);
        assert_eq!(bytes_of(&state)[24..28], [0x80, 0x1f, 0, 0]);
    }

    #[test]
    fn exec_starts_over() {
        host::init(8 << 20);
        let mut state = ExtendedState::fresh();
        state.activate();
        host::set_vector_register(9);
        state.reset();
        state.activate();
        assert_eq!(host::vector_register(), 0);
    }
}
