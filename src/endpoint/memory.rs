//! Memory of links that others opened (LINK-23). It has a limit. Beyond it, the holder with the
//! most memory over all its links loses its largest link.

use std::collections::BTreeSet;

use super::{
    ACCEPTS_LINKS, holder::Holder, ids::LinkId, largest_holder::Ranking, limits::WORTH_ENDING,
};

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
        if !ACCEPTS_LINKS {
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
