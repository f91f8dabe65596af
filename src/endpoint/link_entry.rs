//! One link's place in the endpoint: the link, the other side, and how far their handshake is.

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
/// A silence is measured to so small a part of what is allowed.
const GRAINS: u128 = 256;
/// How long an initiator without any request to make goes on with a handshake.
const DIAL_PATIENCE: Duration = Duration::from_mins(3);

/// How the other side has begun, and is answered.
#[derive(Debug)]
pub(super) enum Answering {
    /// With an Init: an Accept ends the handshake.
    Accept(Box<Responder>, HandshakeId),
    /// With a Resume, under this secret and with this nonce.
    Resumed(ResumptionSecret, ResumeNonce),
}

/// What the other side has begun, and that waits for its answer to leave.
#[derive(Debug)]
pub(super) struct Accepting {
    pub answering: Answering,
    pub init: InitHash,
    /// Bytes that it brought,
    pub brought: usize,
    /// and that the answer may have.
    pub room: usize,
    pub due: Time,
    /// Once it is let in: the highest operation number that its device has used.
    pub welcomed: Option<OperationNumber>,
}

impl Accepting {
    /// The answer may have `factor` times the bytes that were `brought`.
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

/// How far a link's handshake is.
#[derive(Debug)]
pub(super) enum Stage {
    /// This side will dial as soon as it may transmit.
    Calling,
    /// This side waits for the Accept.
    Dialing(Box<Dial>),
    /// This side owes the Accept.
    Accepting(Box<Accepting>),
    /// It is over, or was not needed.
    Open,
}

/// Which side opened a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Initiator,
    Responder,
}

/// One link's place.
#[derive(Debug)]
pub(super) struct LinkEntry {
    pub link: MayHibernate,
    pub role: Role,
    /// Where the other side is. Only a link that the other side opened has a local address: that of its newest packet.
    pub path: Path,
    /// The other side's key; none on a plain link.
    pub peer: Option<PublicKey>,
    pub stage: Stage,
    /// Which of this side's keys the link is with; a realm has a few.
    pub own: u16,
    /// This side opened it to a realm, which may ask on it too.
    pub is_shared: bool,
    /// Its Init is sent [`DIALS_ONCE`] times at most: nobody vouches for the address.
    pub is_once: bool,
    /// How the other side knows the link, and the token that its Reset must carry.
    pub remote: Option<ConnectionId>,
    pub token: Option<ResetToken>,
    pub opened: Time,
    pub renewal: Rekey,
    /// The path it has left and until when it may return there, while its new one is not proven.
    pub left: Option<Box<(Path, Time)>>,
    /// Requests that came early, where those wait until the link is proven.
    pub held: Vec<(RequestId, Vec<u8>)>,
    /// Bytes that it holds for the other side.
    pub memory: usize,
    /// Whose device it is, if that is known.
    pub account: Option<AccountId>,
    /// What it counts as.
    pub standing: Standing,
    /// When a responder's Accept left.
    pub accepted: Option<Time>,
    pub heard: Option<Time>,
    /// An initiator's: the life that its handshakes claim. A responder's: the life that its WELCOME tells, if any.
    pub life: Life,
    /// A responder's: the life that the initiator claimed is unknown.
    pub is_life_unknown: bool,
    /// A responder's: whether the initiator means to come back by resumption.
    pub ticket_state: TicketState,
    pub resumption: Option<Box<Resumption>>,
}

/// Memory of a link that does nothing, in bytes: itself, and its places in the tables.
pub const LINK_BYTES: usize = size_of::<(LinkId, LinkEntry)>()
    + size_of::<Link>()
    + 2 * size_of::<(SocketAddr, LinkId)>()
    + 2 * size_of::<(PublicKey, LinkId)>()
    + 2 * size_of::<(Time, LinkId)>()
    + Accounts::LINK_BYTES;

/// What a link takes beside that while its handshake goes on, in bytes.
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

    /// Memory of the requests that wait until the link is proven, in bytes.
    pub fn held_bytes(&self) -> usize {
        let each = self.held.iter().map(|(_, bytes)| bytes.capacity());
        self.held.capacity() * size_of::<(RequestId, Vec<u8>)>() + each.sum::<usize>()
    }

    /// When the endpoint has to look at this link again.
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

    /// When the link ends unless something comes.
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

    /// True when the other side has never shown that it receives what is sent to it.
    fn is_unproven(&self) -> bool {
        // A sealed packet shows that its sender has had the Accept, and a plain one nothing.
        !self.link.is_proven() && (self.peer.is_none() || self.heard.is_none())
    }

    /// The address at which the other side was last proven to be; none where none is.
    pub fn proven_address(&self) -> Option<SocketAddr> {
        if self.link.is_proven() {
            return Some(self.path.remote);
        }
        self.left.as_deref().map(|(left, _)| left.remote)
    }

    /// True when requests wait until it is known where they come from, but for `early` ones where those need not: whoever has the keys of
    /// a link may send packets with any address, and what a command costs is counted by it.
    pub fn waits_for_proof(&self, early: bool) -> bool {
        let is_sealed = self.role == Role::Responder && self.peer.is_some();
        is_sealed && !early && self.proven_address().is_none()
    }

    /// True when it leads from that key of this side's to that address, and is not about to end.
    pub fn is_to(&self, own: u16, address: SocketAddr) -> bool {
        self.own == own && self.path.remote == address && !self.link.is_closing()
    }

    /// True when the Init has left as often as it may, to an address for which nobody vouches.
    pub fn is_dialled_out(&self) -> bool {
        // Only realms are told where others are; a light client need not carry this about.
        if !cfg!(feature = "server") {
            return false;
        }
        let sent = match &self.stage {
            Stage::Dialing(dial) => dial.sent().0,
            _ => 0,
        };
        self.is_once && sent >= DIALS_ONCE && !is_planted(Fault::DialWithoutEnd)
    }

    /// True when the link's time is over.
    pub fn is_over(&self, now: Time, config: &Config) -> bool {
        let is_dead = self.role == Role::Initiator && self.link.is_dead();
        let has_waited = match &self.stage {
            Stage::Dialing(dial) => dial.timeout() <= now,
            _ => false,
        };
        (is_dead || has_waited && self.is_dialled_out())
            || self.end(config).is_some_and(|end| end <= now)
    }

    /// True when the Accept can leave: the realm has said its welcome, and the answers to early
    /// data are there or have taken too long.
    pub fn accept_is_due(&self, now: Time) -> bool {
        match &self.stage {
            Stage::Accepting(accepting) => {
                // What is held until the link is proven is not answered in it.
                let is_awaited = self.link.working() > self.held.len();
                accepting.welcomed.is_some() && (!is_awaited || accepting.due <= now)
            }
            _ => false,
        }
    }
}

/// When a link that was heard last at `heard` has been silent for `idle`, or a little longer: so that the time is not
/// another after each packet.
fn end_of_silence(heard: Time, idle: Duration) -> Time {
    let grain = u64::try_from(idle.as_micros() / GRAINS)
        .unwrap_or(u64::MAX)
        .max(1);
    let end = heard + idle;
    Time(end.0.checked_next_multiple_of(grain).unwrap_or(u64::MAX))
}
