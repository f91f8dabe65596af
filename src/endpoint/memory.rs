//! What the links that others opened hold for them (LINK-23): so much at most, and when there is more, whoever holds
//! most with all their links gives one up.

use std::collections::BTreeSet;

use super::{
    Endpoint, LinkId, SERVES, largest_holder::Ranking, link_entry::Role, link_slots::Holder,
};

/// Links that hold less are not worth ending, in bytes.
pub const WORTH_ENDING: usize = 1 << 10;

/// The links by whose they are and how much they hold.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Bytes of all links that hold at least `WORTH_ENDING`. What the others hold is bounded by their number.
    total: usize,
    large: BTreeSet<(Holder, usize, LinkId)>,
    /// What the links of each hold that are worth ending.
    holders: Ranking<Holder>,
}

impl Memory {
    /// Bytes that all links hold that are worth ending.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// A link of somebody holds `after` bytes now, and held `before`.
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

    /// A link that holds so much is another's from now on.
    pub fn hand_over(&mut self, link: LinkId, bytes: usize, (from, to): (Holder, Holder)) {
        if from != to {
            self.change(link, from, bytes, 0);
            self.change(link, to, 0, bytes);
        }
    }

    /// Of the links of whoever holds most, the one that does.
    pub fn largest(&self) -> Option<LinkId> {
        let (_, holder) = self.holders.first()?;
        let beyond = (holder, usize::MAX, LinkId(u32::MAX));
        let theirs = self.large.range(..=beyond).next_back();
        theirs.map(|(_, _, link)| *link)
    }
}

impl Endpoint {
    /// Counts what a link holds for its other side. Where all hold too much, the largest ends of whoever holds
    /// most: its initiator hears of it by a Reset, opens another, and asks again.
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
