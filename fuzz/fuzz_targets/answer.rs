//! An answer that can be read is written back as the same answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use merpati::wire::Answer;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(answer) = Answer::parse(bytes) {
        assert_eq!(Answer::parse(&answer.to_bytes()), Ok(answer));
    }
});
