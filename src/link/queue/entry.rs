//! An item in the retransmission queue, with its message and its transmissions.

use alloc::{boxed::Box, vec::Vec};

use super::{fragments::Fragments, item::Item};
use crate::{
    link::{retransmit::Attempts, time::Time},
    wire::{EventId, MessageId, RequestId},
};

/// The bytes of a message.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// The message fits a datagram.
    Whole(Vec<u8>),
    /// The message is sent in fragments only.
    Fragments(Box<Fragments>),
}

/// The state of a request in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestState {
    /// The deadline of its reply.
    pub deadline: Time,
    /// It may be sent as early data.
    pub early: bool,
    /// It was sent as early data.
    pub was_early: bool,
    /// How often it was sent again since the other side works on it; `None` before that.
    pub in_work: Option<u32>,
}

/// The state of an item apart from its transmissions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Detail {
    /// A reply.
    Reply {
        /// The request was acknowledged and is not repeated soon, so this side must retransmit the
        /// reply.
        announced: bool,
    },
    /// A request.
    Request(RequestState),
    /// An event or a control frame.
    Other,
}

/// A reply that was sent, and that this side does not retransmit now.
#[derive(Clone, Debug)]
pub struct SentReply {
    /// The request that it answers.
    pub id: RequestId,
    /// The answer.
    pub bytes: Vec<u8>,
    /// The request was acknowledged, so its requester does not repeat it soon.
    pub announced: bool,
    /// How often the reply was sent.
    pub sends: u32,
}

/// An item in the queue. Only the functions that create one pair an item with its detail.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) item: Item,
    pub(super) attempts: Attempts,
    pub(super) body: Body,
    pub(super) detail: Detail,
}

impl Entry {
    /// Creates a control frame that is sent with the next packet.
    pub(super) const fn control(item: Item) -> Self {
        Self {
            item,
            attempts: Attempts::queued(),
            body: Body::Whole(Vec::new()),
            detail: Detail::Other,
        }
    }

    /// Creates a request that is sent with the next packet.
    pub(super) const fn request(id: RequestId, bytes: Vec<u8>, state: RequestState) -> Self {
        Self {
            item: Item::request(id),
            attempts: Attempts::queued(),
            body: Body::Whole(bytes),
            detail: Detail::Request(state),
        }
    }

    /// Creates an event that is sent with the next packet.
    pub(super) const fn event(id: EventId, bytes: Vec<u8>) -> Self {
        Self {
            item: Item::event(id),
            attempts: Attempts::queued(),
            body: Body::Whole(bytes),
            detail: Detail::Other,
        }
    }

    /// Creates a reply.
    pub(super) const fn reply(
        id: RequestId,
        bytes: Vec<u8>,
        announced: bool,
        attempts: Attempts,
    ) -> Self {
        Self {
            item: Item::reply(id),
            attempts,
            body: Body::Whole(bytes),
            detail: Detail::Reply { announced },
        }
    }

    /// The item.
    pub const fn item(&self) -> Item {
        self.item
    }

    /// The number of its transmissions, without redundant copies.
    pub const fn count(&self) -> u32 {
        self.attempts.count()
    }

    /// True if it is queued for the next packet.
    pub const fn is_queued(&self) -> bool {
        self.attempts.is_queued()
    }

    /// The message, unless it is sent in fragments.
    pub const fn whole(&self) -> Option<&[u8]> {
        match &self.body {
            Body::Whole(bytes) => Some(bytes.as_slice()),
            Body::Fragments(_) => None,
        }
    }

    /// The length of the message in bytes.
    pub fn len(&self) -> usize {
        match &self.body {
            Body::Whole(bytes) => bytes.len(),
            Body::Fragments(fragments) => fragments.len(),
        }
    }

    /// True if the message is sent in fragments.
    pub const fn is_fragmented(&self) -> bool {
        matches!(self.body, Body::Fragments(_))
    }

    /// A fragmented message; `None` if it is whole.
    pub(super) fn fragments(&self) -> Option<(MessageId, &Fragments)> {
        match (self.item, &self.body) {
            (Item::Message(message), Body::Fragments(fragments)) => Some((message, fragments)),
            (_, Body::Whole(_) | Body::Fragments(_)) => None,
        }
    }

    /// Removes and returns the message.
    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        match core::mem::replace(&mut self.body, Body::Whole(Vec::new())) {
            Body::Whole(bytes) => bytes,
            Body::Fragments(fragments) => fragments.into_bytes(),
        }
    }

    /// Queues the item for (re)transmission, unless it is fragmented: fragments are queued singly.
    pub const fn queue(&mut self) {
        if !self.is_fragmented() {
            self.attempts.queue();
        }
    }

    /// The state of a request; `None` for another item.
    pub(super) const fn request_state(&self) -> Option<&RequestState> {
        match &self.detail {
            Detail::Request(state) => Some(state),
            Detail::Reply { .. } | Detail::Other => None,
        }
    }

    /// The state of a request, for modification.
    pub(super) const fn request_state_mut(&mut self) -> Option<&mut RequestState> {
        match &mut self.detail {
            Detail::Request(state) => Some(state),
            Detail::Reply { .. } | Detail::Other => None,
        }
    }

    /// True for a request that may be sent as early data.
    pub fn is_early(&self) -> bool {
        self.request_state().is_some_and(|state| state.early)
    }

    /// True for a request that is not known to have arrived.
    pub(super) const fn is_unheard_request(&self) -> bool {
        matches!(
            &self.detail,
            Detail::Request(RequestState { in_work: None, .. })
        )
    }

    /// The request that this reply answers; `None` for another item.
    pub(super) const fn reply_id(&self) -> Option<RequestId> {
        match self.item {
            Item::Message(MessageId::Reply(id)) => Some(id),
            Item::Message(MessageId::Request(_) | MessageId::Event(_))
            | Item::Update
            | Item::Challenge
            | Item::Response
            | Item::Ping => None,
        }
    }

    /// True for a reply.
    pub const fn is_reply(&self) -> bool {
        matches!(self.detail, Detail::Reply { .. })
    }

    /// True for a reply that this side retransmits.
    pub const fn is_announced(&self) -> bool {
        matches!(self.detail, Detail::Reply { announced: true })
    }

    /// True for a reply that cannot be lost unnoticed: it has not been sent yet, or this side
    /// retransmits it.
    pub const fn is_unmissable_reply(&self) -> bool {
        self.is_reply() && (self.is_queued() || self.is_fragmented() || self.is_announced())
    }

    /// Makes this side retransmit a reply from now on.
    pub const fn announce(&mut self) {
        if self.is_reply() {
            self.detail = Detail::Reply { announced: true };
        }
    }

    /// Stops the transmission of a reply that has arrived.
    pub const fn reply_arrived(&mut self) {
        if self.is_reply() {
            self.attempts.stop();
            self.detail = Detail::Reply { announced: false };
        }
    }
}
