//! What has left and is to be acknowledged: packets with requests or announced replies in them, and how it is noticed
//! that they arrived or were lost (LINK-6, after RFC 9002 §6.1).

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use super::{rtt::Rtt, time::Time};
use crate::wire::{AckFrame, PacketNumber};

/// A packet is lost when one sent so many later has arrived.
const PACKET_THRESHOLD: u64 = 3;
/// Packets remembered; the oldest is forgotten for a newer one, and what it carried then waits for
/// its own timeout.
const SENT_MAX: usize = 256;

/// Something that a packet carries and that is sent again until it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// One of our requests.
    Request(u64),
    /// A reply that has been announced.
    Reply(u64),
}

#[derive(Clone, Debug)]
struct SentPacket {
    number: PacketNumber,
    at: Time,
    items: Vec<Item>,
}

/// The packets on their way.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    packets: VecDeque<SentPacket>,
    /// The largest number that the peer is known to have received.
    acknowledged: Option<PacketNumber>,
}

/// What an acknowledgement tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// What has arrived.
    pub arrived: Vec<Item>,
    /// What was in packets that are lost.
    pub lost: Vec<Item>,
    /// How long the newest packet took there and back.
    pub round_trip: Option<Duration>,
}

impl Sent {
    /// The largest number that the peer is known to have received.
    pub const fn acknowledged(&self) -> Option<PacketNumber> {
        self.acknowledged
    }

    /// Remembers a packet.
    pub fn record(&mut self, now: Time, number: PacketNumber, items: Vec<Item>) {
        if self.packets.len() == SENT_MAX {
            self.packets.pop_front();
        }
        self.packets.push_back(SentPacket {
            number,
            at: now,
            items,
        });
    }

    /// Learns from an acknowledgement, whose largest number must have been sent.
    pub fn acknowledge(&mut self, now: Time, ack: &AckFrame, rtt: &Rtt) -> Acknowledged {
        let mut told = Acknowledged::default();
        let too_old = rtt.smoothed().map(|smoothed| smoothed * 9 / 8);
        self.acknowledged = self.acknowledged.max(Some(ack.largest));
        self.packets.retain(|packet| {
            if ack.covers(packet.number) {
                if packet.number == ack.largest {
                    told.round_trip = Some(now - packet.at);
                }
                told.arrived.extend(&packet.items);
                return false;
            }
            let passed = packet.number.0 < ack.largest.0;
            let by_number = packet.number.0 + PACKET_THRESHOLD <= ack.largest.0;
            let by_time = passed && too_old.is_some_and(|age| now - packet.at > age);
            if by_number || by_time {
                told.lost.extend(&packet.items);
                return false;
            }
            true
        });
        told
    }

    /// Learns that `request` was answered: one of the packets that carried it has arrived. Gives the
    /// round trip if exactly one did.
    pub fn answered(&mut self, now: Time, request: u64) -> Option<Duration> {
        let request = Item::Request(request);
        let mut carriers = self
            .packets
            .iter()
            .filter(|packet| packet.items.contains(&request));
        let first = carriers.next().map(|packet| (packet.number, packet.at));
        let only = carriers.next().is_none();
        let (number, at) = first?;
        self.acknowledged = self.acknowledged.max(Some(number));
        for packet in &mut self.packets {
            packet.items.retain(|carried| *carried != request);
        }
        self.packets.retain(|packet| !packet.items.is_empty());
        only.then(|| now - at)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn ack(largest: u64, bitmap: u64) -> AckFrame {
        AckFrame {
            largest: PacketNumber(largest),
            delay_ms: 0,
            bitmap,
        }
    }

    /// LINK-6
    #[test]
    fn a_packet_is_lost_when_three_later_ones_have_passed_it() {
        let mut sent = Sent::default();
        for number in 0..4 {
            sent.record(
                Time(number),
                PacketNumber(number),
                vec![Item::Request(number)],
            );
        }
        let told = sent.acknowledge(Time(9), &ack(3, 0b01), &Rtt::default());
        assert_eq!(told.arrived, [Item::Request(2), Item::Request(3)]);
        assert_eq!(told.lost, [Item::Request(0)]);
        assert_eq!(told.round_trip, Some(Duration::from_micros(6)));
    }

    #[test]
    fn a_packet_is_lost_when_it_is_older_than_nine_eighths_of_a_round_trip() {
        let mut sent = Sent::default();
        sent.record(Time(0), PacketNumber(0), vec![Item::Request(0)]);
        sent.record(Time(1), PacketNumber(1), vec![Item::Request(1)]);
        let rtt = Rtt::remembered(Duration::from_micros(80));
        assert!(
            sent.clone()
                .acknowledge(Time(90), &ack(1, 0), &rtt)
                .lost
                .is_empty()
        );
        assert_eq!(
            sent.acknowledge(Time(91), &ack(1, 0), &rtt).lost,
            [Item::Request(0)]
        );
    }

    #[test]
    fn a_reply_acknowledges_its_request() {
        let mut sent = Sent::default();
        sent.record(Time(0), PacketNumber(0), vec![Item::Request(7)]);
        assert_eq!(sent.answered(Time(5), 7), Some(Duration::from_micros(5)));
        assert_eq!(sent.acknowledged(), Some(PacketNumber(0)));
        assert!(sent.packets.is_empty());
        sent.record(Time(6), PacketNumber(1), vec![Item::Request(8)]);
        sent.record(Time(7), PacketNumber(2), vec![Item::Request(8)]);
        assert_eq!(
            sent.answered(Time(9), 8),
            None,
            "which of the two arrived is not known"
        );
    }
}
