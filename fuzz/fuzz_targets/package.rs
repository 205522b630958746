//! What it checks: `checks::package`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::package::check(data);
});
