//! The kernel's own mistakes: a message for the node, then silence. The VM is over.

use abi::layout::region::PANIC_BYTES_MAX;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::port;

static IS_PANICKING: AtomicBool = AtomicBool::new(false);

struct Message {
    bytes: [u8; PANIC_BYTES_MAX as usize],
    length: usize,
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = &mut self.bytes[self.length..];
        let text = text.as_bytes().get(..room.len()).unwrap_or(text.as_bytes());
        room[..text.len()].copy_from_slice(text);
        self.length += text.len();
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // ordering: relaxed; one thread of execution.
    if IS_PANICKING.swap(true, Ordering::Relaxed) {
        port::panic("the kernel panicked while it panicked");
    }
    let mut message = Message { bytes: [0; PANIC_BYTES_MAX as usize], length: 0 };
    // A message that does not fit is cut; there is nobody to tell otherwise.
    let _ = write!(message, "{info}");
    let said = &message.bytes[..message.length];
    port::panic(said.utf8_chunks().next().map_or("", |chunk| chunk.valid()));
}
