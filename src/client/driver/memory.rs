//! What a driver finds out that the next one may begin with: the path (LINK-25), and what to come back with (HS-18).

use super::{Driver, LinkId};
use crate::{
    client::{ask::TicketNews, lock, tickets},
    endpoint::Ticket,
};

impl Driver {
    /// Has a link that is about to be opened begin with what is known of the path.
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

    /// Notes what the link has found out of the path.
    pub(super) fn learn_path(&self) {
        let memory = self.link.and_then(|link| self.endpoint.path_memory(link));
        if let Some(path) = self.route.network().zip(memory) {
            lock(&self.target.news).learn_path(path);
        }
    }

    /// There is nothing to come back with any more.
    pub(super) fn forget_ticket(&mut self) {
        self.target.ticket = None;
        lock(&self.target.news).ticket = Some(TicketNews::Gone);
    }

    /// What to come back with, unless it has become too old meanwhile: the clock of a process stands still while its machine is asleep.
    pub(super) fn ticket(&mut self) -> Option<Ticket> {
        let (ticket, since) = self.target.ticket.clone()?;
        if tickets::left(since, self.route.time_of_day()).is_none() {
            self.forget_ticket();
            return None;
        }
        Some(ticket)
    }

    /// Has the link, which may be opened again unasked, come back by no ticket that has become too old meanwhile.
    pub(super) fn look_at_ticket(&mut self) {
        if let Some((link, (_, since))) = self.link.zip(self.target.ticket.as_ref()) {
            let left = tickets::left(*since, self.route.time_of_day()).unwrap_or_default();
            let until = self.now() + left;
            self.endpoint.show_ticket_until(link, until);
        }
    }

    /// A link is open: this is what another would come back with.
    pub(super) fn learn_ticket(&mut self, link: LinkId, is_resumed: bool) {
        let before = self.target.ticket.take().map(|(_, since)| since);
        let since = before.filter(|_| is_resumed);
        let since = since.unwrap_or_else(|| self.route.time_of_day());
        let ticket = self.endpoint.ticket(link).cloned();
        self.target.ticket = ticket.map(|ticket| (ticket, since));
        if !is_resumed {
            lock(&self.target.news).ticket = Some(match self.target.ticket.clone() {
                Some((ticket, since)) => TicketNews::Fresh(ticket, since),
                None => TicketNews::Gone,
            });
        }
    }
}
