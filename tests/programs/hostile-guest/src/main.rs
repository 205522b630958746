//! A guest kernel that serves like the real one until a request tells it to turn on its node: a body
//! that begins with [`MARK`], a kind of attack and a seed. From then on it does nothing else, for ever.
//!
//! What the node shares with a guest is one region: that is all this kernel writes to. What it can do
//! beside that is leave its VM by ports.

#![no_std]
#![no_main]

use abi::frame::{Header, outcome, stream};
use abi::layout::region;
use abi::ring::{Memory, QueueLayout, SharedMemory};
use guest_agent::kernel::Kernel;
use machine::port;

const MARK: &[u8; 8] = b"hostile!";
/// Bytes of each slot of requests that are searched for the mark.
const LOOK_BYTES: usize = 256;
/// Descriptors: address, length, flags, next.
const DESCRIPTOR_BYTES: u32 = 16;

const OUTGOING: [QueueLayout; 3] = [region::OUTCOME, region::LOG, region::STREAM_OUT];
const INCOMING: [QueueLayout; 3] = [region::INVOKE, region::CODE, region::STREAM_IN];

// The boot symbol: `machine` calls it by this name.
#[unsafe(no_mangle)]
fn kernel_main() -> ! {
    let mut kernel = Kernel::new();
    port::ready();
    kernel.attach();
    loop {
        if let Some((kind, random)) = order(machine::region::memory()) {
            Attack { memory: machine::region::memory(), random }.carry_out(kind);
        }
        kernel.step();
    }
}

/// What to do, if a request says so.
fn order(memory: &SharedMemory) -> Option<(u8, Random)> {
    let mut bytes = [0; LOOK_BYTES];
    for slot in 0..u32::from(region::INVOKE.slots()) {
        let bytes_of_slot = region::INVOKE.slot_bytes() as u32;
        memory.read(region::INVOKE.data() + slot * bytes_of_slot, &mut bytes);
        let place = bytes.windows(MARK.len()).position(|window| window == MARK);
        let order = place.and_then(|place| bytes.get(place + MARK.len()..place + MARK.len() + 9));
        if let Some((&kind, seed)) = order.and_then(<[u8]>::split_first) {
            let seed = seed.try_into().map(u64::from_le_bytes);
            return seed.ok().map(|seed| (kind, Random(seed | 1)));
        }
    }
    None
}

/// Xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.next() >> 32) as u32 % end.max(1)
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u32) as usize]
    }
}

struct Attack {
    memory: &'static SharedMemory,
    random: Random,
}

impl Attack {
    fn carry_out(mut self, kind: u8) -> ! {
        loop {
            match kind {
                0 => self.noise(),
                1 => self.indices(),
                2 => self.descriptors(),
                3 => self.frames(),
                4 => self.lies(),
                5 => self.bells(),
                6 => self.last_words(),
                7 => self.deadlines(),
                8 => self.ports(),
                _ => machine::idle::halt(),
            }
        }
    }

    /// Anything anywhere.
    fn noise(&mut self) {
        for _ in 0..1024 {
            let word = self.random.below(region::BYTES / 8) * 8;
            let value = self.random.next();
            self.memory.store_u64(word, value);
        }
        port::ring_node();
    }

    /// Where the rings are said to be.
    fn indices(&mut self) {
        let ring = self.any_ring();
        let value = self.random.next() as u16;
        let index = if self.random.below(2) == 0 { ring.available() } else { ring.used() };
        self.memory.store_u16_release(index + 2, value);
        port::ring_node();
    }

    /// Frames that lie elsewhere, are longer than they may be, go in circles, or are not to be read.
    fn descriptors(&mut self) {
        let ring = self.random.one_of(&OUTGOING);
        let slot = self.random.below(u32::from(ring.slots()));
        let at = ring.descriptors() + slot * DESCRIPTOR_BYTES;
        let (address, rest) = (self.random.next(), self.random.next());
        let own = self.memory.base() + u64::from(ring.data());
        // Half of them nearly right.
        let near = own.wrapping_add(address % 0x20_0000).wrapping_sub(0x10_0000);
        self.memory.store_u64(at, if address & 1 == 0 { address } else { near });
        self.memory.store_u64(at + 8, if rest & 1 == 0 { rest } else { rest & 0x7_0000_1fff });
        self.publish(ring, slot as u16);
    }

    /// Rings as they are to be, and frames of anything in them.
    fn frames(&mut self) {
        let ring = self.random.one_of(&OUTGOING);
        let mut frame = [0; 512];
        for word in frame.chunks_exact_mut(8) {
            word.copy_from_slice(&self.random.next().to_le_bytes());
        }
        let length = self.random.below(frame.len() as u32 + 1) as usize;
        self.send(ring, &frame[..length]);
    }

    /// Frames of every kind there is and some there are not, about what is not so.
    fn lies(&mut self) {
        let ring = self.random.one_of(&OUTGOING);
        let last = outcome::PREPARED.max(stream::CLOSE) + 1;
        let header = Header {
            kind: self.random.below(u32::from(last) + 1) as u8,
            flags: self.random.below(2) as u8,
            channel: self.random.below(4),
            id: u64::from(self.random.below(8)),
        };
        let mut frame = [0; 256];
        let (head, rest) = frame.split_at_mut(Header::BYTES);
        head.copy_from_slice(&header.encode());
        for byte in &mut *rest {
            *byte = self.random.below(5) as u8;
        }
        let length = Header::BYTES + self.random.below(240) as usize;
        self.send(ring, &frame[..length]);
    }

    /// Nothing but doorbells.
    fn bells(&mut self) {
        port::ring_node();
        port::ask_timer();
    }

    /// Says that it gives up, at greater length than there is, in no language, again and again.
    fn last_words(&mut self) {
        for word in (region::PANIC..region::PANIC + region::PANIC_BYTES_MAX).step_by(8) {
            let value = self.random.next();
            self.memory.store_u64(word, value);
        }
        self.memory.store_u32(region::PANIC_BYTES, u32::MAX);
        out(abi::layout::PORT_PANIC);
    }

    /// Deadlines in the past, and nowhere to go on.
    fn deadlines(&mut self) {
        let (deadline, entry) = (self.random.next() >> 8, self.random.next());
        self.memory.store_u64(region::DEADLINE, deadline);
        self.memory.store_u64(region::PREEMPT_ENTRY, entry);
        port::ask_timer();
    }

    /// Ports nobody has.
    fn ports(&mut self) {
        out(self.random.next() as u16);
    }

    fn any_ring(&mut self) -> QueueLayout {
        let all = if self.random.below(2) == 0 { OUTGOING } else { INCOMING };
        self.random.one_of(&all)
    }

    fn send(&mut self, ring: QueueLayout, frame: &[u8]) {
        let slot = self.memory.load_u16(ring.available() + 2) & (ring.slots() - 1);
        let offset = ring.data() + u32::from(slot) * ring.slot_bytes() as u32;
        self.memory.write(offset, frame);
        let at = ring.descriptors() + u32::from(slot) * DESCRIPTOR_BYTES;
        self.memory.store_u64(at, self.memory.base() + u64::from(offset));
        self.memory.store_u64(at + 8, frame.len() as u64);
        self.publish(ring, slot);
    }

    /// Makes a slot available, as soon as there is room for it.
    fn publish(&mut self, ring: QueueLayout, slot: u16) {
        let index = self.memory.load_u16(ring.available() + 2);
        while index.wrapping_sub(self.memory.load_u16_acquire(ring.used() + 2)) >= ring.slots() {
            port::ring_node();
        }
        let entry = ring.available() + 4 + 2 * u32::from(index & (ring.slots() - 1));
        self.memory.store_u16(entry, slot);
        self.memory.store_u16_release(ring.available() + 2, index.wrapping_add(1));
        port::ring_node();
    }
}

/// Leaves the VM by a port.
fn out(port: u16) {
    // SAFETY: no port of this machine changes the kernel's memory or registers.
    unsafe { core::arch::asm!("out dx, eax", in("dx") port, in("eax") 1, options(nostack)) }
}
