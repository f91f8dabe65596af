//! All links behind one socket: handshakes, admission, and the link of each datagram.
//!
//! Sans-IO, like the link. The caller passes in datagrams and time ([`Endpoint::handle_datagram`],
//! [`Endpoint::handle_timeout`]). It takes out datagrams, events and the next timeout
//! ([`Endpoint::poll_transmit`], [`Endpoint::poll_event`], [`Endpoint::poll_timeout`]). Randomness
//! comes from a seed that the caller passes in. Servers and clients use the same code. The endpoint
//! tells accounts apart by numbers that the caller gives ([`AccountId`]). It knows nothing of
//! stores. Normative text: `spec/handshake.md`.

mod accept_cache;
mod accounting;
mod accounts;
mod admission;
mod checks;
mod config;
mod cookies;
mod dial;
mod dispatch;
mod dormant;
mod event;
mod eviction;
mod handshake;
mod hello;
mod holder;
mod identity;
mod ids;
mod incoming;
mod known_tickets;
mod largest_holder;
mod life;
pub mod limits;
mod link_slots;
mod link_table;
mod memory;
mod migration;
mod outbox;
mod outgoing;
mod path;
mod peer_links;
mod rate_limits;
mod reassembly_quota;
mod rekey;
mod resets;
mod resume;
mod schedule;
mod stats;
mod status;
mod ticket;
mod worker_id;

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use accept_cache::AcceptCache;
use accounting::Accounting;
pub use accounts::AccountId;
use admission::HandshakeAdmission;
pub use config::{Config, Handshakes, LINK_LIFETIME};
pub use event::{Event, IncomingRequest};
use hello::Hellos;
pub use identity::Identity;
use identity::{KeyIndex, OwnKeys};
pub use ids::LinkId;
use known_tickets::KnownTickets;
pub use life::ClaimedLife;
pub use link_table::{HANDSHAKE_BYTES, LINK_BYTES};
use link_table::{LinkEntry, LinkTable, Role, Stage, lifetime};
use outbox::Outbox;
pub use path::Path;
pub use peer_links::{AddressSource, PeerLinks};
use rand::{Rng as _, SeedableRng, rngs::StdRng};
use schedule::Schedule;
pub use stats::{Answers, Dropped, EndpointStats};
pub use status::LinkStatus;
pub use ticket::{IssuedTicket, TICKET_LIFETIME, TICKET_SHOWN, Ticket, TicketFound};
pub use worker_id::WorkerId;

use crate::{
    crypto::PublicKey,
    link::{
        self, DATAGRAM_MIN, Jitter, Link, PathMemory, PendingRequest, Silence, Time, Urgency,
        earliest,
        trace::{FrameList, Trace, TraceId, trace},
    },
    wire::{CloseReason, ConnectionId, EventId, OperationNumber, RequestId, Welcome},
};

/// True if this build accepts links. Without the feature `server` a program only opens links, and
/// leaves out the code that accepts them.
pub(crate) const ACCEPTS_LINKS: bool = cfg!(any(feature = "server", test, fuzzing));

/// Whether a request may travel in the first packet of a handshake, where anyone may replay it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyData {
    /// It may, if the configuration allows it too.
    Allowed,
    /// It waits until the link is open.
    Forbidden,
}

impl EarlyData {
    /// Returns [`EarlyData::Allowed`] if `is_allowed`.
    pub const fn allowed_if(is_allowed: bool) -> Self {
        if is_allowed {
            Self::Allowed
        } else {
            Self::Forbidden
        }
    }
}

/// Whether pushes over a link are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushes {
    /// They are.
    Accepted,
    /// They count as lost in transit, and are retransmitted later.
    Refused,
}

/// All links behind one socket. The components own their state behind methods, and none knows the
/// others; the methods of the endpoint coordinate them.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    /// This side's keys.
    keys: OwnKeys,
    /// The links, and the indexes that find them.
    links: LinkTable,
    /// The slots, the memory and the reassembly quota that others hold, and who is evicted.
    accounting: Accounting,
    /// Answers to first packets, for their repeats.
    accept_cache: AcceptCache,
    /// Cookies and rate limits for strangers.
    admission: HandshakeAdmission,
    /// Hellos that wait for their answers.
    hellos: Hellos,
    /// What this side, as a responder, knows of tickets besides its links.
    tickets: KnownTickets,
    /// The timers of links, and the queue of those that may have something to send.
    schedule: Schedule,
    /// Datagrams to send that belong to no link.
    outbox: Outbox,
    rng: StdRng,
    /// Buffer in which packets are decrypted.
    decrypted: Vec<u8>,
    events: VecDeque<Event>,
    /// Counters so far, without those of awake links, which keep their own.
    stats: EndpointStats,
}

impl Endpoint {
    /// Returns an endpoint with the keys of `identity`. Its randomness comes from `seed`.
    pub fn new(mut config: Config, identity: &Identity, seed: [u8; 32]) -> Self {
        config.max_datagram = config.max_datagram.max(DATAGRAM_MIN);
        let mut rng = StdRng::from_seed(seed);
        // In this order: a seed determines what each draws.
        let admission = HandshakeAdmission::new(config.handshakes, &mut rng);
        let hellos = Hellos::new(Jitter::new(rng.next_u64()));
        Self {
            config,
            keys: OwnKeys::new(identity),
            links: LinkTable::default(),
            accounting: Accounting::default(),
            accept_cache: AcceptCache::default(),
            admission,
            hellos,
            tickets: KnownTickets::default(),
            schedule: Schedule::default(),
            outbox: Outbox::default(),
            rng,
            decrypted: Vec::new(),
            events: VecDeque::new(),
            stats: EndpointStats::default(),
        }
    }

    /// Returns the number of links.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// Opens a link to the realm with the key `realm` at `address`. `rtt` is the remembered
    /// round-trip time of the path.
    pub fn connect(
        &mut self,
        now: Time,
        address: SocketAddr,
        realm: PublicKey,
        rtt: Option<Duration>,
    ) -> LinkId {
        let link = Link::initiate(self.link_config(rtt), None);
        let entry = LinkEntry::new(
            now,
            link,
            Role::Initiator,
            address.into(),
            Some(realm),
            Stage::Calling,
        );
        self.insert(entry)
    }

    /// Starts `link`, which this side opens, from the path memory of an earlier link. Call it
    /// before anything of the link is transmitted.
    pub fn start_from(&mut self, link: LinkId, memory: &PathMemory) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.link.start_from(memory);
        }
    }

    /// Opens a link without encryption or authentication. An attacker on the path can read and
    /// forge everything.
    pub fn connect_plain(
        &mut self,
        now: Time,
        address: SocketAddr,
        rtt: Option<Duration>,
    ) -> LinkId {
        let mut link = Link::initiate(self.link_config(rtt), None);
        let remote = ConnectionId(self.rng.next_u32());
        link.establish_plain(Some(remote));
        let mut entry = LinkEntry::new(
            now,
            link,
            Role::Initiator,
            address.into(),
            None,
            Stage::Open,
        );
        entry.set_remote(remote);
        self.insert(entry)
    }

    /// Sends a request on `link`. The reply arrives as [`Event::Reply`] with the returned number.
    /// Returns `None` if too many requests are open, or if the link does not exist.
    pub fn request(
        &mut self,
        now: Time,
        link: LinkId,
        bytes: Vec<u8>,
        deadline: Time,
        early_data: EarlyData,
    ) -> Option<RequestId> {
        let early = early_data == EarlyData::Allowed && self.config.early_data;
        self.resume_if_forgotten(now, link);
        let number = self.links.get_mut(link)?.link.request(PendingRequest {
            bytes,
            deadline,
            early,
        });
        self.touch(now, link);
        number
    }

    /// Answers request `number` of `link`. Does nothing if the link has ended.
    pub fn reply(&mut self, now: Time, link: LinkId, number: RequestId, bytes: Vec<u8>) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.link.reply(number, bytes);
            self.touch(now, link);
            self.count_memory(link);
        }
    }

    /// Pushes an entry over `link`. Its delivery is reported as [`Event::Delivered`] with the
    /// returned number. Returns `None` if too many pushes are in flight, or if the link does not
    /// exist.
    pub fn push(
        &mut self,
        now: Time,
        link: LinkId,
        event: Vec<u8>,
        urgency: Urgency,
    ) -> Option<EventId> {
        let number = self.links.get_mut(link)?.link.push(event, urgency);
        self.touch(now, link);
        self.count_memory(link);
        number
    }

    /// Accepts or refuses pushes over `link` from now on.
    pub fn set_pushes(&mut self, link: LinkId, pushes: Pushes) {
        if let Some(entry) = self.links.get_mut(link) {
            match pushes {
                Pushes::Accepted => entry.link.accept_pushes(),
                Pushes::Refused => entry.link.hold_pushes(),
            }
        }
    }

    /// Keeps the path of `link` alive; see [`Link::keep_alive`]. A link found dead is reopened.
    pub fn keep_alive(&mut self, now: Time, link: LinkId, silence: Option<Silence>) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.link.keep_alive(silence);
            self.handle_link_timeout(now, link);
            self.touch(now, link);
        }
    }

    /// Sends a PING on `link` at once. Use it when this side may have become unreachable.
    pub fn probe(&mut self, now: Time, link: LinkId) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.link.ping();
            self.touch(now, link);
        }
    }

    /// Accepts the other side. `account` is the user logged in with its key, or the peer that has
    /// the key. `highest` is the highest operation number that its key has used.
    pub fn welcome(
        &mut self,
        now: Time,
        link: LinkId,
        account: Option<AccountId>,
        highest: OperationNumber,
    ) {
        let Some(entry) = self.links.get_mut(link) else {
            return;
        };
        // A link to a former key is told the current one.
        let current = self.keys.current().public.0;
        let successor = (entry.own() != KeyIndex::CURRENT).then_some(current);
        let life = entry.life().beside(successor.as_ref(), highest);
        let welcome = Welcome {
            token: self.keys.reset_token(entry.connection(link)),
            max_datagram: self.config.max_datagram as u64,
            known: account.is_some(),
            highest,
            successor,
            life,
            is_life_unknown: entry.life().is_claim_unknown(),
            is_final: !self.config.early_data,
        };
        match entry.resumption_mut().resumed_mut() {
            Some(resumed) if resumed.account() != account => {
                self.refuse_resumed(now, link);
                return;
            }
            Some(resumed) => {
                let update = resumed.welcome(highest);
                entry.link.accept_resumption(welcome, update);
            }
            None => entry.link.welcome(welcome),
        }
        // A command that ran before this may have set the account already.
        if let Some(account) = account {
            entry.holding_mut().set_account(account);
        }
        entry.on_admitted(highest);
        self.count_for_account(link);
        self.release_held(link);
        self.touch(now, link);
    }

    /// Closes `link`. The other side is told once.
    pub fn close(&mut self, now: Time, link: LinkId, reason: CloseReason) {
        if let Some(entry) = self.links.get_mut(link) {
            entry.link.close(reason);
            let rekey = entry.rekey_mut().take();
            self.touch(now, link);
            self.close_replacement(now, &rekey, reason);
        }
    }

    /// Stops accepting new links. Existing links continue.
    pub const fn stop_admitting(&mut self) {
        self.admission.stop();
    }

    /// Closes all links and stops accepting new ones.
    pub fn close_all(&mut self, now: Time) {
        self.stop_admitting();
        for link in self.links.ids() {
            self.close(now, link, CloseReason::Shutdown);
        }
    }

    /// Sends a Hello to `address`. The answer arrives as [`Event::Hello`]. Returns false if too
    /// many Hellos are open.
    pub fn ask_hello(&mut self, now: Time, address: SocketAddr) -> bool {
        self.hellos.ask(now, address, &mut self.rng)
    }

    /// Stops sending Hellos to `address`.
    pub fn stop_asking(&mut self, address: SocketAddr) {
        self.hellos.cancel(address);
    }

    /// Processes the timers that are due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        if ACCEPTS_LINKS {
            self.accept_cache.expire(now);
        }
        for id in self.schedule.due(now) {
            self.handle_link_timeout(now, id);
            let Some(entry) = self.links.get(id) else {
                continue;
            };
            if lifetime::is_over(entry, now, &self.config) {
                if entry.link.is_dead() {
                    self.dial_again(now, id);
                } else if ACCEPTS_LINKS && entry.is_shared() && entry.stage().is_open() {
                    self.close(now, id, CloseReason::Done);
                } else {
                    self.give_up_dial(now, id);
                    self.end(id, None);
                }
            } else if !self.hibernate(now, id) {
                self.touch(now, id);
            }
        }
        self.check();
    }

    /// Processes the timers of one link. Releases the reassembly quota of what the link drops.
    fn handle_link_timeout(&mut self, now: Time, id: LinkId) {
        if let Some(entry) = self.links.get_mut(id) {
            let held = entry.link.assembling();
            entry.link.handle_timeout(now);
            let (holder, holds) = (entry.holder(), entry.link.assembling());
            self.accounting.change_reassembly(holder, held, holds);
        }
    }

    /// Returns when to call [`Endpoint::handle_timeout`] and [`Endpoint::poll_transmit`] next: at
    /// once while there may be something to transmit.
    pub fn poll_timeout(&self) -> Option<Time> {
        earliest(
            earliest(self.hellos.timeout(), self.accept_cache.timeout()),
            self.schedule.timeout(),
        )
    }

    /// True if an event is queued. Sending can also cause events.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Returns the next event, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns the counters of this endpoint. Iterates over all links.
    pub fn stats(&self) -> EndpointStats {
        let mut stats = self.stats;
        for (_, entry) in self.links.iter() {
            if !entry.link.is_dormant() {
                stats.links += entry.link.counters();
            }
        }
        stats
    }

    /// Shares the rate limits of another endpoint behind the same address. Both must get the same
    /// time.
    pub fn count_with(&mut self, other: &Self) {
        self.admission.count_with(&other.admission);
    }

    fn link_config(&mut self, rtt: Option<Duration>) -> link::Config {
        link::Config {
            max_datagram: self.config.max_datagram,
            max_message: self.config.max_message,
            rate: self.config.rate,
            redundancy: self.config.redundancy,
            rtt,
            seed: self.rng.next_u64(),
        }
    }

    /// Returns a random free id.
    fn free_id(&mut self) -> LinkId {
        self.links.free_id(self.config.worker, &mut self.rng)
    }

    /// Inserts a link under a random free id.
    fn insert(&mut self, entry: LinkEntry) -> LinkId {
        let id = self.free_id();
        self.insert_as(id, entry);
        id
    }

    /// Inserts a link under a free id.
    fn insert_as(&mut self, id: LinkId, mut entry: LinkEntry) {
        entry.link.trace_as(id.0);
        let remote = entry.path().remote;
        trace(TraceId::new(id.0), || Trace::Started {
            is_ours: entry.role() == Role::Initiator,
            remote: (!remote.ip().is_unspecified()).then_some(&remote),
        });
        self.links.insert(id, entry);
        self.schedule.wake(id);
    }

    /// Passes on the events of a link after a change. Its timer is set once it has sent what it has
    /// to.
    fn touch(&mut self, now: Time, id: LinkId) {
        self.schedule.wake(id);
        self.pass_on_events(now, id);
    }

    /// Sets the timer of a link that has nothing to send, and updates its memory count.
    fn set_timer(&mut self, now: Time, id: LinkId) {
        self.pass_on_events(now, id);
        if let Some(entry) = self.links.get(id) {
            let timeout = lifetime::timeout(entry, &self.config);
            self.schedule.set(id, timeout);
            self.count_memory(id);
        }
    }

    /// Ends a link: removes it from all tables, and releases all that it holds.
    fn end(&mut self, id: LinkId, reason: Option<CloseReason>) {
        let Some(entry) = self.links.remove(id) else {
            return;
        };
        if let Some(accepting) = entry.stage().accepting() {
            // If the same Init comes again, it is handled anew.
            self.accept_cache.forget(&accepting.init);
        }
        if !entry.link.is_dormant() {
            self.stats.links += entry.link.counters();
        }
        self.remember_ticket(id, &entry);
        self.accounting.remove(id, &entry);
        self.end_replacement(entry.rekey());
        self.schedule.forget(id);
        trace(TraceId::new(id.0), || Trace::Ended {
            reason: reason.map(CloseReason::name),
        });
        self.events.push_back(Event::Closed { link: id, reason });
    }
}

/// Traces a handshake packet that was sent or received.
fn trace_handshake(
    id: LinkId,
    is_sent: bool,
    (packet, bytes): (&'static str, usize),
    frames: Option<&[u8]>,
) {
    trace(TraceId::new(id.0), || Trace::Handshake {
        is_sent,
        packet,
        bytes,
        frames: frames.map(FrameList),
        again: None,
    });
}

#[cfg(test)]
mod tests;
