//! Recovery: the packets in flight, what is measured of the path, and what follows from both. When
//! something is sent again or twice (LINK-7, LINK-19), how fast (LINK-14, LINK-20), and in how
//! large datagrams (LINK-15).

use alloc::vec::Vec;
use core::time::Duration;

use super::{
    Config, DATAGRAM_MIN, Redundancy,
    backoff::{Jitter, Urge},
    congestion::Pace,
    mtu::PathSize,
    path_memory::{Exchange, Losses, PathMemory, REDUNDANT_LOSS},
    queue::{Entry, Item, Queue},
    received_packets::ReceivedPackets,
    rtt::{DELAY_MAX, Rtt},
    sent_packets::{Acknowledged, Answered, Carried, SentPacket, SentPackets},
    time::Time,
};
use crate::{
    faults::{Fault, is_planted},
    wire::{AckFrame, PacketNumber, RequestId},
};

/// After this many consecutive timeouts the path estimates may be outdated.
const FORGET_AFTER: u32 = 3;
/// This many packets must have arrived before their loss rate shows the loss of an exchange.
const PACKETS_MIN: u64 = 32;

/// The packets in flight, and the estimates of their path.
#[derive(Clone, Debug)]
pub struct Recovery {
    sent: SentPackets,
    rtt: Rtt,
    losses: Losses,
    redundancy: Redundancy,
    pace: Pace,
    mtu: PathSize,
    /// When fragments and backlog in flight count as lost if nothing is heard.
    paced_due: Option<Time>,
    /// Until when the rate limit delays sending.
    held_back: Option<Time>,
    jitter: Jitter,
}

impl Recovery {
    /// Creates the state of an unknown path.
    pub fn new(config: &Config) -> Self {
        let rtt = config.rtt.map_or_else(Rtt::default, Rtt::remembered);
        Self {
            sent: SentPackets::default(),
            rtt: rtt.with_rate(config.rate),
            losses: Losses::default(),
            redundancy: config.redundancy,
            pace: Pace::new(config.rate),
            mtu: PathSize::default(),
            paced_due: None,
            held_back: None,
            jitter: Jitter::new(config.seed),
        }
    }

    /// Restores the state of a dormant link.
    pub fn from_dormant(
        config: &Config,
        acknowledged: Option<PacketNumber>,
        rtt: Rtt,
        datagram: usize,
        jitter: Jitter,
    ) -> Self {
        Self {
            sent: SentPackets::from_dormant(acknowledged),
            rtt,
            mtu: PathSize::proven(datagram),
            jitter,
            ..Self::new(config)
        }
    }

    /// Returns the state for a new handshake on the same path: its estimates remain.
    #[must_use]
    pub fn restart(self, received: &ReceivedPackets) -> Self {
        Self {
            sent: SentPackets::default(),
            losses: self.recent_losses(received),
            pace: Pace::new(self.rtt.rate()),
            paced_due: None,
            held_back: None,
            ..self
        }
    }

    /// True if nothing is in flight and no timer runs.
    pub fn may_hibernate(&self) -> bool {
        self.paced_due.is_none() && self.held_back.is_none() && self.sent.may_hibernate()
    }

    /// The round-trip time.
    pub const fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// Whether small packets are sent twice.
    pub const fn redundancy(&self) -> Redundancy {
        self.redundancy
    }

    /// The generator of jitter.
    pub const fn jitter(&self) -> &Jitter {
        &self.jitter
    }

    /// The round-trip time, and the jitter for timers that are set by it.
    pub const fn timing(&mut self) -> (&Rtt, &mut Jitter) {
        (&self.rtt, &mut self.jitter)
    }

    /// Sets whether small packets are sent twice.
    #[cfg(test)]
    pub const fn set_redundancy(&mut self, redundancy: Redundancy) {
        self.redundancy = redundancy;
    }

    /// Notes an upper bound for the round-trip time. It includes the time that the other side
    /// waited.
    pub fn bound_round_trip(&mut self, bound: Duration) {
        self.rtt.bound(bound);
    }

    /// Adds a round-trip time sample, which includes `delay` at the other side. Returns the
    /// smoothed round-trip time.
    pub fn sample(&mut self, round_trip: Duration, delay: Duration) -> Duration {
        self.rtt.sample(round_trip, delay)
    }

    /// Notes a successful handshake.
    pub const fn note_exchange(&mut self, exchange: Exchange) {
        self.losses.note(exchange.lost);
        self.rtt.note_exchange(exchange.was_repeated);
    }

    /// The wait before retransmission number `repeats` + 1 of a handshake message of `bytes` bytes.
    pub fn repeat_after(
        &mut self,
        repeats: u32,
        bytes: usize,
        urge: Urge,
        received: &ReceivedPackets,
    ) -> Duration {
        let is_lossy = self.is_redundant(received);
        let wait = self
            .rtt
            .repeat_after(repeats, is_lossy, urge, &mut self.jitter);
        wait + self.rtt.allowance(bytes)
    }

    /// True if small packets are sent twice: at such loss a wait costs more (LINK-19).
    pub fn is_redundant(&self, received: &ReceivedPackets) -> bool {
        match self.redundancy {
            Redundancy::On => true,
            Redundancy::Off => false,
            Redundancy::Auto => {
                self.rtt.rate().is_none()
                    && self.loss(received) > REDUNDANT_LOSS
                    && !self.rtt.is_filling()
            }
        }
    }

    /// The loss on the way to this side, in 1/1024, as far as it is known.
    pub fn loss(&self, received: &ReceivedPackets) -> u32 {
        let seen = received.loss();
        if has_seen_many(received) {
            seen
        } else {
            seen.max(self.losses.each_way())
        }
    }

    fn recent_losses(&self, received: &ReceivedPackets) -> Losses {
        if has_seen_many(received) {
            Losses::of_each_way(received.lasting_loss())
        } else {
            self.losses
        }
    }

    /// Returns the memory that the next link to the same side may begin with.
    pub fn path_memory(&self, received: &ReceivedPackets) -> PathMemory {
        PathMemory {
            rtt: self.rtt.to_remember(),
            losses: self.recent_losses(received),
            datagram: self.mtu.size(usize::MAX),
            unsure: self.rtt.unsure(),
        }
    }

    /// Starts from the memory of an earlier link, in datagrams of at most `max_datagram` bytes.
    pub fn start_from(&mut self, memory: &PathMemory, max_datagram: usize) {
        if is_planted(Fault::ForgetPath) {
            return;
        }
        if let Some((rtt, variation)) = memory.rtt {
            self.rtt = Rtt::known(rtt, variation, memory.unsure).with_rate(self.rtt.rate());
        }
        let largest = max_datagram.max(DATAGRAM_MIN);
        self.mtu = PathSize::proven(memory.datagram.clamp(DATAGRAM_MIN, largest));
        self.losses = memory.losses;
    }

    /// Resets the path size, because the known value may be wrong. MTU discovery starts over.
    pub fn forget_path_size(&mut self) {
        self.mtu = PathSize::default();
    }

    /// The largest datagram to send, of at most `max` bytes, as far as the path is known to carry
    /// one (LINK-15).
    pub fn path_size(&self, max: usize) -> usize {
        self.mtu.size(max)
    }

    /// Returns the size of a datagram that probes the path, of at most `max` bytes, if one is to be
    /// sent now. `waiting`: the bytes that follow.
    pub fn next_probe(&mut self, now: Time, max: usize, waiting: u64) -> Option<usize> {
        let max = max.min(self.pace.probe_max(self.mtu.size(max)));
        self.mtu.next_probe(now, max, waiting)
    }

    /// True if a packet with a fragment or backlog may be sent now, in a datagram of at most `max`
    /// bytes.
    pub fn allows_paced(&self, now: Time, max: usize) -> bool {
        let in_flight = self.sent.in_flight();
        self.pace.allows(now, in_flight, self.mtu.size(max))
    }

    /// When such a packet may be sent, if only the time is missing.
    pub fn pace_timeout(&self, max: usize) -> Option<Time> {
        self.pace.timeout(self.sent.in_flight(), self.mtu.size(max))
    }

    /// Notes that nothing waits for the rate limit.
    pub const fn release(&mut self) {
        self.held_back = None;
    }

    /// Holds all packets back if the rate limit demands it. True if it does.
    pub fn hold_back(&mut self, now: Time) -> bool {
        self.held_back = self.pace.holds_back(now);
        self.held_back.is_some()
    }

    /// Until when the rate limit delays sending, if something waits.
    pub const fn held_back(&self) -> Option<Time> {
        self.held_back
    }

    /// The largest packet number that the other side has acknowledged.
    pub const fn acknowledged(&self) -> Option<PacketNumber> {
        self.sent.acknowledged()
    }

    /// Records a packet of `len` bytes with these contents. `max`: the largest datagram of the
    /// link.
    pub fn packet_sent(
        &mut self,
        now: Time,
        number: PacketNumber,
        len: usize,
        items: Vec<Carried>,
        queue: &Queue,
        max: usize,
    ) {
        let stamp = if items.iter().any(Carried::is_paced) {
            if len > self.mtu.size(max) {
                self.mtu.probed();
            }
            let limited = !queue.has_paced();
            Some(self.pace.sent(now, len, self.sent.in_flight(), limited))
        } else {
            self.pace.spend(now, len);
            None
        };
        if !items.is_empty() {
            self.sent.record(SentPacket {
                number,
                at: now,
                len,
                items,
                stamp,
            });
        }
        if stamp.is_some() {
            self.paced_due = Some(now + self.paced_wait(queue.timeouts()));
        }
    }

    /// The wait for an acknowledgement of fragments and backlog.
    fn paced_wait(&mut self, timeouts: u32) -> Duration {
        let is_known = self.pace.knows_rate();
        let unpaced = (!is_known).then(|| self.sent.in_flight());
        self.rtt
            .paced_repeat_after(timeouts, unpaced, &mut self.jitter)
    }

    /// Handles an acknowledgement of packets that have been sent. The caller passes on each packet
    /// that has arrived or is lost, and then calls [`Recovery::acknowledgement_handled`].
    pub fn acknowledge(&mut self, now: Time, ack: &AckFrame) -> Acknowledged {
        let mut acknowledged = self.sent.acknowledge(now, ack, &self.rtt);
        // A long-delayed acknowledgement, whose first copy was lost, does not measure the path.
        if Duration::from_millis(ack.delay_ms) > DELAY_MAX {
            acknowledged.round_trip = None;
        }
        acknowledged
    }

    /// Restarts the timer of fragments and backlog after an acknowledgement.
    pub fn acknowledgement_handled(&mut self, timeouts: u32) {
        let wait = self.paced_wait(timeouts);
        self.paced_due = self.sent.last_bulk().map(|at| at + wait);
    }

    /// Handles the reply to `request`: one of the packets that carried it has arrived.
    pub fn answered(&mut self, now: Time, request: RequestId) -> Answered {
        self.sent.answered(now, request, &self.rtt)
    }

    /// Notes that a packet has arrived.
    pub fn packet_arrived(&mut self, now: Time, packet: &SentPacket) {
        self.mtu.arrived(packet.len);
        if let Some(stamp) = packet.stamp {
            self.pace.arrived(now, stamp, packet.at, packet.len);
        }
    }

    /// Notes that a packet is lost.
    pub fn packet_lost(&mut self, now: Time, packet: &SentPacket) {
        self.mtu.lost(now, packet.len);
        if packet.stamp.is_some() {
            self.pace.lost(packet.len);
        }
    }

    /// Forgets an item whose arrival no longer matters.
    pub fn forget(&mut self, item: Item) {
        self.sent.forget(item);
    }

    /// When an overtaken packet counts as lost by its age.
    pub fn loss_due(&self) -> Option<Time> {
        self.sent.timeout(&self.rtt)
    }

    /// Returns the packets that are lost by their age.
    pub fn expire(&mut self, now: Time) -> Vec<SentPacket> {
        self.sent.expire(now, &self.rtt)
    }

    /// When fragments and backlog in flight count as lost if nothing is heard.
    pub const fn paced_due(&self) -> Option<Time> {
        self.paced_due
    }

    /// Handles a timeout of fragments and backlog in flight: nothing was heard of them for a whole
    /// timeout. Returns their packets, which are lost. A single probe would be lost too often on a
    /// path with high loss.
    pub fn paced_timed_out(&mut self, now: Time, queue: &mut Queue, max: usize) -> Vec<SentPacket> {
        self.paced_due = None;
        let Some(smallest) = self.sent.smallest_bulk() else {
            return Vec::new();
        };
        queue.time_out();
        // Of a probe that is lost by itself, only its loss counts.
        if smallest <= self.mtu.size(max) {
            self.mtu.timed_out(now, smallest);
        }
        if queue.timeouts() >= FORGET_AFTER {
            self.pace.forget();
        }
        self.sent.lose_bulk()
    }

    /// Notes that the unfragmented items of the queue that are due have timed out.
    pub fn items_timed_out(&mut self, now: Time, queue: &Queue) {
        // The length of its packet, or else its own length.
        let len = |one: &Entry| self.sent.len_with(one.item()).unwrap_or(one.len());
        if let Some(smallest) = queue.due(now).map(len).min() {
            self.mtu.whole_timed_out(now, smallest);
        }
    }

    /// Memory of the packet records, in bytes, approximately.
    pub fn memory(&self) -> usize {
        self.sent.memory()
    }

    /// Asserts the order of the packets in flight, below the number of the next packet.
    pub fn check(&self, next_number: u64) {
        self.sent.check(next_number);
    }
}

fn has_seen_many(received: &ReceivedPackets) -> bool {
    let largest = received.largest();
    largest.is_some_and(|largest| largest.0 >= PACKETS_MIN)
}
