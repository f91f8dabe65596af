//! Memory of links that others opened (LINK-23). It has a limit. Beyond it, the holder with the
//! most memory over all its links loses its largest link.

use std::collections::BTreeSet;

use super::{
    Endpoint, LinkId, SERVES, largest_holder::Ranking, link_entry::Role, link_slots::Holder,
};

/// Links that hold less are not worth ending, in bytes.
pub const WORTH_ENDING: usize = 1 << 10;

/// The links by holder and memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Bytes of all links that hold at least `WORTH_ENDING`. The memory of the others is bounded by
    /// their number.
    total: usize,
    large: BTreeSet<(Holder, usize, LinkId)>,
    /// Bytes of each holder's links that are worth ending.
    holders: Ranking<Holder>,
}

impl Memory {
    /// Returns the bytes of all links that are worth ending.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Changes the memory of a holder's link from `before` to `after` bytes.
    pub fn change(&mut self, link: LinkId, holder: Holder, before: usize, after: usize) {
        if !SERVES {
            return;
        }
        let worth = |bytes: usize| if bytes < WORTH_ENDING { 0 } else { bytes };
        let (before, after) = (worth(before), worth(after));
        self.total = self.total.saturating_sub(before).saturating_add(after);
        if before > 0 {
            self.large.remove(&(holder, before, link));
        }
        if after > 0 {
            self.large.insert((holder, after, link));
        }
        if before != after {
            self.holders.change(holder, before, after);
        }
    }

    /// Moves a link's bytes to another holder.
    pub fn hand_over(&mut self, link: LinkId, bytes: usize, (from, to): (Holder, Holder)) {
        if from != to {
            self.change(link, from, bytes, 0);
            self.change(link, to, 0, bytes);
        }
    }

    /// Returns the largest link of the largest holder.
    pub fn largest(&self) -> Option<LinkId> {
        let (_, holder) = self.holders.first()?;
        let beyond = (holder, usize::MAX, LinkId(u32::MAX));
        let theirs = self.large.range(..=beyond).next_back();
        theirs.map(|(_, _, link)| *link)
    }
}

impl Endpoint {
    /// Updates the memory that a link holds for its other side. Beyond the limit, ends the largest
    /// link of the largest holder. Its initiator learns of it by a Reset, opens another link, and
    /// repeats its requests.
    pub(super) fn count_memory(&mut self, id: LinkId) {
        let Some(slot) = self.slots.get_mut(&id).filter(|_| SERVES) else {
            return;
        };
        if slot.role == Role::Initiator {
            return;
        }
        let now = slot.link.memory() + slot.held_bytes();
        let before = core::mem::replace(&mut slot.memory, now);
        if slot.memory != before {
            let holder = slot.holder();
            self.memory.change(id, holder, before, slot.memory);
            while self.memory.total() > self.config.memory_max
                && let Some(largest) = self.memory.largest()
            {
                self.end(largest, None);
            }
        }
    }
}
