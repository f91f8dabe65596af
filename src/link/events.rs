//! Pushed entries (LINK-16). Live ones are sent before backlog, and each kind in its own order.
//! Each is sent until it has arrived, but not to a side that has long been silent.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{
    item::Item,
    limits::PUSHES_AT_ONCE,
    queue::{Body, Detail, Entry, Queue},
    retransmit::Attempts,
};
use crate::wire::{EventId, MessageId};

const PUSHES_MAX: u64 = PUSHES_AT_ONCE as u64;

/// How urgent a pushed entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// The entry is new: it is sent before all backlog.
    Live,
    /// The entry has been waiting.
    Backlog,
}

impl Urgency {
    /// The low bit of the ids of this kind: live events have odd ids.
    const fn low_bit(self) -> u64 {
        match self {
            Self::Live => 1,
            Self::Backlog => 0,
        }
    }

    /// Returns the kind of the event with that id.
    pub const fn of(id: EventId) -> Self {
        if id.0 & 1 == 1 {
            Self::Live
        } else {
            Self::Backlog
        }
    }
}

/// The next number of each kind of events.
#[derive(Clone, Copy, Debug, Default)]
pub struct Next([u64; 2]);

impl Next {
    /// Returns the compact numbers for a dormant link.
    pub fn rest(self) -> Option<[u32; 2]> {
        let [backlog, live] = self.0;
        Some([backlog.try_into().ok()?, live.try_into().ok()?])
    }

    /// Restores the numbers of a dormant link.
    pub fn woken(resting: [u32; 2]) -> Self {
        Self(resting.map(u64::from))
    }

    const fn of(&mut self, urgency: Urgency) -> &mut u64 {
        let [backlog, live] = &mut self.0;
        match urgency {
            Urgency::Live => live,
            Urgency::Backlog => backlog,
        }
    }

    /// Queues an event of this side, and returns its id. Returns `None` if too many of its kind are
    /// in flight.
    pub fn push(&mut self, queue: &mut Queue, bytes: Vec<u8>, urgency: Urgency) -> Option<EventId> {
        let next = self.of(urgency);
        let mut ids = queue.events().map(|(id, _)| id);
        let oldest = ids.find(|id| Urgency::of(*id) == urgency);
        drop(ids);
        if oldest.is_some_and(|oldest| *next >= oldest.0 / 2 + PUSHES_MAX) {
            return None;
        }
        let id = EventId(*next * 2 + urgency.low_bit());
        *next += 1;
        queue.insert(Entry {
            item: Item::event(id),
            attempts: Attempts::queued(),
            body: Body::Whole(bytes),
            detail: Detail::Other,
        });
        Some(id)
    }
}

impl Queue {
    /// The events that have not arrived yet, in the order of their ids.
    pub fn events(&self) -> impl Iterator<Item = (EventId, &Entry)> {
        self.entries.iter().filter_map(|entry| match entry.item {
            Item::Message(MessageId::Event(id)) => Some((id, entry)),
            _ => None,
        })
    }
}

/// The events of the other side: put in order, each once.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    next: Next,
    early: BTreeMap<EventId, Vec<u8>>,
}

impl Pushed {
    /// True if no event is out of order.
    pub fn is_in_order(&self) -> bool {
        self.early.is_empty()
    }

    /// Memory of the events received out of order, in bytes, approximately.
    pub fn memory(&self) -> usize {
        let each = self.early.values();
        each.map(|event| size_of::<(EventId, Vec<u8>)>() + event.capacity())
            .sum()
    }

    /// The next number of each kind.
    pub const fn next_in_order(&self) -> Next {
        self.next
    }

    /// Restores the state of a dormant link, without events out of order.
    pub fn woken(next: Next) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// True if an event can be accepted. A refused event counts as lost.
    pub fn takes(&self, id: EventId) -> bool {
        id.0 / 2 < self.next(Urgency::of(id)) + PUSHES_MAX
    }

    /// True if the event has not arrived before.
    pub fn is_new(&self, id: EventId) -> bool {
        id.0 / 2 >= self.next(Urgency::of(id)) && !self.early.contains_key(&id)
    }

    fn next(&self, urgency: Urgency) -> u64 {
        let mut next = self.next;
        *next.of(urgency)
    }

    /// Stores a new event, and returns the events that are in order now.
    pub fn take(&mut self, id: EventId, event: Vec<u8>) -> Vec<Vec<u8>> {
        let urgency = Urgency::of(id);
        self.early.insert(id, event);
        let mut in_order = Vec::new();
        let next = self.next.of(urgency);
        while let Some(event) = self.early.remove(&EventId(*next * 2 + urgency.low_bit())) {
            in_order.push(event);
            *next += 1;
        }
        in_order
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    /// LINK-16: events of each kind arrive once and in order.
    #[test]
    fn push_events_of_each_kind_arrive_once_and_in_order() {
        let (mut queue, mut ids) = (Queue::default(), Next::default());
        let mut pushed = Pushed::default();
        let sent: Vec<_> = (0..6u8)
            .map(|n| {
                let urgency = if n % 3 == 0 {
                    Urgency::Live
                } else {
                    Urgency::Backlog
                };
                ids.push(&mut queue, vec![n], urgency).unwrap()
            })
            .collect();
        let mut came = vec![];
        for at in [5, 2, 3, 3, 1, 0, 4, 0] {
            let id = sent[at];
            assert!(pushed.takes(id));
            if pushed.is_new(id) {
                came.extend(pushed.take(id, vec![u8::try_from(at).unwrap()]));
                assert_eq!(pushed.memory() > 0, !pushed.is_in_order());
            }
        }
        assert_eq!(came.concat(), [1, 2, 0, 3, 4, 5]);
    }
}
