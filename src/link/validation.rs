//! Path validation: the other side's address, and how much may be sent there before it is proven
//! (LINK-11, LINK-18).

use super::{Item, Keys, Link, Queue, State};
use crate::wire::PacketNumber;

/// An unproven address may be sent this many times the bytes received from it (RFC 9000 §8.1).
const PATH_CREDIT: usize = 3;

impl Link {
    /// The largest datagram to send, in bytes, as far as the path is known to carry one (LINK-15).
    pub fn path_size(&self) -> usize {
        self.path.size(self.datagram_max())
    }

    /// The largest packet number received.
    pub const fn largest_received(&self) -> Option<PacketNumber> {
        self.received.largest()
    }

    /// Notes that `bytes` bytes came from another address. The other side must return `data` to
    /// prove that address. Until then at most three times the bytes received from there are sent
    /// (LINK-18).
    pub fn path_moved(&mut self, bytes: usize, data: [u8; 8]) {
        self.credit = Some(0);
        self.doubt_path(data);
        self.path_heard(bytes);
        self.queue.moved();
    }

    /// Doubts the other side's address: only the return of `data` proves it.
    pub fn doubt_path(&mut self, data: [u8; 8]) {
        self.has_moved = true;
        self.challenge(data);
    }

    /// Notes more bytes from a new address that is not proven yet.
    pub fn path_heard(&mut self, bytes: usize) {
        if self.has_moved {
            self.add_credit(bytes.saturating_mul(PATH_CREDIT));
            self.queue.control(Item::Challenge);
        }
    }

    /// Handles a sealed packet: its sender has received the Accept.
    pub const fn show_path(&mut self) {
        if !self.has_moved && matches!(self.state, State::Open(Keys::Sealed(_))) {
            self.credit = None;
        }
    }

    /// Marks the other side's address as proven.
    pub fn path_proven(&mut self) {
        self.has_moved = false;
        self.credit = None;
        self.queue.remove(Item::Challenge);
    }

    /// True while the other side is at a new address that is not proven yet.
    pub const fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Adds credit for bytes from an unproven address.
    pub const fn add_credit(&mut self, bytes: usize) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }
}

impl Queue {
    /// Handles a move of the other side: the packets in flight went to its old address, so no
    /// acknowledgement will arrive.
    fn moved(&mut self) {
        for entry in &mut self.entries {
            let is_timed = entry.attempts.again().is_some();
            let is_in_work = entry.ask().is_some_and(|ask| ask.in_work.is_some());
            if is_timed && !is_in_work {
                entry.queue();
            }
        }
    }
}
