//! The link entry: the link, the other side, and the state of their handshake.

use std::{net::SocketAddr, time::Duration};

use super::{
    AccountId, Config, LinkId, Path,
    accept_cache::InitHash,
    accounts::Accounts,
    dial::Dial,
    dormant::MayHibernate,
    limits::{DIALS_ONCE, STRANGER_IDLE, UNPROVEN_LIFETIME},
    link_slots::Standing,
    rekey::Rekey,
    resume::{Resumption, TicketState},
};
use crate::{
    crypto::{PublicKey, Responder, ResumptionSecret},
    faults::{Fault, is_planted},
    link::{Link, Time, earliest},
    wire::{ConnectionId, HandshakeId, Life, OperationNumber, RequestId, ResetToken, ResumeNonce},
};

/// How long an Accept waits for the answers to early data (HS-5).
pub(super) const ACCEPT_PATIENCE: Duration = Duration::from_millis(50);
/// The end of a silence is rounded up to this fraction of the idle time.
const GRAINS: u128 = 256;
/// How long an initiator without open requests continues a handshake.
const DIAL_PATIENCE: Duration = Duration::from_mins(3);

/// The packet that the other side began with, and what its answer needs.
#[derive(Debug)]
pub(super) enum Answering {
    /// An Init: an Accept completes the handshake.
    Accept(Box<Responder>, HandshakeId),
    /// A Resume, under this secret and with this nonce.
    Resumed(ResumptionSecret, ResumeNonce),
}

/// A handshake that the other side began and whose answer has not left yet.
#[derive(Debug)]
pub(super) struct Accepting {
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
    /// Returns a handshake whose answer may be `factor` times as long as `brought`, in bytes.
    pub fn new(
        now: Time,
        answering: Answering,
        init: InitHash,
        (brought, factor): (usize, usize),
    ) -> Self {
        Self {
            answering,
            init,
            brought,
            room: brought.saturating_mul(factor),
            due: now + ACCEPT_PATIENCE,
            welcomed: None,
        }
    }
}

/// The state of a link's handshake.
#[derive(Debug)]
pub(super) enum Stage {
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
pub(super) enum Role {
    Initiator,
    Responder,
}

/// What an endpoint holds of a link.
#[derive(Debug)]
pub(super) struct LinkEntry {
    pub link: MayHibernate,
    pub role: Role,
    /// The path to the other side. Only a link that the other side opened has a local address: that
    /// of its newest packet.
    pub path: Path,
    /// The other side's key; `None` on a plain link.
    pub peer: Option<PublicKey>,
    pub stage: Stage,
    /// Index of this side's key that the link is with; a realm has a few.
    pub own: u16,
    /// True if this side opened it to a realm, which may send requests on it too.
    pub is_shared: bool,
    /// True if its Init is sent [`DIALS_ONCE`] times at most, because the address is unverified.
    pub is_once: bool,
    /// The other side's connection id of the link, and the token that its Reset must carry.
    pub remote: Option<ConnectionId>,
    pub token: Option<ResetToken>,
    pub opened: Time,
    pub renewal: Rekey,
    /// While the new path is not validated: the former path, and until when the link may return to
    /// it.
    pub left: Option<Box<(Path, Time)>>,
    /// Early requests that wait until the link is proven.
    pub held: Vec<(RequestId, Vec<u8>)>,
    /// Memory held for the other side, in bytes.
    pub memory: usize,
    /// The account of the device, if known.
    pub account: Option<AccountId>,
    /// The kind of its link slot.
    pub standing: Standing,
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
            stage,
            own: 0,
            is_shared: false,
            is_once: false,
            remote: None,
            token: None,
            opened: now,
            renewal: Rekey::default(),
            left: None,
            held: Vec::new(),
            memory: 0,
            account: None,
            standing: Standing::Own,
            accepted: None,
            heard: None,
            life: Life::NONE,
            is_life_unknown: false,
            ticket_state: TicketState::Unwanted,
            resumption: None,
        }
    }

    /// Returns the memory of the requests that wait until the link is proven, in bytes.
    pub fn held_bytes(&self) -> usize {
        let each = self.held.iter().map(|(_, bytes)| bytes.capacity());
        self.held.capacity() * size_of::<(RequestId, Vec<u8>)>() + each.sum::<usize>()
    }

    /// Returns when the endpoint has to process this link next.
    pub fn timeout(&self, config: &Config) -> Option<Time> {
        let stage = match &self.stage {
            Stage::Calling | Stage::Open => None,
            Stage::Dialing(dial) => Some(dial.timeout()),
            Stage::Accepting(accepting) => accepting.welcomed.map(|_| accepting.due),
        };
        let proof = self.left.as_deref().map(|(_, until)| *until);
        let stage = earliest(stage, proof);
        let rest = earliest(self.rests_at(), self.end(config));
        if self.link.is_resting() {
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
                Some(self.heard.unwrap_or(self.opened) + config.shared_idle)
            }
            (Role::Initiator, Stage::Open) => None,
            (Role::Initiator, _) if self.link.is_waiting() => None,
            (Role::Initiator, _) => Some(self.opened + DIAL_PATIENCE),
            (Role::Responder, _) if !self.link.is_resting() && self.is_unproven() => {
                Some(self.opened + UNPROVEN_LIFETIME)
            }
            (Role::Responder, _) => {
                let idle = match self.standing {
                    Standing::Account(..) => config.idle,
                    _ => config.idle.min(STRANGER_IDLE),
                };
                Some(end_of_silence(self.heard.unwrap_or(self.opened), idle))
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
        self.left.as_deref().map(|(left, _)| left.remote)
    }

    /// True if requests wait until the other side's address is proven, except `early` ones where
    /// those need not. The holder of a link's keys may send packets from any address, and the cost
    /// of a command is counted by address.
    pub fn waits_for_proof(&self, early: bool) -> bool {
        let is_sealed = self.role == Role::Responder && self.peer.is_some();
        is_sealed && !early && self.proven_address().is_none()
    }

    /// True if it leads from that key of this side to that address, and is not closing.
    pub fn is_to(&self, own: u16, address: SocketAddr) -> bool {
        self.own == own && self.path.remote == address && !self.link.is_closing()
    }

    /// True if the Init to an unverified address has left as often as it may.
    pub fn is_dialled_out(&self) -> bool {
        // Only realms are told addresses of others; this leaves the check out of light clients.
        if !cfg!(feature = "server") {
            return false;
        }
        let sent = match &self.stage {
            Stage::Dialing(dial) => dial.sent().0,
            _ => 0,
        };
        self.is_once && sent >= DIALS_ONCE && !is_planted(Fault::DialWithoutEnd)
    }

    /// True if the link is to end.
    pub fn is_over(&self, now: Time, config: &Config) -> bool {
        let is_dead = self.role == Role::Initiator && self.link.is_dead();
        let has_waited = match &self.stage {
            Stage::Dialing(dial) => dial.timeout() <= now,
            _ => false,
        };
        (is_dead || has_waited && self.is_dialled_out())
            || self.end(config).is_some_and(|end| end <= now)
    }

    /// True if the Accept can leave: the realm has given its WELCOME, and the answers to early data
    /// are ready or have timed out.
    pub fn accept_is_due(&self, now: Time) -> bool {
        match &self.stage {
            Stage::Accepting(accepting) => {
                // Requests held until the link is proven are not answered in the Accept.
                let is_awaited = self.link.working() > self.held.len();
                accepting.welcomed.is_some() && (!is_awaited || accepting.due <= now)
            }
            _ => false,
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
