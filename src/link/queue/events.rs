//! This side's pushed entries in the retransmission queue (LINK-16). Live ones are sent before
//! backlog, and each kind in its own order. Each is sent until it has arrived, but not to a side
//! that has long been silent.

use alloc::vec::Vec;

use super::{Entry, Item, Queue, Urgency};
use crate::{
    link::limits::PUSHES_AT_ONCE,
    wire::{EventId, MessageId},
};

/// Events of one kind in flight.
pub(in crate::link) const PUSHES_MAX: u64 = PUSHES_AT_ONCE as u64;

/// The next number of each kind of events.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventNumbers([u64; 2]);

impl EventNumbers {
    /// Returns the compact numbers for a dormant link.
    pub fn hibernate(self) -> Option<[u32; 2]> {
        let [backlog, live] = self.0;
        Some([backlog.try_into().ok()?, live.try_into().ok()?])
    }

    /// Restores the numbers of a dormant link.
    pub fn from_dormant(dormant: [u32; 2]) -> Self {
        Self(dormant.map(u64::from))
    }

    /// The next number of one kind.
    pub const fn of(&self, urgency: Urgency) -> u64 {
        let [backlog, live] = self.0;
        match urgency {
            Urgency::Live => live,
            Urgency::Backlog => backlog,
        }
    }

    /// The id of the next event of one kind.
    pub const fn next_id(&self, urgency: Urgency) -> EventId {
        EventId(self.of(urgency) * 2 + urgency.low_bit())
    }

    /// Advances the number of one kind.
    pub const fn advance(&mut self, urgency: Urgency) {
        let [backlog, live] = &mut self.0;
        match urgency {
            Urgency::Live => *live += 1,
            Urgency::Backlog => *backlog += 1,
        }
    }
}

impl Queue {
    /// Returns the compact numbers of the next events for a dormant link.
    pub fn dormant_events(&self) -> Option<[u32; 2]> {
        self.next_events.hibernate()
    }

    /// Restores the numbers of a dormant link. The queue is empty.
    pub fn from_dormant(next_request: u32, next_events: [u32; 2]) -> Self {
        Self {
            next_request: next_request.into(),
            next_events: EventNumbers::from_dormant(next_events),
            ..Self::default()
        }
    }

    /// Queues an event of this side, and returns its id. Returns `None` if too many of its kind are
    /// in flight.
    pub fn push_event(&mut self, bytes: Vec<u8>, urgency: Urgency) -> Option<EventId> {
        let mut ids = self.events().map(|(id, _)| id);
        let oldest = ids.find(|id| Urgency::of(*id) == urgency);
        drop(ids);
        let next = self.next_events.of(urgency);
        if oldest.is_some_and(|oldest| next >= oldest.0 / 2 + PUSHES_MAX) {
            return None;
        }
        let id = self.next_events.next_id(urgency);
        self.next_events.advance(urgency);
        self.insert(Entry::event(id, bytes));
        Some(id)
    }

    /// The events that have not arrived yet, in the order of their ids.
    pub fn events(&self) -> impl Iterator<Item = (EventId, &Entry)> {
        self.entries.iter().filter_map(|entry| match entry.item {
            Item::Message(MessageId::Event(id)) => Some((id, entry)),
            Item::Message(MessageId::Reply(_) | MessageId::Request(_))
            | Item::Update
            | Item::Challenge
            | Item::Response
            | Item::Ping => None,
        })
    }
}
