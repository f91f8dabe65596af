//! The link entry: the link, the other side, and the state of their handshake.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::super::{
    SERVES,
    accept_cache::InitHash,
    accounts::{AccountId, Accounts},
    config::Config,
    dial::Dial,
    dormant::MayHibernate,
    event::IncomingRequest,
    holder::{Holder, SlotKind},
    identity::KeyIndex,
    ids::LinkId,
    limits::{ACCEPT_PATIENCE, DIALS_ONCE, STRANGER_IDLE, UNPROVEN_LIFETIME},
    path::Path,
    ticket::{IssuedTicket, Resumed, Resumption, Ticket, TicketState},
};
use super::replacement::Rekey;
use crate::{
    crypto::{LifeClaim, PublicKey, Responder, ResumptionSecret, same},
    faults::{Fault, is_planted},
    link::{Link, Time, earliest},
    wire::{
        ConnectionId, HandshakeId, Life, LinkName, OperationNumber, ResetToken, ResumeNonce,
        Welcome, varint_len,
    },
};

/// Silence after which a link may become dormant: no packet is in flight for longer.
const HIBERNATES_AFTER: Duration = Duration::from_mins(3);
/// Granularity of the silence.
const GRAIN: Duration = Duration::from_secs(30);
/// Time until a failed replacement is retried.
const TRIED_AGAIN_AFTER: Duration = Duration::from_hours(1);
/// From this length of an operation number on, in bytes, a WELCOME with a successor has no room for
/// a life: the Accept would be longer than the shortest Init (WIRE-11).
const HIGHEST_BYTES_MAX: usize = 8;
/// The end of a silence is rounded up to this fraction of the idle time.
const GRAINS: u128 = 256;
/// How long an initiator without open requests continues a handshake.
const DIAL_PATIENCE: Duration = Duration::from_mins(3);

/// The packet that the other side began with, and what its answer needs.
#[derive(Debug)]
pub(in crate::endpoint) enum Answering {
    /// An Init: an Accept completes the handshake.
    Accept(Box<Responder>, HandshakeId),
    /// A Resume, under this secret and with this nonce.
    Resumed(ResumptionSecret, ResumeNonce),
}

/// A handshake that the other side began and whose answer has not left yet.
#[derive(Debug)]
pub(in crate::endpoint) struct Accepting {
    pub answering: Answering,
    pub init: InitHash,
    /// Length of the first packet, in bytes.
    pub brought: usize,
    /// The longest answer allowed, in bytes.
    pub room: usize,
    pub due: Time,
    /// The highest operation number that its device has used; `None` until the link is accepted.
    pub welcomed: Option<OperationNumber>,
}

impl Accepting {
    /// Returns a handshake whose first packet has `brought` bytes, and whose answer may be no
    /// longer.
    pub fn new(now: Time, answering: Answering, init: InitHash, brought: usize) -> Self {
        Self {
            answering,
            init,
            brought,
            room: brought,
            due: now + ACCEPT_PATIENCE,
            welcomed: None,
        }
    }

    /// Allows the answer to be `factor` times as long as the first packet.
    pub fn amplified(mut self, factor: usize) -> Self {
        self.room = self.brought.saturating_mul(factor);
        self
    }
}

/// The state of a link's handshake.
#[derive(Debug)]
pub(in crate::endpoint) enum Stage {
    /// This side sends its first packet as soon as it may transmit.
    Calling,
    /// This side has dialed and waits for the Accept.
    Dialing(Box<Dial>),
    /// This side has yet to send the Accept.
    Accepting(Box<Accepting>),
    /// The handshake is complete, or was not needed.
    Open,
}

/// The role of this side: whether it opened the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::endpoint) enum Role {
    Initiator,
    Responder,
}

/// What an endpoint holds of a link. The table finds links by the fields that are private here, so
/// they change only together with its indexes.
#[derive(Debug)]
pub(in crate::endpoint) struct LinkEntry {
    pub link: MayHibernate,
    pub(super) role: Role,
    /// The path to the other side. Only a link that the other side opened has a local address: that
    /// of its newest packet.
    pub(super) path: Path,
    /// The other side's key; `None` on a plain link.
    pub(super) peer: Option<PublicKey>,
    /// True if this side opened it to a realm, which may send requests on it too.
    pub(super) is_shared: bool,
    /// The other side's connection id of the link.
    pub(super) remote: Option<ConnectionId>,
    /// The token that a Reset of the other side must carry.
    pub token: Option<ResetToken>,
    pub stage: Stage,
    /// This side's key that the link is with; a realm has a few.
    pub own: KeyIndex,
    /// True if its Init is sent [`DIALS_ONCE`] times at most, because the address is unverified.
    pub is_trial: bool,
    pub opened: Time,
    pub rekey: Rekey,
    /// While the new path is not validated: the former path, and until when the link may return to
    /// it.
    pub previous_path: Option<Box<(Path, Time)>>,
    /// Early requests that wait until the link is proven.
    pub held: Vec<IncomingRequest>,
    /// Memory held for the other side, in bytes.
    pub memory: usize,
    /// The account of the device, if known.
    pub account: Option<AccountId>,
    pub slot: SlotKind,
    /// On a responder's link: when the Accept left.
    pub accepted: Option<Time>,
    pub heard: Option<Time>,
    /// On an initiator's link: the life that its handshakes claim. On a responder's link: the life
    /// that its WELCOME tells, if any.
    pub life: Life,
    /// On a responder's link: true if the life that the initiator claimed is unknown.
    pub is_life_unknown: bool,
    /// On a responder's link: whether the initiator wants to resume later.
    pub ticket_state: TicketState,
    pub resumption: Option<Box<Resumption>>,
}

/// Memory of an idle link, in bytes: the link itself and its table entries.
pub const LINK_BYTES: usize = size_of::<(LinkId, LinkEntry)>()
    + size_of::<Link>()
    + 2 * size_of::<(SocketAddr, LinkId)>()
    + 2 * size_of::<(PublicKey, LinkId)>()
    + 2 * size_of::<(Time, LinkId)>()
    + Accounts::LINK_BYTES;

/// Additional memory of a link during its handshake, in bytes.
pub const HANDSHAKE_BYTES: usize = size_of::<Accepting>();

impl LinkEntry {
    pub fn new(
        now: Time,
        link: Link,
        role: Role,
        path: Path,
        peer: Option<PublicKey>,
        stage: Stage,
    ) -> Self {
        Self {
            link: link.into(),
            role,
            path,
            peer,
            is_shared: false,
            remote: None,
            token: None,
            stage,
            own: KeyIndex::CURRENT,
            is_trial: false,
            opened: now,
            rekey: Rekey::default(),
            previous_path: None,
            held: Vec::new(),
            memory: 0,
            account: None,
            slot: SlotKind::Own,
            accepted: None,
            heard: None,
            life: Life::NONE,
            is_life_unknown: false,
            ticket_state: TicketState::Unwanted,
            resumption: None,
        }
    }

    /// Makes it a link to a realm, which may send requests on it too.
    pub const fn shared(mut self) -> Self {
        self.is_shared = true;
        self
    }

    /// Gives it the connection id that the initiator of a plain link has chosen.
    pub const fn named(mut self, connection: ConnectionId) -> Self {
        self.remote = Some(connection);
        self
    }

    pub const fn role(&self) -> Role {
        self.role
    }

    /// Returns the path to the other side.
    pub const fn path(&self) -> Path {
        self.path
    }

    /// Returns the other side's key; `None` on a plain link.
    pub const fn peer(&self) -> Option<PublicKey> {
        self.peer
    }

    /// True if this side opened it to a realm.
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Returns the other side's connection id of the link.
    pub const fn remote(&self) -> Option<ConnectionId> {
        self.remote
    }

    /// Returns the connection id that names the link on this side: a plain link's is the one that
    /// its initiator chose.
    pub fn connection(&self, id: LinkId) -> ConnectionId {
        match (self.peer, self.remote) {
            (None, Some(connection)) => connection,
            (Some(_), _) => ConnectionId(id.0),
            (None, None) => {
                debug_assert!(false, "a plain link has no connection id");
                ConnectionId(id.0)
            }
        }
    }

    /// Sets the connection id of a link that this side opened. The table does not find such links
    /// by it.
    pub fn set_remote(&mut self, remote: ConnectionId) {
        debug_assert!(
            self.role == Role::Initiator,
            "the table has to know the id of a link that another side opened"
        );
        self.remote = Some(remote);
    }

    /// Sets the local address of its path.
    pub const fn set_local_address(&mut self, local: Option<IpAddr>) {
        self.path.local = local;
    }

    /// Returns the holder of the link's memory.
    pub fn holder(&self) -> Holder {
        Holder::of(self.slot, self.account)
    }

    /// Returns when a packet last arrived, or else when the link was opened.
    fn heard_or_opened(&self) -> Time {
        self.heard.unwrap_or(self.opened)
    }

    /// Returns the memory of the requests that wait until the link is proven, in bytes.
    pub fn held_bytes(&self) -> usize {
        let each = self.held.iter().map(|request| request.bytes.capacity());
        self.held.capacity() * size_of::<IncomingRequest>() + each.sum::<usize>()
    }

    /// Returns when the endpoint has to process this link next.
    pub fn timeout(&self, config: &Config) -> Option<Time> {
        let stage = match &self.stage {
            Stage::Calling | Stage::Open => None,
            Stage::Dialing(dial) => Some(dial.timeout()),
            Stage::Accepting(accepting) => accepting.welcomed.map(|_| accepting.due),
        };
        let proof = self.previous_path.as_deref().map(|(_, until)| *until);
        let stage = earliest(stage, proof);
        let rest = earliest(self.hibernates_at(), self.end(config));
        if self.link.is_dormant() {
            return earliest(stage, rest);
        }
        earliest(earliest(stage, self.link.poll_timeout()), rest)
    }

    /// Returns when the link ends if nothing arrives.
    fn end(&self, config: &Config) -> Option<Time> {
        match (self.role, &self.stage) {
            (Role::Initiator, Stage::Open)
                if self.is_shared && self.link.is_idle() && !self.link.is_kept_alive() =>
            {
                Some(self.heard_or_opened() + config.shared_idle)
            }
            (Role::Initiator, Stage::Open) => None,
            (Role::Initiator, _) if self.link.is_waiting() => None,
            (Role::Initiator, _) => Some(self.opened + DIAL_PATIENCE),
            (Role::Responder, _) if !self.link.is_dormant() && self.is_unproven() => {
                Some(self.opened + UNPROVEN_LIFETIME)
            }
            (Role::Responder, _) => {
                let idle = match self.slot {
                    SlotKind::Account(..) => config.idle,
                    SlotKind::Own
                    | SlotKind::Unverified
                    | SlotKind::TicketAddress(_)
                    | SlotKind::Cookie(_)
                    | SlotKind::Stranger(_) => config.idle.min(STRANGER_IDLE),
                };
                Some(end_of_silence(self.heard_or_opened(), idle))
            }
        }
    }

    /// True if the other side has never shown that it receives packets sent to it.
    fn is_unproven(&self) -> bool {
        // A sealed packet shows that its sender received the Accept. A plain packet shows nothing.
        !self.link.is_proven() && (self.peer.is_none() || self.heard.is_none())
    }

    /// Returns the address that the other side last proved; `None` if it proved none.
    pub fn proven_address(&self) -> Option<SocketAddr> {
        if self.link.is_proven() {
            return Some(self.path.remote);
        }
        self.previous_path.as_deref().map(|(path, _)| path.remote)
    }

    /// True if requests wait until the other side's address is proven, except `early` ones where
    /// those need not. The holder of a link's keys may send packets from any address, and the cost
    /// of a command is counted by address.
    pub fn waits_for_proof(&self, early: bool) -> bool {
        let is_sealed = self.role == Role::Responder && self.peer.is_some();
        is_sealed && !early && self.proven_address().is_none()
    }

    /// True if it leads from that key of this side to that address, and is not closing.
    pub fn is_to(&self, own: KeyIndex, address: SocketAddr) -> bool {
        self.own == own && self.path.remote == address && !self.link.is_closing()
    }

    /// True while this side waits for the other to accept the link.
    pub fn is_dialing(&self) -> bool {
        self.role == Role::Initiator && !matches!(self.stage, Stage::Open)
    }

    /// True if the Init to an unverified address has left as often as it may.
    pub fn is_dialled_out(&self) -> bool {
        // Only realms are told addresses of others; this leaves the check out of light clients.
        if !cfg!(feature = "server") {
            return false;
        }
        let Stage::Dialing(dial) = &self.stage else {
            return false;
        };
        self.is_trial && dial.sent().0 >= DIALS_ONCE && !is_planted(Fault::DialWithoutEnd)
    }

    /// True if the link is to end.
    pub fn is_over(&self, now: Time, config: &Config) -> bool {
        let is_dead = self.role == Role::Initiator && self.link.is_dead();
        let has_waited = matches!(&self.stage, Stage::Dialing(dial) if dial.timeout() <= now);
        (is_dead || has_waited && self.is_dialled_out())
            || self.end(config).is_some_and(|end| end <= now)
    }

    /// True if the Accept can leave: the realm has given its WELCOME, and the answers to early data
    /// are ready or have timed out.
    pub fn accept_is_due(&self, now: Time) -> bool {
        let Stage::Accepting(accepting) = &self.stage else {
            return false;
        };
        // Requests held until the link is proven are not answered in the Accept.
        let is_awaited = self.link.working() > self.held.len();
        accepting.welcomed.is_some() && (!is_awaited || accepting.due <= now)
    }

    /// Returns when the link may become dormant, if it may.
    pub fn hibernates_at(&self) -> Option<Time> {
        let may_hibernate = SERVES
            && self.role == Role::Responder
            && matches!(self.stage, Stage::Open)
            && !self.link.is_dormant()
            && self.previous_path.is_none()
            && self.held.is_empty()
            && self.link.may_hibernate();
        // Rounded to the granularity, so that the timer does not change with each packet.
        let grain = u64::try_from(GRAIN.as_micros()).unwrap_or(u64::MAX);
        let at = (self.heard_or_opened() + HIBERNATES_AFTER).0;
        may_hibernate.then(|| Time(at.checked_next_multiple_of(grain).unwrap_or(u64::MAX)))
    }

    /// True if a link in use is due for replacement. An unused link is not replaced.
    pub fn wants_rekey(&self, now: Time, lifetime: Duration) -> bool {
        let is_ours = self.role == Role::Initiator && self.peer.is_some();
        let is_old = now - self.opened >= lifetime || self.link.is_worn();
        let tried = self.rekey.begun;
        let may_try = tried.is_none_or(|begun| now - begun >= TRIED_AGAIN_AFTER);
        is_ours
            && is_old
            && may_try
            && self.rekey.replaced_by.is_none()
            && self.rekey.replaces.is_none()
            && matches!(self.stage, Stage::Open)
            && !self.link.is_closing()
    }

    /// Returns the life claim of a link that another side opens. Realms, which name their links,
    /// and plain links make none.
    pub fn life_claim(&self, name: Option<&LinkName>) -> Option<LifeClaim> {
        let Stage::Accepting(accepting) = &self.stage else {
            return None;
        };
        match &accepting.answering {
            Answering::Accept(responder, handshake) if name.is_none() => {
                Some(LifeClaim::new(responder.life_key.clone(), *handshake))
            }
            // The key that decrypts a Resume shows its life.
            Answering::Accept(..) | Answering::Resumed(..) => None,
        }
    }

    /// Returns the life to tell in a WELCOME with `successor` and `highest`.
    pub fn life_beside(
        &self,
        successor: Option<&[u8; 32]>,
        highest: OperationNumber,
    ) -> Option<Life> {
        let has_room = successor.is_none() || varint_len(highest.0) < HIGHEST_BYTES_MAX;
        Some(self.life).filter(|life| has_room && *life != Life::NONE)
    }

    /// Records the life that the realm has told: later handshakes of the link claim it.
    pub fn learn_life(&mut self, welcome: &Welcome) {
        if let (Some(life), false) = (welcome.life, welcome.is_life_unknown) {
            self.life = life;
        }
    }

    /// Returns the ticket to resume with.
    pub fn ticket(&self) -> Option<&Ticket> {
        match self.resumption.as_deref()? {
            Resumption::Ticket(ticket) => Some(ticket),
            Resumption::Resumed(_) => None,
        }
    }

    /// Returns how the other side has resumed, if it has.
    pub fn resumed(&self) -> Option<&Resumed> {
        match self.resumption.as_deref()? {
            Resumption::Resumed(resumed) => Some(resumed),
            Resumption::Ticket(_) => None,
        }
    }

    /// Returns how the other side has resumed, to change it.
    pub fn resumed_mut(&mut self) -> Option<&mut Resumed> {
        match self.resumption.as_deref_mut()? {
            Resumption::Resumed(resumed) => Some(resumed),
            Resumption::Ticket(_) => None,
        }
    }

    /// True if the link was resumed or is about to be.
    pub fn is_resumed(&self) -> bool {
        match &self.stage {
            Stage::Calling => self.ticket().is_some(),
            Stage::Dialing(dial) => dial.resumption().is_some(),
            Stage::Accepting(_) | Stage::Open => {
                self.resumed().is_some() || self.ticket_state == TicketState::Used
            }
        }
    }

    /// True while a resumed link executes no commands, because the realm checks that the user is
    /// still the same.
    pub fn waits_for_welcome(&self) -> bool {
        self.resumed().is_some_and(|resumed| !resumed.is_welcome())
    }

    /// Returns the link's ticket, made with this side's key `own`. With `is_settled`
    /// no later event can show that its device had the answer at another address.
    pub fn issued_ticket(&self, own: PublicKey, is_settled: bool) -> Option<IssuedTicket> {
        let is_wanted = match self.ticket_state {
            TicketState::Unwanted | TicketState::Used => false,
            TicketState::Wanted | TicketState::Genuine | TicketState::Due => true,
        };
        // A device that used a former key uses the current one next time.
        if !is_wanted || self.own != KeyIndex::CURRENT {
            return None;
        }
        let (secret, max_datagram) = self.link.responders_ticket()?;
        Some(IssuedTicket {
            peer: self.peer?,
            own,
            secret,
            max_datagram,
            account: self.account,
            address: (is_settled && !self.link.has_moved()).then(|| self.path.remote.ip()),
        })
    }

    /// True if the handshake of the link is not a replayed recording: its device is known to have
    /// used no number as high as `operation`.
    pub fn is_fresh(&self, operation: OperationNumber) -> bool {
        match &self.stage {
            Stage::Accepting(accepting) => accepting
                .welcomed
                .is_some_and(|highest| operation > highest),
            Stage::Calling | Stage::Dialing(_) | Stage::Open => false,
        }
    }

    /// True if a Reset of the link is accepted as the other side's. An initiator that has resumed
    /// gets the token only after it has proven its address. Until then a Reset that names its link
    /// is accepted once something has timed out.
    pub fn believes_reset(&self, token: &ResetToken) -> bool {
        match &self.token {
            Some(known) => same(known, token),
            None => {
                let has_come_back = self.role == Role::Initiator && self.ticket().is_some();
                has_come_back && self.link.timeouts() > 0
            }
        }
    }
}

/// Returns when a link last heard at `heard` has been silent for `idle`. Rounded up, so that the
/// timer does not change with each packet.
fn end_of_silence(heard: Time, idle: Duration) -> Time {
    let grain = u64::try_from(idle.as_micros() / GRAINS)
        .unwrap_or(u64::MAX)
        .max(1);
    let end = heard + idle;
    Time(end.0.checked_next_multiple_of(grain).unwrap_or(u64::MAX))
}
