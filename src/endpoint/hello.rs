//! Hello: asks a realm for its key (HS-6), for trust on first use. Repeated until answered, with
//! exponential backoff.

use std::{net::SocketAddr, time::Duration};

use rand_core::Rng;

use super::limits::HELLOS_MAX;
use crate::{
    link::{Jitter, Time},
    wire::{Hello, HelloReply},
};

const TIMEOUT: Duration = Duration::from_secs(2);
/// The number of times the wait doubles.
const WAITS_DOUBLED_MAX: u32 = 4;

/// A Hello that waits for its answer.
#[derive(Debug)]
struct OpenHello {
    address: SocketAddr,
    hello: Hello,
    repeats: u32,
    again: Time,
}

/// The Hellos that wait for their answers.
#[derive(Debug)]
pub(super) struct Hellos {
    open: Vec<OpenHello>,
    jitter: Jitter,
}

impl Hellos {
    pub const fn new(jitter: Jitter) -> Self {
        Self {
            open: Vec::new(),
            jitter,
        }
    }

    /// Begins to ask `address`. False if too many Hellos are open.
    pub fn ask(&mut self, now: Time, address: SocketAddr, rng: &mut impl Rng) -> bool {
        let has_room = self.open.len() < HELLOS_MAX;
        if has_room {
            let mut nonce = [0; 8];
            rng.fill_bytes(&mut nonce);
            self.open.push(OpenHello {
                address,
                hello: Hello { nonce },
                repeats: 0,
                again: now,
            });
        }
        has_room
    }

    /// Stops asking `address`.
    pub fn cancel(&mut self, address: SocketAddr) {
        self.open.retain(|open| open.address != address);
    }

    /// Returns when the next Hello is due.
    pub fn timeout(&self) -> Option<Time> {
        self.open.iter().map(|open| open.again).min()
    }

    /// Writes the next Hello that is due into `out`. Returns its destination.
    pub fn poll_transmit(&mut self, now: Time, out: &mut Vec<u8>) -> Option<SocketAddr> {
        let due = self.open.iter_mut().find(|open| open.again <= now)?;
        let wait = TIMEOUT * (1 << due.repeats.min(WAITS_DOUBLED_MAX));
        due.again = now + self.jitter.spread(wait, 100, 110);
        due.repeats += 1;
        out.clear();
        due.hello.emit(out);
        Some(due.address)
    }

    /// Ends the Hellos that `reply` answers. False if there are none.
    pub fn finish(&mut self, from: SocketAddr, reply: &HelloReply) -> bool {
        let asked = self.open.len();
        let is_answered =
            |open: &OpenHello| open.address == from && open.hello.nonce == reply.nonce;
        self.open.retain(|open| !is_answered(open));
        self.open.len() < asked
    }

    #[cfg(test)]
    pub const fn len(&self) -> usize {
        self.open.len()
    }
}
