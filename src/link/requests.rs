//! This side's requests in the retransmission queue: each is sent again until its reply arrives or
//! its deadline passes (LINK-8).

use alloc::vec::Vec;

use super::{
    backoff::Jitter,
    item::{Ask, Item},
    limits::REQUEST_SPAN,
    queue::{Body, Detail, Entry, Queue},
    retransmit::Attempts,
    rtt::Rtt,
    time::Time,
};
use crate::wire::{MessageId, RequestId};

/// A request that moves from one link to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The command.
    pub bytes: Vec<u8>,
    /// The deadline of its reply.
    pub deadline: Time,
    /// It may be sent as early data.
    pub early: bool,
}

/// The ids of this side's requests.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    next: u64,
}

impl Requests {
    /// Returns the compact number for a dormant link.
    pub fn rest(&self) -> Option<u32> {
        self.next.try_into().ok()
    }

    /// Restores the number of a dormant link.
    pub fn woken(resting: u32) -> Self {
        Self {
            next: resting.into(),
        }
    }

    /// True if another request may be made now.
    pub fn has_room(&self, queue: &Queue) -> bool {
        let oldest = queue.requests().next();
        oldest.is_none_or(|(oldest, _)| self.next < oldest.0 + REQUEST_SPAN)
    }

    /// Queues a request, and returns its id.
    pub fn push(&mut self, queue: &mut Queue, asked: Asked) -> RequestId {
        let id = RequestId(self.next);
        self.next += 1;
        queue.insert(Entry {
            item: Item::request(id),
            attempts: Attempts::queued(),
            body: Body::Whole(asked.bytes),
            detail: Detail::Request(Ask {
                deadline: asked.deadline,
                early: asked.early,
                was_early: false,
                in_work: None,
            }),
        });
        id
    }
}

impl Queue {
    /// The unanswered requests, oldest first.
    pub fn requests(&self) -> impl Iterator<Item = (RequestId, &Entry)> {
        self.entries.iter().filter_map(|entry| match entry.item {
            Item::Message(MessageId::Request(id)) => Some((id, entry)),
            _ => None,
        })
    }

    /// True if a request waits for its reply.
    pub fn has_requests(&self) -> bool {
        self.requests().next().is_some()
    }

    /// True if the reply to `id` is awaited.
    pub fn awaits(&self, id: RequestId) -> bool {
        self.get(Item::request(id)).is_some()
    }

    /// True if `id` was sent exactly once. Redundant copies do not count, because they follow
    /// closely: the reply then answers a known transmission.
    pub fn was_sent_once(&self, id: RequestId) -> bool {
        let entry = self.get(Item::request(id));
        entry.is_some_and(|entry| entry.attempts.count() == 1)
    }

    /// Notes that requests are sent as early data.
    pub fn carry_early(&mut self, items: &[Item]) {
        for item in items {
            if let Some(Entry {
                detail: Detail::Request(ask),
                attempts,
                ..
            }) = self.get_mut(*item)
            {
                ask.was_early = true;
                // Its reply may answer this transmission, whatever is sent after it.
                attempts.count_one();
            }
        }
    }

    /// Notes that the handshake ended without a reply to early data. The early requests have
    /// arrived and the replies are in flight. No side retransmits those, so the requests are
    /// scheduled again as if sent just now.
    pub fn early_arrived(&mut self, now: Time, (rtt, is_lossy): (&Rtt, bool), jitter: &mut Jitter) {
        let urge = self.urge(now);
        for entry in &mut self.entries {
            let len = entry.len();
            if entry.ask().is_some_and(|ask| ask.was_early) {
                let wait = rtt.repeat_after(0, is_lossy, urge, jitter) + rtt.allowance(len);
                entry.attempts.stop();
                entry.attempts.schedule(Some(now + wait), None);
            }
        }
    }

    /// True if a request sent as early data waits for its reply.
    pub fn awaits_early(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.ask().is_some_and(|ask| ask.was_early))
    }

    /// Limits a request's deadline to `deadline` at the latest.
    pub fn ask_until(&mut self, id: RequestId, deadline: Time) {
        if let Some(Entry {
            detail: Detail::Request(ask),
            ..
        }) = self.get_mut(Item::request(id))
        {
            ask.deadline = ask.deadline.min(deadline);
        }
    }

    /// Removes and returns the requests, with their ids.
    pub fn take_requests(&mut self) -> Vec<(RequestId, Asked)> {
        let is_request = |entry: &mut Entry| entry.ask().is_some();
        let taken = self.entries.extract_if(.., is_request);
        let taken = taken.filter_map(|mut entry| match (entry.item, entry.detail) {
            (Item::Message(MessageId::Request(id)), Detail::Request(ask)) => {
                let asked = Asked {
                    bytes: entry.take_bytes(),
                    deadline: ask.deadline,
                    early: ask.early,
                };
                Some((id, asked))
            }
            _ => None,
        });
        let taken = taken.collect();
        self.give_back();
        taken
    }

    /// Drops all but the requests, which are sent anew on a new link.
    #[must_use]
    pub fn restart(mut self) -> Self {
        let mut fresh = Self {
            repeats: self.repeats,
            ..Self::default()
        };
        for (id, asked) in self.take_requests() {
            Requests { next: id.0 }.push(&mut fresh, asked);
        }
        fresh
    }
}
