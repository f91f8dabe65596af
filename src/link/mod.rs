//! An encrypted conversation between two keys: packet numbers, acknowledgements, requests and
//! replies. Each request takes effect once.
//!
//! Sans-IO: the caller passes in time and datagrams and takes out datagrams and events. Nothing
//! here has a clock, a socket or hidden randomness. A [`Link`] coordinates small state machines,
//! each in its own file. Normative text: `spec/link.md`.
//!
//! The driver's loop: pass in packets ([`Link::handle_packet`]) and the time
//! ([`Link::handle_timeout`]). Take out events ([`Link::poll_event`]) and datagrams
//! ([`Link::poll_transmit`]) until there are none. Then wait until [`Link::poll_timeout`].

mod backoff;
mod checks;
mod congestion;
mod dormant;
mod event;
mod events;
mod fragments;
mod incoming;
mod item;
mod keepalive;
pub mod limits;
mod mtu;
mod packet_builder;
mod path_memory;
mod profile;
mod queue;
mod ranges;
mod reassembly;
mod received_packets;
mod recovery;
mod replies;
mod requests;
mod resume;
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
mod validation;

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

pub use backoff::Jitter;
use congestion::Pace;
pub use dormant::DormantLink;
pub use event::{Event, Ignored};
pub use events::Urgency;
use events::{Next, Pushed};
use item::Item;
pub use keepalive::Silence;
use keepalive::{Keepalive, UNANSWERED_MAX};
use limits::{REPLIES_KEPT, STRANGER_REPLIES_KEPT};
#[cfg(feature = "std")]
pub(crate) use mtu::BEGINNING;
use mtu::PathSize;
use packet_builder::Controls;
pub use packet_builder::INIT_PAYLOAD_MIN;
pub use path_memory::{Losses, PathMemory};
pub use profile::{LinkParameters, LinkProfile, Redundancy, UnknownProfile, UnknownRedundancy};
use queue::Queue;
use reassembly::{Reassembled, Reassembler};
pub use received_packets::ReceivedPackets;
use replies::{Arrival, Replies};
pub use requests::Asked;
use requests::Requests;
pub use retransmit::Attempts;
pub use rtt::Rtt;
#[cfg(feature = "client")]
pub(crate) use rtt::{REMEMBERED_MIN, RTO_INITIAL};
use sent_packets::{Carried, SentPacket, SentPackets};
use smallvec::SmallVec;
pub use stats::{Counters, Drops, LinkStats, Repeats, Traffic};
pub use time::Time;
pub(crate) use time::earliest;
use trace::{Metrics, Trace, TraceId, trace};

use crate::{
    crypto::SessionKeys,
    faults::{Fault, is_planted},
    wire::{
        CloseReason, ConnectionId, EventId, LinkName, MessageId, Open, PacketNumber, RequestId,
        Welcome,
    },
};

/// The smallest limit on datagrams that a party may set, in bytes (LINK-10).
pub const DATAGRAM_MIN: usize = 160;
/// The limit on datagrams unless a party sets another, in bytes.
pub const DATAGRAM_DEFAULT: usize = 1200;
/// Capacity for this many elements belongs to every link and is not counted as memory.
const FEW: usize = 4;
/// A larger capacity is freed once the collection is empty, so that a burst leaves no memory
/// behind.
const BURST: usize = 16;
/// A link ends after this many packet numbers (LINK-1).
const NUMBERS_MAX: u64 = 1 << 32;
/// When no more than this many packet numbers are left, a new link should replace this one.
const NUMBERS_SPARE: u64 = 1 << 24;

/// The keys of an open link.
#[derive(Clone, Debug)]
enum Keys {
    Sealed(SessionKeys),
    Plain,
}

/// The state of a link.
#[derive(Clone, Debug)]
enum State {
    /// No keys yet.
    Opening,
    Open(Keys),
    Closed,
}

/// The configuration of a link.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The largest datagram that this side receives and sends, in bytes; at least [`DATAGRAM_MIN`].
    pub max_datagram: usize,
    /// The longest message that is reassembled from fragments, in bytes.
    pub max_message: usize,
    /// The hard limit on the sending rate, in bytes per second.
    pub rate: Option<u64>,
    /// Whether small packets are sent twice.
    pub redundancy: Redundancy,
    /// The initial round-trip time estimate.
    pub rtt: Option<Duration>,
    /// The seed for timer jitter; not secret.
    pub seed: u64,
}

/// The requests that a packet carried: usually one or two.
type Asking = SmallVec<[RequestId; 2]>;

/// An encrypted conversation between two keys.
#[derive(Clone, Debug)]
pub struct Link {
    state: State,
    config: Config,
    /// The other side's limit on datagrams.
    peer_max_datagram: usize,
    /// The connection id that packets to the other side carry.
    remote: Option<ConnectionId>,
    next_number: u64,
    received: ReceivedPackets,
    sent: SentPackets,
    rtt: Rtt,
    losses: Losses,
    queue: Queue,
    requests: Requests,
    replies: Replies,
    /// Recent packets whose only ack-eliciting frames were requests, with those requests.
    asking: VecDeque<(PacketNumber, Asking)>,
    controls: Controls,
    /// The ids of this side's events.
    event_ids: Next,
    pushed: Pushed,
    /// True while this side does not accept pushed events.
    is_holding: bool,
    /// Keeps the path of a silent link open, if set.
    keepalive: Option<Keepalive>,
    assemblies: Reassembler,
    /// Recently reassembled messages; further fragments of them are ignored.
    assembled: VecDeque<MessageId>,
    /// True if messages of the other side are reassembled.
    trusted: bool,
    pace: Pace,
    path: PathSize,
    /// When fragments and backlog in flight count as lost if nothing is heard.
    paced_due: Option<Time>,
    /// Until when the rate limit delays sending.
    held_back: Option<Time>,
    /// When requests in work must be acknowledged.
    work_due: Option<Time>,
    /// How many more bytes may be sent to an unproven address (LINK-11, LINK-18).
    credit: Option<usize>,
    /// The other side appeared at another address, which has not answered a challenge yet.
    has_moved: bool,
    opening: Opening,
    events: VecDeque<Event>,
    jitter: Jitter,
    /// Event counters; the queue counts retransmissions.
    counters: Counters,
    trace_id: TraceId,
}

/// The progress of the OPEN and WELCOME exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Neither OPEN nor WELCOME has arrived.
    Unheard,
    /// An OPEN has arrived and waits for its WELCOME.
    Asked,
    /// This side has sent the WELCOME, and repeats it if the OPEN arrives again.
    Given(Welcome),
    /// The WELCOME has arrived.
    Welcomed,
}

impl Link {
    fn new(config: Config) -> Self {
        Self {
            state: State::Opening,
            config,
            peer_max_datagram: config.max_datagram,
            remote: None,
            next_number: 0,
            received: ReceivedPackets::default(),
            sent: SentPackets::default(),
            rtt: config
                .rtt
                .map_or_else(Rtt::default, Rtt::remembered)
                .with_rate(config.rate),
            losses: Losses::default(),
            queue: Queue::default(),
            requests: Requests::default(),
            replies: Replies::default(),
            asking: VecDeque::new(),
            controls: Controls::default(),
            event_ids: Next::default(),
            pushed: Pushed::default(),
            is_holding: false,
            keepalive: None,
            assemblies: Reassembler::new(2 * config.max_message),
            assembled: VecDeque::new(),
            trusted: false,
            pace: Pace::new(config.rate),
            path: PathSize::default(),
            paced_due: None,
            held_back: None,
            work_due: None,
            credit: None,
            has_moved: false,
            opening: Opening::Unheard,
            events: VecDeque::new(),
            jitter: Jitter::new(config.seed),
            counters: Counters::default(),
            trace_id: TraceId::default(),
        }
    }

    /// Creates a link as the initiator, which knows it by `name` if it needs one.
    pub fn initiate(config: Config, name: Option<LinkName>) -> Self {
        let mut link = Self::new(config);
        // The initiator has chosen the other side.
        link.trusted = true;
        link.controls.open = Some(Open {
            max_datagram: config.max_datagram as u64,
            name,
            resumes: false,
        });
        link
    }

    /// Creates a link as the responder. The initiator has sent `credit` bytes so far.
    pub fn respond(config: Config, credit: usize) -> Self {
        Self {
            credit: Some(credit),
            ..Self::new(config)
        }
    }

    /// Opens the link with the keys of a handshake. Every later packet carries `remote`.
    pub fn establish(&mut self, keys: SessionKeys, remote: Option<ConnectionId>) {
        self.state = State::Open(Keys::Sealed(keys));
        self.remote = remote.or(self.remote);
        self.controls.open = None;
    }

    /// Opens the link without keys. Every later packet carries `remote`.
    pub fn establish_plain(&mut self, remote: Option<ConnectionId>) {
        self.state = State::Open(Keys::Plain);
        self.remote = remote;
    }

    /// Returns the link to its initial state, for a new handshake. Unanswered requests are kept and
    /// sent again. Only the round-trip time, the loss rate, path size, keepalive, jitter and
    /// counters remain.
    #[must_use]
    pub fn restart(self, name: Option<LinkName>) -> Self {
        let mut fresh = Self::initiate(self.config, name);
        fresh.losses = self.path_memory().losses;
        fresh.requests = self.requests;
        fresh.queue = self.queue.restart();
        fresh.rtt = self.rtt;
        fresh.path = self.path;
        fresh.keepalive = self.keepalive.map(Keepalive::again);
        fresh.jitter = self.jitter;
        fresh.counters = self.counters;
        fresh.trace_id = self.trace_id;
        trace(fresh.trace_id, || Trace::Restarted);
        fresh
    }

    /// Resets the path size, because the known value may be wrong. MTU discovery starts over.
    pub fn forget_path_size(&mut self) {
        self.path = PathSize::default();
    }

    /// True if the link has ended, or ends once its CLOSE is sent.
    pub const fn is_closing(&self) -> bool {
        self.controls.close.is_some() || self.is_closed()
    }

    /// True if so many packet numbers are used that a new link should follow soon.
    pub fn is_worn(&self) -> bool {
        let theirs = self.received.largest().map_or(0, |largest| largest.0);
        self.next_number.max(theirs) >= NUMBERS_MAX - NUMBERS_SPARE
    }

    /// True if packets can be exchanged.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// True if the link has ended.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// True if the other side has proven that it receives at its address.
    pub const fn is_proven(&self) -> bool {
        self.credit.is_none()
    }

    /// True if no work and no message is pending.
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle() && !self.replies.is_working()
    }

    /// The number of the other side's requests in work.
    pub fn working(&self) -> usize {
        self.replies.working()
    }

    /// True if requests of this side wait for replies.
    pub fn is_waiting(&self) -> bool {
        self.queue.has_requests()
    }

    /// The smoothed round-trip time, once there is an estimate.
    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// Consecutive timeouts since the other side was heard.
    pub const fn timeouts(&self) -> u32 {
        self.queue.timeouts()
    }

    /// The retransmission timeout.
    pub fn timeout(&self) -> Duration {
        self.rtt.timeout()
    }

    /// The wait before retransmission number `repeats` + 1 of a handshake message of `bytes` bytes.
    pub fn repeat_after(&mut self, now: Time, repeats: u32, bytes: usize) -> Duration {
        let urge = self.queue.urge(now);
        let is_lossy = self.is_redundant();
        let wait = self
            .rtt
            .repeat_after(repeats, is_lossy, urge, &mut self.jitter);
        wait + self.rtt.allowance(bytes)
    }

    /// The delay before the redundant copy of a handshake message, if it is sent twice (LINK-19).
    pub fn copy_after(&self) -> Option<Duration> {
        self.is_redundant().then(|| self.rtt.copy_gap())
    }

    /// Notes an upper bound for the round-trip time. It includes the time that the other side
    /// waited.
    pub fn bound_round_trip(&mut self, bound: Duration) {
        self.rtt.bound(bound);
    }

    /// Adds a round-trip time sample of a handshake.
    pub fn sample(&mut self, round_trip: Duration) {
        self.measured(round_trip, Duration::ZERO);
    }

    /// Adds a round-trip time sample, which includes `delay` at the other side.
    fn measured(&mut self, round_trip: Duration, delay: Duration) {
        self.rtt.sample(round_trip, delay);
        trace(self.trace_id, || {
            Trace::Metrics(Metrics {
                latest: round_trip,
                smoothed: self.rtt.smoothed().unwrap_or_default(),
                variation: self.rtt.variation(),
                timeout: self.rtt.timeout(),
                loss: self.loss(),
                datagram: self.path.size(self.datagram_max()),
                is_redundant: self.is_redundant(),
            })
        });
    }

    /// Sets the number under which this link is traced ([`trace::TARGET`]).
    pub const fn trace_as(&mut self, number: u32) {
        self.trace_id = TraceId::new(number);
    }

    /// True if the other side's OPEN waits for its WELCOME.
    pub fn is_asked(&self) -> bool {
        self.opening == Opening::Asked
    }

    /// True if the other side's WELCOME has arrived.
    pub fn is_welcomed(&self) -> bool {
        self.opening == Opening::Welcomed
    }

    /// The largest answer that is not fragmented on this link, in bytes.
    pub fn message_max(&self) -> usize {
        packet_builder::message_max(self.datagram_max())
    }

    /// The largest datagram of this link: the smaller of both sides' limits.
    fn datagram_max(&self) -> usize {
        self.config
            .max_datagram
            .min(self.peer_max_datagram)
            .max(DATAGRAM_MIN)
    }

    /// Sends a request. The reply arrives as [`Event::Reply`] with the returned number, unless
    /// `deadline` passes before. `early` allows the request in the first handshake message. Returns
    /// `None` if too many requests wait for replies: try again after the next event.
    pub fn request(&mut self, bytes: Vec<u8>, deadline: Time, early: bool) -> Option<RequestId> {
        let asked = Asked {
            bytes,
            deadline,
            early,
        };
        let has_room = self.requests.has_room(&self.queue);
        has_room.then(|| self.requests.push(&mut self.queue, asked))
    }

    /// Removes and returns the unanswered requests with their numbers, to send them on another
    /// link.
    pub fn take_requests(&mut self) -> Vec<(RequestId, Asked)> {
        self.queue.take_requests()
    }

    /// Sets the deadline of a request to `deadline` at the latest.
    pub fn ask_until(&mut self, number: RequestId, deadline: Time) {
        self.queue.ask_until(number, deadline);
    }

    /// True if long messages of the other side are reassembled here, and ours there.
    pub const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Allows the other side long messages, which are reassembled here (LINK-13).
    pub const fn trust(&mut self) {
        self.trusted = true;
    }

    /// Bytes held in unfinished reassemblies.
    pub fn assembling(&self) -> usize {
        self.assemblies.held()
    }

    /// Sets how many bytes unfinished reassemblies may hold.
    pub const fn set_assembly_room(&mut self, room: usize) {
        self.assemblies.set_room(room);
    }

    /// Memory held for the other side, in bytes, approximately: replies and entries in flight, kept
    /// replies, reassemblies, events received out of order, and packet records.
    pub fn memory(&self) -> usize {
        self.replies.memory()
            + self.queue.memory()
            + self.assemblies.memory()
            + self.sent.memory()
            + self.pushed.memory()
            + self.asking_memory()
            + self.events.capacity().saturating_sub(FEW) * size_of::<Event>()
    }

    /// Replies to the other side's request `number`.
    pub fn reply(&mut self, number: RequestId, bytes: Vec<u8>) {
        let kept = if self.trusted {
            REPLIES_KEPT
        } else {
            STRANGER_REPLIES_KEPT
        };
        self.replies.reply(&mut self.queue, number, bytes, kept);
        if !self.replies.is_working() {
            self.work_due = None;
        }
    }

    /// Pushes an entry. Its arrival is reported as [`Event::Delivered`] with the returned number.
    /// Returns `None` if too many are in flight: try again after the next has arrived.
    pub fn push(&mut self, event: Vec<u8>, urgency: Urgency) -> Option<EventId> {
        self.event_ids.push(&mut self.queue, event, urgency)
    }

    /// Sets whether pushed events are refused. A refused event counts as lost and is sent again.
    pub const fn hold_pushes(&mut self, held: bool) {
        self.is_holding = held;
    }

    /// Keeps the path to this side open: after this much silence a PING is sent. `None` stops that.
    pub fn keep_alive(&mut self, silence: Option<Silence>) {
        self.keepalive = silence.map(Keepalive::new);
    }

    /// True if the other side has been silent for so long that the link is dead.
    pub fn is_dead(&self) -> bool {
        let ping = self.queue.get(Item::Ping);
        let is_unanswered = ping.is_some_and(|ping| {
            // Another PING is due, so the last one has timed out.
            ping.attempts.count() + u32::from(ping.attempts.is_queued()) > UNANSWERED_MAX
        });
        // Before the first round-trip sample, the answers may be in flight.
        let is_late = is_unanswered && self.rtt.is_measured();
        self.keepalive
            .is_some_and(|keepalive| is_late || (keepalive.is_dead() && !self.rtt.is_measured()))
    }

    /// True if a keepalive keeps the path to this side open.
    pub const fn is_kept_alive(&self) -> bool {
        self.keepalive.is_some()
    }

    /// True while a keepalive PING is unanswered.
    pub fn awaits_sign(&self) -> bool {
        let ping = self.queue.get(Item::Ping);
        self.keepalive.is_some() && ping.is_some_and(|ping| ping.attempts.count() > 0)
    }

    /// Answers the other side's OPEN.
    pub fn welcome(&mut self, welcome: Welcome) {
        self.opening = Opening::Given(welcome);
        self.trusted |= welcome.known;
        self.controls.welcome = Some(welcome);
    }

    /// Sends a PING, repeated until it is acknowledged. It shows the other side that this side
    /// receives at its address, and shows this side that the other is alive.
    pub fn ping(&mut self) {
        self.queue.control(Item::Ping);
    }

    /// Makes a plain link's other side prove its address by returning `data`.
    pub fn challenge(&mut self, data: [u8; 8]) {
        self.controls.challenge = Some(data);
        self.queue.control(Item::Challenge);
    }

    /// Ends the link; the other side is told once.
    pub fn close(&mut self, reason: CloseReason) {
        if self.is_open() {
            self.controls.close = Some(reason);
        } else {
            self.has_closed(reason);
        }
    }

    /// Returns the next event, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > BURST {
            self.events = VecDeque::new();
        }
        event
    }

    /// Returns the next packet number, or `None` if all are used.
    fn take_number(&mut self) -> Option<PacketNumber> {
        if self.next_number >= NUMBERS_MAX {
            self.state = State::Closed;
            self.events.push_back(Event::Closed(CloseReason::Replaced));
            return None;
        }
        let is_reused = is_planted(Fault::ReusePacketNumber) && self.next_number % 8 == 7;
        let number = PacketNumber(self.next_number - u64::from(is_reused));
        self.next_number += 1;
        Some(number)
    }
}

#[cfg(test)]
mod tests;
