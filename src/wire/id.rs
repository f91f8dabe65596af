//! Ids of the contents of frames (`spec/wire.md`, "Frames"). Each direction of a link counts its
//! own.

/// The id of a request of one side, and of its reply, on one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The id of an event of one side on one link. Live events have odd ids, backlog has even ones
/// (LINK-16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u64);

/// The id of a message of one side on one link. Ordered as the messages are sent (LINK-4).
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
    /// Returns the message kind byte of a FRAGMENT, and the number that follows it.
    pub(super) const fn to_wire(self) -> (u8, u64) {
        match self {
            Self::Request(id) => (0, id.0),
            Self::Reply(id) => (1, id.0),
            Self::Event(id) => (2, id.0),
        }
    }

    /// The inverse of [`MessageId::to_wire`]; `None` for an unknown kind.
    pub(super) const fn from_wire(kind: u8, number: u64) -> Option<Self> {
        match kind {
            0 => Some(Self::Request(RequestId(number))),
            1 => Some(Self::Reply(RequestId(number))),
            2 => Some(Self::Event(EventId(number))),
            _ => None,
        }
    }
}
