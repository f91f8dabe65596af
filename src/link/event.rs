//! What a link tells, and why it takes a packet for nothing.

use alloc::vec::Vec;

use crate::wire::{CloseReason, EventId, LinkName, RequestId, Update, Welcome};

/// What a link has to tell its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The other side asks; answer with [`super::Link::reply`].
    Request {
        /// To be named in the reply.
        number: RequestId,
        /// The command.
        bytes: Vec<u8>,
        /// It came before the link was open, and might have been recorded and sent by anyone.
        early: bool,
    },
    /// The other side answers.
    Reply {
        /// The request's number.
        number: RequestId,
        /// The answer.
        bytes: Vec<u8>,
    },
    /// The other side has pushed an entry; of each kind they come once and in order.
    Pushed {
        /// The event.
        bytes: Vec<u8>,
    },
    /// What was pushed under this number has arrived.
    Delivered {
        /// As [`super::Link::push`] gave it.
        number: EventId,
    },
    /// A request's deadline is over: whether it took effect is not known.
    Expired {
        /// The request's number.
        number: RequestId,
    },
    /// The other side asks with more bytes than are taken; answer with [`super::Link::reply`].
    Oversized {
        /// To be named in the reply.
        number: RequestId,
        /// As many bytes as are taken.
        limit: usize,
    },
    /// An initiator wants in; answer with [`super::Link::welcome`].
    Opened {
        /// How it knows the link by.
        name: Option<LinkName>,
        /// It means to come back by resumption.
        resumes: bool,
    },
    /// The responder of a link that was resumed has news.
    Update(Update),
    /// The responder has answered the opening.
    Welcome(Welcome),
    /// The link has ended. Requests without a reply may still be moved to a fresh one.
    Closed(CloseReason),
}

/// Why a packet had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// The seal or the checksum does not fit, or the packet is of the other kind.
    #[error("not authentic")]
    NotAuthentic,
    /// It came before.
    #[error("received before")]
    Replayed,
    /// It carries a part for which there is no room; it will come again.
    #[error("no room")]
    NoRoom,
    /// It breaks the protocol; the link is closed.
    #[error("breaks the protocol")]
    Violation,
    /// The link is not open.
    #[error("the link is not open")]
    NotOpen,
}

impl Ignored {
    /// Its name for programs: lower case, words joined by underscores.
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
