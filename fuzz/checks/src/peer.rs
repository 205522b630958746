//! The other side of a ring, and the memory both share: what it does is read from the fuzzer's
//! bytes, one step after another.

use std::cell::Cell;
use std::rc::Rc;

use abi::ring::{Memory, QueueLayout};
use abi::wire::{Malformed, Reader};

/// Memory of one ring in one thread. An access outside the ring panics: neither end has any reason
/// to make one, whatever the other one wrote.
#[derive(Clone)]
pub(crate) struct Watched {
    layout: QueueLayout,
    bytes: Rc<[Cell<u8>]>,
}

impl Watched {
    /// All zeros.
    pub(crate) fn new(layout: QueueLayout) -> Self {
        Self { layout, bytes: (0..layout.end()).map(|_| Cell::new(0)).collect() }
    }

    fn at(&self, offset: u32, length: usize, aligned: usize) -> &[Cell<u8>] {
        let start = offset as usize;
        assert!(
            offset >= self.layout.descriptors() && start.is_multiple_of(aligned),
            "in the ring"
        );
        let cells = self.bytes.get(start..start + length);
        cells.unwrap_or_else(|| panic!("{length} bytes at {offset} are not in the ring"))
    }

    fn load<const N: usize>(&self, offset: u32) -> [u8; N] {
        let mut value = [0; N];
        value.iter_mut().zip(self.at(offset, N, N)).for_each(|(to, cell)| *to = cell.get());
        value
    }

    fn store<const N: usize>(&self, offset: u32, value: [u8; N]) {
        self.at(offset, N, N).iter().zip(value).for_each(|(cell, byte)| cell.set(byte));
    }
}

impl Memory for Watched {
    fn base(&self) -> u64 {
        abi::layout::REGION_GPA
    }
    fn load_u16(&self, offset: u32) -> u16 {
        u16::from_le_bytes(self.load(offset))
    }
    fn load_u16_acquire(&self, offset: u32) -> u16 {
        self.load_u16(offset)
    }
    fn store_u16(&self, offset: u32, value: u16) {
        self.store(offset, value.to_le_bytes());
    }
    fn store_u16_release(&self, offset: u32, value: u16) {
        self.store_u16(offset, value);
    }
    fn load_u32(&self, offset: u32) -> u32 {
        u32::from_le_bytes(self.load(offset))
    }
    fn store_u32(&self, offset: u32, value: u32) {
        self.store(offset, value.to_le_bytes());
    }
    fn load_u64(&self, offset: u32) -> u64 {
        u64::from_le_bytes(self.load(offset))
    }
    fn store_u64(&self, offset: u32, value: u64) {
        self.store(offset, value.to_le_bytes());
    }
    fn read(&self, offset: u32, bytes: &mut [u8]) {
        let cells = self.at(offset, bytes.len(), 1);
        bytes.iter_mut().zip(cells).for_each(|(to, cell)| *to = cell.get());
    }
    fn write(&self, offset: u32, bytes: &[u8]) {
        let cells = self.at(offset, bytes.len(), 1);
        bytes.iter().zip(cells).for_each(|(byte, cell)| cell.set(*byte));
    }
    fn fence(&self) {}
}

/// Takes one step against a ring, as its bytes say: any word anywhere, or something nearly right.
pub(crate) fn strike(
    memory: &impl Memory,
    layout: QueueLayout,
    reader: &mut Reader<'_>,
) -> Result<(), Malformed> {
    match reader.u8()? % 5 {
        0 => {
            let words = (layout.end() - layout.descriptors()) / 8;
            let word = u32::from(reader.u16()?) % words;
            memory.store_u64(layout.descriptors() + 8 * word, reader.u64()?);
        }
        // A descriptor: where it points, from just before the slots to just behind them.
        1 => {
            let at = layout.descriptors() + 16 * u32::from(reader.u8()? % slots(layout));
            let address = memory.base() + u64::from(layout.data()) + u64::from(reader.u16()?);
            memory.store_u64(at, address.wrapping_sub(8));
            memory.store_u32(at + 8, u32::from(reader.u16()?));
            memory.store_u16(at + 12, u16::from(reader.u8()?));
            memory.store_u16(at + 14, u16::from(reader.u8()?));
        }
        // A head is offered, which may be none.
        2 => {
            let index = memory.load_u16(layout.available() + 2);
            let place = u32::from(index % layout.slots());
            memory.store_u16(layout.available() + 4 + 2 * place, u16::from(reader.u8()?));
            memory.store_u16_release(layout.available() + 2, index.wrapping_add(1));
        }
        // A slot is given back, which may be none.
        3 => {
            let index = memory.load_u16(layout.used() + 2);
            let place = u32::from(index % layout.slots());
            memory.store_u32(layout.used() + 4 + 8 * place, u32::from(reader.u8()?));
            memory.store_u16_release(layout.used() + 2, index.wrapping_add(1));
        }
        _ => {
            let index = if reader.u8()? & 1 == 0 { layout.available() } else { layout.used() };
            memory.store_u16_release(index + 2, reader.u16()?);
        }
    }
    Ok(())
}

fn slots(layout: QueueLayout) -> u8 {
    u8::try_from(layout.slots()).unwrap_or(u8::MAX)
}
