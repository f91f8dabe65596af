//! What is sent until it has arrived.

use super::{Urgency, time::Time};
use crate::wire::{EventId, MessageId, RequestId};

/// An item that is sent until it has arrived. The order is the sending order (LINK-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// An UPDATE, until it is acknowledged.
    Update,
    /// A `PATH_CHALLENGE`, until its response arrives.
    Challenge,
    /// A `PATH_RESPONSE`, until it is acknowledged.
    Response,
    /// A PING, until it is acknowledged.
    Ping,
    /// A reply that the other side may wait for, a request, or an event.
    Message(MessageId),
}

impl Item {
    /// An event.
    pub const fn event(id: EventId) -> Self {
        Self::Message(MessageId::Event(id))
    }

    /// A reply.
    pub const fn reply(id: RequestId) -> Self {
        Self::Message(MessageId::Reply(id))
    }

    /// A request.
    pub const fn request(id: RequestId) -> Self {
        Self::Message(MessageId::Request(id))
    }

    /// True for an event.
    pub const fn is_event(self) -> bool {
        matches!(self, Self::Message(MessageId::Event(_)))
    }

    /// True for backlog, which is paced with fragments (LINK-14) and declared lost with them.
    pub const fn is_paced(self) -> bool {
        matches!(self, Self::Message(MessageId::Event(id)) if matches!(Urgency::of(id), Urgency::Backlog))
    }
}

/// The state of a request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The deadline of its reply.
    pub deadline: Time,
    /// It may be sent as early data.
    pub early: bool,
    /// It was sent as early data.
    pub was_early: bool,
    /// How often it was sent again since the other side works on it; `None` before that.
    pub in_work: Option<u32>,
}
