//! Both control decoders on any bytes: what is accepted is encoded alike.

#![no_main]

use abi::control::{Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut buffer = vec![0; data.len()];
    if let Ok(request) = Request::decode(data) {
        let length = request.encode(&mut buffer).expect("not longer than before");
        assert_eq!(Request::decode(&buffer[..length]), Ok(request));
    }
    if let Ok(reply) = Reply::decode(data) {
        let length = reply.encode(&mut buffer).expect("not longer than before");
        assert_eq!(Reply::decode(&buffer[..length]), Ok(reply));
    }
});
