//! What a driver begins with and learns for the next one: the path memory (LINK-25) and the
//! resumption ticket (HS-18). The caller passes the time of day as a function, so that the machine
//! is asked only if there is a ticket.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    client::{
        ask::{TicketNews, ToRemember},
        lock,
        paths::Paths,
        tickets,
    },
    endpoint::Ticket,
    link::PathMemory,
    subnet::Subnet,
};

/// The path memory and the ticket.
pub(super) struct Memory {
    /// The path memory for each network as remembered, and the time of day when it was read.
    paths: (Paths, Duration),
    /// The ticket, and the time of day of its handshake.
    ticket: Option<(Ticket, Duration)>,
    /// Receives what the profile is to remember.
    news: Arc<Mutex<ToRemember>>,
}

impl Memory {
    pub(super) const fn new(
        paths: (Paths, Duration),
        ticket: Option<(Ticket, Duration)>,
        news: Arc<Mutex<ToRemember>>,
    ) -> Self {
        Self {
            paths,
            ticket,
            news,
        }
    }

    /// Returns the path memory that a link from `network` begins with: the one of this process, or
    /// else of an earlier one.
    pub(super) fn path(&self, network: Option<Subnet>) -> Option<PathMemory> {
        let known = lock(&self.news).path();
        let known = known.filter(|(of, _)| Some(*of) == network);
        let known = known.map(|(_, memory)| memory);
        let (paths, of_day) = &self.paths;
        known.or_else(|| paths.of(network?, *of_day))
    }

    /// Records the path memory of the link from `network`.
    pub(super) fn learn_path(&self, network: Subnet, memory: PathMemory) {
        lock(&self.news).learn_path((network, memory));
    }

    /// Forgets the ticket, here and in the profile.
    pub(super) fn forget_ticket(&mut self) {
        self.ticket = None;
        lock(&self.news).ticket = Some(TicketNews::Gone);
    }

    /// Uses the ticket no more in this process: a request needs forward secrecy.
    pub(super) fn set_ticket_aside(&mut self) {
        self.ticket = None;
    }

    /// Returns the ticket, unless it has become too old meanwhile. A process's clock stands still
    /// while its machine is asleep.
    pub(super) fn ticket(&mut self, of_day: impl FnOnce() -> Duration) -> Option<Ticket> {
        let (ticket, since) = self.ticket.clone()?;
        if tickets::left(since, of_day()).is_none() {
            self.forget_ticket();
            return None;
        }
        Some(ticket)
    }

    /// Returns for how long the ticket may still be used. `None` if there is no ticket.
    pub(super) fn ticket_left(&self, of_day: impl FnOnce() -> Duration) -> Option<Duration> {
        let (_, since) = self.ticket.as_ref()?;
        Some(tickets::left(*since, of_day()).unwrap_or_default())
    }

    /// Records the ticket of a link that has opened, for the next one.
    pub(super) fn learn_ticket(
        &mut self,
        ticket: Option<Ticket>,
        is_resumed: bool,
        of_day: impl FnOnce() -> Duration,
    ) {
        let before = self.ticket.take().map(|(_, since)| since);
        let since = before.filter(|_| is_resumed).unwrap_or_else(of_day);
        self.ticket = ticket.map(|ticket| (ticket, since));
        if !is_resumed {
            lock(&self.news).ticket = Some(match self.ticket.clone() {
                Some((ticket, since)) => TicketNews::Fresh(ticket, since),
                None => TicketNews::Gone,
            });
        }
    }
}
