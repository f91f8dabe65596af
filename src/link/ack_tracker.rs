//! Acknowledgements of the other side's packets: which are owed, when, and which packets the
//! replies to their requests acknowledge as well (LINK-5).

use alloc::collections::VecDeque;

use smallvec::SmallVec;

use super::{
    limits::{REQUEST_PACKETS_KEPT, REQUESTS_REMEMBERED, WORKING_MAX},
    received_packets::{DormantPackets, ReceivedPackets},
    rtt::Rtt,
    sorted_map::{Sorted, sorted},
    time::Time,
};
use crate::wire::{AckFrame, PacketNumber, RequestId};

/// The requests that a packet carried: usually one or two.
pub type CarriedRequests = SmallVec<[RequestId; 2]>;

/// The packets received on a link, and the acknowledgements that are owed for them.
#[derive(Clone, Debug, Default)]
pub struct AckTracker {
    packets: ReceivedPackets,
    /// Recent packets whose only ack-eliciting frames were requests, with those requests.
    request_packets: VecDeque<(PacketNumber, CarriedRequests)>,
    /// When requests in work must be acknowledged.
    work_due: Option<Time>,
}

impl AckTracker {
    /// Restores the state of a dormant link.
    pub fn from_dormant(dormant: DormantPackets) -> Self {
        Self {
            packets: ReceivedPackets::from_dormant(dormant),
            ..Self::default()
        }
    }

    /// Returns the compact state for a dormant link.
    pub fn hibernate(&self) -> Option<DormantPackets> {
        self.packets.hibernate()
    }

    /// True if no acknowledgement is owed, and no number is too large for the dormant form.
    pub fn may_hibernate(&self) -> bool {
        self.work_due.is_none() && self.packets.may_hibernate()
    }

    /// The packets received.
    pub const fn packets(&self) -> &ReceivedPackets {
        &self.packets
    }

    /// The largest packet number received.
    pub const fn largest(&self) -> Option<PacketNumber> {
        self.packets.largest()
    }

    /// Records a packet that is new.
    pub fn record(&mut self, now: Time, number: PacketNumber, rtt: &Rtt) {
        if self.packets.record(now, number) {
            // A packet before this one is missing. The sender should learn that soon, with the next
            // packet.
            self.packets.owe(ReceivedPackets::patience(now, rtt));
        }
    }

    /// Owes an acknowledgement at once.
    pub fn owe_now(&mut self, now: Time) {
        self.packets.owe(now);
    }

    /// Owes an acknowledgement after the usual delay.
    pub fn owe(&mut self, now: Time, rtt: &Rtt) {
        self.packets.owe(ReceivedPackets::patience(now, rtt));
    }

    /// Owes an acknowledgement of a packet with a fragment: now, if several packets have arrived
    /// since the last one.
    pub fn owe_for_fragment(&mut self, now: Time, rtt: &Rtt) {
        self.packets.owe_for_fragment(now, rtt);
    }

    /// When an acknowledgement must be sent, if one is owed.
    pub const fn due(&self) -> Option<Time> {
        self.packets.due()
    }

    /// True if an acknowledgement should share the next packet.
    pub const fn is_owing(&self) -> bool {
        self.packets.is_owing()
    }

    /// Notes that requests are in work: their arrival is acknowledged unless the replies leave
    /// soon.
    pub fn work_begins(&mut self, now: Time, rtt: &Rtt) {
        if self.work_due.is_none() {
            self.work_due = Some(ReceivedPackets::patience(now, rtt));
        }
    }

    /// Notes that no request is in work any more.
    pub const fn work_ends(&mut self) {
        self.work_due = None;
    }

    /// When requests in work must be acknowledged.
    pub const fn work_due(&self) -> Option<Time> {
        self.work_due
    }

    /// Handles requests that have been in work for long: their arrival is acknowledged now.
    pub fn work_lasts(&mut self, now: Time) {
        self.work_due = None;
        self.packets.owe(now);
    }

    /// Remembers a packet whose only ack-eliciting frames are these requests.
    pub fn remember_requests(&mut self, number: PacketNumber, mut requests: CarriedRequests) {
        // A sender that repeats all its requests in each packet names more than may wait for
        // replies. That packet is acknowledged.
        if requests.is_empty() || requests.len() > WORKING_MAX {
            return;
        }
        if self.request_packets.len() == REQUEST_PACKETS_KEPT {
            self.request_packets.pop_front();
        }
        if requests.spilled() {
            requests.shrink_to_fit();
            let mut others: usize = self
                .request_packets
                .iter()
                .map(|(_, other)| other.len())
                .sum();
            while others + requests.len() > REQUESTS_REMEMBERED
                && let Some((_, oldest)) = self.request_packets.pop_front()
            {
                others -= oldest.len();
            }
        }
        self.request_packets.push_back((number, requests));
    }

    /// Returns the acknowledgement of the received packets, if there is anything to acknowledge.
    /// `unmissable`: the requests whose replies cannot be lost unnoticed. The other requests are
    /// acknowledged by their replies.
    pub fn acknowledge(&mut self, now: Time, unmissable: &Sorted<RequestId>) -> Option<AckFrame> {
        let may_be_missed = |request: &RequestId| unmissable.binary_search(request).is_err();
        let answered = self
            .request_packets
            .iter()
            .filter(|(_, requests)| requests.iter().all(may_be_missed));
        let answered = sorted(answered.map(|(number, _)| *number));
        let is_answered = |number| answered.binary_search(&number).is_ok();
        self.packets.acknowledge(now, is_answered)
    }

    /// Memory of the packets remembered for their requests, in bytes.
    pub fn memory(&self) -> usize {
        let spilled = self
            .request_packets
            .iter()
            .filter(|(_, requests)| requests.spilled());
        let numbers: usize = spilled.map(|(_, requests)| requests.capacity()).sum();
        self.request_packets.len() * size_of::<(PacketNumber, CarriedRequests)>()
            + numbers * size_of::<RequestId>()
    }
}
