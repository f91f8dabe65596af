//! Hello: asks a realm for its key (HS-6), for trust on first use. Repeated until answered, with
//! exponential backoff.

use std::{net::SocketAddr, time::Duration};

use crate::{
    link::{Jitter, Time},
    wire::{Hello, HelloReply},
};

const TIMEOUT: Duration = Duration::from_secs(2);
/// The number of times the wait doubles.
const WAITS_DOUBLED_MAX: u32 = 4;

/// A Hello that waits for its answer.
#[derive(Debug)]
pub(super) struct Asking {
    address: SocketAddr,
    hello: Hello,
    repeats: u32,
    again: Time,
}

impl Asking {
    pub const fn new(now: Time, address: SocketAddr, nonce: [u8; 8]) -> Self {
        Self {
            address,
            hello: Hello { nonce },
            repeats: 0,
            again: now,
        }
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub const fn timeout(&self) -> Time {
        self.again
    }

    /// Returns the Hello and its destination, if it is due.
    pub fn ask(&mut self, now: Time, jitter: &mut Jitter) -> Option<(SocketAddr, Vec<u8>)> {
        if self.again > now {
            return None;
        }
        let wait = TIMEOUT * (1 << self.repeats.min(WAITS_DOUBLED_MAX));
        self.again = now + jitter.spread(wait, 100, 110);
        self.repeats += 1;
        let mut out = Vec::new();
        self.hello.emit(&mut out);
        Some((self.address, out))
    }

    /// True if `reply` answers this Hello.
    pub fn is_answered_by(&self, from: SocketAddr, reply: &HelloReply) -> bool {
        from == self.address && reply.nonce == self.hello.nonce
    }
}
