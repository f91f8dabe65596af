//! Any datagram is taken apart without harm.
#![no_main]

use libfuzzer_sys::fuzz_target;
use merpati::wire::Packet;

fuzz_target!(|datagram: &[u8]| {
    let _ = Packet::parse(datagram);
});
