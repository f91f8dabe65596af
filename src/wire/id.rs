//! Ids of what frames carry (`spec/wire.md`, "Frames"). Each direction of a link counts its own.

/// Names a request of one side, and the reply to it, on one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names an event of one side on one link. Live events have odd ids, backlog has even ones (LINK-16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u64);

/// Names a message of one side on one link. In the order in which they leave (LINK-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageId {
    /// The reply to a request of the other side.
    Reply(RequestId),
    /// A request.
    Request(RequestId),
    /// A pushed entry.
    Event(EventId),
}

impl MessageId {
    /// The byte that says in a PART what kind of message it is of, and the number that follows.
    pub(super) const fn to_wire(self) -> (u8, u64) {
        match self {
            Self::Request(id) => (0, id.0),
            Self::Reply(id) => (1, id.0),
            Self::Event(id) => (2, id.0),
        }
    }

    /// The reverse; `None` for a kind that does not exist.
    pub(super) const fn from_wire(kind: u8, number: u64) -> Option<Self> {
        match kind {
            0 => Some(Self::Request(RequestId(number))),
            1 => Some(Self::Reply(RequestId(number))),
            2 => Some(Self::Event(EventId(number))),
            _ => None,
        }
    }
}
