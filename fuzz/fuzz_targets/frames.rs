//! Frames that can be read are written back as the same frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use merpati::wire::Frames;

fuzz_target!(|payload: &[u8]| {
    let Ok(frames) = Frames::checked(payload) else {
        return;
    };
    let frames: Vec<_> = frames.collect();
    let mut written = Vec::new();
    for (at, frame) in frames.iter().enumerate() {
        frame.emit(at + 1 == frames.len(), &mut written);
    }
    let again = Frames::checked(&written).expect("what was written can be read");
    assert!(again.eq(frames));
});
