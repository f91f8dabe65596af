//! An encrypted conversation between two keys: packet numbers, acknowledgements, requests and
//! replies. Each request takes effect once.
//!
//! Sans-IO: the caller passes in time and datagrams and takes out datagrams and events. Nothing
//! here has a clock, a socket or hidden randomness. A [`Link`] coordinates components, each in its
//! own file with its own state; none knows the link. Normative text: `spec/link.md`.
//!
//! The driver's loop: pass in packets ([`Link::handle_packet`]) and the time
//! ([`Link::handle_timeout`]). Take out events ([`Link::poll_event`]) and datagrams
//! ([`Link::poll_transmit`]) until there are none. Then wait until [`Link::poll_timeout`].

mod ack_tracker;
mod backoff;
mod config;
mod congestion;
mod dormant;
mod event;
mod incoming;
mod incoming_messages;
mod keepalive;
pub mod limits;
mod loss_handling;
mod mtu;
mod opening;
mod packet_builder;
mod path_memory;
mod path_validation;
mod profile;
mod protection;
mod pushed;
mod queue;
mod ranges;
mod reassembly;
mod received_packets;
mod recovery;
mod replies;
mod retransmit;
mod rtt;
mod sent_packets;
mod sorted_map;
mod stats;
mod time;
mod timer;
#[cfg_attr(
    not(all(feature = "tracing", feature = "std")),
    expect(
        dead_code,
        reason = "a link tells of less than an endpoint, and where nobody listens of nothing"
    )
)]
pub mod trace;

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use ack_tracker::AckTracker;
pub use backoff::Jitter;
pub use config::Config;
pub use dormant::DormantLink;
pub use event::{Event, Ignored};
use incoming_messages::IncomingMessages;
use keepalive::Keepalive;
pub use keepalive::Silence;
pub use limits::{DATAGRAM_DEFAULT, DATAGRAM_MIN};
#[cfg(feature = "std")]
pub(crate) use mtu::BEGINNING;
pub use opening::Opening;
pub use packet_builder::INIT_PAYLOAD_MIN;
pub use path_memory::{Exchange, Losses, PathMemory};
use path_validation::PathValidation;
pub use profile::{LinkParameters, LinkProfile, Redundancy, UnknownProfile, UnknownRedundancy};
use protection::PacketProtection;
use queue::{Item, Queue};
pub use queue::{PendingRequest, Urgency};
use recovery::Recovery;
pub use retransmit::Attempts;
#[cfg(feature = "client")]
pub(crate) use rtt::{REMEMBERED_MIN, RTO_INITIAL};
pub use stats::{Counters, Drops, LinkStats, Repeats, Traffic};
pub use time::Time;
pub(crate) use time::earliest;
use trace::{Metrics, Trace, TraceId, trace};

use crate::{
    crypto::{ResumptionSecret, SessionKeys},
    wire::{
        CloseReason, ConnectionId, EventId, LinkName, PacketNumber, RequestId, Update, Welcome,
    },
};

/// Capacity for this many elements belongs to every link and is not counted as memory.
const FEW: usize = 4;
/// A larger capacity, as a burst leaves it, is freed once the collection is empty.
const BURST: usize = 16;

/// An encrypted conversation between two keys.
#[derive(Clone, Debug)]
pub struct Link {
    /// The keys and packet numbers.
    protection: PacketProtection,
    /// Whether the other side receives at its address.
    validation: PathValidation,
    /// OPEN and WELCOME, or a resumption.
    opening: Opening,
    /// This side's packets in flight, and their path.
    recovery: Recovery,
    /// The other side's packets.
    acks: AckTracker,
    /// This side's messages and control frames.
    queue: Queue,
    /// The other side's messages.
    incoming: IncomingMessages,
    /// Keeps the path of a silent link open, if set.
    keepalive: Option<Keepalive>,
    /// The events that the driver has not taken yet.
    events: VecDeque<Event>,
    /// Event counters, without [`Counters::repeats`]: the queue counts all retransmissions.
    counters: Counters,
    trace_id: TraceId,
}

impl Link {
    fn new(config: &Config, opening: Opening, validation: PathValidation) -> Self {
        Self {
            protection: PacketProtection::new(),
            validation,
            opening,
            recovery: Recovery::new(config),
            acks: AckTracker::default(),
            queue: Queue::default(),
            incoming: IncomingMessages::new(config.max_message),
            keepalive: None,
            events: VecDeque::new(),
            counters: Counters::default(),
            trace_id: TraceId::default(),
        }
    }

    /// Creates a link as the initiator, which knows it by `name` if it needs one.
    pub fn initiate(config: Config, name: Option<LinkName>) -> Self {
        let opening = Opening::initiate(config.max_datagram, name);
        Self::new(&config, opening, PathValidation::proven())
    }

    /// Creates a link as the responder. The initiator has sent `credit` bytes so far.
    pub fn respond(config: Config, credit: usize) -> Self {
        let opening = Opening::respond(config.max_datagram);
        Self::new(&config, opening, PathValidation::unproven(credit))
    }

    /// Opens the link with the keys of a handshake. Every later packet carries `remote`.
    pub fn establish(&mut self, keys: SessionKeys, remote: Option<ConnectionId>) {
        self.protection.establish(keys, remote);
        self.opening.open_answered();
    }

    /// Opens the link without keys. Every later packet carries `remote`.
    pub fn establish_plain(&mut self, remote: Option<ConnectionId>) {
        self.protection.establish_plain(remote);
    }

    /// Returns the link to its initial state, for a new handshake. Unanswered requests are sent
    /// again. The path estimates, the keepalive and the counters remain.
    #[must_use]
    pub fn restart(self, name: Option<LinkName>) -> Self {
        trace(self.trace_id, || Trace::Restarted);
        Self {
            protection: PacketProtection::new(),
            validation: PathValidation::proven(),
            opening: Opening::initiate(self.opening.max_datagram(), name),
            recovery: self.recovery.restart(self.acks.packets()),
            acks: AckTracker::default(),
            queue: self.queue.restart(),
            incoming: IncomingMessages::new(self.incoming.max_message()),
            keepalive: self.keepalive.map(Keepalive::again),
            events: VecDeque::new(),
            counters: self.counters,
            trace_id: self.trace_id,
        }
    }

    /// Ends the link; the other side is told once.
    pub fn close(&mut self, reason: CloseReason) {
        if self.is_open() {
            self.protection.send_close(reason);
        } else {
            self.finish_close(reason);
        }
    }

    /// Ends the link, after the other side was told if possible.
    fn finish_close(&mut self, reason: CloseReason) {
        self.protection.end();
        if reason == CloseReason::Violation {
            // The opener of another link must wait (LINK-22).
            self.events.push_back(Event::Closed(reason));
        }
    }

    /// True if the link has ended, or ends once its CLOSE is sent.
    pub const fn is_closing(&self) -> bool {
        self.protection.close().is_some() || self.is_closed()
    }

    /// True if so many packet numbers are used that a new link should follow soon.
    pub fn needs_rekey(&self) -> bool {
        self.protection.needs_rekey(self.acks.largest())
    }

    /// True if packets can be exchanged.
    pub const fn is_open(&self) -> bool {
        self.protection.is_open()
    }

    /// True if the link has ended.
    pub const fn is_closed(&self) -> bool {
        self.protection.is_closed()
    }

    /// Returns the initiator's resumption secret, once the link has keys.
    pub fn initiators_secret(&self) -> Option<ResumptionSecret> {
        self.protection.initiators_secret()
    }

    /// Returns the initiator's resumption secret, computed as the responder.
    pub fn responders_secret(&self) -> Option<ResumptionSecret> {
        self.protection.responders_secret()
    }

    /// Returns the next event, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > BURST {
            self.events = VecDeque::new();
        }
        event
    }

    /// True if no work and no message is pending.
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle() && !self.incoming.is_working()
    }

    /// Memory held for the other side, in bytes, approximately: messages and packet records.
    pub fn memory(&self) -> usize {
        self.incoming.memory()
            + self.queue.memory()
            + self.recovery.memory()
            + self.acks.memory()
            + self.events.capacity().saturating_sub(FEW) * size_of::<Event>()
    }

    /// Asserts the invariants that hold between calls, whatever the other side has sent. They are
    /// checked in builds with debug assertions: tests, fuzzing and simulation.
    fn check(&self) {
        if cfg!(debug_assertions) {
            self.queue.check(self.is_open());
            self.incoming.check();
            self.recovery.check(self.protection.next_number());
        }
    }

    /// What the two sides have agreed on.
    pub const fn opening(&self) -> &Opening {
        &self.opening
    }

    /// What the two sides have agreed on, for modification.
    pub const fn opening_mut(&mut self) -> &mut Opening {
        &mut self.opening
    }

    /// Answers the other side's OPEN.
    pub const fn welcome(&mut self, welcome: Welcome) {
        self.opening.send_welcome(welcome);
    }

    /// Notes that the other side, whose limit on datagrams is `max_datagram` bytes, resumes the
    /// link; answer with [`Link::accept_resumption`].
    pub fn begin_resumption(&mut self, max_datagram: usize) {
        self.opening.resume(max_datagram);
        self.events.push_back(Event::Opened {
            name: None,
            resumes: false,
        });
    }

    /// Accepts a resumption. The other side already knows `welcome`, but not `news`.
    pub fn accept_resumption(&mut self, welcome: Welcome, news: Option<Update>) {
        self.opening.accept_resumption(welcome);
        if let Some(news) = news {
            self.send_update(news);
        }
    }

    /// Sends the other side an UPDATE until it is acknowledged.
    pub fn send_update(&mut self, news: Update) {
        self.opening.send_update(&mut self.queue, news);
    }

    /// Removes and returns the UPDATE that came with the answer to a resumption.
    pub fn take_update(&mut self) -> Option<Update> {
        let mut updates = self.events.iter().enumerate();
        let (at, update) = updates.find_map(|(at, event)| {
            let Event::Update(update) = event else {
                return None;
            };
            Some((at, *update))
        })?;
        self.events.remove(at);
        Some(update)
    }

    /// True if the other side has proven that it receives at its address.
    pub const fn is_proven(&self) -> bool {
        self.validation.is_proven()
    }

    /// True while the other side is at a new address that is not proven yet.
    pub const fn has_moved(&self) -> bool {
        self.validation.has_moved()
    }

    /// Notes `bytes` bytes from another address, which only the return of `data` proves. Until then
    /// at most three times the bytes received from there are sent (LINK-18).
    pub fn path_moved(&mut self, bytes: usize, data: [u8; 8]) {
        self.validation.moved(&mut self.queue, bytes, data);
    }

    /// Doubts the other side's address: only the return of `data` proves it.
    pub fn doubt_path(&mut self, data: [u8; 8]) {
        self.validation.doubt(&mut self.queue, data);
    }

    /// Notes more bytes from a new address that is not proven yet.
    pub fn path_heard(&mut self, bytes: usize) {
        self.validation.heard(&mut self.queue, bytes);
    }

    /// Adds credit for bytes from an unproven address.
    pub const fn add_credit(&mut self, bytes: usize) {
        self.validation.add_credit(bytes);
    }

    /// Handles a sealed packet: its sender has received the Accept.
    pub const fn show_path(&mut self) {
        if self.protection.is_sealed() {
            self.validation.sealed_packet_arrived();
        }
    }

    /// Marks the other side's address as proven.
    pub fn path_proven(&mut self) {
        self.validation.prove(&mut self.queue);
    }

    /// Makes a plain link's other side prove its address by returning `data`.
    pub fn challenge(&mut self, data: [u8; 8]) {
        self.validation.challenge(&mut self.queue, data);
    }

    /// The largest packet number received.
    pub const fn largest_received(&self) -> Option<PacketNumber> {
        self.acks.largest()
    }

    /// The smoothed round-trip time, once there is an estimate.
    pub const fn rtt(&self) -> Option<Duration> {
        self.recovery.rtt().smoothed()
    }

    /// The retransmission timeout.
    pub fn timeout(&self) -> Duration {
        self.recovery.rtt().timeout()
    }

    /// Consecutive timeouts since the other side was heard.
    pub const fn timeouts(&self) -> u32 {
        self.queue.timeouts()
    }

    /// The wait before retransmission number `repeats` + 1 of a handshake message of `bytes` bytes.
    pub fn repeat_after(&mut self, now: Time, repeats: u32, bytes: usize) -> Duration {
        let urge = self.queue.urge(now);
        self.recovery
            .repeat_after(repeats, bytes, urge, self.acks.packets())
    }

    /// The delay before the redundant copy of a handshake message, if it is sent twice (LINK-19).
    pub fn copy_after(&self) -> Option<Duration> {
        self.is_redundant().then(|| self.recovery.rtt().copy_gap())
    }

    /// True if small packets are sent twice: at such loss a wait costs more (LINK-19).
    fn is_redundant(&self) -> bool {
        self.recovery.is_redundant(self.acks.packets())
    }

    /// Notes an upper bound for the round-trip time, which includes the other side's waits.
    pub fn bound_round_trip(&mut self, bound: Duration) {
        self.recovery.bound_round_trip(bound);
    }

    /// Adds a round-trip time sample of a handshake.
    pub fn sample(&mut self, round_trip: Duration) {
        self.measured(round_trip, Duration::ZERO);
    }

    /// Adds a round-trip time sample, which includes `delay` at the other side.
    fn measured(&mut self, round_trip: Duration, delay: Duration) {
        let smoothed = self.recovery.sample(round_trip, delay);
        trace(self.trace_id, || {
            let stats = self.stats();
            Trace::Metrics(Metrics {
                latest: round_trip,
                smoothed,
                variation: self.recovery.rtt().variation(),
                timeout: stats.timeout,
                loss: stats.loss,
                datagram: stats.datagram,
                is_redundant: stats.is_redundant,
            })
        });
    }

    /// The largest answer that is not fragmented on this link, in bytes.
    pub fn message_max(&self) -> usize {
        packet_builder::message_max(self.opening.datagram_max())
    }

    /// The largest datagram to send, in bytes, as far as the path is known to carry one (LINK-15).
    pub fn path_size(&self) -> usize {
        self.recovery.path_size(self.opening.datagram_max())
    }

    /// Resets the path size, because the known value may be wrong. MTU discovery starts over.
    pub fn forget_path_size(&mut self) {
        self.recovery.forget_path_size();
    }

    /// Returns the memory that the next link to the same side may begin with.
    pub fn path_memory(&self) -> PathMemory {
        self.recovery.path_memory(self.acks.packets())
    }

    /// Starts from the memory of an earlier link. Called before anything is sent.
    pub fn start_from(&mut self, memory: &PathMemory) {
        let max_datagram = self.opening.max_datagram();
        self.recovery.start_from(memory, max_datagram);
    }

    /// Notes a successful handshake.
    pub const fn note_exchange(&mut self, exchange: Exchange) {
        self.recovery.note_exchange(exchange);
    }

    /// Counts that the first message of a handshake was sent again.
    pub const fn count_repeated_opening(&mut self) {
        self.queue.count_repeated_opening();
    }

    /// Keeps the path to this side open: after this much silence a PING is sent. `None` stops that.
    pub fn keep_alive(&mut self, silence: Option<Silence>) {
        self.keepalive = silence.map(Keepalive::new);
    }

    /// True if the other side has been silent for so long that the link is dead.
    pub fn is_dead(&self) -> bool {
        let ping = self.queue.get(Item::Ping);
        // If another PING is due, the last one has timed out.
        let pings = ping.map_or(0, |ping| ping.count() + u32::from(ping.is_queued()));
        let is_measured = self.recovery.rtt().is_measured();
        let keepalive = self.keepalive;
        keepalive.is_some_and(|keepalive| keepalive.is_dead(pings, is_measured))
    }

    /// True if a keepalive keeps the path to this side open.
    pub const fn is_kept_alive(&self) -> bool {
        self.keepalive.is_some()
    }

    /// True while a keepalive PING is unanswered.
    pub fn awaits_keepalive(&self) -> bool {
        self.is_kept_alive() && self.queue.count(Item::Ping) > 0
    }

    /// Sends a PING, repeated until it is acknowledged. It shows the other side that this side
    /// receives at its address, and shows this side that the other is alive.
    pub fn ping(&mut self) {
        self.queue.control(Item::Ping);
    }

    /// Sets the number under which this link is traced ([`trace::TARGET`]).
    pub const fn trace_as(&mut self, number: u32) {
        self.trace_id = TraceId::new(number);
    }

    /// Returns the counters and the path estimates.
    pub fn stats(&self) -> LinkStats {
        let rtt = self.recovery.rtt();
        LinkStats {
            counters: self.counters(),
            rtt: rtt.smoothed().zip(Some(rtt.variation())),
            timeout: rtt.timeout(),
            loss: self.recovery.loss(self.acks.packets()),
            datagram: self.path_size(),
            is_redundant: self.is_redundant(),
        }
    }

    /// Returns the counters.
    pub const fn counters(&self) -> Counters {
        Counters {
            repeats: self.queue.repeats(),
            ..self.counters
        }
    }

    /// Sends a request. The reply arrives as [`Event::Reply`] with the returned number, unless its
    /// deadline passes before. `None`: too many wait for replies; try again after the next event.
    pub fn request(&mut self, request: PendingRequest) -> Option<RequestId> {
        self.queue.push_request(request)
    }

    /// True if requests of this side wait for replies.
    pub fn is_waiting(&self) -> bool {
        self.queue.has_requests()
    }

    /// Removes and returns the unanswered requests with their numbers, to move to another link.
    pub fn take_requests(&mut self) -> Vec<(RequestId, PendingRequest)> {
        self.queue.take_requests()
    }

    /// Sets the deadline of a request to `deadline` at the latest.
    pub fn ask_until(&mut self, number: RequestId, deadline: Time) {
        self.queue.ask_until(number, deadline);
    }

    /// True if a request may not be sent as early data (HS-7).
    pub fn asks_in_secret(&self) -> bool {
        self.queue.asks_in_secret()
    }

    /// True if a request sent as early data has no reply yet.
    pub fn awaits_early(&self) -> bool {
        self.queue.awaits_early()
    }

    /// Notes that the handshake is complete, so that its first message has arrived.
    pub fn early_arrived(&mut self, now: Time) {
        let is_lossy = self.is_redundant();
        let (rtt, jitter) = self.recovery.timing();
        self.queue.early_arrived(now, rtt, is_lossy, jitter);
    }

    /// Replies to the other side's request `number`.
    pub fn reply(&mut self, number: RequestId, bytes: Vec<u8>) {
        let is_trusted = self.opening.is_trusted();
        self.incoming
            .reply(&mut self.queue, number, bytes, is_trusted);
        if !self.incoming.is_working() {
            self.acks.work_ends();
        }
    }

    /// The number of the other side's requests in work.
    pub fn working(&self) -> usize {
        self.incoming.working()
    }

    /// Bytes held in unfinished reassemblies.
    pub fn assembling(&self) -> usize {
        self.incoming.held()
    }

    /// Sets how many bytes unfinished reassemblies may hold.
    pub const fn set_reassembly_limit(&mut self, limit: usize) {
        self.incoming.set_reassembly_limit(limit);
    }

    /// Pushes an entry. Its arrival is reported as [`Event::Delivered`] with the returned number.
    /// Returns `None` if too many are in flight: try again after the next has arrived.
    pub fn push(&mut self, event: Vec<u8>, urgency: Urgency) -> Option<EventId> {
        self.queue.push_event(event, urgency)
    }

    /// Refuses pushed events. A refused event counts as lost and is sent again.
    pub const fn hold_pushes(&mut self) {
        self.incoming.hold(true);
    }

    /// Accepts pushed events again.
    pub const fn accept_pushes(&mut self) {
        self.incoming.hold(false);
    }
}

#[cfg(test)]
mod tests;
