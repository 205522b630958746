//! Our producer while the peer writes anything anywhere in the ring.

#![no_main]

mod hostile;

use abi::ring::{Memory, Producer};
use hostile::{Hostile, LAYOUT};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let ring = Hostile::new();
    let memory = ring.shared();
    let mut producer = Producer::new(ring.shared(), LAYOUT);
    for (offset, value) in hostile::writes(data) {
        let _ = producer.push(&[b"header", b"payload"]);
        memory.store_u64(offset, value);
        if let Ok(room) = producer.room() {
            assert!(room <= LAYOUT.slots());
        }
        let _ = producer.needs_doorbell();
    }
});
