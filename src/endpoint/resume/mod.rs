//! Resumption (HS-18 … HS-21): how a device that was here before comes back in one round trip. What this side comes back with
//! is a [`Ticket`]; what it takes others back by is a [`Known`], found at the link that their handshake opened, or else by
//! whoever keeps them ([`Event::UnknownTicket`]).

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

/// A ticket is good for so long.
pub const TICKET_LIFETIME: Duration = Duration::from_hours(24);
/// It is shown for so long after its handshake.
pub const TICKET_SHOWN: Duration = TICKET_LIFETIME.saturating_sub(Duration::from_mins(10));
/// Tickets of one device that are remembered of links that were never proven.
const UNPROVEN_PER_DEVICE: usize = 4;
/// Bytes of the connection id that a Resumed begins with.
const CONNECTION_LEN: usize = 4;

/// What this side comes back with.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// Its name: the connection id of the link that its handshake opened.
    pub id: ConnectionId,
    /// What a Reset of it carries.
    pub token: ResetToken,
    /// What only the two sides know.
    pub secret: ResumptionSecret,
    /// The largest datagram that each side takes, in bytes: this one's, and the other's.
    pub max_datagrams: (usize, usize),
    /// It is not shown any more from then on: the other side would refuse it soon.
    pub until: Time,
}

/// What this side knows of who comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The device's key.
    pub peer: PublicKey,
    /// This side's key that its handshake was with.
    pub own: PublicKey,
    /// What only the two sides know.
    pub secret: ResumptionSecret,
    /// The largest datagram that the device takes, in bytes.
    pub max_datagram: usize,
    /// Who was logged in.
    pub account: Option<AccountId>,
    /// Where it has been shown to be.
    pub place: Option<IpAddr>,
}

/// What was found out of a ticket that an endpoint did not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketFound {
    /// It is good: who comes back by it.
    Good(Known),
    /// It is not, or not any more.
    NotGood,
    /// What is kept could not be read.
    Unknown,
}

/// What there is to a link that was resumed, beside what any has.
#[derive(Clone, Debug)]
pub(super) struct Resumed {
    /// Who was logged in before.
    pub account: Option<AccountId>,
    /// The ticket's name.
    pub ticket: ConnectionId,
    /// It is known where its device has been shown to be.
    has_place: bool,
    /// The current life of the store, where the device knows another.
    life: Option<Life>,
    /// It has been let in again.
    is_welcome: bool,
    highest: OperationNumber,
}

/// Whether the initiator of a link means to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TicketState {
    /// It does not, or has come back itself.
    Unwanted,
    /// It does, if the link's handshake was none that somebody has recorded.
    Wanted,
    /// It does, and the handshake was none such; there are no keys yet.
    Genuine,
    /// It has been told that what it takes may be kept ([`Event::TicketDue`]).
    Due,
    /// On an initiator's link: it has come back by one.
    Used,
}

/// What there is to a link that may be resumed, or was.
#[derive(Clone, Debug)]
pub(super) enum Resumption {
    /// An initiator's: what to come back with.
    Ticket(Ticket),
    /// A responder's: the initiator has come back.
    Resumed(Resumed),
}

/// Tickets that are being looked up elsewhere, and the lives of the store that a Resume may name.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    /// Whether whoever sent each has shown where they are.
    waiting: BTreeMap<InitHash, bool>,
    lives: Vec<Life>,
    /// How old what was opened before is, is not known: the clock stood still, or the time of day was set.
    since: Time,
    /// Of links that have ended and never proved genuine: who comes back by one does.
    unproven: BTreeMap<ConnectionId, (Time, Known)>,
}

impl Lookups {
    /// Remembers by what a device may come back whose link ends. There are few of one device: somebody may have recorded an Init of it
    /// and send it again, and what came before that stays. Of all the oldest makes room.
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
    /// What to come back with.
    pub fn ticket(&self) -> Option<&Ticket> {
        match self.resumption.as_deref()? {
            Resumption::Ticket(ticket) => Some(ticket),
            Resumption::Resumed(_) => None,
        }
    }

    /// How the other side has come back, if it has.
    pub fn resumed(&self) -> Option<&Resumed> {
        match self.resumption.as_deref()? {
            Resumption::Resumed(resumed) => Some(resumed),
            Resumption::Ticket(_) => None,
        }
    }

    /// True when a Reset of the link comes from its other side. An initiator that has come back is told the token only when it has shown
    /// that it is there: until then, a Reset that names its link will do once something has had no answer for a timeout.
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

    /// True while nothing is carried out on a link that was resumed: whether it is still the same user's is being asked.
    pub fn waits_for_welcome(&self) -> bool {
        self.resumed().is_some_and(|one| !one.is_welcome)
    }

    /// The device that has resumed this link is let in, which has used operation numbers up to `highest`. What it is to be told at once.
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

/// Bytes around the frames of a Resumed.
pub(super) const RESUMED_AROUND: usize = RESUMED_HEADER + CONNECTION_LEN + TAG_LEN;
