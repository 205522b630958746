//! Our consumer while the peer writes anything anywhere in the ring.

#![no_main]

mod hostile;

use abi::ring::{Consumer, Memory};
use hostile::{Hostile, LAYOUT, SLOT_BYTES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let ring = Hostile::new();
    let memory = ring.shared();
    let mut consumer = Consumer::new(ring.shared(), LAYOUT);
    let mut frame = [0; SLOT_BYTES as usize];
    for (offset, value) in hostile::writes(data) {
        memory.store_u64(offset, value);
        if let Ok(Some(length)) = consumer.pop(&mut frame) {
            assert!(length <= frame.len());
        }
        let _ = (consumer.is_empty(), consumer.needs_doorbell());
    }
});
