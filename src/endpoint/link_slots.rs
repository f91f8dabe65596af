//! Link slots for links that others open (HS-13). Devices that are not logged in get few. When the
//! slots are full, the largest holder loses one to the next link. Device keys cost nothing and the
//! address of an Init may be forged; without this rule a link would keep its slot for a day.

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

/// The kind of a link's slot. The subnet is that of the last proven address of the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// This side opened it.
    #[default]
    Own,
    /// Not proven; its Init may have a forged address.
    Unshown,
    /// Not proven, and resumed from the place of its ticket, the device's proven address. Anyone
    /// with the ticket can forge that address.
    Returned(Subnet),
    /// Not proven; a cookie came from its subnet.
    HalfOpen(Subnet),
    /// Proven, from a device without a known account.
    Stranger(Subnet),
    /// A user is logged in, or it is a peer's link: its account does not change any more. The
    /// number is the link's serial number of arrival.
    Account(Subnet, u32),
}

/// What an unproven link has shown of the other side's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    /// It came from the place of its ticket.
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

/// The holder of a link's slot and of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// This side.
    Own,
    /// All links whose address is unproven.
    Nobody,
    /// All links of a network without an account.
    Network(Network),
    Account(AccountId),
}

impl LinkEntry {
    /// Returns the holder of the link's memory.
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

/// All link slots.
#[derive(Debug, Default)]
pub(super) struct Standings {
    /// Links of [`Standing::Unshown`], oldest first.
    unshown: BTreeSet<(Time, LinkId)>,
    /// Links of [`Standing::Returned`], by network, then oldest first.
    returned: BTreeSet<(Network, Time, LinkId)>,
    /// The number of links in `returned`, by network.
    returned_from: Ranking<Network>,
    /// Links of [`Standing::HalfOpen`] and [`Standing::Stranger`], by network, then oldest first.
    newcomers: BTreeSet<(Network, Time, LinkId)>,
    /// The number of links in `newcomers`, by network.
    by_network: Ranking<Network>,
    /// The links of [`Standing::Stranger`] among them by subnet, then oldest first.
    strangers: BTreeSet<(Subnet, Time, LinkId)>,
    /// Links that were resumed and are not proven, by ticket, then oldest first.
    resumed: BTreeSet<(ConnectionId, Time, LinkId)>,
    pub accounts: Accounts,
}

/// Returns the oldest link of a subnet or of a network.
fn oldest<K: Ord + Copy>(links: &BTreeSet<(K, Time, LinkId)>, key: K) -> Option<LinkId> {
    let next = links.range((key, Time(0), LinkId(0))..).next();
    let theirs = next.filter(|(other, _, _)| *other == key);
    theirs.map(|(_, _, link)| *link)
}

impl Standings {
    /// Removes a link from its slot.
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

    /// Gives a slot to a link that has none.
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

    /// Returns the number of links without an account.
    pub fn newcomers(&self) -> usize {
        self.unshown.len() + self.returned.len() + self.newcomers.len()
    }

    /// Returns the number of links that others opened.
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

    /// Returns the oldest link of [`Standing::Unshown`].
    pub fn first_unshown(&self) -> Option<LinkId> {
        self.unshown.first().map(|(_, link)| *link)
    }

    /// Returns the oldest link of [`Standing::Returned`], from the network with the most of them.
    fn first_returned(&self) -> Option<LinkId> {
        let (_, network) = self.returned_from.first()?;
        oldest(&self.returned, network)
    }

    /// Returns the oldest link of the network with the most newcomers.
    fn first_newcomer(&self) -> Option<LinkId> {
        let (_, network) = self.by_network.first()?;
        oldest(&self.newcomers, network)
    }
}

impl Endpoint {
    /// Records that `account` is logged in on the other side of `link`. From now on the link may
    /// reassemble long messages here (LINK-13).
    pub fn trust(&mut self, link: LinkId, account: AccountId) {
        if let Some(slot) = self.slots.get_mut(&link) {
            slot.link.opening_mut().trust();
            slot.account.get_or_insert(account);
            self.stand_account(link);
        }
    }

    /// Moves a link to another slot.
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

    /// Reserves a part of the slots for newcomers: a new account link beyond that evicts another
    /// account's link.
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

    /// Sends a Reset to the other side of an ending link, so that it opens another when it needs
    /// one.
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

    /// Sends a Reset for a link that was forgotten, as after a restart (HS-22). Does nothing if a
    /// link of that id exists again.
    pub fn tell_forgotten(&mut self, link: ConnectionId, path: Path) {
        if self.slots.contains_key(&LinkId(link.0)) {
            return;
        }
        let mut reset = Vec::new();
        Packet::emit_reset(link, &self.resets.token(link), &mut reset);
        self.outbox.push_back((path, reset));
    }

    /// Removes the slot of a link that ended.
    pub(super) fn leave_standing(&mut self, id: LinkId, slot: &LinkEntry) {
        if SERVES {
            self.standings.take(id, slot);
        }
    }

    /// Gives a slot to a link that another side opens. Unproven links have a limit, and beyond it
    /// one is evicted. Resumed links are counted apart: they cost less than handshakes and would
    /// evict them.
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

    /// Evicts an unproven link of a ticket that has resumed too many.
    pub(super) fn keep_few_of(&mut self, ticket: ConnectionId) {
        let all = (ticket, Time(0), LinkId(0))..=(ticket, Time(u64::MAX), LinkId(u32::MAX));
        let theirs = self.standings.resumed.range(all).map(|(_, _, id)| *id);
        let theirs: Vec<LinkId> = theirs.collect();
        if theirs.len() <= RESUMED_PER_TICKET {
            return;
        }
        // An answered link goes first: on another a client may wait.
        let is_idle = |id: &&LinkId| {
            let slot = self.slots.get(id);
            slot.is_some_and(|slot| slot.link.is_idle())
        };
        if let Some(id) = theirs.iter().find(is_idle).or_else(|| theirs.first()) {
            self.end(*id, None);
        }
    }

    /// Gives a slot to a link whose address was proven, the first time or after a migration. Until
    /// then it keeps its former slot. If it is a stranger's, the oldest stranger's link of its
    /// subnet may be evicted, which may be the link itself.
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
            // The subnet's slots are divided among the endpoints behind one address, rounded up,
            // with a minimum for each.
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

    /// Moves a link to its account's slots once the account is known. An unproven link may come
    /// from a recorded Init, and counts for no account.
    pub(super) fn stand_account(&mut self, id: LinkId) {
        let Some(slot) = self.slots.get(&id) else {
            return;
        };
        if let (Some(_), Standing::Stranger(subnet)) = (slot.account, slot.standing) {
            self.stand(id, Standing::Account(subnet, 0));
        }
    }

    /// True if another link may be opened. If all slots are taken, evicts one for it.
    pub(super) fn make_room(&mut self) -> bool {
        if !self.is_full() {
            return true;
        }
        // Accounts leave a part of the slots to newcomers, so newcomers evict none of theirs.
        let first = self.standings.first_unshown();
        let first = first.or_else(|| self.standings.first_returned());
        let first = first.or_else(|| self.standings.first_newcomer());
        if let Some(id) = first {
            self.end(id, None);
        }
        first.is_some()
    }

    /// True if all slots are taken. Links that this side opens take no slot: they would take those
    /// of newcomers.
    pub(super) fn is_full(&self) -> bool {
        self.standings.len() >= self.config.links_max
    }
}
