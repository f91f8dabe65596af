//! The entries that the other side pushes, put in order (LINK-16). Each is delivered once.

use alloc::{collections::BTreeMap, vec::Vec};

use super::queue::{EventNumbers, PUSHES_MAX, Urgency};
use crate::wire::EventId;

/// The events of the other side: put in order, each once.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    next: EventNumbers,
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
    pub const fn next_in_order(&self) -> EventNumbers {
        self.next
    }

    /// Restores the state of a dormant link, without events out of order.
    pub fn from_dormant(next: EventNumbers) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// True if an event can be accepted. A refused event counts as lost.
    pub fn takes(&self, id: EventId) -> bool {
        id.0 / 2 < self.next.of(Urgency::of(id)) + PUSHES_MAX
    }

    /// True if the event has not arrived before.
    pub fn is_new(&self, id: EventId) -> bool {
        id.0 / 2 >= self.next.of(Urgency::of(id)) && !self.early.contains_key(&id)
    }

    /// Stores a new event, and returns the events that are in order now.
    pub fn take(&mut self, id: EventId, event: Vec<u8>) -> Vec<Vec<u8>> {
        let urgency = Urgency::of(id);
        self.early.insert(id, event);
        let mut in_order = Vec::new();
        while let Some(event) = self.early.remove(&self.next.next_id(urgency)) {
            in_order.push(event);
            self.next.advance(urgency);
        }
        in_order
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::{super::queue::Queue, *};

    /// LINK-16: events of each kind arrive once and in order.
    #[test]
    fn push_events_of_each_kind_arrive_once_and_in_order() {
        let mut queue = Queue::default();
        let mut pushed = Pushed::default();
        let sent: Vec<_> = (0..6u8)
            .map(|n| {
                let urgency = if n % 3 == 0 {
                    Urgency::Live
                } else {
                    Urgency::Backlog
                };
                queue.push_event(vec![n], urgency).unwrap()
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
