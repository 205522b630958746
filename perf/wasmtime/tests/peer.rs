//! The program answers [`perf::peer::Wasmtime`].

use std::time::Duration;

use perf::Latencies;
use perf::peer::{WASMTIME_REQUEST_BYTES_MAX, Wasmtime};

#[test]
fn requests_of_every_size_are_echoed_by_new_instances() {
    let mut peer = Wasmtime::find(Some(env!("CARGO_BIN_EXE_wasmtime-peer").as_ref())).unwrap();
    for length in [0, 1, 1024, WASMTIME_REQUEST_BYTES_MAX] {
        let request: Vec<u8> = (0..251).cycle().take(length).collect();
        assert!(peer.once(&request).unwrap() > Duration::ZERO);
        let mut latencies = Latencies::new();
        peer.measure(&request, 100, &mut latencies).unwrap();
        assert_eq!(latencies.count(), 100);
    }
}
