//! What it checks: `checks::link`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::link::check(data);
});
