//! The requests of a driver: those that wait for a link, and those that are on it.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use crate::{client::ask::Ask, wire::RequestId};

/// The requests without an answer.
#[derive(Default)]
pub(super) struct Requests {
    waiting: VecDeque<Ask>,
    asked: BTreeMap<RequestId, Ask>,
}

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.waiting.is_empty()
    }

    /// True if requests are on the link.
    pub(super) fn has_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Adds a request behind all others.
    pub(super) fn add(&mut self, ask: Ask) {
        self.waiting.push_back(ask);
    }

    /// Takes the next request that waits for a link.
    pub(super) fn take_next(&mut self) -> Option<Ask> {
        while let Some(ask) = self.waiting.pop_front() {
            // A watch that nobody wants any more must not begin on a later link. A request that
            // changes something is sent again by the next call.
            if !ask.answer.is_closed() {
                return Some(ask);
            }
        }
        None
    }

    /// Puts back a request that must wait, before all others.
    pub(super) fn put_back(&mut self, ask: Ask) {
        self.waiting.push_front(ask);
    }

    /// Records that a request is on the link under a number.
    pub(super) fn note_asked(&mut self, number: RequestId, ask: Ask) {
        self.asked.insert(number, ask);
    }

    /// Takes a request from the link.
    pub(super) fn take(&mut self, number: RequestId) -> Option<Ask> {
        self.asked.remove(&number)
    }

    /// Gives a request another number, on a link that replaces the last one. As many requests moved
    /// before as that link has numbers below this one, so the number is free.
    pub(super) fn renumber(&mut self, number: RequestId, as_number: RequestId) {
        if let Some(ask) = self.asked.remove(&number) {
            self.asked.insert(as_number, ask);
        }
    }

    /// Lets all requests wait for the next link: this one has ended.
    pub(super) fn leave_link(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        self.waiting.extend(asked.into_values());
    }

    /// Records that a datagram was sent, which may have carried all requests (`carries_all`) or
    /// only early data.
    pub(super) fn note_left(&mut self, carries_all: bool) {
        for ask in self.asked.values_mut() {
            ask.left |= ask.early || carries_all;
        }
    }

    /// Drops the early requests that change something and were cancelled meanwhile. True if there
    /// were any.
    pub(super) fn drop_withdrawn(&mut self) -> bool {
        let before = self.asked.len();
        self.asked
            .retain(|_, ask| !(ask.early && ask.changes && ask.answer.is_closed()));
        self.asked.len() < before
    }

    /// Takes the requests whose deadline has passed while they waited for a link.
    pub(super) fn take_late(&mut self, now: Instant) -> VecDeque<Ask> {
        let (late, waiting) = self.waiting.drain(..).partition(|ask| ask.deadline <= now);
        self.waiting = waiting;
        late
    }

    /// Takes all requests.
    pub(super) fn take_all(&mut self) -> Vec<Ask> {
        let asked = std::mem::take(&mut self.asked).into_values();
        asked.chain(self.waiting.drain(..)).collect()
    }

    /// Returns when the first of the requests that wait for a link has its deadline.
    pub(super) fn timeout(&self) -> Option<Instant> {
        self.waiting.iter().map(|ask| ask.deadline).min()
    }
}
