//! Every frame decoder on any bytes.

#![no_main]

use abi::frame::Header;
use abi::frame::code::Window;
use abi::frame::invoke::{Acquire, Assign, Invoke};
use abi::frame::log::Line;
use abi::frame::outcome::Outcome;
use abi::frame::stream::Address;
use abi::wire::Writer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok((_, payload)) = Header::decode(data) else { return };
    let _ = (Invoke::decode(payload), Window::decode(payload), Line::decode(payload));
    let _ = Address::decode(payload);
    if let Ok(assign) = Assign::decode(payload) {
        assert_eq!(assign.credentials.iter().count(), assign.credentials.count() as usize);
    }
    if let Ok(acquire) = Acquire::decode(payload) {
        assert_eq!(acquire.arguments.iter().count(), acquire.arguments.count() as usize);
        assert_eq!(acquire.environment.iter().count(), acquire.environment.count() as usize);
    }
    if let Ok(outcome) = Outcome::decode(payload) {
        let mut again = vec![0; payload.len()];
        outcome.encode(&mut Writer::new(&mut again)).expect("as long as before");
        assert_eq!(again, payload);
    }
});
