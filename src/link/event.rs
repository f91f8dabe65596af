//! The events of a link, and the reasons for ignored packets.

use alloc::vec::Vec;

use crate::wire::{CloseReason, EventId, LinkName, RequestId, Update, Welcome};

/// An event for the driver of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The other side has sent a request; answer with [`super::Link::reply`].
    Request {
        /// The number for the reply.
        number: RequestId,
        /// The command.
        bytes: Vec<u8>,
        /// The request came as early data. It might have been recorded and replayed by anyone.
        early: bool,
    },
    /// The other side has replied.
    Reply {
        /// The request's number.
        number: RequestId,
        /// The answer.
        bytes: Vec<u8>,
    },
    /// The other side has pushed an entry; those of each kind are delivered once and in order.
    Pushed {
        /// The event.
        bytes: Vec<u8>,
    },
    /// The event pushed under this number has arrived.
    Delivered {
        /// The number that [`super::Link::push`] returned.
        number: EventId,
    },
    /// A request's deadline has passed: whether it took effect is unknown.
    Expired {
        /// The request's number.
        number: RequestId,
    },
    /// The other side's request exceeds the size limit; answer with [`super::Link::reply`].
    Oversized {
        /// The number for the reply.
        number: RequestId,
        /// The size limit in bytes.
        limit: usize,
    },
    /// An initiator has sent OPEN; answer with [`super::Link::welcome`].
    Opened {
        /// The initiator's name for the link.
        name: Option<LinkName>,
        /// The initiator intends to use resumption.
        resumes: bool,
    },
    /// The responder of a resumed link has sent an UPDATE.
    Update(Update),
    /// The responder has answered the OPEN.
    Welcome(Welcome),
    /// The link has ended. Unanswered requests may still be moved to a new link.
    Closed(CloseReason),
}

/// Why a packet had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ignored {
    /// The seal or the checksum is wrong, or the packet is of the other kind.
    #[error("not authentic")]
    NotAuthentic,
    /// It was received before.
    #[error("received before")]
    Replayed,
    /// It carries a frame for which there is no room; it will be sent again.
    #[error("no room")]
    NoRoom,
    /// It violates the protocol; the link is closed.
    #[error("breaks the protocol")]
    Violation,
    /// The link is not open.
    #[error("the link is not open")]
    NotOpen,
}

impl Ignored {
    /// The name for programs: lower case, words joined by underscores.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAuthentic => "not_authentic",
            Self::Replayed => "replayed",
            Self::NoRoom => "no_room",
            Self::Violation => "violation",
            Self::NotOpen => "not_open",
        }
    }
}
