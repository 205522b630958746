//! What it checks: `checks::stream`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::stream::check(data);
});
