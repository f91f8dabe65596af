//! The messages of the other side: its requests and their replies, its pushed events, and what is
//! reassembled from fragments (LINK-9, LINK-13, LINK-16). All that the other side can make this
//! side hold is here, and has a bound.

use alloc::{collections::VecDeque, vec::Vec};

use super::{
    limits::{ASSEMBLED_KEPT, REPLIES_KEPT, STRANGER_REPLIES_KEPT},
    pushed::Pushed,
    queue::{EventNumbers, Queue},
    reassembly::{Begun, Fragment, Reassembled, Reassembler},
    replies::{Arrival, Replies},
    sorted_map::Sorted,
    time::Time,
};
use crate::{
    faults::{Fault, is_planted},
    wire::{EventId, Frame, MessageId, RequestId},
};

/// The result of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FragmentTaken {
    /// It had no effect, or that of a repeated request.
    Needless,
    /// It begins a request that is too long.
    Oversized(RequestId),
    /// More fragments of its message are missing.
    Partly,
    /// Its message is complete.
    Whole(Vec<u8>),
}

/// The messages of the other side.
#[derive(Clone, Debug)]
pub struct IncomingMessages {
    replies: Replies,
    pushed: Pushed,
    reassembler: Reassembler,
    /// Recently reassembled messages; further fragments of them are ignored.
    assembled: VecDeque<MessageId>,
    /// The longest message that is reassembled, in bytes.
    max_message: usize,
    /// True while this side does not accept pushed events.
    is_holding: bool,
}

impl IncomingMessages {
    /// Creates the state of a new link that reassembles messages of at most `max_message` bytes.
    pub fn new(max_message: usize) -> Self {
        Self {
            replies: Replies::default(),
            pushed: Pushed::default(),
            reassembler: Reassembler::new(2 * max_message),
            assembled: VecDeque::new(),
            max_message,
            is_holding: false,
        }
    }

    /// Restores the state of a dormant link. All requests from `next_request` on are new.
    pub fn from_dormant(max_message: usize, next_request: u64, pushed: [u32; 2]) -> Self {
        Self {
            replies: Replies::from_dormant(next_request),
            pushed: Pushed::from_dormant(EventNumbers::from_dormant(pushed)),
            ..Self::new(max_message)
        }
    }

    /// True if no message is incomplete or out of order.
    pub fn may_hibernate(&self) -> bool {
        self.reassembler.is_empty() && self.pushed.is_in_order()
    }

    /// All requests from this number on are new.
    pub const fn next_request(&self) -> u64 {
        self.replies.next()
    }

    /// Returns the compact numbers of the next events for a dormant link.
    pub fn dormant_pushed(&self) -> Option<[u32; 2]> {
        self.pushed.next_in_order().hibernate()
    }

    /// The longest message that is reassembled, in bytes.
    pub const fn max_message(&self) -> usize {
        self.max_message
    }

    /// True while this side does not accept pushed events.
    pub const fn is_holding(&self) -> bool {
        self.is_holding
    }

    /// Sets whether pushed events are refused.
    pub const fn hold(&mut self, is_holding: bool) {
        self.is_holding = is_holding;
    }

    /// The number of requests in work.
    pub fn working(&self) -> usize {
        self.replies.working()
    }

    /// True if requests are in work.
    pub const fn is_working(&self) -> bool {
        self.replies.is_working()
    }

    /// Bytes held in unfinished reassemblies.
    pub fn held(&self) -> usize {
        self.reassembler.held()
    }

    /// Sets how many bytes unfinished reassemblies may hold.
    pub const fn set_reassembly_limit(&mut self, limit: usize) {
        self.reassembler.set_limit(limit);
    }

    /// Memory of the messages, in bytes, approximately.
    pub fn memory(&self) -> usize {
        self.replies.memory() + self.reassembler.memory() + self.pushed.memory()
    }

    /// True if a frame can be accepted, given the messages that other frames of its packet begin.
    pub fn has_room_for(
        &self,
        queue: &Queue,
        frame: &Frame<'_>,
        begun: &mut Begun,
        longest: usize,
    ) -> bool {
        match *frame {
            Frame::Fragment {
                message,
                total,
                offset,
                bytes,
            } => {
                if let MessageId::Event(id) = message
                    && self.pushed.is_new(id)
                    && !self.accepts_event(id)
                {
                    // As with an unfragmented event: it is sent again. An acknowledged one would
                    // not be.
                    return false;
                }
                let fragment = Fragment {
                    message,
                    total,
                    offset,
                    bytes,
                };
                !self.is_wanted(queue, &fragment, longest)
                    || self.reassembler.takes(begun, &fragment)
            }
            Frame::Event { number, .. } => self.accepts_event(number),
            Frame::Padding
            | Frame::Ping
            | Frame::Ack(_)
            | Frame::Request { .. }
            | Frame::Reply { .. }
            | Frame::PathChallenge(_)
            | Frame::PathResponse(_)
            | Frame::Close(_)
            | Frame::Open(_)
            | Frame::Welcome(_)
            | Frame::Update(_) => true,
        }
    }

    /// True if none of these requests of one packet would be refused.
    pub fn has_room_for_requests(&self, queue: &Queue, ids: &[RequestId]) -> bool {
        self.replies.has_room_for(queue, ids)
    }

    fn accepts_event(&self, id: EventId) -> bool {
        self.pushed.takes(id) && !(self.is_holding && self.pushed.is_new(id))
    }

    /// True if a fragment belongs to a message that is to be reassembled.
    fn is_wanted(&self, queue: &Queue, fragment: &Fragment<'_>, longest: usize) -> bool {
        let message = fragment.message;
        let fits = fragment.total <= longest as u64;
        let is_new = !self.assembled.contains(&message);
        fits && is_new
            && match message {
                MessageId::Request(id) => !self.replies.knows(queue, id),
                MessageId::Reply(id) => queue.awaits(id),
                MessageId::Event(id) => self.pushed.is_new(id) && self.accepts_event(id),
            }
    }

    /// Handles a fragment of a message of at most `longest` bytes.
    pub fn take_fragment(
        &mut self,
        now: Time,
        queue: &mut Queue,
        fragment: &Fragment<'_>,
        longest: usize,
    ) -> FragmentTaken {
        let message = fragment.message;
        if !self.is_wanted(queue, fragment, longest) {
            return match message {
                MessageId::Request(id) => {
                    self.take_needless_fragment(queue, id, fragment.total > longest as u64)
                }
                MessageId::Reply(_) | MessageId::Event(_) => FragmentTaken::Needless,
            };
        }
        if fragment.offset > 0 && is_planted(Fault::DropParts) {
            return FragmentTaken::Needless;
        }
        if !self.reassembler.takes(&mut Begun::default(), fragment) {
            // There was no room when its packet arrived; only an earlier frame of the packet made
            // room.
            return FragmentTaken::Needless;
        }
        match self.reassembler.take(now, fragment) {
            Reassembled::Partly => FragmentTaken::Partly,
            Reassembled::Whole(bytes) => {
                if self.assembled.len() == ASSEMBLED_KEPT {
                    self.assembled.pop_front();
                }
                self.assembled.push_back(message);
                FragmentTaken::Whole(bytes)
            }
        }
    }

    /// Handles a fragment of a request that is known, or that is too long to be accepted.
    fn take_needless_fragment(
        &mut self,
        queue: &mut Queue,
        id: RequestId,
        is_too_long: bool,
    ) -> FragmentTaken {
        if self.replies.knows(queue, id) {
            // Its reply is sent again.
            self.replies.arrive(queue, id);
        } else if !self.assembled.contains(&MessageId::Request(id))
            && is_too_long
            && self.replies.arrive(queue, id) == Arrival::New
        {
            return FragmentTaken::Oversized(id);
        }
        FragmentTaken::Needless
    }

    /// Handles the arrival of a request.
    pub fn request_arrived(&mut self, queue: &mut Queue, id: RequestId) -> Arrival {
        self.replies.arrive(queue, id)
    }

    /// Handles a request that has been reassembled. Its fragments are acknowledged, whenever its
    /// reply is sent.
    pub fn reassembled_request_arrived(&mut self, queue: &mut Queue, id: RequestId) -> Arrival {
        let arrival = self.replies.arrive(queue, id);
        match arrival {
            Arrival::New | Arrival::Known => self.replies.announce(),
            Arrival::Refused => self.forget_assembled(&[id]),
        }
        arrival
    }

    /// Handles an event that the other side has pushed. Returns the events that are in order now.
    pub fn event_arrived(&mut self, id: EventId, event: &[u8]) -> Vec<Vec<u8>> {
        if self.pushed.takes(id) && self.pushed.is_new(id) {
            self.pushed.take(id, event.to_vec())
        } else {
            Vec::new()
        }
    }

    /// Forgets the incomplete reply to a request that waits for none any more.
    pub fn forget_reply(&mut self, id: RequestId) {
        self.reassembler.forget(MessageId::Reply(id));
    }

    /// Stores the reply to a request in work.
    pub fn reply(&mut self, queue: &mut Queue, id: RequestId, bytes: Vec<u8>, is_trusted: bool) {
        let kept = if is_trusted {
            REPLIES_KEPT
        } else {
            STRANGER_REPLIES_KEPT
        };
        self.replies.reply(queue, id, bytes, kept);
    }

    /// Notes that replies have been sent: those without a timer leave the queue.
    pub fn replies_sent(&mut self, queue: &mut Queue) {
        let forgotten = self.replies.archive_replies(queue);
        self.forget_assembled(&forgotten);
    }

    /// Notes that the reply to `id` has arrived.
    pub fn reply_arrived(&mut self, queue: &mut Queue, id: RequestId) {
        self.replies.acknowledge(queue, id);
    }

    /// Notes that the packet with the reply to `id` is lost.
    pub fn reply_lost(&mut self, queue: &mut Queue, id: RequestId) {
        let forgotten = self.replies.lost(queue, id);
        self.forget_assembled(&forgotten);
    }

    /// Returns the requests, sorted, whose replies cannot be lost unnoticed.
    pub fn unmissable(&self, queue: &Queue) -> Sorted<RequestId> {
        self.replies.unmissable(queue)
    }

    /// Notes that the other side is told that all its requests have arrived.
    pub fn announce(&mut self) {
        self.replies.announce();
    }

    /// Forgets the reassembly of these requests, so that they are executed again if repeated.
    fn forget_assembled(&mut self, requests: &[RequestId]) {
        if !requests.is_empty() {
            let is_one = |message: &MessageId| matches!(message, MessageId::Request(id) if requests.contains(id));
            self.assembled.retain(|message| !is_one(message));
        }
    }

    /// When an incomplete message is forgotten.
    pub fn timeout(&self) -> Option<Time> {
        self.reassembler.timeout()
    }

    /// Advances time: forgets incomplete messages that are too old.
    pub fn expire(&mut self, now: Time) {
        self.reassembler.expire(now);
    }

    /// Asserts the invariants of the messages held.
    pub fn check(&self) {
        self.replies.check();
        let limit = self.max_message.saturating_mul(2);
        debug_assert!(
            self.reassembler.held() <= limit.max(self.reassembler.limit()),
            "more fragments are held than the limit allows"
        );
    }
}
