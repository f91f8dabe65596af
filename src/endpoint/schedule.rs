//! The timers of links, and the queue of links that may have something to send.

use std::collections::{BTreeSet, VecDeque};

use super::{
    LinkId,
    ids::{ById, Ids},
};
use crate::link::Time;

/// The timers of all links, and the queue of those that may want to send.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    timers: BTreeSet<(Time, LinkId)>,
    set: ById<Time>,
    ready: VecDeque<LinkId>,
    queued: Ids,
}

impl Schedule {
    /// Sets or clears the one timer of `link`.
    pub fn set(&mut self, link: LinkId, at: Option<Time>) {
        if self.set.get(&link).copied() == at {
            return;
        }
        if let Some(old) = self.set.remove(&link) {
            self.timers.remove(&(old, link));
        }
        if let Some(at) = at {
            self.timers.insert((at, link));
            self.set.insert(link, at);
        }
    }

    /// Returns the earliest timer; at once if a link may have something to send.
    pub fn timeout(&self) -> Option<Time> {
        match self.ready.front() {
            Some(_) => Some(Time(0)),
            None => self.timers.first().map(|(at, _)| *at),
        }
    }

    /// Returns the links whose timers are due, and clears those timers.
    pub fn due(&mut self, now: Time) -> Vec<LinkId> {
        let mut due = Vec::new();
        while let Some((_, link)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.pop_first();
            self.set.remove(&link);
            due.push(link);
        }
        due
    }

    /// Queues `link`, which may have something to send.
    pub fn wake(&mut self, link: LinkId) {
        if self.queued.insert(link) {
            self.ready.push_back(link);
        }
    }

    /// Returns the next link that may have something to send. A link that sent something goes to
    /// the end of the queue with [`Schedule::wake`], so that no link waits for another to finish.
    pub fn next_ready(&mut self) -> Option<LinkId> {
        let link = self.ready.pop_front()?;
        self.queued.remove(&link);
        Some(link)
    }

    /// True if `link` is queued.
    pub fn is_ready(&self, link: LinkId) -> bool {
        self.queued.contains(&link)
    }

    /// Returns when the timer of `link` is due, if one is set.
    pub fn of(&self, link: LinkId) -> Option<Time> {
        self.set.get(&link).copied()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.timers.len() + self.set.len() + self.ready.len() + self.queued.len()
    }

    /// Removes a link that ended.
    pub fn forget(&mut self, link: LinkId) {
        self.set(link, None);
        if self.queued.remove(&link) {
            self.ready.retain(|ready| *ready != link);
        }
    }
}
