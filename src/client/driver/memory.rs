//! What a driver finds out that the next one may begin with: the path (LINK-25), and what to come back with (HS-18).

use tokio::time::Instant;

use super::{Driver, LinkId};
use crate::client::{ask::TicketNews, lock};

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

    /// A link is open: this is what another would come back with.
    pub(super) fn learn_ticket(&mut self, link: LinkId, is_resumed: bool) {
        self.target.ticket = self.endpoint.ticket(link).cloned();
        if !is_resumed {
            lock(&self.target.news).ticket = Some(match self.target.ticket.clone() {
                Some(ticket) => TicketNews::Fresh(ticket, Instant::now()),
                None => TicketNews::Gone,
            });
        }
    }
}
