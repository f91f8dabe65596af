//! What becomes of what was sent: it has arrived, or is lost and leaves again; and long messages that come
//! in parts (LINK-6, LINK-13).

use super::{
    Assembled, Event, Item, Link, Message, SentPacket, Time, assembly::Begun,
    limits::ASSEMBLED_KEPT, parts,
};
use crate::{
    faults::{Fault, is_planted},
    wire::{Frame, PartOf},
};

/// After so many timeouts in a row, what is known of the path may be true no more.
const FORGET_AFTER: u32 = 3;

impl Link {
    /// Something has arrived at the other side.
    pub(super) fn item_arrived(&mut self, now: Time, item: Item) {
        match item {
            Item::Request(number) => self.acknowledge_request(now, number),
            Item::Reply(number) => {
                self.replies.acknowledge(number);
                self.parts.remove((PartOf::Reply, number));
            }
            Item::Event(number) => self.event_arrived(number),
            Item::Measure => {}
            Item::Part(message, start, end) => {
                if self.parts.arrive(message, start..end) {
                    self.message_arrived(now, message);
                }
            }
        }
    }

    fn acknowledge_request(&mut self, now: Time, number: u64) {
        let lossy = self.is_redundant();
        self.requests.acknowledge(now, number, &self.rtt, lossy);
    }

    /// All parts of a message have arrived.
    fn message_arrived(&mut self, now: Time, (of, number): parts::Message) {
        match of {
            // It is kept until its reply comes: the other side may yet forget it.
            PartOf::Request => self.acknowledge_request(now, number),
            PartOf::Reply => {
                self.replies.arrived_whole(number);
                self.parts.remove((of, number));
            }
            PartOf::Event => {
                self.parts.remove((of, number));
                self.event_arrived(number);
            }
        }
    }

    /// A packet is lost: what it carried leaves again.
    pub(super) fn packet_lost(&mut self, now: Time, packet: SentPacket) {
        self.path.lost(now, packet.len);
        if packet.stamp.is_some() {
            self.pace.lost(packet.len);
        }
        for item in packet.items {
            match item {
                Item::Request(number) => self.requests.lose(number),
                Item::Reply(number) => self.replies.lose(number),
                Item::Event(number) => self.pushes.lose(number),
                Item::Measure => {}
                Item::Part(message, start, end) => self.parts.lose(message, start..end),
            }
        }
    }

    /// Nothing was heard of parts on their way for a whole timeout: all of them leave again, as far as the
    /// pace allows. One alone would be lost too often where most is lost.
    pub(super) fn bulk_timed_out(&mut self, now: Time) {
        self.bulk_due = None;
        let Some(smallest) = self.sent.smallest_bulk() else {
            return;
        };
        self.bulk_repeats = self.bulk_repeats.saturating_add(1);
        self.path.timed_out(now, smallest);
        if self.bulk_repeats >= FORGET_AFTER {
            self.pace.forget();
        }
        for packet in self.sent.lose_bulk() {
            self.packet_lost(now, packet);
        }
    }

    /// True when a frame can be taken in, beside what others of its packet begin.
    pub(super) fn has_room_for(&self, frame: &Frame<'_>, begun: &mut Begun) -> bool {
        match frame {
            Frame::Part {
                of,
                number,
                total,
                offset,
                bytes,
            } => {
                !self.is_assembled(*of, *number, *total)
                    || self
                        .assemblies
                        .takes(begun, (*of, *number), *total, *offset, bytes.len())
            }
            Frame::Event { number, .. } => self.takes_event(*number),
            _ => true,
        }
    }

    /// The longest message that is put together for the other side, in bytes. A stranger's fits a datagram: it came in parts because the
    /// path is not known to carry that, and deserves an answer.
    fn longest_message(&self) -> usize {
        if self.trusted {
            self.config.max_message
        } else {
            self.message_max()
        }
    }

    /// True when a part belongs to a message that is to be put together.
    fn is_assembled(&self, of: PartOf, number: u64, total: u64) -> bool {
        let fits = total <= self.longest_message() as u64;
        let is_new = !self.assembled.contains(&(of, number));
        fits && is_new
            && match of {
                PartOf::Request => !self.replies.knows(number),
                PartOf::Reply => self.requests.is_pending(number),
                PartOf::Event => self.pushed.is_new(number) && self.takes_event(number),
            }
    }

    pub(super) fn handle_part(
        &mut self,
        now: Time,
        (of, number): Message,
        total: u64,
        offset: u64,
        bytes: &[u8],
    ) {
        self.received.owe_for_part(now, &self.rtt);
        if !self.is_assembled(of, number, total) {
            if of == PartOf::Request {
                self.handle_needless_part(number, total);
            }
            return;
        }
        if offset > 0 && is_planted(Fault::DropParts) {
            return;
        }
        let mut begun = Begun::default();
        let message = (of, number);
        let len = bytes.len();
        if !self
            .assemblies
            .takes(&mut begun, message, total, offset, len)
        {
            // It had no place when its packet came: only what went before it there has made one.
            return;
        }
        if of == PartOf::Reply {
            // The rest comes without being asked for.
            self.acknowledge_request(now, number);
        }
        let taken = self
            .assemblies
            .take(now, (of, number), total, offset, bytes);
        let Assembled::Whole(message) = taken else {
            return;
        };
        if self.assembled.len() == ASSEMBLED_KEPT {
            self.assembled.pop_front();
        }
        self.assembled.push_back((of, number));
        match of {
            PartOf::Request => {
                self.handle_request(now, number, &message, false);
                // Its parts are acknowledged, whenever its reply leaves.
                self.replies.announce();
            }
            PartOf::Reply => self.handle_reply(now, number, &message),
            PartOf::Event => self.handle_event(number, &message),
        }
    }

    /// A part of a request that is known, or that is too long to be taken.
    fn handle_needless_part(&mut self, number: u64, total: u64) {
        let is_known = self.replies.knows(number);
        if is_known || self.assembled.contains(&(PartOf::Request, number)) {
            if is_known {
                // Its reply leaves again.
                self.replies.arrive(number);
            }
            return;
        }
        let limit = self.longest_message();
        if total > limit as u64 && self.replies.arrive(number) == super::Arrival::New {
            self.events.push_back(Event::Oversized { number, limit });
        }
    }

    fn takes_event(&self, number: u64) -> bool {
        self.pushed.takes(number) && !(self.is_holding && self.pushed.is_new(number))
    }

    fn event_arrived(&mut self, number: u64) {
        if self.pushes.acknowledge(number) {
            self.events.push_back(Event::Delivered { number });
        }
    }

    /// The other side has pushed an entry.
    pub(super) fn handle_event(&mut self, number: u64, event: &[u8]) {
        if self.trusted && self.pushed.takes(number) && self.pushed.is_new(number) {
            for bytes in self.pushed.take(number, event.to_vec()) {
                self.events.push_back(Event::Pushed { bytes });
            }
        }
    }
}
