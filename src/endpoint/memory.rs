//! What the links that others opened hold for them (LINK-23): so much at most, and when there is more, whoever holds
//! most goes first.

use std::collections::BTreeSet;

use super::{Endpoint, LinkId, slot::Role};

/// Links that hold less are not worth ending, in bytes.
pub const WORTH_ENDING: usize = 1 << 10;

/// The links by how much they hold.
#[derive(Debug, Default)]
pub(super) struct Memory {
    total: usize,
    large: BTreeSet<(usize, LinkId)>,
}

impl Memory {
    /// Bytes that all links hold.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// A link holds `after` bytes now, and held `before`.
    pub fn change(&mut self, link: LinkId, before: usize, after: usize) {
        self.total = self.total.saturating_sub(before).saturating_add(after);
        if before >= WORTH_ENDING {
            self.large.remove(&(before, link));
        }
        if after >= WORTH_ENDING {
            self.large.insert((after, link));
        }
    }

    /// The link that holds most.
    pub fn largest(&self) -> Option<LinkId> {
        self.large.last().map(|(_, link)| *link)
    }
}

impl Endpoint {
    /// Counts what a link holds for its other side. Where all hold too much, the one that holds most ends: its
    /// initiator hears of it by a Reset, opens another, and asks again.
    pub(super) fn count_memory(&mut self, id: LinkId) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if slot.role == Role::Initiator {
            return;
        }
        let now = slot.link.memory() + slot.held_bytes();
        let before = core::mem::replace(&mut slot.memory, now);
        if slot.memory != before {
            self.memory.change(id, before, slot.memory);
            while self.memory.total() > self.config.memory_max
                && let Some(largest) = self.memory.largest()
            {
                self.end(largest, None);
            }
        }
    }
}
