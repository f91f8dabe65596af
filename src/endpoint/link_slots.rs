//! Link slots for links that others open (HS-13). Devices that are not logged in get few. When the
//! slots are full, the largest holder loses one to the next link. Device keys cost nothing and the
//! address of an Init may be forged; without this rule a link would keep its slot for a day.

use std::collections::BTreeSet;

use super::{
    accounts::Accounts,
    holder::{AddressProof, SlotKind},
    ids::LinkId,
    largest_holder::Ranking,
    limits::{
        HALF_OPEN_MAX, NEWCOMERS_PART, RESUMED_PER_TICKET, RETURNED_MAX, STRANGERS_PER_SUBNET,
        STRANGERS_PER_WORKER,
    },
    link_table::LinkEntry,
    worker_id::WorkerId,
};
use crate::{
    faults::{Fault, is_planted},
    link::Time,
    subnet::{Network, Subnet},
    wire::ConnectionId,
};

/// The slots of all links that others opened.
#[derive(Debug, Default)]
pub(super) struct LinkSlots {
    /// Links of [`SlotKind::Unverified`], oldest first.
    unverified: BTreeSet<(Time, LinkId)>,
    /// Links of [`SlotKind::TicketAddress`], by network, then oldest first.
    returned: BTreeSet<(Network, Time, LinkId)>,
    /// The number of links in `returned`, by network.
    returned_from: Ranking<Network>,
    /// Links of [`SlotKind::Cookie`] and [`SlotKind::Stranger`], by network, then oldest first.
    newcomers: BTreeSet<(Network, Time, LinkId)>,
    /// The number of links in `newcomers`, by network.
    by_network: Ranking<Network>,
    /// The links of [`SlotKind::Stranger`] among them by subnet, then oldest first.
    strangers: BTreeSet<(Subnet, Time, LinkId)>,
    /// Links that were resumed and are not proven, by ticket, then oldest first.
    resumed: BTreeSet<(ConnectionId, Time, LinkId)>,
    accounts: Accounts,
}

/// Returns the oldest link of a subnet or of a network.
fn oldest<K: Ord + Copy>(links: &BTreeSet<(K, Time, LinkId)>, key: K) -> Option<LinkId> {
    let next = links.range((key, Time(0), LinkId(0))..).next();
    let theirs = next.filter(|(other, _, _)| *other == key);
    theirs.map(|(_, _, link)| *link)
}

impl LinkSlots {
    /// Removes a link from its slot.
    pub fn remove(&mut self, link: LinkId, entry: &LinkEntry) {
        let opened = entry.opened();
        if let Some(resumed) = entry.resumption().resumed() {
            self.resumed.remove(&(resumed.ticket(), opened, link));
        }
        match entry.holding().slot() {
            SlotKind::Own => {}
            SlotKind::Unverified => drop(self.unverified.remove(&(opened, link))),
            SlotKind::TicketAddress(subnet) => {
                let network = Network::from(subnet);
                self.returned.remove(&(network, opened, link));
                self.returned_from.change(network, 1, 0);
            }
            SlotKind::Cookie(subnet) | SlotKind::Stranger(subnet) => {
                let network = Network::from(subnet);
                self.newcomers.remove(&(network, opened, link));
                self.by_network.change(network, 1, 0);
                self.strangers.remove(&(subnet, opened, link));
            }
            SlotKind::Account(subnet, came) => {
                if let Some(account) = entry.holding().account() {
                    self.accounts.remove(link, account, (subnet.into(), came));
                }
            }
        }
    }

    /// Moves a link to a slot of another kind.
    pub fn move_to(&mut self, link: LinkId, entry: &mut LinkEntry, to: SlotKind) {
        self.remove(link, entry);
        self.insert(link, entry, to);
    }

    /// Gives a slot to a link that has none.
    fn insert(&mut self, link: LinkId, entry: &mut LinkEntry, to: SlotKind) {
        let opened = entry.opened();
        entry.holding_mut().move_to(to);
        let is_unproven = matches!(
            to,
            SlotKind::Unverified | SlotKind::TicketAddress(_) | SlotKind::Cookie(_)
        );
        if let Some(resumed) = entry.resumption().resumed().filter(|_| is_unproven) {
            self.resumed.insert((resumed.ticket(), opened, link));
        }
        match to {
            SlotKind::Own => {}
            SlotKind::Unverified => drop(self.unverified.insert((opened, link))),
            SlotKind::TicketAddress(subnet) => {
                let network = Network::from(subnet);
                self.returned.insert((network, opened, link));
                self.returned_from.change(network, 0, 1);
            }
            SlotKind::Cookie(subnet) | SlotKind::Stranger(subnet) => {
                let network = Network::from(subnet);
                self.newcomers.insert((network, opened, link));
                self.by_network.change(network, 0, 1);
                if matches!(to, SlotKind::Stranger(_)) {
                    self.strangers.insert((subnet, opened, link));
                }
            }
            SlotKind::Account(subnet, _) => {
                if let Some(account) = entry.holding().account() {
                    let came = self.accounts.add(link, account, Network::from(subnet));
                    entry.holding_mut().move_to(SlotKind::Account(subnet, came));
                }
            }
        }
    }

    /// Returns the number of links without an account.
    pub fn newcomers(&self) -> usize {
        self.unverified.len() + self.returned.len() + self.newcomers.len()
    }

    /// Returns the number of links that others opened.
    pub fn len(&self) -> usize {
        self.newcomers() + self.accounts.len()
    }

    #[cfg(test)]
    pub const fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    #[cfg(test)]
    pub fn strangers(&self) -> usize {
        self.strangers.len()
    }

    #[cfg(test)]
    pub fn half_open(&self) -> usize {
        self.newcomers() - self.strangers.len()
    }

    /// Returns the oldest link of [`SlotKind::Unverified`].
    pub fn first_unverified(&self) -> Option<LinkId> {
        self.unverified.first().map(|(_, link)| *link)
    }

    /// Returns the oldest link of [`SlotKind::TicketAddress`], from the network with the most of
    /// them.
    fn first_returned(&self) -> Option<LinkId> {
        let (_, network) = self.returned_from.first()?;
        oldest(&self.returned, network)
    }

    /// Returns the oldest link of the network with the most newcomers.
    fn first_newcomer(&self) -> Option<LinkId> {
        let (_, network) = self.by_network.first()?;
        oldest(&self.newcomers, network)
    }

    /// Returns the link to end after a link with `proof` was opened. Unproven links have a limit.
    /// Resumed links are counted apart: they cost less than handshakes and would evict them.
    pub fn surplus_unproven(&self, proof: AddressProof) -> Option<LinkId> {
        match proof {
            AddressProof::None if self.unverified.len() > HALF_OPEN_MAX => self.first_unverified(),
            AddressProof::TicketAddress if self.returned.len() > RETURNED_MAX => {
                self.first_returned()
            }
            AddressProof::None | AddressProof::TicketAddress | AddressProof::Cookie => None,
        }
    }

    /// Returns the oldest stranger's link of a subnet, if the subnet has too many.
    pub fn surplus_stranger(&self, subnet: Subnet, worker: WorkerId) -> Option<LinkId> {
        if is_planted(Fault::StrangersStay) {
            return None;
        }
        let theirs = (subnet, Time(0), LinkId(0))..=(subnet, Time(u64::MAX), LinkId(u32::MAX));
        // The subnet's slots are divided among the workers at one address, rounded up, with a
        // minimum for each.
        let kept = STRANGERS_PER_SUBNET
            .div_ceil(worker.count())
            .max(STRANGERS_PER_WORKER);
        let has_too_many = self.strangers.range(theirs).count() > kept;
        has_too_many
            .then(|| oldest(&self.strangers, subnet))
            .flatten()
    }

    /// Returns the account's link to evict, if links of accounts take more of the `max` slots than
    /// they may: a part is reserved for newcomers.
    pub fn surplus_account<H: Ord>(
        &self,
        max: usize,
        heard: impl Fn(&LinkId) -> H,
    ) -> Option<LinkId> {
        let kept = (max / NEWCOMERS_PART).max(1);
        let has_too_many = self.accounts.len() > max.saturating_sub(kept);
        if !has_too_many || is_planted(Fault::AccountsStay) {
            return None;
        }
        self.accounts.first(heard)
    }

    /// Returns the unproven link to evict of a ticket that has resumed too many. An answered link
    /// goes first: on another a client may wait.
    pub fn surplus_resumed(
        &self,
        ticket: ConnectionId,
        is_idle: impl Fn(LinkId) -> bool,
    ) -> Option<LinkId> {
        let all = (ticket, Time(0), LinkId(0))..=(ticket, Time(u64::MAX), LinkId(u32::MAX));
        let theirs = self.resumed.range(all).map(|(_, _, id)| *id);
        let theirs: Vec<LinkId> = theirs.collect();
        if theirs.len() <= RESUMED_PER_TICKET {
            return None;
        }
        let idle = theirs.iter().find(|id| is_idle(**id));
        idle.or_else(|| theirs.first()).copied()
    }

    /// Returns the link to evict for a newcomer. Accounts leave a part of the slots to newcomers,
    /// so newcomers evict none of theirs.
    pub fn for_newcomer(&self) -> Option<LinkId> {
        self.first_unverified()
            .or_else(|| self.first_returned())
            .or_else(|| self.first_newcomer())
    }
}
