//! What it checks: `checks::request`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::request::check(data);
});
