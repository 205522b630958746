//! Frames of the rings and control messages, every decoder on any bytes: what is accepted is
//! written again as it was, and is refused when its last byte is missing.

use abi::control::{MESSAGE_BYTES_MAX, Reply, Request};
use abi::frame::code::Window;
use abi::frame::invoke::{Acquire, Assign, Invoke};
use abi::frame::log::Line;
use abi::frame::outcome::Outcome;
use abi::frame::stream::Address;
use abi::frame::{Blobs, Header};
use abi::wire::{Malformed, Writer};

/// `data` is a frame, and a control message.
pub fn check(data: &[u8]) -> bool {
    let is_control = control(data);
    let Ok((header, payload)) = Header::decode(data) else { return is_control };
    assert_eq!(header.encode(), data[..Header::BYTES], "a header has one form");
    assert_eq!(payload, &data[Header::BYTES..], "a payload is all of the rest");
    fixed(payload);
    assign(payload);
    acquire(payload);
    if let Ok(outcome) = Outcome::decode(payload) {
        let again = written(payload, |writer| outcome.encode(writer));
        assert_eq!(again, payload, "an outcome has one form");
        let before_response = payload.len() - outcome.response.len();
        assert!(Outcome::decode(&payload[..before_response - 1]).is_err());
    }
    true
}

fn fixed(payload: &[u8]) {
    if let Ok(window) = Window::decode(payload) {
        assert_eq!(window.encode(), payload[..Window::BYTES]);
    }
    assert_eq!(Window::decode(payload).is_ok(), payload.len() >= Window::BYTES);
    if let Ok(address) = Address::decode(payload) {
        assert_eq!(address.encode(), payload[..Address::BYTES]);
    }
    if let Ok(line) = Line::decode(payload) {
        let front = Line::encode_fixed(line.realtime_nanos, line.sequence);
        assert_eq!([&front, line.text].concat(), payload);
    }
    if let Ok(invoke) = Invoke::decode(payload) {
        assert_eq!([&invoke.deadline_nanos.to_le_bytes(), invoke.body].concat(), payload);
    }
}

fn assign(payload: &[u8]) {
    let Ok(assign) = Assign::decode(payload) else { return };
    let texts = [assign.protocol, assign.address, assign.server_name];
    let credentials = listed(assign.credentials);
    let again = written(payload, |writer| Assign::encode(writer, texts, &credentials));
    assert!(payload.starts_with(&again), "an assign message has one form");
    assert!(Assign::decode(&again[..again.len() - 1]).is_err(), "not from half a message");
}

fn acquire(payload: &[u8]) {
    let Ok(acquire) = Acquire::decode(payload) else { return };
    let (arguments, environment) = (listed(acquire.arguments), listed(acquire.environment));
    let fixed = (acquire.contract, acquire.freshness, acquire.memory_bytes, acquire.entry);
    let again = written(payload, |writer| Acquire::encode(writer, fixed, &arguments, &environment));
    assert!(payload.starts_with(&again), "an acquire message has one form");
    assert!(Acquire::decode(&again[..again.len() - 1]).is_err(), "not from half a message");
}

/// The members of a list, which are as many as it says.
fn listed(blobs: Blobs<'_>) -> Vec<&[u8]> {
    let members: Vec<_> = blobs.iter().collect();
    assert_eq!(members.len(), blobs.count() as usize);
    members
}

/// What `write` makes of a value that was read from `payload`: it fits as many bytes.
fn written(
    payload: &[u8],
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), Malformed>,
) -> Vec<u8> {
    let mut bytes = vec![0; payload.len()];
    let mut writer = Writer::new(&mut bytes);
    assert_eq!(write(&mut writer), Ok(()), "what was read fits where it was");
    let length = writer.length();
    bytes.truncate(length);
    bytes
}

/// A flag of a control message is any byte but 0, so only values are compared.
fn control(data: &[u8]) -> bool {
    let message = &data[..data.len().min(MESSAGE_BYTES_MAX)];
    let mut buffer = vec![0; message.len()];
    let (request, reply) = (Request::decode(message), Reply::decode(message));
    if let Ok(request) = request {
        let length = request.encode(&mut buffer);
        assert!(length.is_ok_and(|length| Request::decode(&buffer[..length]) == Ok(request)));
    }
    if let Ok(reply) = reply {
        let length = reply.encode(&mut buffer);
        assert!(length.is_ok_and(|length| buffer[..length] == message[..length]));
    }
    request.is_ok() || reply.is_ok()
}
