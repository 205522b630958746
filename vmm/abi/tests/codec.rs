//! Frames and control messages: what is encoded is decoded again, cut-off bytes are refused, and
//! no bytes whatever make a decoder panic.

use abi::control::{Blame, MESSAGE_BYTES_MAX, Reply, Request, Restoring, SEED_BYTES, Start};
use abi::frame::code::Window;
use abi::frame::invoke::{Acquire, Assign, Contract, Freshness, Invoke};
use abi::frame::log::Line;
use abi::frame::outcome::{Outcome, Status};
use abi::frame::stream::Address;
use abi::frame::{FLAG_MORE, Header};
use abi::wire::{Malformed, Reader, Writer};
use proptest::prelude::*;

fn contracts() -> impl Strategy<Value = Contract> {
    prop_oneof![Just(Contract::Program), Just(Contract::Stream)]
}

fn freshnesses() -> impl Strategy<Value = Freshness> {
    (1..=3_u8).prop_map(|number| Freshness::from_number(number).expect("one of three"))
}

fn statuses() -> impl Strategy<Value = Status> {
    (1..=9_u8).prop_map(|number| Status::from_number(number).expect("one of nine"))
}

fn blobs() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)
}

fn slices(blobs: &[Vec<u8>]) -> Vec<&[u8]> {
    blobs.iter().map(Vec::as_slice).collect()
}

fn starts() -> impl Strategy<Value = Start> {
    (any::<[u32; 3]>(), any::<bool>(), any::<[u64; 7]>()).prop_map(|(words, is_restore, longs)| {
        Start {
            abi_version: words[0],
            is_restore,
            ram_bytes: longs[0],
            root_image_bytes: longs[1],
            restoring: if words[0] & 1 == 0 { Restoring::Map } else { Restoring::Copy },
            package_offset: longs[5],
            package_bytes: longs[6],
            generation: longs[2],
            core: words[1],
            clock_multiplier: longs[3],
            clock_offset: longs[4],
            user: words[2],
            is_capturable: words[0] & 2 == 0,
        }
    })
}

fn requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        starts().prop_map(Request::Start),
        any::<(u64, u64)>().prop_map(|(offset, bytes)| Request::Place { offset, bytes }),
        any::<(u64, [u8; SEED_BYTES], u64)>().prop_map(|(generation, seed, verify_nanos)| {
            Request::Reset { generation, seed, verify_nanos }
        }),
        Just(Request::Capture),
        Just(Request::Stop),
    ]
}

/// Every proper prefix of `whole` is refused: nothing is guessed from half a message.
fn refuses_prefixes(whole: &[u8], decodes: impl Fn(&[u8]) -> bool) {
    assert!(decodes(whole));
    for length in 0..whole.len() {
        assert!(!decodes(&whole[..length]), "{length} of {} bytes", whole.len());
    }
}

/// What `encode` writes into a buffer that is just large enough, having checked that every
/// smaller buffer is refused.
fn encoded(encode: impl Fn(&mut Writer<'_>) -> Result<(), Malformed>) -> Vec<u8> {
    let mut buffer = vec![0; 64 * 1024];
    let mut writer = Writer::new(&mut buffer);
    encode(&mut writer).expect("room enough");
    let length = writer.length();
    buffer.truncate(length);
    for less in [0, length / 2, length.saturating_sub(1)] {
        let mut small = vec![0; less];
        assert!(less == length || encode(&mut Writer::new(&mut small)).is_err());
    }
    buffer
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { 512 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn header(kind: u8, has_more: bool, channel: u32, id: u64, payload: Vec<u8>) {
        let flags = if has_more { FLAG_MORE } else { 0 };
        let header = Header { kind, flags, channel, id };
        let frame = [header.encode().as_slice(), &payload].concat();
        prop_assert_eq!(Header::decode(&frame), Ok((header, payload.as_slice())));
        prop_assert_eq!(header.has_more(), has_more);
        refuses_prefixes(&header.encode(), |bytes| Header::decode(bytes).is_ok());
    }

    #[test]
    fn header_reserved_bits_are_refused(flags in 2_u8.., reserved in 1_u16..) {
        let mut bytes = Header { kind: 1, flags: 0, channel: 0, id: 0 }.encode();
        bytes[1] = flags;
        prop_assert_eq!(Header::decode(&bytes), Err(Malformed));
        bytes[1] = 0;
        bytes[2..4].copy_from_slice(&reserved.to_le_bytes());
        prop_assert_eq!(Header::decode(&bytes), Err(Malformed));
    }

    #[test]
    fn assign(texts in any::<[String; 3]>(), credentials in blobs()) {
        let texts = [texts[0].as_str(), &texts[1], &texts[2]];
        let bytes = encoded(|writer| Assign::encode(writer, texts, &slices(&credentials)));
        let assign = Assign::decode(&bytes).expect("just encoded");
        prop_assert_eq!([assign.protocol, assign.address, assign.server_name], texts);
        prop_assert_eq!(assign.credentials.count() as usize, credentials.len());
        prop_assert_eq!(assign.credentials.iter().collect::<Vec<_>>(), slices(&credentials));
        refuses_prefixes(&bytes, |bytes| Assign::decode(bytes).is_ok());
    }

    #[test]
    fn acquire(
        contract in contracts(),
        freshness in freshnesses(),
        memory_bytes: u64,
        entry: String,
        arguments in blobs(),
        environment in blobs(),
    ) {
        let bytes = encoded(|writer| {
            let fixed = (contract, freshness, memory_bytes, entry.as_str());
            Acquire::encode(writer, fixed, &slices(&arguments), &slices(&environment))
        });
        let acquire = Acquire::decode(&bytes).expect("just encoded");
        prop_assert_eq!((acquire.contract, acquire.memory_bytes), (contract, memory_bytes));
        prop_assert_eq!(acquire.freshness, freshness);
        prop_assert_eq!(acquire.entry, entry);
        prop_assert_eq!(acquire.arguments.iter().collect::<Vec<_>>(), slices(&arguments));
        prop_assert_eq!(acquire.environment.iter().collect::<Vec<_>>(), slices(&environment));
        refuses_prefixes(&bytes, |bytes| Acquire::decode(bytes).is_ok());
    }

    #[test]
    fn outcome(
        status in statuses(),
        detail: u32,
        counts: [u64; 3],
        dirty_pages: u32,
        reason: String,
        response: Vec<u8>,
    ) {
        let [log_records, run_nanos, memory_peak_bytes] = counts;
        let (reason, response) = (reason.as_str(), response.as_slice());
        let outcome = Outcome {
            status,
            detail,
            log_records,
            run_nanos,
            memory_peak_bytes,
            dirty_pages,
            reason,
            response,
        };
        let bytes = encoded(|writer| outcome.encode(writer));
        prop_assert_eq!(bytes.len(), Outcome::FIXED_BYTES + reason.len() + response.len());
        prop_assert_eq!(Outcome::decode(&bytes), Ok(outcome));
        let without_response = &bytes[..bytes.len() - response.len()];
        refuses_prefixes(without_response, |bytes| Outcome::decode(bytes).is_ok());
    }

    #[test]
    fn fixed_payloads(digest: [u8; 32], offset: u64, bytes: u64, ip: [u8; 16], port: u16) {
        let window = Window { digest, offset, bytes };
        prop_assert_eq!(Window::decode(&window.encode()), Ok(window));
        refuses_prefixes(&window.encode(), |bytes| Window::decode(bytes).is_ok());
        let address = Address { ip, port };
        prop_assert_eq!(Address::decode(&address.encode()), Ok(address));
        refuses_prefixes(&address.encode(), |bytes| Address::decode(bytes).is_ok());
    }

    #[test]
    fn line_and_invoke(realtime_nanos: u64, sequence: u64, text: Vec<u8>) {
        let bytes = [Line::encode_fixed(realtime_nanos, sequence).as_slice(), &text].concat();
        let line = Line { realtime_nanos, sequence, text: &text };
        prop_assert_eq!(Line::decode(&bytes), Ok(line));
        prop_assert_eq!(Line::decode(&bytes[..Line::FIXED_BYTES - 1]), Err(Malformed));
        let bytes = [realtime_nanos.to_le_bytes().as_slice(), &text].concat();
        let invoke = Invoke::decode(&bytes).expect("a deadline and a body");
        prop_assert_eq!((invoke.deadline_nanos, invoke.body), (realtime_nanos, text.as_slice()));
        prop_assert!(Invoke::decode(&bytes[..Invoke::BYTES - 1]).is_err());
    }

    #[test]
    fn control_requests(request in requests()) {
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let length = request.encode(&mut buffer).expect("the longest fits");
        prop_assert_eq!(Request::decode(&buffer[..length]), Ok(request));
        prop_assert!(request.encode(&mut buffer[..length - 1]).is_err());
        refuses_prefixes(&buffer[..length], |bytes| Request::decode(bytes).is_ok());
    }

    #[test]
    fn control_replies(number: u64, reason: String, kind in 0..6_u8) {
        let reason = reason.as_str();
        let reply = match kind {
            0 => Reply::Captured { bytes: number },
            1 => Reply::Running { restore_nanos: number },
            2 => Reply::Placed { offset: number },
            3 => Reply::Gone { blame: Blame::Nobody, reason },
            4 => Reply::Gone { blame: Blame::Guest, reason },
            _ => Reply::Gone { blame: Blame::Host, reason },
        };
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        let length = reply.encode(&mut buffer).expect("reasons here are short");
        prop_assert_eq!(Reply::decode(&buffer[..length]), Ok(reply));
        refuses_prefixes(&buffer[..length], |bytes| Reply::decode(bytes).is_ok());
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_everything(&bytes);
    }

    /// Nearly right bytes: small numbers where lengths, counts and kinds are.
    #[test]
    fn small_garbage_never_panics(words in prop::collection::vec(0..6_u32, 0..40)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        (0..4.min(bytes.len())).for_each(|skip| decode_everything(&bytes[skip..]));
    }
}

fn decode_everything(bytes: &[u8]) {
    let _ = (Header::decode(bytes), Invoke::decode(bytes), Window::decode(bytes));
    let _ = (Line::decode(bytes), Outcome::decode(bytes), Address::decode(bytes));
    let _ = (Request::decode(bytes), Reply::decode(bytes));
    if let Ok(assign) = Assign::decode(bytes) {
        assert_eq!(assign.credentials.iter().count(), assign.credentials.count() as usize);
    }
    if let Ok(acquire) = Acquire::decode(bytes) {
        assert_eq!(acquire.arguments.iter().count(), acquire.arguments.count() as usize);
        assert_eq!(acquire.environment.iter().count(), acquire.environment.count() as usize);
    }
}

/// A count of four thousand million blobs in a short message is refused at once: it costs at most
/// one step per byte, not one per blob claimed.
#[test]
fn a_boastful_count_is_refused() {
    let empty_texts = [0; 12];
    let bytes = [empty_texts.as_slice(), &u32::MAX.to_le_bytes(), &[0; 4]].concat();
    assert!(Assign::decode(&bytes).is_err());
}

#[test]
fn a_reader_never_passes_its_end() {
    let mut reader = Reader::new(&[1, 2, 3]);
    assert_eq!(reader.u32(), Err(Malformed));
    assert_eq!(reader.u16(), Ok(0x0201));
    assert_eq!(reader.bytes(usize::MAX), Err(Malformed));
    assert_eq!(reader.rest(), [3]);
    let boast = u32::MAX.to_le_bytes();
    assert_eq!(Reader::new(&boast).blob(), Err(Malformed));
    let not_utf8 = [1, 0, 0, 0, 0xff];
    assert_eq!(Reader::new(&not_utf8).text(), Err(Malformed));
}
