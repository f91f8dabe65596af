//! A command that can be read is written back as the same command.
#![no_main]

use libfuzzer_sys::fuzz_target;
use merpati::wire::Request;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::parse(bytes) {
        let written = request.to_bytes();
        let again = Request::parse(&written).expect("what was written can be read");
        assert_eq!(again.command, request.command);
    }
});
