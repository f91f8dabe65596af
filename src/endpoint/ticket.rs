//! Tickets (HS-18), as both sides see them. An initiator resumes with a [`Ticket`]; its responder
//! accepts it by the [`IssuedTicket`] of the same handshake.

use std::{net::IpAddr, time::Duration};

use super::accounts::AccountId;
use crate::{
    crypto::{PublicKey, ResumptionSecret},
    faults::{Fault, is_planted},
    link::Time,
    wire::{ConnectionId, Life, OperationNumber, ResetToken, Update},
};

/// How long a ticket is valid.
pub const TICKET_LIFETIME: Duration = Duration::from_hours(24);
/// How long after its handshake an initiator uses a ticket.
pub const TICKET_SHOWN: Duration = TICKET_LIFETIME.saturating_sub(Duration::from_mins(10));

/// True if a ticket is valid whose handshake began at `opened`.
pub(super) fn is_valid(now: Time, opened: Time) -> bool {
    now - opened < TICKET_LIFETIME || is_planted(Fault::TicketsWithoutEnd)
}

/// What an initiator resumes with.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// The ticket's name: the connection id of the link that its handshake opened.
    pub id: ConnectionId,
    /// The token that a Reset of the ticket carries.
    pub token: ResetToken,
    /// The secret that only the two sides know.
    pub secret: ResumptionSecret,
    /// The largest datagram of this side, in bytes.
    pub max_datagram: usize,
    /// The largest datagram of the other side, in bytes.
    pub peer_max_datagram: usize,
    /// When this side stops using it: the other side would refuse it soon.
    pub until: Time,
}

/// A ticket as its responder knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedTicket {
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
    pub address: Option<IpAddr>,
}

/// The result of looking up a ticket that an endpoint did not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketFound {
    /// The ticket is valid.
    Good(IssuedTicket),
    /// The ticket is invalid or expired.
    NotGood,
    /// The records could not be read.
    Unknown,
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
    /// The ticket's record was passed to the caller to store ([`super::Event::TicketDue`]).
    Due,
    /// On an initiator's link: it was resumed by a ticket.
    Used,
}

/// The ticket by which a link is resumed.
#[derive(Debug)]
enum Resumption {
    /// On an initiator's link: the ticket to resume with.
    Ticket(Ticket),
    /// On a responder's link: the initiator has resumed.
    Resumed(Resumed),
}

/// The part that a link has in resumptions: whether its handshake makes a ticket, and the ticket by
/// which it is resumed.
#[derive(Debug)]
pub(super) struct LinkResumption {
    ticket_state: TicketState,
    resumption: Option<Box<Resumption>>,
}

impl Default for LinkResumption {
    fn default() -> Self {
        Self {
            ticket_state: TicketState::Unwanted,
            resumption: None,
        }
    }
}

impl LinkResumption {
    /// Returns the state of a link that the other side resumes.
    pub fn accepted(resumed: Resumed) -> Self {
        Self {
            resumption: Some(Box::new(Resumption::Resumed(resumed))),
            ..Self::default()
        }
    }

    pub const fn ticket_state(&self) -> TicketState {
        self.ticket_state
    }

    /// True if the link's handshake makes a ticket that the initiator wants.
    pub const fn makes_ticket(&self) -> bool {
        match self.ticket_state {
            TicketState::Unwanted | TicketState::Used => false,
            TicketState::Wanted | TicketState::Genuine | TicketState::Due => true,
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

    /// True while a resumed link executes no commands, because the realm checks that the user is
    /// still the same.
    pub fn waits_for_welcome(&self) -> bool {
        self.resumed().is_some_and(|resumed| !resumed.is_welcome())
    }

    /// Resumes with `ticket`.
    pub fn resume_with(&mut self, ticket: Ticket) {
        self.resumption = Some(Box::new(Resumption::Ticket(ticket)));
    }

    /// Limits the use of the ticket to times before `until`.
    pub fn use_until(&mut self, until: Time) {
        if let Some(Resumption::Ticket(ticket)) = self.resumption.as_deref_mut() {
            ticket.until = ticket.until.min(until);
        }
    }

    /// Forgets the ticket to resume with if its time is over.
    pub fn expire(&mut self, now: Time) {
        if self.ticket().is_some_and(|ticket| ticket.until <= now) {
            self.resumption = None;
        }
    }

    /// Forgets the ticket to resume with.
    pub fn clear(&mut self) {
        self.resumption = None;
    }

    /// Records a completed handshake of this side, which has made `ticket`, if any.
    pub fn on_handshake(&mut self, ticket: Option<Ticket>) {
        self.ticket_state = TicketState::Unwanted;
        self.resumption = ticket.map(|ticket| Box::new(Resumption::Ticket(ticket)));
    }

    /// Records that the ticket has resumed the link.
    pub const fn on_ticket_used(&mut self) {
        self.ticket_state = TicketState::Used;
    }

    /// Records that the initiator wants to resume later.
    pub const fn on_ticket_wanted(&mut self) {
        self.ticket_state = TicketState::Wanted;
    }

    /// Records that the handshake is not a replay, before there are keys for the ticket.
    pub fn on_genuine(&mut self) {
        if self.ticket_state == TicketState::Wanted {
            self.ticket_state = TicketState::Genuine;
        }
    }

    /// Records that the ticket's record is passed to the caller to store. True if the initiator
    /// wants that, and it was not passed before.
    pub const fn pass_on(&mut self) -> bool {
        let state = core::mem::replace(&mut self.ticket_state, TicketState::Due);
        matches!(state, TicketState::Wanted | TicketState::Genuine)
    }

    /// Has a ticket's record stored again. False if it was not stored.
    pub fn renew(&mut self) -> bool {
        let is_due = self.ticket_state == TicketState::Due;
        if is_due {
            self.ticket_state = TicketState::Wanted;
        }
        is_due
    }
}

/// The additional state of a resumed link on the responder.
#[derive(Clone, Debug)]
pub(super) struct Resumed {
    account: Option<AccountId>,
    ticket: ConnectionId,
    has_address: bool,
    /// The current life of the store, if the device knows another.
    life: Option<Life>,
    is_welcome: bool,
    highest: OperationNumber,
}

impl Resumed {
    /// Returns the state of a link resumed with `ticket`. `life` is the current life of the store,
    /// if the device knows another.
    pub const fn new(ticket: ConnectionId, issued: &IssuedTicket, life: Option<Life>) -> Self {
        Self {
            account: issued.account,
            ticket,
            has_address: issued.address.is_some(),
            life,
            is_welcome: false,
            highest: OperationNumber(0),
        }
    }

    /// Returns the account that was logged in before.
    pub const fn account(&self) -> Option<AccountId> {
        self.account
    }

    /// Returns the ticket's name.
    pub const fn ticket(&self) -> ConnectionId {
        self.ticket
    }

    /// True if the ticket has a proven address of its device.
    pub const fn has_address(&self) -> bool {
        self.has_address
    }

    /// True once the link is accepted again.
    pub const fn is_welcome(&self) -> bool {
        self.is_welcome
    }

    /// Records that the device has used operation numbers up to `highest`. Returns the UPDATE to
    /// send at once.
    pub fn welcome(&mut self, highest: OperationNumber) -> Option<Update> {
        self.highest = highest;
        let life = self.life?;
        Some(Update {
            standing: None,
            life: Some(life),
        })
    }

    /// Records that the link may execute commands.
    pub const fn admit(&mut self) {
        self.is_welcome = true;
    }

    /// Returns the UPDATE that carries what a WELCOME would have carried.
    pub const fn update(&self, token: ResetToken) -> Update {
        Update {
            standing: Some((token, self.highest)),
            life: None,
        }
    }
}
