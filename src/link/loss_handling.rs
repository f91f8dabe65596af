//! What follows when a packet of this side has arrived, or is lost and its contents are sent again
//! (LINK-6).

use super::{
    Event, Link, Time,
    queue::Item,
    sent_packets::{Carried, SentPacket},
    trace::{Trace, trace},
};
use crate::wire::{MessageId, RequestId};

impl Link {
    /// Handles the arrival of a packet at the other side.
    pub(super) fn packet_arrived(&mut self, now: Time, packet: SentPacket) {
        self.recovery.packet_arrived(now, &packet);
        for carried in packet.items {
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
    }

    fn item_arrived(&mut self, now: Time, item: Item) {
        match item {
            // Only its response proves its arrival.
            Item::Challenge => {}
            Item::Update | Item::Response | Item::Ping => drop(self.queue.remove(item)),
            Item::Message(MessageId::Reply(id)) => {
                self.incoming.reply_arrived(&mut self.queue, id);
            }
            // The request is kept until its reply arrives, because the other side may still forget
            // it.
            Item::Message(MessageId::Request(id)) => self.request_acknowledged(now, id),
            Item::Message(MessageId::Event(id)) => {
                if self.queue.remove(item).is_some() {
                    self.events.push_back(Event::Delivered { number: id });
                }
            }
        }
    }

    /// Notes that the other side has received a request of this side and works on it.
    pub(super) fn request_acknowledged(&mut self, now: Time, id: RequestId) {
        let lossy = self.is_redundant();
        self.queue
            .request_arrived(now, id, self.recovery.rtt(), lossy);
    }

    /// Handles the loss of a packet: its contents are sent again.
    pub(super) fn packet_lost(&mut self, now: Time, packet: SentPacket) {
        self.recovery.packet_lost(now, &packet);
        self.counters.lost += 1;
        trace(self.trace_id, || Trace::Lost {
            number: packet.number,
            bytes: packet.len,
        });
        for carried in packet.items {
            match carried {
                Carried::Measure => {}
                Carried::Whole(Item::Message(MessageId::Reply(id))) => {
                    self.incoming.reply_lost(&mut self.queue, id);
                }
                Carried::Whole(item) => self.queue.lost(item),
                Carried::Fragment(message, start, end) => {
                    self.queue.fragment_lost(message, start..end);
                }
            }
        }
    }
}
