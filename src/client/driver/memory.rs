//! What a driver learns for the next one: the path memory (LINK-25) and the resumption ticket
//! (HS-18).

use super::{Driver, LinkId};
use crate::{
    client::{ask::TicketNews, lock, tickets},
    endpoint::{LinkStatus, Ticket},
};

impl Driver {
    /// Starts a link that is about to be opened with the path memory.
    pub(super) fn begin_from_memory(&mut self, link: LinkId) {
        let network = self.route.network();
        let known = lock(&self.target.news).path();
        let known = known.filter(|(of, _)| Some(*of) == network);
        let known = known.map(|(_, memory)| memory);
        let (paths, of_day) = &self.target.paths;
        if let Some(memory) = known.or_else(|| paths.of(network?, *of_day)) {
            self.endpoint.begin_from(link, &memory);
        }
    }

    /// Records the path memory of the link.
    pub(super) fn learn_path(&self) {
        let memory = self
            .link
            .and_then(|link| self.endpoint.link(link))
            .map(LinkStatus::path_memory);
        if let Some(path) = self.route.network().zip(memory) {
            lock(&self.target.news).learn_path(path);
        }
    }

    /// Forgets the ticket.
    pub(super) fn forget_ticket(&mut self) {
        self.target.ticket = None;
        lock(&self.target.news).ticket = Some(TicketNews::Gone);
    }

    /// Returns the ticket, unless it has become too old meanwhile. A process's clock stands still
    /// while its machine is asleep.
    pub(super) fn ticket(&mut self) -> Option<Ticket> {
        let (ticket, since) = self.target.ticket.clone()?;
        if tickets::left(since, self.route.time_of_day()).is_none() {
            self.forget_ticket();
            return None;
        }
        Some(ticket)
    }

    /// Keeps the link, which may be reopened at any time, from using a ticket that has become too
    /// old.
    pub(super) fn look_at_ticket(&mut self) {
        if let Some((link, (_, since))) = self.link.zip(self.target.ticket.as_ref()) {
            let left = tickets::left(*since, self.route.time_of_day()).unwrap_or_default();
            let until = self.now() + left;
            self.endpoint.show_ticket_until(link, until);
        }
    }

    /// Records the ticket of a link that has opened, for the next one.
    pub(super) fn learn_ticket(&mut self, link: LinkId, is_resumed: bool) {
        let before = self.target.ticket.take().map(|(_, since)| since);
        let since = before.filter(|_| is_resumed);
        let since = since.unwrap_or_else(|| self.route.time_of_day());
        let ticket = self
            .endpoint
            .link(link)
            .and_then(LinkStatus::ticket)
            .cloned();
        self.target.ticket = ticket.map(|ticket| (ticket, since));
        if !is_resumed {
            lock(&self.target.news).ticket = Some(match self.target.ticket.clone() {
                Some((ticket, since)) => TicketNews::Fresh(ticket, since),
                None => TicketNews::Gone,
            });
        }
    }
}
