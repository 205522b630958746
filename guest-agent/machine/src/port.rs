//! Ports: how the guest reaches the VMM and the node's doorbell.

use abi::layout::{PORT_DOORBELL, PORT_PANIC, PORT_READY, PORT_TIMER, region};
use abi::ring::Memory;

use crate::{instruction, region as shared};

/// Rings the node's doorbell.
pub fn ring_node() {
    instruction::out(PORT_DOORBELL, 1);
}

/// Asks the VMM to look at the deadline in the region (`region::DEADLINE`) and to take the CPU
/// away when it is reached.
pub fn ask_timer() {
    instruction::out(PORT_TIMER, 1);
}

/// Says that the kernel is up. The VMM takes the base snapshot here; every VM restored from it
/// returns from this call, with a region of zeros and a new clock page.
pub fn ready() {
    instruction::out(PORT_READY, 1);
}

/// Gives up: leaves a message for the node and stops for ever.
pub fn panic(message: &str) -> ! {
    let mut length = message.len().min(region::PANIC_BYTES_MAX as usize);
    while !message.is_char_boundary(length) {
        length -= 1;
    }
    let bytes = &message.as_bytes()[..length];
    let memory = shared::memory();
    memory.write(region::PANIC, bytes);
    memory.store_u32(region::PANIC_BYTES, u32::try_from(bytes.len()).unwrap_or(0));
    instruction::out(PORT_PANIC, 1);
    loop {
        crate::idle::halt();
    }
}
