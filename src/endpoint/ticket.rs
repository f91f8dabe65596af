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

/// The resumption state of a link.
#[derive(Clone, Debug)]
pub(super) enum Resumption {
    /// On an initiator's link: the ticket to resume with.
    Ticket(Ticket),
    /// On a responder's link: the initiator has resumed.
    Resumed(Resumed),
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
