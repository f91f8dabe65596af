//! All links behind one socket: handshakes, admission, and the link of each datagram.
//!
//! Sans-IO, like the link. The caller passes in datagrams and time ([`Endpoint::handle_datagram`],
//! [`Endpoint::handle_timeout`]). It takes out datagrams, events and the next timeout
//! ([`Endpoint::poll_transmit`], [`Endpoint::poll_event`], [`Endpoint::poll_timeout`]). Randomness
//! comes from a seed that the caller passes in. Servers and clients use the same code. The endpoint
//! tells accounts apart by numbers that the caller gives ([`AccountId`]). It knows nothing of
//! stores. Normative text: `spec/handshake.md`.

mod accept_cache;
mod accounts;
mod checks;
mod config;
mod cookies;
mod dial;
mod dispatch;
mod dormant;
mod event;
mod hello;
mod identity;
mod ids;
mod incoming;
mod largest_holder;
#[cfg(test)]
mod leftovers;
mod life;
pub mod limits;
mod link_entry;
mod link_slots;
mod memory;
mod migration;
mod outgoing;
mod path;
mod peer_links;
mod rate_limits;
mod reassembly_quota;
mod rekey;
mod reset;
mod resume;
mod schedule;
mod stats;
mod status;
mod unknown_links;
mod worker_id;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use accept_cache::AcceptCache;
pub use accounts::AccountId;
pub use config::Config;
use cookies::HandshakeAdmission;
pub use cookies::Handshakes;
pub use event::Event;
use hello::Asking;
pub use identity::Identity;
use identity::OwnKey;
use ids::ById;
use limits::ASKING_MAX;
use link_entry::{LinkEntry, Role, Stage};
use link_slots::Standings;
use memory::Memory;
pub use path::Path;
use rand::{Rng as _, SeedableRng, rngs::StdRng};
use rate_limits::Counts;
use reassembly_quota::ReassemblyQuota;
pub use rekey::LINK_LIFETIME;
use reset::Resets;
use resume::Lookups;
pub use resume::{Known, TICKET_LIFETIME, TICKET_SHOWN, Ticket, TicketFound};
use schedule::Schedule;
use smallvec::SmallVec;
pub use stats::{Answers, Dropped, EndpointStats};
pub use worker_id::WorkerId;

use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    link::{
        self, DATAGRAM_MIN, Jitter, Link, PathMemory, PendingRequest, Silence, Time, Urgency,
        earliest,
        trace::{FrameList, Trace, TraceId, trace},
    },
    wire::{CloseReason, ConnectionId, EventId, OperationNumber, RequestId, Welcome},
};

/// True if this build accepts links. Without the feature `server` a program only opens links, and
/// leaves out the code that accepts them.
pub(crate) const SERVES: bool = cfg!(any(feature = "server", test, fuzzing));

/// Identifies a link at this endpoint. A responder's is also the connection id it chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// All links behind one socket.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    /// False once no new links are accepted.
    admitting: bool,
    /// This side's keys, the current one first.
    keys: Vec<OwnKey>,
    rng: StdRng,
    jitter: Jitter,
    slots: ById<Box<LinkEntry>>,
    /// Links that this side opened, by remote address. The other side has no id for them unless
    /// they are shared.
    by_address: BTreeSet<(SocketAddr, LinkId)>,
    /// Links that others opened and named by a connection id of their own, which their Resets
    /// carry. Holds the latest link of each id, so that a lookup has one result, however many a
    /// stranger opens.
    by_name: BTreeMap<(SocketAddr, ConnectionId), LinkId>,
    /// Plain links that others opened, by the connection id that the initiator chose.
    by_plain: BTreeMap<(SocketAddr, ConnectionId), LinkId>,
    /// Proven links that others opened, by the initiator's key.
    by_peer: HashMap<PublicKey, SmallVec<[LinkId; 2]>>,
    /// Shared links that this side opened to realms, by the realm's key.
    dialed: BTreeMap<PublicKey, LinkId>,
    /// Keys of other realms.
    realms: BTreeSet<PublicKey>,
    standings: Standings,
    memory: Memory,
    accepts: AcceptCache,
    resets: Resets,
    gate: HandshakeAdmission,
    /// `None` in builds that accept no links.
    counts: Option<Arc<Counts>>,
    asking: Vec<Asking>,
    lookups: Lookups,
    schedule: Schedule,
    /// Bytes of messages in reassembly.
    assembling: ReassemblyQuota,
    /// Buffer in which packets are decrypted.
    opened: Vec<u8>,
    outbox: VecDeque<(Path, Vec<u8>)>,
    /// True if the last datagram sent came from `outbox`.
    has_answered: bool,
    events: VecDeque<Event>,
    /// Counters so far, without those of awake links, which keep their own.
    stats: EndpointStats,
}

impl Endpoint {
    /// Returns an endpoint with the keys of `identity`. Its randomness comes from `seed`.
    pub fn new(mut config: Config, identity: &Identity, seed: [u8; 32]) -> Self {
        config.max_datagram = config.max_datagram.max(DATAGRAM_MIN);
        let mut rng = StdRng::from_seed(seed);
        Self {
            resets: Resets::new(&identity.lasting),
            counts: SERVES.then(|| Arc::new(Counts::new(&mut rng))),
            gate: HandshakeAdmission::new(config.handshakes, &mut rng),
            jitter: Jitter::new(rng.next_u64()),
            config,
            admitting: true,
            keys: identity.keys(),
            rng,
            slots: ById::default(),
            by_address: BTreeSet::new(),
            by_name: BTreeMap::new(),
            by_plain: BTreeMap::new(),
            by_peer: HashMap::new(),
            dialed: BTreeMap::new(),
            realms: BTreeSet::new(),
            standings: Standings::default(),
            memory: Memory::default(),
            accepts: AcceptCache::default(),
            asking: Vec::new(),
            lookups: Lookups::default(),
            schedule: Schedule::default(),
            assembling: ReassemblyQuota::default(),
            opened: Vec::new(),
            outbox: VecDeque::new(),
            has_answered: false,
            events: VecDeque::new(),
            stats: EndpointStats::default(),
        }
    }

    /// Returns the number of links.
    pub fn links(&self) -> usize {
        self.slots.len()
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
        let slot = LinkEntry::new(
            now,
            link,
            Role::Initiator,
            address.into(),
            Some(realm),
            Stage::Calling,
        );
        self.insert(slot)
    }

    /// Starts `link`, which this side opens, from the path memory of an earlier link. Call it
    /// before anything of the link is transmitted.
    pub fn begin_from(&mut self, link: LinkId, memory: &PathMemory) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.link.begin_from(memory);
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
        let mut slot = LinkEntry::new(
            now,
            link,
            Role::Initiator,
            address.into(),
            None,
            Stage::Open,
        );
        slot.remote = Some(remote);
        self.insert(slot)
    }

    /// Sends a request on `link`. The reply arrives as [`Event::Reply`] with the returned number.
    /// With `early` the request may travel in the first packet of a handshake. Returns `None` if
    /// too many requests are open, or if the link does not exist.
    pub fn request(
        &mut self,
        now: Time,
        link: LinkId,
        bytes: Vec<u8>,
        deadline: Time,
        early: bool,
    ) -> Option<RequestId> {
        let early = early && self.config.early_data;
        self.come_back_again(now, link);
        let number = self.slots.get_mut(&link)?.link.request(PendingRequest {
            bytes,
            deadline,
            early,
        });
        self.touch(now, link);
        number
    }

    /// Answers request `number` of `link`. Does nothing if the link has ended.
    pub fn reply(&mut self, now: Time, link: LinkId, number: RequestId, bytes: Vec<u8>) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.link.reply(number, bytes);
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
        let number = self.slots.get_mut(&link)?.link.push(event, urgency);
        self.touch(now, link);
        self.count_memory(link);
        number
    }

    /// While `held`, pushes over `link` count as lost in transit and are retransmitted later.
    pub fn hold_pushes(&mut self, link: LinkId, held: bool) {
        if let Some(slot) = self.slots.get_mut(&link) {
            if held {
                slot.link.hold_pushes();
            } else {
                slot.link.accept_pushes();
            }
        }
    }

    /// Keeps the path of `link` alive; see [`Link::keep_alive`]. A link found dead is reopened.
    pub fn keep_alive(&mut self, now: Time, link: LinkId, silence: Option<Silence>) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.link.keep_alive(silence);
            self.let_time_pass(now, link);
            self.touch(now, link);
        }
    }

    /// Sends a PING on `link` at once. Use it when this side may have become unreachable.
    pub fn probe(&mut self, now: Time, link: LinkId) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.link.ping();
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
        let max_datagram = self.config.max_datagram as u64;
        if let Some(slot) = self.slots.get_mut(&link) {
            // A plain link is identified by the id that its initiator chose.
            let connection = match slot.peer {
                Some(_) => ConnectionId(link.0),
                None => slot.remote.unwrap_or(ConnectionId(link.0)),
            };
            let token = self.resets.token(connection);
            // A link to a former key is told the current one.
            let current = self.keys.first().map(|key| key.public.0);
            let successor = current.filter(|_| slot.own > 0);
            let life = slot.life_beside(successor.as_ref(), highest);
            let welcome = Welcome {
                token,
                max_datagram,
                known: account.is_some(),
                highest,
                successor,
                life,
                is_life_unknown: slot.is_life_unknown,
                is_final: !self.config.early_data,
            };
            match slot.resumed() {
                Some(resumed) if resumed.account != account => {
                    self.refuse_resumed(now, link);
                    return;
                }
                Some(_) => {
                    let news = slot.come_back(highest);
                    slot.link.let_in_again(welcome, news);
                }
                None => slot.link.welcome(welcome),
            }
            // A command that ran before this may have set the account already.
            slot.account = slot.account.or(account);
            if let Stage::Accepting(accepting) = &mut slot.stage {
                accepting.welcomed = Some(highest);
            }
            self.stand_account(link);
            self.release_held(link);
            self.touch(now, link);
        }
    }

    /// Closes `link`. The other side is told once.
    pub fn close(&mut self, now: Time, link: LinkId, reason: CloseReason) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.link.close(reason);
            let renewal = core::mem::take(&mut slot.renewal);
            self.touch(now, link);
            self.close_renewal(now, &renewal, reason);
        }
    }

    /// Stops accepting new links. Existing links continue.
    pub const fn stop_admitting(&mut self) {
        self.admitting = false;
    }

    /// Closes all links and stops accepting new ones.
    pub fn close_all(&mut self, now: Time) {
        self.stop_admitting();
        let mut links: Vec<LinkId> = self.slots.keys().copied().collect();
        // Sorted, so that the order does not depend on the hash table.
        links.sort_unstable();
        for link in links {
            self.close(now, link, CloseReason::Shutdown);
        }
    }

    /// Sends a Hello to `address`. The answer arrives as [`Event::Hello`]. Returns false if too
    /// many Hellos are open.
    pub fn ask_hello(&mut self, now: Time, address: SocketAddr) -> bool {
        let has_room = self.asking.len() < ASKING_MAX;
        if has_room {
            let mut nonce = [0; 8];
            self.rng.fill_bytes(&mut nonce);
            self.asking.push(Asking::new(now, address, nonce));
        }
        has_room
    }

    /// Stops sending Hellos to `address`.
    pub fn stop_asking(&mut self, address: SocketAddr) {
        self.asking.retain(|asking| asking.address() != address);
    }

    /// Processes the timers that are due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        if SERVES {
            self.accepts.expire(now);
        }
        for id in self.schedule.due(now) {
            self.let_time_pass(now, id);
            let Some(slot) = self.slots.get(&id) else {
                continue;
            };
            if slot.is_over(now, &self.config) {
                if slot.link.is_dead() {
                    self.dial_again(now, id);
                } else if SERVES && slot.is_shared && matches!(slot.stage, Stage::Open) {
                    self.close(now, id, CloseReason::Done);
                } else {
                    self.give_up_dial(now, id);
                    self.end(id, None);
                }
            } else if !self.lay_to_rest(now, id) {
                self.touch(now, id);
            }
        }
        self.check();
    }

    /// Processes the timers of one link. Releases the reassembly quota of what the link drops.
    fn let_time_pass(&mut self, now: Time, id: LinkId) {
        if let Some(slot) = self.slots.get_mut(&id) {
            let held = slot.link.assembling();
            slot.link.handle_timeout(now);
            let (holder, holds) = (slot.holder(), slot.link.assembling());
            self.assembling.change(holder, held, holds);
        }
    }

    /// Returns when to call [`Endpoint::handle_timeout`] and [`Endpoint::poll_transmit`] next: at
    /// once while there may be something to transmit.
    pub fn poll_timeout(&self) -> Option<Time> {
        let asking = self.asking.iter().map(Asking::timeout).min();
        earliest(
            earliest(asking, self.accepts.timeout()),
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

    /// Returns the index of one of this side's keys, or that of the current key if `public` is not
    /// one of them.
    fn own_key(&self, public: &PublicKey) -> u16 {
        let mut keys = (0..).zip(&self.keys);
        let found = keys.find(|(_, key)| key.public == *public);
        found.map_or(0, |(own, _)| own)
    }

    /// Inserts a link under a random free id.
    fn insert(&mut self, slot: LinkEntry) -> LinkId {
        let id = self.free_id();
        self.place(id, slot);
        id
    }

    fn place(&mut self, id: LinkId, mut slot: LinkEntry) {
        if slot.role == Role::Initiator {
            self.by_address.insert((slot.path.remote, id));
        }
        slot.link.trace_as(id.0);
        let is_known = !slot.path.remote.ip().is_unspecified();
        trace(TraceId::new(id.0), || Trace::Started {
            is_ours: slot.role == Role::Initiator,
            remote: is_known.then_some(&slot.path.remote),
        });
        self.slots.insert(id, Box::new(slot));
        self.schedule.wake(id);
    }

    /// Passes on the events of a link after a change. Its timer is set once it has sent what it has
    /// to.
    fn touch(&mut self, now: Time, id: LinkId) {
        self.schedule.wake(id);
        self.tell(now, id);
    }

    /// Sets the timer of a link that has nothing to send, and updates its memory count.
    fn settle(&mut self, now: Time, id: LinkId) {
        self.tell(now, id);
        if let Some(slot) = self.slots.get(&id) {
            self.schedule.set(id, slot.timeout(&self.config));
            self.count_memory(id);
        }
    }

    /// Removes the name of a link at its former address.
    fn forget_name(&mut self, address: SocketAddr, remote: ConnectionId, id: LinkId) {
        if self.by_name.get(&(address, remote)) == Some(&id) {
            self.by_name.remove(&(address, remote));
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

    /// Removes a link from all tables.
    fn end(&mut self, id: LinkId, reason: Option<CloseReason>) {
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        if let Stage::Accepting(accepting) = &slot.stage {
            // If the same Init comes again, it is handled anew.
            self.accepts.forget(&accepting.init);
        }
        if !slot.link.is_resting() {
            self.stats.links += slot.link.counters();
        }
        let address = slot.path.remote;
        self.remember_ticket(id, &slot);
        self.leave_standing(id, &slot);
        self.memory.change(id, slot.holder(), slot.memory, 0);
        self.assembling
            .change(slot.holder(), slot.link.assembling(), 0);
        self.end_renewal(&slot.renewal);
        self.schedule.forget(id);
        if !is_planted(Fault::KeepAddress) {
            self.by_address.remove(&(address, id));
        }
        if let Some(remote) = slot.remote {
            self.by_plain.remove(&(address, remote));
            self.forget_name(address, remote, id);
        }
        if let Some(peer) = slot.peer
            && self.dialed.get(&peer) == Some(&id)
        {
            self.dialed.remove(&peer);
        }
        if let Some(peer) = slot.peer
            && let Some(links) = self.by_peer.get_mut(&peer)
        {
            links.retain(|link| *link != id);
            if links.is_empty() {
                self.by_peer.remove(&peer);
            }
        }
        trace(TraceId::new(id.0), || Trace::Ended {
            reason: reason.map(CloseReason::name),
        });
        self.events.push_back(Event::Closed { link: id, reason });
    }
}

#[cfg(test)]
mod tests;
