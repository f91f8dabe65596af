//! Resumption (HS-18 … HS-21): a returning device opens a link in one round trip. The initiator
//! resumes with a [`Ticket`]. The responder accepts it with a [`Known`], found at the link that the
//! ticket's handshake opened, or else in the caller's records ([`Event::UnknownTicket`]).

mod initiator;
mod responder;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    AccountId,
    accept_cache::InitHash,
    limits::TICKETS_UNPROVEN,
    link_entry::{LinkEntry, Role},
};
use crate::{
    crypto::{PublicKey, ResumptionSecret, TAG_LEN, same},
    link::Time,
    wire::{ConnectionId, Life, OperationNumber, RESUMED_HEADER, ResetToken, Update},
};

/// How long a ticket is valid.
pub const TICKET_LIFETIME: Duration = Duration::from_hours(24);
/// How long after its handshake an initiator uses a ticket.
pub const TICKET_SHOWN: Duration = TICKET_LIFETIME.saturating_sub(Duration::from_mins(10));
/// The largest number of tickets of one device remembered from links that were never proven.
const UNPROVEN_PER_DEVICE: usize = 4;
/// Length of the connection id at the start of a Resumed's payload, in bytes.
const CONNECTION_LEN: usize = 4;

/// What an initiator resumes with.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The ticket's name: the connection id of the link that its handshake opened.
    pub id: ConnectionId,
    /// The token that a Reset of the ticket carries.
    pub token: ResetToken,
    /// The secret that only the two sides know.
    pub secret: ResumptionSecret,
    /// The largest datagram of each side, in bytes: this side's, then the other's.
    pub max_datagrams: (usize, usize),
    /// When this side stops using it: the other side would refuse it soon.
    pub until: Time,
}

/// What a responder knows of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The device's key.
    pub peer: PublicKey,
    /// This side's key in the ticket's handshake.
    pub own: PublicKey,
    /// The secret that only the two sides know.
    pub secret: ResumptionSecret,
    /// The largest datagram that the device takes, in bytes.
    pub max_datagram: usize,
    /// The account that was logged in.
    pub account: Option<AccountId>,
    /// The address that the device has proven.
    pub place: Option<IpAddr>,
}

/// The result of looking up a ticket that an endpoint did not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketFound {
    /// The ticket is valid.
    Good(Known),
    /// The ticket is invalid or expired.
    NotGood,
    /// The records could not be read.
    Unknown,
}

/// The additional state of a resumed link on the responder.
#[derive(Clone, Debug)]
pub(super) struct Resumed {
    /// The account that was logged in before.
    pub account: Option<AccountId>,
    /// The ticket's name.
    pub ticket: ConnectionId,
    /// True if the ticket has a proven address of its device.
    has_place: bool,
    /// The current life of the store, if the device knows another.
    life: Option<Life>,
    /// True once the link is accepted again.
    is_welcome: bool,
    highest: OperationNumber,
}

/// Whether the initiator of a link wants to resume later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TicketState {
    /// It does not, or the link is itself resumed.
    Unwanted,
    /// It does, but the link's handshake may be a replayed recording.
    Wanted,
    /// It does, and the handshake is not a replay; there are no keys yet.
    Genuine,
    /// The ticket's record was passed to the caller to store ([`Event::TicketDue`]).
    Due,
    /// On an initiator's link: it was resumed by a ticket.
    Used,
}

/// The resumption state of a link.
#[derive(Clone, Debug)]
pub(super) enum Resumption {
    /// On an initiator's link: the ticket to resume with.
    Ticket(Ticket),
    /// On a responder's link: the initiator has resumed.
    Resumed(Resumed),
}

/// Pending ticket lookups, the lives of the store that a Resume may name, and tickets of unproven
/// links.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    /// The Resumes whose tickets are looked up, and whether each sender has proven its address.
    waiting: BTreeMap<InitHash, bool>,
    lives: Vec<Life>,
    /// The age of links opened before this is unknown: the clock stopped, or the time of day was
    /// set.
    since: Time,
    /// Tickets of links that ended without a proof that their handshake was genuine. A resumption
    /// by one proves it.
    unproven: BTreeMap<ConnectionId, (Time, Known)>,
}

impl Lookups {
    /// Remembers the ticket of a link that ends. Keeps few of one device, and the first ones stay,
    /// because an attacker may replay a recorded Init of it. When the table is full the oldest
    /// ticket of all is evicted.
    fn remember(&mut self, opened: Time, ticket: ConnectionId, known: Known) {
        let theirs = self.unproven.values();
        let theirs =
            theirs.filter(|(at, other)| other.peer == known.peer && opened - *at < TICKET_LIFETIME);
        if theirs.count() >= UNPROVEN_PER_DEVICE {
            return;
        }
        if self.unproven.len() >= TICKETS_UNPROVEN
            && let Some(oldest) = self.unproven.iter().min_by_key(|(_, (at, _))| *at)
        {
            let oldest = *oldest.0;
            self.unproven.remove(&oldest);
        }
        self.unproven.insert(ticket, (opened, known));
    }
}

impl LinkEntry {
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

    fn resumed_mut(&mut self) -> Option<&mut Resumed> {
        match self.resumption.as_deref_mut()? {
            Resumption::Resumed(resumed) => Some(resumed),
            Resumption::Ticket(_) => None,
        }
    }

    /// True while a resumed link executes no commands, because the realm checks that the user is
    /// still the same.
    pub fn waits_for_welcome(&self) -> bool {
        self.resumed().is_some_and(|one| !one.is_welcome)
    }

    /// Accepts the device that resumed this link and that has used operation numbers up to
    /// `highest`. Returns the UPDATE to send at once.
    pub fn come_back(&mut self, highest: OperationNumber) -> Option<Update> {
        let resumed = self.resumed_mut()?;
        resumed.highest = highest;
        let life = resumed.life?;
        Some(Update {
            standing: None,
            life: Some(life),
        })
    }
}

/// Bytes of a Resumed besides its frames.
pub(super) const RESUMED_AROUND: usize = RESUMED_HEADER + CONNECTION_LEN + TAG_LEN;
