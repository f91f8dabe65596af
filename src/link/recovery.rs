//! Loss recovery: a sent packet has arrived, or is lost and its contents are sent again. Also
//! receives fragments of long messages (LINK-6, LINK-13).

use super::{
    Carried, Event, Ignored, Item, Link, Reassembled, SentPacket, Time,
    limits::ASSEMBLED_KEPT,
    reassembly::Begun,
    trace::{Trace, trace},
};
use crate::{
    faults::{Fault, is_planted},
    wire::{EventId, Frame, MessageId, RequestId},
};

/// After this many consecutive timeouts the path estimates may be outdated.
const FORGET_AFTER: u32 = 3;

impl Link {
    /// Notes that a sent item or fragment has arrived at the other side.
    pub(super) fn carried_arrived(&mut self, now: Time, carried: Carried) {
        match carried {
            Carried::Measure => {}
            Carried::Whole(item) => self.item_arrived(now, item),
            Carried::Fragment(message, start, end) => {
                if self.queue.fragment_arrived(message, start..end) {
                    self.item_arrived(now, Item::Message(message));
                }
            }
        }
    }

    fn item_arrived(&mut self, now: Time, item: Item) {
        match item {
            // Only its response proves its arrival.
            Item::Challenge => {}
            Item::Update | Item::Response | Item::Ping => drop(self.queue.remove(item)),
            Item::Message(MessageId::Reply(id)) => self.replies.acknowledge(&mut self.queue, id),
            // The request is kept until its reply arrives, because the other side may still forget
            // it.
            Item::Message(MessageId::Request(id)) => self.request_arrived(now, id),
            Item::Message(MessageId::Event(id)) => self.event_arrived(id),
        }
    }

    fn request_arrived(&mut self, now: Time, id: RequestId) {
        let lossy = self.is_redundant();
        self.queue.request_arrived(now, id, &self.rtt, lossy);
    }

    fn event_arrived(&mut self, id: EventId) {
        if self.queue.remove(Item::event(id)).is_some() {
            self.events.push_back(Event::Delivered { number: id });
        }
    }

    /// Notes that a packet is lost: its contents are sent again.
    pub(super) fn packet_lost(&mut self, now: Time, packet: SentPacket) {
        self.path.lost(now, packet.len);
        self.counters.lost += 1;
        trace(self.trace_id, || Trace::Lost {
            number: packet.number,
            bytes: packet.len,
        });
        if packet.stamp.is_some() {
            self.pace.lost(packet.len);
        }
        for carried in packet.items {
            match carried {
                Carried::Measure => {}
                Carried::Whole(Item::Message(MessageId::Reply(id))) => {
                    let forgotten = self.replies.lost(&mut self.queue, id);
                    self.forget_assembled(&forgotten);
                }
                Carried::Whole(item) => self.queue.lost(item),
                Carried::Fragment(message, start, end) => {
                    self.queue.repeats.fragments += 1;
                    self.queue.fragment_lost(message, start..end);
                }
            }
        }
    }

    /// Handles a timeout of fragments and backlog in flight: nothing was heard of them for a whole
    /// timeout. All of them are sent again, as the pace allows. A single probe would be lost too
    /// often on a path with high loss.
    pub(super) fn paced_timed_out(&mut self, now: Time) {
        self.paced_due = None;
        let Some(smallest) = self.sent.smallest_bulk() else {
            return;
        };
        self.queue.time_out();
        // Of a probe that is lost by itself, only its loss counts.
        if smallest <= self.path.size(self.datagram_max()) {
            self.path.timed_out(now, smallest);
        }
        if self.queue.timeouts() >= FORGET_AFTER {
            self.pace.forget();
        }
        for packet in self.sent.lose_bulk() {
            self.packet_lost(now, packet);
        }
    }

    /// True if a frame can be accepted, given the messages that other frames of its packet begin.
    pub(super) fn has_room_for(&self, frame: &Frame<'_>, begun: &mut Begun) -> bool {
        match *frame {
            Frame::Fragment {
                message,
                total,
                offset,
                bytes,
            } => {
                if let MessageId::Event(id) = message
                    && self.pushed.is_new(id)
                    && !self.takes_event(id)
                {
                    // As with an unfragmented event: it is sent again. An acknowledged one would
                    // not be.
                    return false;
                }
                !self.is_assembled(message, total)
                    || self
                        .assemblies
                        .takes(begun, message, total, offset, bytes.len())
            }
            Frame::Event { number, .. } => self.takes_event(number),
            _ => true,
        }
    }

    /// The longest message that is reassembled for the other side, in bytes. A stranger's message
    /// must fit a datagram. It came in fragments because the path is not known to carry that size,
    /// and it deserves an answer.
    fn longest_message(&self) -> usize {
        if self.trusted {
            self.config.max_message
        } else {
            self.message_max()
        }
    }

    /// True if a fragment belongs to a message that is to be reassembled.
    fn is_assembled(&self, message: MessageId, total: u64) -> bool {
        let fits = total <= self.longest_message() as u64;
        let is_new = !self.assembled.contains(&message);
        fits && is_new
            && match message {
                MessageId::Request(id) => !self.replies.knows(&self.queue, id),
                MessageId::Reply(id) => self.queue.awaits(id),
                MessageId::Event(id) => self.pushed.is_new(id) && self.takes_event(id),
            }
    }

    pub(super) fn handle_part(
        &mut self,
        now: Time,
        message: MessageId,
        total: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Ignored> {
        let is_event = matches!(message, MessageId::Event(_));
        if is_event && self.trusted && total > self.longest_message() as u64 {
            // An acknowledged event is never sent again, so it would be lost silently. An event has
            // no answer that could report the error.
            return Err(self.violate());
        }
        self.received.owe_for_part(now, &self.rtt);
        self.take_part(now, message, total, offset, bytes);
        Ok(())
    }

    fn take_part(&mut self, now: Time, message: MessageId, total: u64, offset: u64, bytes: &[u8]) {
        if !self.is_assembled(message, total) {
            if let MessageId::Request(id) = message {
                self.handle_needless_part(id, total);
            }
            return;
        }
        if offset > 0 && is_planted(Fault::DropParts) {
            return;
        }
        let len = bytes.len();
        let mut begun = Begun::default();
        if !self
            .assemblies
            .takes(&mut begun, message, total, offset, len)
        {
            // There was no room when its packet arrived; only an earlier frame of the packet made
            // room.
            return;
        }
        if let MessageId::Reply(id) = message {
            // The rest of the reply arrives without another request.
            self.request_arrived(now, id);
        }
        let taken = self.assemblies.take(now, message, total, offset, bytes);
        let Reassembled::Whole(whole) = taken else {
            return;
        };
        if self.assembled.len() == ASSEMBLED_KEPT {
            self.assembled.pop_front();
        }
        self.assembled.push_back(message);
        match message {
            MessageId::Request(id) => {
                if self.handle_request(now, id, &whole, false) == super::Arrival::Refused {
                    self.forget_assembled(&[id]);
                    return;
                }
                // Its fragments are acknowledged, whenever its reply is sent.
                self.replies.announce();
            }
            MessageId::Reply(id) => self.handle_reply(now, id, &whole),
            MessageId::Event(id) => self.handle_event(id, &whole),
        }
    }

    /// Forgets the reassembly of these requests, so that they are executed again if repeated.
    pub(super) fn forget_assembled(&mut self, requests: &[RequestId]) {
        if !requests.is_empty() {
            let is_one = |message: &MessageId| matches!(message, MessageId::Request(id) if requests.contains(id));
            self.assembled.retain(|message| !is_one(message));
        }
    }

    /// Handles a fragment of a request that is known, or that is too long to be accepted.
    fn handle_needless_part(&mut self, number: RequestId, total: u64) {
        let is_known = self.replies.knows(&self.queue, number);
        if is_known || self.assembled.contains(&MessageId::Request(number)) {
            if is_known {
                // Its reply is sent again.
                self.replies.arrive(&mut self.queue, number);
            }
            return;
        }
        let limit = self.longest_message();
        if total > limit as u64
            && self.replies.arrive(&mut self.queue, number) == super::Arrival::New
        {
            self.events.push_back(Event::Oversized { number, limit });
        }
    }

    fn takes_event(&self, id: EventId) -> bool {
        self.pushed.takes(id) && !(self.is_holding && self.pushed.is_new(id))
    }

    /// Handles an event that the other side has pushed.
    pub(super) fn handle_event(&mut self, id: EventId, event: &[u8]) {
        if self.trusted && self.pushed.takes(id) && self.pushed.is_new(id) {
            for bytes in self.pushed.take(id, event.to_vec()) {
                self.events.push_back(Event::Pushed { bytes });
            }
        }
    }
}
