//! Sent packets that await acknowledgement: those with requests or announced replies, and loss
//! detection for them (LINK-6, after RFC 9002 §6.1).

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use super::{
    congestion::Stamp,
    limits::{GIVEN_UP_MAX, SENT_MAX},
    queue::Item,
    rtt::Rtt,
    time::Time,
};
use crate::{
    faults::{Fault, is_planted},
    wire::{AckFrame, MessageId, PacketNumber, RequestId},
};

/// A packet is lost when one sent this many later has arrived.
const PACKET_THRESHOLD: u64 = 3;

/// A part of a packet that is sent again until it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// All of an item.
    Whole(Item),
    /// A fragment of a message: from the first byte number to before the second.
    Fragment(MessageId, u64, u64),
    /// No content: its arrival measures the round-trip time.
    Measure,
}

impl Carried {
    /// True for a fragment or backlog.
    pub const fn is_paced(&self) -> bool {
        match self {
            Self::Fragment(..) => true,
            Self::Whole(item) => item.is_paced(),
            Self::Measure => false,
        }
    }
}

/// A packet in flight.
#[derive(Clone, Debug)]
pub struct SentPacket {
    /// Its number.
    pub number: PacketNumber,
    /// When it was sent.
    pub at: Time,
    /// Its length.
    pub len: usize,
    /// What it carries.
    pub items: Vec<Carried>,
    /// For a packet with fragments or backlog: its delivery state for the pace.
    pub stamp: Option<Stamp>,
}

/// The packets in flight.
#[derive(Clone, Debug, Default)]
pub struct SentPackets {
    packets: VecDeque<SentPacket>,
    /// Packets with fragments that were declared lost after a timeout: they may only have been
    /// slow.
    given_up: VecDeque<SentPacket>,
    /// The largest packet number that the peer has acknowledged.
    acknowledged: Option<PacketNumber>,
}

/// The result of an acknowledgement.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// The packets that have arrived.
    pub arrived: Vec<SentPacket>,
    /// The packets that are lost.
    pub lost: Vec<SentPacket>,
    /// The round-trip time of the newest packet.
    pub round_trip: Option<Duration>,
}

/// What a reply says about the packets that carried its request.
#[derive(Clone, Debug, Default)]
pub struct Answered {
    /// The time since the first of them was sent.
    pub round_trip: Option<Duration>,
    /// The packets that are lost.
    pub lost: Vec<SentPacket>,
}

impl SentPackets {
    /// The largest packet number that the peer has acknowledged.
    pub const fn acknowledged(&self) -> Option<PacketNumber> {
        self.acknowledged
    }

    /// Restores the largest acknowledged number of a dormant link.
    pub fn from_dormant(acknowledged: Option<PacketNumber>) -> Self {
        Self {
            acknowledged,
            ..Self::default()
        }
    }

    /// True if no packet is in flight.
    pub fn may_hibernate(&self) -> bool {
        self.packets.is_empty()
    }

    /// Memory of the packet records, in bytes, approximately.
    pub fn memory(&self) -> usize {
        let all = self.packets.iter().chain(&self.given_up);
        let each = all
            .map(|packet| size_of::<SentPacket>() + packet.items.capacity() * size_of::<Carried>());
        each.sum()
    }

    /// Records a packet.
    pub fn record(&mut self, packet: SentPacket) {
        if self.packets.len() >= SENT_MAX {
            // Its items have their own timers; fragments have none, so their packets are never
            // forgotten.
            let small = self.packets.iter().position(|one| one.stamp.is_none());
            small.and_then(|at| self.packets.remove(at));
        }
        self.packets.push_back(packet);
    }

    /// Forgets an item whose arrival no longer matters.
    pub fn forget(&mut self, item: Item) {
        for packet in &mut self.packets {
            packet
                .items
                .retain(|carried| *carried != Carried::Whole(item));
        }
        // Packets with fragments stay in flight, whatever becomes of their items.
        self.packets
            .retain(|packet| packet.stamp.is_some() || !packet.items.is_empty());
    }

    /// Bytes in flight in packets with fragments.
    pub fn in_flight(&self) -> usize {
        self.bulk().map(|packet| packet.len).sum()
    }

    /// The packets with fragments, oldest first.
    fn bulk(&self) -> impl Iterator<Item = &SentPacket> {
        self.packets.iter().filter(|packet| packet.stamp.is_some())
    }

    /// When the newest packet with fragments was sent.
    pub fn last_bulk(&self) -> Option<Time> {
        self.bulk().last().map(|packet| packet.at)
    }

    /// The length of the latest packet in flight that carries an item.
    pub fn len_with(&self, item: Item) -> Option<usize> {
        let carries = |packet: &&SentPacket| packet.items.contains(&Carried::Whole(item));
        self.packets.iter().rev().find(carries).map(|one| one.len)
    }

    /// The length of the smallest packet with fragments in flight.
    pub fn smallest_bulk(&self) -> Option<usize> {
        self.bulk().map(|packet| packet.len).min()
    }

    /// Declares all packets with fragments lost, and returns them.
    pub fn lose_bulk(&mut self) -> Vec<SentPacket> {
        let packets = core::mem::take(&mut self.packets);
        let is_bulk = |packet: &SentPacket| packet.stamp.is_some();
        let (bulk, others): (Vec<_>, VecDeque<_>) = (
            packets.iter().filter(|one| is_bulk(one)).cloned().collect(),
            packets.into_iter().filter(|one| !is_bulk(one)).collect(),
        );
        self.packets = others;
        for packet in &bulk {
            if self.given_up.len() == GIVEN_UP_MAX {
                self.given_up.pop_front();
            }
            self.given_up.push_back(SentPacket {
                // For the pace it has left the path.
                stamp: None,
                ..packet.clone()
            });
        }
        bulk
    }

    /// Handles an acknowledgement, whose largest number must have been sent.
    pub fn acknowledge(&mut self, now: Time, ack: &AckFrame, rtt: &Rtt) -> Acknowledged {
        let mut outcome = Acknowledged::default();
        self.acknowledged = self.acknowledged.max(Some(ack.largest));
        let has_outcome =
            |one: &SentPacket| ack.covers(one.number) || is_lost(now, one, ack.largest, rtt);
        if !self.packets.iter().chain(&self.given_up).any(has_outcome) {
            // Most acknowledgements say nothing new, and a packet may carry many.
            return outcome;
        }
        let slow = self.given_up.iter().filter(|one| ack.covers(one.number));
        outcome.arrived.extend(slow.cloned());
        if let Some(packet) = outcome.arrived.iter().find(|one| one.number == ack.largest) {
            outcome.round_trip = Some(now - packet.at);
        }
        self.given_up.retain(|one| !ack.covers(one.number));
        let packets = core::mem::take(&mut self.packets);
        for packet in packets {
            if ack.covers(packet.number) {
                if packet.number == ack.largest {
                    outcome.round_trip = Some(now - packet.at);
                }
                outcome.arrived.push(packet);
                continue;
            }
            if is_lost(now, &packet, ack.largest, rtt) {
                outcome.lost.push(packet);
            } else {
                self.packets.push_back(packet);
            }
        }
        outcome
    }

    /// When an overtaken packet counts as lost by its age.
    pub fn timeout(&self, rtt: &Rtt) -> Option<Time> {
        let age = too_old(rtt)?;
        let acknowledged = self.acknowledged?;
        let mut overtaken = self.packets.iter().filter(|one| one.number < acknowledged);
        // Packets are stored in sending order.
        overtaken.next().map(|packet| packet.at + age)
    }

    /// Advances time: returns the packets that are lost by their age.
    pub fn expire(&mut self, now: Time, rtt: &Rtt) -> Vec<SentPacket> {
        let Some(acknowledged) = self.acknowledged else {
            return Vec::new();
        };
        if self.timeout(rtt).is_none_or(|due| due > now) {
            return Vec::new();
        }
        let is_lost = |packet: &SentPacket| is_lost(now, packet, acknowledged, rtt);
        let lost = self
            .packets
            .iter()
            .filter(|one| is_lost(one))
            .cloned()
            .collect();
        self.packets.retain(|packet| !is_lost(packet));
        lost
    }

    /// Notes that `request` was answered: one of the packets that carried it has arrived.
    pub fn answered(&mut self, now: Time, request: RequestId, rtt: &Rtt) -> Answered {
        let request = Carried::Whole(Item::request(request));
        let mut carriers = self
            .packets
            .iter()
            .filter(|packet| packet.items.contains(&request));
        let Some((number, at)) = carriers.next().map(|packet| (packet.number, packet.at)) else {
            return Answered::default();
        };
        self.acknowledged = self.acknowledged.max(Some(number));
        for packet in &mut self.packets {
            packet.items.retain(|carried| *carried != request);
        }
        self.packets.retain(|packet| !packet.items.is_empty());
        let is_lost = |packet: &SentPacket| is_lost(now, packet, number, rtt);
        let lost = self.packets.iter().filter(|one| is_lost(one));
        let lost: Vec<_> = lost.cloned().collect();
        self.packets.retain(|packet| !is_lost(packet));
        Answered {
            round_trip: Some(now - at),
            lost,
        }
    }

    /// Asserts the order of the packets in flight, below the number `next` of the next packet.
    pub fn check(&self, next: u64) {
        if is_planted(Fault::ReusePacketNumber) {
            return;
        }
        let numbers = self.packets.iter().map(|one| one.number);
        debug_assert!(
            numbers.is_sorted_by(|one, next| one < next),
            "packets are out of their order"
        );
        debug_assert!(
            self.packets.iter().all(|one| one.number.0 < next),
            "a packet is on its way whose number has not been given out"
        );
        debug_assert!(
            self.acknowledged.is_none_or(|number| number.0 < next),
            "a number counts as received that has not been given out"
        );
    }
}

/// True if a packet must be lost, because packet number `arrived` has arrived.
fn is_lost(now: Time, packet: &SentPacket, arrived: PacketNumber, rtt: &Rtt) -> bool {
    let passed = packet.number.0 < arrived.0;
    let by_number = packet.number.0 + PACKET_THRESHOLD <= arrived.0;
    let by_time = passed && too_old(rtt).is_some_and(|age| packet.at + age <= now);
    by_number || by_time
}

/// The age at which an overtaken packet is lost.
fn too_old(rtt: &Rtt) -> Option<Duration> {
    rtt.smoothed().map(|smoothed| smoothed * 9 / 8)
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

    fn packet(at: Time, number: u64, request: u64) -> SentPacket {
        SentPacket {
            number: PacketNumber(number),
            at,
            len: 40,
            items: vec![asking(request)],
            stamp: None,
        }
    }

    fn asking(request: u64) -> Carried {
        Carried::Whole(Item::request(RequestId(request)))
    }

    fn requests(packets: &[SentPacket]) -> Vec<Carried> {
        packets
            .iter()
            .flat_map(|packet| packet.items.clone())
            .collect()
    }

    /// LINK-6: a packet is lost when three later ones have passed it.
    #[test]
    fn loss_is_detected_when_three_later_packets_arrived() {
        let mut sent = SentPackets::default();
        for number in 0..4 {
            sent.record(packet(Time(number), number, number));
        }
        let outcome = sent.acknowledge(Time(9), &ack(3, 0b01), &Rtt::default());
        assert_eq!(requests(&outcome.arrived), [asking(2), asking(3)]);
        assert_eq!(requests(&outcome.lost), [asking(0)]);
        assert_eq!(outcome.round_trip, Some(Duration::from_micros(6)));
    }

    #[test]
    fn loss_is_detected_after_nine_eighths_of_round_trip() {
        let mut sent = SentPackets::default();
        sent.record(packet(Time(0), 0, 0));
        sent.record(packet(Time(1), 1, 1));
        let rtt = Rtt::remembered(Duration::from_micros(80));
        assert!(
            sent.clone()
                .acknowledge(Time(89), &ack(1, 0), &rtt)
                .lost
                .is_empty()
        );
        let outcome = sent.clone().acknowledge(Time(90), &ack(1, 0), &rtt);
        assert_eq!(requests(&outcome.lost), [asking(0)]);
        // The age alone suffices, without another packet.
        sent.acknowledge(Time(80), &ack(1, 0), &rtt);
        assert_eq!(sent.timeout(&rtt), Some(Time(90)));
        assert!(sent.expire(Time(89), &rtt).is_empty());
        let lost = sent.expire(Time(90), &rtt);
        assert_eq!(requests(&lost), [asking(0)]);
        assert_eq!(sent.timeout(&rtt), None);
        // Found by the simulator: a timer was a fraction of a microsecond early, when nothing was
        // lost yet.
        let rtt = Rtt::remembered(Duration::from_nanos(80_001));
        sent.record(packet(Time(100), 2, 2));
        sent.record(packet(Time(101), 3, 3));
        sent.acknowledge(Time(180), &ack(3, 0), &rtt);
        let due = sent.timeout(&rtt).unwrap();
        assert_eq!(requests(&sent.expire(due, &rtt)), [asking(2)]);
    }

    #[test]
    fn acknowledgement_of_request_is_implied_by_its_reply() {
        let mut sent = SentPackets::default();
        sent.record(packet(Time(0), 0, 7));
        assert_eq!(
            sent.answered(Time(5), RequestId(7), &Rtt::default())
                .round_trip,
            Some(Duration::from_micros(5))
        );
        assert_eq!(sent.acknowledged(), Some(PacketNumber(0)));
        assert!(sent.packets.is_empty());
        sent.record(packet(Time(6), 1, 8));
        sent.record(packet(Time(7), 2, 8));
        assert_eq!(
            sent.answered(Time(9), RequestId(8), &Rtt::default())
                .round_trip,
            Some(Duration::from_micros(3))
        );
    }
}
