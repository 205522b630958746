//! What it checks: `checks::elf`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    checks::elf::check(data);
});
