//! Links of devices that are logged in, and of peers (HS-13): whose they are, and whose makes room when there is no place left. A user
//! has as many keys as they like: otherwise one account would take all places.

use std::{collections::BTreeSet, num::NonZeroU64};

use super::{LinkId, largest_holder::Ranking};
use crate::subnet::Network;

/// Stands for a user who is logged in over a link, or for a peer. Whoever gives it knows for which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(NonZeroU64);

impl AccountId {
    /// The account of a number; 0 and 1 are the same. Links are many, and this takes no more of each than it has to.
    pub const fn new(number: u64) -> Self {
        match NonZeroU64::new(number) {
            Some(number) => Self(number),
            None => Self(NonZeroU64::MIN),
        }
    }
}

/// Of the links of an account that may make room, so many are compared.
const COMPARED_MAX: usize = 32;

/// The proven links of accounts.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// By whose they are, and then by when they came where they are.
    of_account: BTreeSet<(AccountId, u32, LinkId)>,
    by_account: Ranking<AccountId>,
    by_network: Ranking<Network>,
    /// By where they come from, and then by when they came there.
    of_network: BTreeSet<(Network, u32, LinkId)>,
    /// How many have come so far.
    came: u32,
}

impl Accounts {
    /// Memory of the link of an account that has no other, from a network from which no other comes, in bytes.
    pub const LINK_BYTES: usize = 2
        * (size_of::<(AccountId, u32, LinkId)>() + size_of::<(Network, u32, LinkId)>())
        + Ranking::<AccountId>::EACH_BYTES
        + Ranking::<Network>::EACH_BYTES;

    /// A link comes; as which, among all that have come.
    pub fn add(&mut self, link: LinkId, account: AccountId, network: Network) -> u32 {
        self.by_account.change(account, 0, 1);
        self.by_network.change(network, 0, 1);
        // Once in four billion it begins anew, and those who came before are taken for younger ones.
        self.came = self.came.wrapping_add(1);
        self.of_account.insert((account, self.came, link));
        self.of_network.insert((network, self.came, link));
        self.came
    }

    /// A link goes that came as `came`.
    pub fn remove(&mut self, link: LinkId, account: AccountId, (network, came): (Network, u32)) {
        self.of_account.remove(&(account, came, link));
        self.of_network.remove(&(network, came, link));
        self.by_account.change(account, 1, 0);
        self.by_network.change(network, 1, 0);
    }

    /// The link that is to make room: of the account that has the most, if one has several, the one that was heard least recently; or
    /// else, of the network from which most come, the one that came first.
    pub fn first<H: Ord>(&self, heard: impl Fn(&LinkId) -> H) -> Option<LinkId> {
        let (count, account) = self.by_account.first()?;
        if count > 1 {
            let links = self.of_account.range((account, 0, LinkId(0))..);
            let theirs = links.take_while(|(other, _, _)| *other == account);
            let links = theirs.take(COMPARED_MAX).map(|(_, _, link)| *link);
            return links.min_by_key(|link| heard(link));
        }
        let (_, network) = self.by_network.first()?;
        let mut links = self.of_network.range((network, 0, LinkId(0))..);
        links.next().map(|(_, _, link)| *link)
    }

    pub fn len(&self) -> usize {
        self.of_network.len()
    }

    /// Links of an account, and of a network.
    #[cfg(test)]
    pub fn counts(&self, account: AccountId, network: Network) -> (usize, usize) {
        (self.by_account.of(account), self.by_network.of(network))
    }
}
