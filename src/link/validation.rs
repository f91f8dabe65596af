//! Where the other side is, and how much may go there before that is proven (LINK-11, LINK-18).

use super::{Item, Keys, Link, Queue, State};
use crate::wire::PacketNumber;

/// So many times what has come from an address that is to be proven may go there (RFC 9000 §8.1).
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

    /// The other side has shown up at another address with `bytes`; `data` is what it has to return to prove
    /// that it is there. Until then it is sent no more than three times what comes from there (LINK-18).
    pub fn path_moved(&mut self, bytes: usize, data: [u8; 8]) {
        self.credit = Some(0);
        self.doubt_path(data);
        self.path_heard(bytes);
        self.queue.moved();
    }

    /// Nothing that comes proves where the other side is but its return of `data`.
    pub fn doubt_path(&mut self, data: [u8; 8]) {
        self.has_moved = true;
        self.challenge(data);
    }

    /// More has come from an address that is to be proven.
    pub fn path_heard(&mut self, bytes: usize) {
        if self.has_moved {
            self.add_credit(bytes.saturating_mul(PATH_CREDIT));
            self.queue.control(Item::Challenge);
        }
    }

    /// A sealed packet has come: whoever sent it has had the Accept.
    pub const fn show_path(&mut self) {
        if !self.has_moved && matches!(self.state, State::Open(Keys::Sealed(_))) {
            self.credit = None;
        }
    }

    /// The other side is at an address that is proven.
    pub fn path_proven(&mut self) {
        self.has_moved = false;
        self.credit = None;
        self.queue.remove(Item::Challenge);
    }

    /// True while the other side is at an address that is not proven again.
    pub const fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// More bytes have come from an address that is not proven yet.
    pub const fn add_credit(&mut self, bytes: usize) {
        if let Some(credit) = &mut self.credit {
            *credit = credit.saturating_add(bytes);
        }
    }
}

impl Queue {
    /// The other side is elsewhere: what is on its way went to where it was, so that nothing will be heard of it.
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
