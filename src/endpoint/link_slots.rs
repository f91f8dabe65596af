//! The places for links that others open (HS-13): few for whoever is not logged in, and none that whoever has most of them would not give
//! up for the next. A device's key costs nothing, an address of an Init may be forged, and a link would else be its for a day.

use std::collections::BTreeSet;

use super::{
    AccountId, Endpoint, LinkId, Path, SERVES,
    accounts::Accounts,
    largest_holder::Ranking,
    limits::{
        HALF_OPEN_MAX, NEWCOMERS_PART, RESUMED_PER_TICKET, RETURNED_MAX, STRANGERS_PER_SUBNET,
        STRANGERS_PER_WORKER,
    },
    link_entry::LinkEntry,
};
use crate::{
    faults::{Fault, is_planted},
    link::Time,
    subnet::{Network, Subnet},
    wire::{ConnectionId, Packet},
};

/// Which place a link has. Its subnet is that of the last address that was proven to be its other side's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// This side opened it.
    #[default]
    Own,
    /// It is not proven, and its Init may come from anywhere.
    Unshown,
    /// It is not proven, and was resumed from the place of its ticket, which anybody can name who has the ticket.
    Returned(Subnet),
    /// It is not proven, and a cookie has come from its subnet.
    HalfOpen(Subnet),
    /// It is proven, and nothing is known of its device.
    Stranger(Subnet),
    /// Somebody is logged in, or it is a peer's: whose it is does not change any more. As which it came.
    Account(Subnet, u32),
}

/// What a link that is not proven has shown of where its other side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    /// It comes from the place of its ticket.
    WorkerId,
    /// It came with a cookie.
    Cookie,
}

impl Shown {
    pub fn of_init(has_cookie: bool) -> Self {
        if has_cookie {
            Self::Cookie
        } else {
            Self::Nothing
        }
    }
}

/// Who holds a place, and what links hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// This side itself.
    Own,
    /// Whoever sends Inits from anywhere.
    Nobody,
    /// The newcomers of a network.
    Network(Network),
    Account(AccountId),
}

impl LinkEntry {
    /// Who holds what the link holds.
    pub fn holder(&self) -> Holder {
        match (self.standing, self.account) {
            (Standing::Own, _) => Holder::Own,
            (Standing::Unshown | Standing::Returned(_), _) => Holder::Nobody,
            (Standing::Account(..), Some(account)) => Holder::Account(account),
            (
                Standing::HalfOpen(subnet)
                | Standing::Stranger(subnet)
                | Standing::Account(subnet, _),
                _,
            ) => Holder::Network(subnet.into()),
        }
    }
}

/// All places.
#[derive(Debug, Default)]
pub(super) struct Standings {
    /// Oldest first.
    unshown: BTreeSet<(Time, LinkId)>,
    /// Those that were resumed from the places of their tickets and are not proven, by network, and then oldest first.
    returned: BTreeSet<(Network, Time, LinkId)>,
    /// How many of these come from each network.
    returned_from: Ranking<Network>,
    /// Those that are not proven and have shown where they are, and strangers, by network, and then oldest first.
    newcomers: BTreeSet<(Network, Time, LinkId)>,
    /// How many of these come from each network.
    by_network: Ranking<Network>,
    /// The strangers among them by subnet, and then oldest first.
    strangers: BTreeSet<(Subnet, Time, LinkId)>,
    /// Those that were resumed and are not proven, by ticket, and then oldest first.
    resumed: BTreeSet<(ConnectionId, Time, LinkId)>,
    pub accounts: Accounts,
}

/// The oldest of a subnet, or of a network.
fn oldest<K: Ord + Copy>(links: &BTreeSet<(K, Time, LinkId)>, key: K) -> Option<LinkId> {
    let next = links.range((key, Time(0), LinkId(0))..).next();
    let theirs = next.filter(|(other, _, _)| *other == key);
    theirs.map(|(_, _, link)| *link)
}

impl Standings {
    /// A link gives its place up.
    fn take(&mut self, link: LinkId, slot: &LinkEntry) {
        let opened = slot.opened;
        if let Some(resumed) = slot.resumed() {
            self.resumed.remove(&(resumed.ticket, opened, link));
        }
        match slot.standing {
            Standing::Own => {}
            Standing::Unshown => drop(self.unshown.remove(&(opened, link))),
            Standing::Returned(subnet) => {
                let network = Network::from(subnet);
                self.returned.remove(&(network, opened, link));
                self.returned_from.change(network, 1, 0);
            }
            Standing::HalfOpen(subnet) | Standing::Stranger(subnet) => {
                let network = Network::from(subnet);
                self.newcomers.remove(&(network, opened, link));
                self.by_network.change(network, 1, 0);
                self.strangers.remove(&(subnet, opened, link));
            }
            Standing::Account(subnet, came) => {
                if let Some(account) = slot.account {
                    self.accounts.remove(link, account, (subnet.into(), came));
                }
            }
        }
    }

    /// A link that has none gets a place.
    fn give(&mut self, link: LinkId, slot: &mut LinkEntry, to: Standing) {
        let opened = slot.opened;
        slot.standing = to;
        let is_unproven = matches!(
            to,
            Standing::Unshown | Standing::Returned(_) | Standing::HalfOpen(_)
        );
        if let Some(resumed) = slot.resumed().filter(|_| is_unproven) {
            self.resumed.insert((resumed.ticket, opened, link));
        }
        match to {
            Standing::Own => {}
            Standing::Unshown => drop(self.unshown.insert((opened, link))),
            Standing::Returned(subnet) => {
                let network = Network::from(subnet);
                self.returned.insert((network, opened, link));
                self.returned_from.change(network, 0, 1);
            }
            Standing::HalfOpen(subnet) | Standing::Stranger(subnet) => {
                let network = Network::from(subnet);
                self.newcomers.insert((network, opened, link));
                self.by_network.change(network, 0, 1);
                if matches!(to, Standing::Stranger(_)) {
                    self.strangers.insert((subnet, opened, link));
                }
            }
            Standing::Account(subnet, _) => {
                if let Some(account) = slot.account {
                    let came = self.accounts.add(link, account, Network::from(subnet));
                    slot.standing = Standing::Account(subnet, came);
                }
            }
        }
    }

    /// Links of whoever is not logged in.
    pub fn newcomers(&self) -> usize {
        self.unshown.len() + self.returned.len() + self.newcomers.len()
    }

    /// All links that others have opened.
    pub fn len(&self) -> usize {
        self.newcomers() + self.accounts.len()
    }

    #[cfg(test)]
    pub fn strangers(&self) -> usize {
        self.strangers.len()
    }

    #[cfg(test)]
    pub fn half_open(&self) -> usize {
        self.newcomers() - self.strangers.len()
    }

    /// The oldest of which nobody has shown that they receive where they say they are.
    pub fn first_unshown(&self) -> Option<LinkId> {
        self.unshown.first().map(|(_, link)| *link)
    }

    /// The oldest that was resumed and is not proven, of the network from which most of them come.
    fn first_returned(&self) -> Option<LinkId> {
        let (_, network) = self.returned_from.first()?;
        oldest(&self.returned, network)
    }

    /// The oldest newcomer of the network from which most come.
    fn first_newcomer(&self) -> Option<LinkId> {
        let (_, network) = self.by_network.first()?;
        oldest(&self.newcomers, network)
    }
}

impl Endpoint {
    /// `account` is logged in on the other side of `link`, which may have long messages put together here from now on (LINK-13).
    pub fn trust(&mut self, link: LinkId, account: AccountId) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.link.trust();
            slot.account.get_or_insert(account);
            self.stand_account(link);
        }
    }

    /// A link gets another place.
    fn stand(&mut self, id: LinkId, to: Standing) {
        if !SERVES {
            return;
        }
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let before = slot.holder();
        self.standings.take(id, slot);
        self.standings.give(id, slot, to);
        let (held, holders) = (slot.memory, (before, slot.holder()));
        self.memory.hand_over(id, held, holders);
        self.assembling.hand_over(slot.link.assembling(), holders);
        if let Standing::Account(..) = to {
            self.keep_accounts_in_their_places(id);
        }
    }

    /// Of all places some are for newcomers: an account that comes takes its place from another account.
    fn keep_accounts_in_their_places(&mut self, newest: LinkId) {
        let kept = (self.config.links_max / NEWCOMERS_PART).max(1);
        while self.standings.accounts.len() > self.config.links_max.saturating_sub(kept)
            && !is_planted(Fault::AccountsStay)
        {
            let heard = |id: &LinkId| {
                let heard = self.slots.get(id).and_then(|slot| slot.heard);
                (*id == newest, heard)
            };
            let Some(first) = self.standings.accounts.first(heard) else {
                return;
            };
            self.tell_reset(first);
            self.end(first, None);
        }
    }

    /// Tells the other side of a link that it has ended, so that it opens another when it needs one.
    fn tell_reset(&mut self, id: LinkId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let name = match slot.peer {
            Some(_) => ConnectionId(id.0),
            None => slot.remote.unwrap_or(ConnectionId(id.0)),
        };
        let mut reset = Vec::new();
        Packet::emit_reset(name, &self.resets.token(name), &mut reset);
        self.outbox.push_back((slot.path, reset));
    }

    /// Tells whoever is there that the link of that name is forgotten, as it is after a restart (HS-22). Nothing, if there is one of that name again.
    pub fn tell_forgotten(&mut self, link: ConnectionId, path: Path) {
        if self.slots.contains_key(&LinkId(link.0)) {
            return;
        }
        let mut reset = Vec::new();
        Packet::emit_reset(link, &self.resets.token(link), &mut reset);
        self.outbox.push_back((path, reset));
    }

    /// A link that others opened is there no more.
    pub(super) fn leave_standing(&mut self, id: LinkId, slot: &LinkEntry) {
        if SERVES {
            self.standings.take(id, slot);
        }
    }

    /// A link that another opens gets its place. There are only so many of which nobody has shown where they are: one may have to go.
    /// Those of who comes back are counted apart, since what they cost is not: they would push out whoever makes a handshake.
    pub(super) fn stand_half_open(&mut self, id: LinkId, shown: Shown) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let subnet = slot.path.remote.into();
        let to = match shown {
            Shown::Nothing => Standing::Unshown,
            Shown::WorkerId => Standing::Returned(subnet),
            Shown::Cookie => Standing::HalfOpen(subnet),
        };
        self.stand(id, to);
        let surplus = match shown {
            Shown::Nothing if self.standings.unshown.len() > HALF_OPEN_MAX => {
                self.standings.first_unshown()
            }
            Shown::WorkerId if self.standings.returned.len() > RETURNED_MAX => {
                self.standings.first_returned()
            }
            Shown::Nothing | Shown::WorkerId | Shown::Cookie => None,
        };
        if let Some(first) = surplus {
            self.end(first, None);
        }
    }

    /// Of the links that were resumed by one ticket, and are not proven, a few stay.
    pub(super) fn keep_few_of(&mut self, ticket: ConnectionId) {
        let all = (ticket, Time(0), LinkId(0))..=(ticket, Time(u64::MAX), LinkId(u32::MAX));
        let theirs = self.standings.resumed.range(all).map(|(_, _, id)| *id);
        let theirs: Vec<LinkId> = theirs.collect();
        if theirs.len() <= RESUMED_PER_TICKET {
            return;
        }
        // One that has been answered goes first: on another somebody may wait.
        let is_idle = |id: &&LinkId| {
            let slot = self.slots.get(id);
            slot.is_some_and(|slot| slot.link.is_idle())
        };
        if let Some(id) = theirs.iter().find(is_idle).or_else(|| theirs.first()) {
            self.end(*id, None);
        }
    }

    /// A link is proven to be where it is: for the first time, or after it has moved. Until then it keeps the place that it had.
    /// Where it is a stranger's, the oldest one of its subnet may have to go, which may be itself.
    pub(super) fn stand_proven(&mut self, id: LinkId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        let subnet = Subnet::from(slot.path.remote);
        let to = match (slot.account, slot.standing) {
            (Some(_), Standing::Account(there, _)) if there == subnet => return,
            (Some(_), _) => Standing::Account(subnet, 0),
            (None, _) => Standing::Stranger(subnet),
        };
        if slot.standing == to {
            return;
        }
        self.stand(id, to);
        if to == Standing::Stranger(subnet) && !is_planted(Fault::StrangersStay) {
            let theirs = (subnet, Time(0), LinkId(0))..=(subnet, Time(u64::MAX), LinkId(u32::MAX));
            // The subnet's places are divided among the endpoints behind one address: rounded up, and some for each.
            let kept = STRANGERS_PER_SUBNET
                .div_ceil(self.config.place.count())
                .max(STRANGERS_PER_WORKER);
            if self.standings.strangers.range(theirs).count() > kept
                && let Some(first) = oldest(&self.standings.strangers, subnet)
            {
                self.end(first, None);
            }
        }
    }

    /// It is known whose a link is. One that is not proven may be a recorded Init, and counts as nobody's.
    pub(super) fn stand_account(&mut self, id: LinkId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        if let (Some(_), Standing::Stranger(subnet)) = (slot.account, slot.standing) {
            self.stand(id, Standing::Account(subnet, 0));
        }
    }

    /// True when another link may come in. If all places are taken one ends for it.
    pub(super) fn make_room(&mut self) -> bool {
        if !self.is_full() {
            return true;
        }
        // Accounts leave a part of the places to newcomers, and these take none from them.
        let first = self.standings.first_unshown();
        let first = first.or_else(|| self.standings.first_returned());
        let first = first.or_else(|| self.standings.first_newcomer());
        if let Some(id) = first {
            self.end(id, None);
        }
        first.is_some()
    }

    /// True when all places are taken. Links that this side opens take none: they would take those of newcomers.
    pub(super) fn is_full(&self) -> bool {
        self.standings.len() >= self.config.links_max
    }
}
