#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| merpati_fuzz::targets::link::link(input));
