//! Links that others have opened and that are not proven yet (HS-13): few, however many begin.

use std::collections::BTreeSet;

use super::{LinkId, limits::HALF_OPEN_MAX};
use crate::link::Time;

/// The half-open links, oldest first.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    unshown: BTreeSet<(Time, LinkId)>,
    shown: BTreeSet<(Time, LinkId)>,
}

impl HalfOpen {
    /// A link begins. Gives the one that has to end for it, if one has to.
    pub fn open(&mut self, now: Time, link: LinkId, has_shown: bool) -> Option<LinkId> {
        if has_shown {
            self.shown.insert((now, link));
            return None;
        }
        self.unshown.insert((now, link));
        if self.unshown.len() <= HALF_OPEN_MAX {
            return None;
        }
        self.unshown.pop_first().map(|(_, link)| link)
    }

    /// A link that opened at that time is half-open no more.
    pub fn close(&mut self, opened: Time, link: LinkId) {
        self.unshown.remove(&(opened, link));
        self.shown.remove(&(opened, link));
    }

    /// The oldest of which nobody has shown that they receive where they say they are.
    pub fn first_unshown(&self) -> Option<LinkId> {
        self.unshown.first().map(|(_, link)| *link)
    }

    /// The oldest of the others.
    pub fn first_shown(&self) -> Option<LinkId> {
        self.shown.first().map(|(_, link)| *link)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.unshown.len() + self.shown.len()
    }
}
