//! Frames of the stream ring, as a hostile guest sends them: what a VM's connections hold stays
//! within their windows and numbers, and a number is only answered while the guest has it in use.
//! No address is permitted here, so that nothing is ever connected.

use std::collections::BTreeSet;
use std::rc::Rc;

use abi::frame::Header;
use abi::frame::stream;
use abi::layout::region;
use abi::wire::{Malformed, Reader};
use pilotlight::egress::{Egress, Limits};

const LIMITS: Limits =
    Limits { connections: 2, numbers_max: 3, connect_nanos: 1_000, linger_nanos: 1_000 };
/// Most bytes of a frame's payload.
const PAYLOAD_BYTES_MAX: usize = region::STREAM_OUT.slot_bytes() - Header::BYTES;

/// `data` are frames: kind, flags, channel, length of the payload (u16), payload. A frame of kind
/// 0xff is ours instead: the guest takes what waits for it.
pub fn check(data: &[u8]) -> bool {
    let mut egress = Egress::new(LIMITS, Rc::default());
    let mut numbers = BTreeSet::new();
    let _ = serve(&mut egress, &mut numbers, &mut Reader::new(data));
    drain(&mut egress, &mut numbers, usize::MAX);
    assert_eq!(egress.counts().opened, 0);
    egress.counts().refused > 0
}

fn serve(
    egress: &mut Egress,
    numbers: &mut BTreeSet<u32>,
    reader: &mut Reader<'_>,
) -> Result<(), Malformed> {
    loop {
        let (kind, flags, channel) = (reader.u8()?, reader.u8()?, u32::from(reader.u8()?));
        let length = usize::from(reader.u16()?);
        if kind == 0xff {
            drain(egress, numbers, length);
            continue;
        }
        // Whole windows of bytes would be too many for the fuzzer to write.
        let zeros = [0; PAYLOAD_BYTES_MAX];
        let payload = match kind {
            stream::DATA => &zeros[..length.min(PAYLOAD_BYTES_MAX)],
            _ => reader.bytes(length.min(PAYLOAD_BYTES_MAX))?,
        };
        let was_known = numbers.contains(&channel);
        let taken = egress.on_frame(Header { kind, flags, channel, id: 0 }, payload);
        if taken.is_err() {
            // The VM is ended.
            return Ok(());
        }
        assert_eq!(flags, 0, "no frame here has more");
        match kind {
            stream::OPEN => {
                assert!(numbers.insert(channel), "a number is one connection's");
                assert!(numbers.len() <= LIMITS.numbers_max);
            }
            stream::DATA | stream::FIN | stream::CREDIT | stream::CLOSE => assert!(was_known),
            kind => panic!("a guest sends no frame of kind {kind}"),
        }
        assert!(egress.live() <= LIMITS.connections);
    }
}

/// What the guest is told: it parses, and is about numbers in use.
fn drain(egress: &mut Egress, numbers: &mut BTreeSet<u32>, frames_max: usize) {
    egress.drain(frames_max.min(64), |header, payload| {
        assert!(numbers.contains(&header.channel) && header.flags == 0);
        match (header.kind, payload.len()) {
            (stream::FAILED | stream::CREDIT, 4) | (stream::FIN, 0) => {}
            (stream::CLOSE, 0) => assert!(numbers.remove(&header.channel)),
            (kind, length) => panic!("kind {kind} with {length} bytes to an unmade connection"),
        }
    });
}
