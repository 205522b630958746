//! What it checks: `checks::ring`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::ring::check(data);
});
