//! This side's requests in the retransmission queue: each is sent again until its reply arrives or
//! its deadline passes (LINK-8).

use alloc::vec::Vec;

use super::{Entry, Item, Queue, RequestState};
use crate::{
    link::{backoff::Jitter, limits::REQUEST_SPAN, rtt::Rtt, time::Time},
    wire::{MessageId, RequestId},
};

/// A request that waits for its reply, on this link or on the one that it moves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRequest {
    /// The command.
    pub bytes: Vec<u8>,
    /// The deadline of its reply.
    pub deadline: Time,
    /// It may be sent as early data.
    pub early: bool,
}

impl Queue {
    /// Returns the compact number of the next request for a dormant link.
    pub fn dormant_requests(&self) -> Option<u32> {
        self.next_request.try_into().ok()
    }

    /// Queues a request, and returns its id; `None` if too many wait for replies.
    pub fn push_request(&mut self, request: PendingRequest) -> Option<RequestId> {
        let oldest = self.requests().next().map(|(oldest, _)| oldest);
        if oldest.is_some_and(|oldest| self.next_request >= oldest.0 + REQUEST_SPAN) {
            return None;
        }
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.insert_request(id, request);
        Some(id)
    }

    fn insert_request(&mut self, id: RequestId, request: PendingRequest) {
        let state = RequestState {
            deadline: request.deadline,
            early: request.early,
            was_early: false,
            in_work: None,
        };
        self.insert(Entry::request(id, request.bytes, state));
    }

    /// True if a request waits that may not be sent as early data.
    pub fn asks_in_secret(&self) -> bool {
        self.requests().any(|(_, entry)| !entry.is_early())
    }

    /// The unanswered requests, oldest first.
    pub fn requests(&self) -> impl Iterator<Item = (RequestId, &Entry)> {
        self.entries.iter().filter_map(|entry| match entry.item {
            Item::Message(MessageId::Request(id)) => Some((id, entry)),
            Item::Message(MessageId::Reply(_) | MessageId::Event(_))
            | Item::Update
            | Item::Challenge
            | Item::Response
            | Item::Ping => None,
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
        self.count(Item::request(id)) == 1
    }

    /// Notes that requests are sent as early data.
    pub fn carry_early(&mut self, items: &[Item]) {
        for item in items {
            if let Some(entry) = self.get_mut(*item)
                && let Some(state) = entry.request_state_mut()
            {
                state.was_early = true;
                // Its reply may answer this transmission, whatever is sent after it.
                entry.attempts.count_one();
            }
        }
    }

    /// Notes that the handshake ended without a reply to early data. The early requests have
    /// arrived and the replies are in flight. No side retransmits those, so the requests are
    /// scheduled again as if sent just now.
    pub fn early_arrived(&mut self, now: Time, rtt: &Rtt, is_lossy: bool, jitter: &mut Jitter) {
        let urge = self.urge(now);
        for entry in &mut self.entries {
            let len = entry.len();
            if was_early(entry) {
                let wait = rtt.repeat_after(0, is_lossy, urge, jitter) + rtt.allowance(len);
                entry.attempts.stop();
                entry.attempts.schedule(Some(now + wait), None);
            }
        }
    }

    /// True if a request sent as early data waits for its reply.
    pub fn awaits_early(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(was_early)
    }

    /// Limits a request's deadline to `deadline` at the latest.
    pub fn ask_until(&mut self, id: RequestId, deadline: Time) {
        let entry = self.get_mut(Item::request(id));
        if let Some(state) = entry.and_then(Entry::request_state_mut) {
            state.deadline = state.deadline.min(deadline);
        }
    }

    /// Removes and returns the requests, with their ids.
    pub fn take_requests(&mut self) -> Vec<(RequestId, PendingRequest)> {
        let is_request = |entry: &mut Entry| entry.request_state().is_some();
        let taken = self.entries.extract_if(.., is_request);
        let taken = taken.filter_map(|mut entry| {
            let Item::Message(MessageId::Request(id)) = entry.item else {
                return None;
            };
            let state = *entry.request_state()?;
            let request = PendingRequest {
                bytes: entry.take_bytes(),
                deadline: state.deadline,
                early: state.early,
            };
            Some((id, request))
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
            next_request: self.next_request,
            ..Self::default()
        };
        for (id, request) in self.take_requests() {
            fresh.insert_request(id, request);
        }
        fresh
    }
}

fn was_early(entry: &Entry) -> bool {
    entry.request_state().is_some_and(|state| state.was_early)
}
