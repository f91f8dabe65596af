//! What is sent until it has arrived.

use crate::wire::{EventId, MessageId, RequestId};

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
    pub(in crate::link) const fn low_bit(self) -> u64 {
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
