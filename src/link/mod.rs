//! One conversation between two keys: packet numbers, acknowledgements, requests and replies, each
//! of which takes effect once.
//!
//! Sans-IO: time and datagrams are handed in, datagrams and events are taken out; nothing here has a
//! clock, a socket or hidden randomness. A [`Link`] is a short conductor of small machines, each in
//! a file of its own. Normative text: `spec/link.md`.
//!
//! The loop of whoever drives one: hand in what arrived ([`Link::handle_packet`]) and what time it is
//! ([`Link::handle_timeout`]), take out events ([`Link::poll_event`]) and datagrams
//! ([`Link::poll_transmit`]) until there are none, then wait until [`Link::poll_timeout`].

mod backoff;
mod checks;
mod congestion;
mod dormant;
mod event;
mod events;
mod fragments;
mod incoming;
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
use queue::{Item, Queue};
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
/// Room for so many of a thing is a link's in any case, and is not counted.
const FEW: usize = 4;
/// Room for more is given back when it is empty: a burst leaves nothing behind.
const BURST: usize = 16;
/// A link ends when it has used so many packet numbers (LINK-1).
const NUMBERS_MAX: u64 = 1 << 32;
/// When only so many are left, another link is to follow it.
const NUMBERS_SPARE: u64 = 1 << 24;

/// The keys of an open link.
#[derive(Clone, Debug)]
enum Keys {
    Sealed(SessionKeys),
    Plain,
}

/// How far a link is.
#[derive(Clone, Debug)]
enum State {
    /// No keys yet.
    Opening,
    Open(Keys),
    Closed,
}

/// What distinguishes one link's behaviour from another's.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The largest datagram this side takes and sends, in bytes; at least [`DATAGRAM_MIN`].
    pub max_datagram: usize,
    /// The longest message that is put together from parts, in bytes.
    pub max_message: usize,
    /// Bytes a second that are never exceeded.
    pub rate: Option<u64>,
    /// Whether small packets leave twice.
    pub redundancy: Redundancy,
    /// A round-trip time to begin with.
    pub rtt: Option<Duration>,
    /// Seeds the spread of timers; not secret.
    pub seed: u64,
}

/// The requests that a packet carried: mostly one or two.
type Asking = SmallVec<[RequestId; 2]>;

/// One conversation between two keys.
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
    /// The packets that came lately with nothing but requests to be acknowledged, and with which.
    asking: VecDeque<(PacketNumber, Asking)>,
    controls: Controls,
    /// The ids of this side's events.
    event_ids: Next,
    pushed: Pushed,
    /// Nobody takes what is pushed at present.
    is_holding: bool,
    /// Keeps a silent link's way open, when set.
    keepalive: Option<Keepalive>,
    assemblies: Reassembler,
    /// Messages put together lately: what still comes of them means nothing.
    assembled: VecDeque<MessageId>,
    /// The other side may have messages put together here.
    trusted: bool,
    pace: Pace,
    path: PathSize,
    /// When fragments and backlog on their way count as lost, should nothing be heard.
    paced_due: Option<Time>,
    /// Until when a limit holds back what wants to leave.
    held_back: Option<Time>,
    /// When an acknowledgement of requests in work has to leave.
    work_due: Option<Time>,
    /// While the other side's address is unproven: how many more bytes it may be sent (LINK-11, LINK-18).
    credit: Option<usize>,
    /// The other side has shown up at another address, which has not answered a challenge yet.
    has_moved: bool,
    opening: Opening,
    events: VecDeque<Event>,
    jitter: Jitter,
    /// What has happened; repeats are counted in the queue.
    counters: Counters,
    trace_id: TraceId,
}

/// How far the introduction of the two sides to each other is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    /// Neither OPEN nor WELCOME has come.
    Unheard,
    /// An OPEN has come and waits for its WELCOME.
    Asked,
    /// This side has given the WELCOME, and repeats it when the OPEN comes again.
    Given(Welcome),
    /// The WELCOME has come.
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

    /// A link that this side opens, and knows by `name` if it needs one.
    pub fn initiate(config: Config, name: Option<LinkName>) -> Self {
        let mut link = Self::new(config);
        // This side knows whom it has called.
        link.trusted = true;
        link.controls.open = Some(Open {
            max_datagram: config.max_datagram as u64,
            name,
            resumes: false,
        });
        link
    }

    /// A link that the other side opens, which has brought `credit` bytes so far.
    pub fn respond(config: Config, credit: usize) -> Self {
        Self {
            credit: Some(credit),
            ..Self::new(config)
        }
    }

    /// Sets the keys that a handshake gave. `remote` goes on every packet that is sent from here on.
    pub fn establish(&mut self, keys: SessionKeys, remote: Option<ConnectionId>) {
        self.state = State::Open(Keys::Sealed(keys));
        self.remote = remote.or(self.remote);
        self.controls.open = None;
    }

    /// Opens the link without keys. `remote` goes on every packet that is sent from here on.
    pub fn establish_plain(&mut self, remote: Option<ConnectionId>) {
        self.state = State::Open(Keys::Plain);
        self.remote = remote;
    }

    /// Goes back to the beginning, for a fresh handshake: requests without a reply are kept and
    /// leave again; all else is forgotten but the round-trip time, what is lost, and what is counted.
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

    /// What is known of how large a datagram the path carries may be wrong: it begins as where nothing is known.
    pub fn forget_path_size(&mut self) {
        self.path = PathSize::default();
    }

    /// True when the link ends as soon as it has said so, or has ended.
    pub const fn is_closing(&self) -> bool {
        self.controls.close.is_some() || self.is_closed()
    }

    /// True when so many packets have been exchanged that a fresh link should follow soon.
    pub fn is_worn(&self) -> bool {
        let theirs = self.received.largest().map_or(0, |largest| largest.0);
        self.next_number.max(theirs) >= NUMBERS_MAX - NUMBERS_SPARE
    }

    /// True when packets can be exchanged.
    pub const fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// True when the link has ended.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// True when the other side has shown that it receives at its address.
    pub const fn is_proven(&self) -> bool {
        self.credit.is_none()
    }

    /// True when nothing is being worked on or waited for.
    pub fn is_idle(&self) -> bool {
        self.queue.is_idle() && !self.replies.is_working()
    }

    /// How many requests of the other side are being worked on.
    pub fn working(&self) -> usize {
        self.replies.working()
    }

    /// True when requests of this side wait for their replies.
    pub fn is_waiting(&self) -> bool {
        self.queue.has_requests()
    }

    /// The round-trip time, once there is an estimate.
    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// Timeouts in a row since the other side was heard.
    pub const fn timeouts(&self) -> u32 {
        self.queue.timeouts()
    }

    /// How long to wait for the other side before something is sent again.
    pub fn timeout(&self) -> Duration {
        self.rtt.timeout()
    }

    /// How long to wait before the repeat number `repeats` + 1 of a handshake's message of so many bytes.
    pub fn repeat_after(&mut self, now: Time, repeats: u32, bytes: usize) -> Duration {
        let urge = self.queue.urge(now);
        let is_lossy = self.is_redundant();
        let wait = self
            .rtt
            .repeat_after(repeats, is_lossy, urge, &mut self.jitter);
        wait + self.rtt.allowance(bytes)
    }

    /// How long after a handshake's message its copy leaves, if it leaves twice (LINK-19).
    pub fn copy_after(&self) -> Option<Duration> {
        self.is_redundant().then(|| self.rtt.copy_gap())
    }

    /// A round trip has taken at most so long, with whatever the other side has waited for in between.
    pub fn bound_round_trip(&mut self, bound: Duration) {
        self.rtt.bound(bound);
    }

    /// Takes in a round-trip time that a handshake measured.
    pub fn sample(&mut self, round_trip: Duration) {
        self.measured(round_trip, Duration::ZERO);
    }

    /// Takes in a round-trip time, in which the other side has waited for `delay`.
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

    /// What happens on the link is told under this number from here on, where it is ([`trace::TARGET`]).
    pub const fn trace_as(&mut self, number: u32) {
        self.trace_id = TraceId::new(number);
    }

    /// True when the other side has asked to be let in.
    pub fn is_asked(&self) -> bool {
        self.opening == Opening::Asked
    }

    /// True when the other side has let this one in.
    pub fn is_welcomed(&self) -> bool {
        self.opening == Opening::Welcomed
    }

    /// The largest answer that fits one datagram of this link, in bytes. A longer one travels in parts.
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

    /// Asks the other side. The reply comes as [`Event::Reply`] with the number given here, unless
    /// `deadline` passes before. `early` allows the request to leave in a handshake's first message.
    /// `None` when too many requests wait for replies: ask again after the next event.
    pub fn request(&mut self, bytes: Vec<u8>, deadline: Time, early: bool) -> Option<RequestId> {
        let asked = Asked {
            bytes,
            deadline,
            early,
        };
        let has_room = self.requests.has_room(&self.queue);
        has_room.then(|| self.requests.push(&mut self.queue, asked))
    }

    /// Takes away the requests that have no reply yet, with their numbers, to be asked on another link.
    pub fn take_requests(&mut self) -> Vec<(RequestId, Asked)> {
        self.queue.take_requests()
    }

    /// Asks a request no longer than until `deadline`.
    pub fn ask_until(&mut self, number: RequestId, deadline: Time) {
        self.queue.ask_until(number, deadline);
    }

    /// True when the other side may have long messages put together here, and so does the same.
    pub const fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// From now on the other side may have long messages put together here (LINK-13).
    pub const fn trust(&mut self) {
        self.trusted = true;
    }

    /// Bytes held of messages that are being put together.
    pub fn assembling(&self) -> usize {
        self.assemblies.held()
    }

    /// Sets how many bytes of messages that are being put together may be held.
    pub const fn set_assembly_room(&mut self, room: usize) {
        self.assemblies.set_room(room);
    }

    /// Bytes that it holds for the other side, about: replies and entries that have not arrived, replies that are
    /// kept, messages that come in parts, events before their turn, and what is remembered of packets.
    pub fn memory(&self) -> usize {
        self.replies.memory()
            + self.queue.memory()
            + self.assemblies.memory()
            + self.sent.memory()
            + self.pushed.memory()
            + self.asking_memory()
            + self.events.capacity().saturating_sub(FEW) * size_of::<Event>()
    }

    /// Answers the other side's request `number`.
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

    /// Pushes an entry; its arrival comes as [`Event::Delivered`] with the number given here. None when too many
    /// are on their way: push it after the next of those has arrived.
    pub fn push(&mut self, event: Vec<u8>, urgency: Urgency) -> Option<EventId> {
        self.event_ids.push(&mut self.queue, event, urgency)
    }

    /// While held, what is pushed counts as lost on the way, and comes again.
    pub const fn hold_pushes(&mut self, held: bool) {
        self.is_holding = held;
    }

    /// Keeps the way to this side open: after so long a silence the other side is asked for a sign of life.
    /// None ends that.
    pub fn keep_alive(&mut self, silence: Option<Silence>) {
        self.keepalive = silence.map(Keepalive::new);
    }

    /// True when the other side has given no sign of life for so long that the link is of no use any more.
    pub fn is_dead(&self) -> bool {
        let ping = self.queue.get(Item::Ping);
        let is_unanswered = ping.is_some_and(|ping| {
            // Another is due: the last has had its time.
            ping.attempts.count() + u32::from(ping.attempts.is_queued()) > UNANSWERED_MAX
        });
        // Before anything has been measured, the answers may be on their way.
        let is_late = is_unanswered && self.rtt.is_measured();
        self.keepalive
            .is_some_and(|keepalive| is_late || (keepalive.is_dead() && !self.rtt.is_measured()))
    }

    /// True when the way to this side is kept open.
    pub const fn is_kept_alive(&self) -> bool {
        self.keepalive.is_some()
    }

    /// True while a keepalive is unanswered.
    pub fn awaits_sign(&self) -> bool {
        let ping = self.queue.get(Item::Ping);
        self.keepalive.is_some() && ping.is_some_and(|ping| ping.attempts.count() > 0)
    }

    /// Answers the other side's opening.
    pub fn welcome(&mut self, welcome: Welcome) {
        self.opening = Opening::Given(welcome);
        self.trusted |= welcome.known;
        self.controls.welcome = Some(welcome);
    }

    /// Sends a packet that is to be acknowledged, again until it is: it shows the other side that this one receives what
    /// is sent to its address, and this one that the other is there.
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

    /// The next thing to tell, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > BURST {
            self.events = VecDeque::new();
        }
        event
    }

    /// The number of the next packet; none when all are used up.
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
