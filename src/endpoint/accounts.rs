//! Links of accounts: of logged-in devices, and of peers (HS-13). Records each link's account, and
//! selects the link to evict when no slot is left. A user may have any number of keys; without a
//! count by account one account could take all slots.

use std::{collections::BTreeSet, num::NonZeroU64};

use super::{ids::LinkId, largest_holder::Ranking};
use crate::subnet::Network;

/// Identifies a user who is logged in over a link, or a peer. The caller assigns the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(NonZeroU64);

impl AccountId {
    /// Returns the account of a number; 0 and 1 are the same. `NonZeroU64` saves memory in each of
    /// many links.
    pub const fn new(number: u64) -> Self {
        match NonZeroU64::new(number) {
            Some(number) => Self(number),
            None => Self(NonZeroU64::MIN),
        }
    }
}

/// The largest number of an account's links that are compared for an eviction.
const COMPARED_MAX: usize = 32;

/// The proven links of accounts.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// By account, then by order of arrival.
    of_account: BTreeSet<(AccountId, u32, LinkId)>,
    by_account: Ranking<AccountId>,
    by_network: Ranking<Network>,
    /// By network, then by order of arrival.
    of_network: BTreeSet<(Network, u32, LinkId)>,
    /// The serial number of the last link added.
    came: u32,
}

impl Accounts {
    /// Memory of the only link of an account, from a network without other links, in bytes.
    pub const LINK_BYTES: usize = 2
        * (size_of::<(AccountId, u32, LinkId)>() + size_of::<(Network, u32, LinkId)>())
        + Ranking::<AccountId>::EACH_BYTES
        + Ranking::<Network>::EACH_BYTES;

    /// Adds a link. Returns its serial number of arrival.
    pub fn add(&mut self, link: LinkId, account: AccountId, network: Network) -> u32 {
        self.by_account.change(account, 0, 1);
        self.by_network.change(network, 0, 1);
        // After 2^32 links the number wraps, and older links count as younger.
        self.came = self.came.wrapping_add(1);
        self.of_account.insert((account, self.came, link));
        self.of_network.insert((network, self.came, link));
        self.came
    }

    /// Removes the link with the serial number `came`.
    pub fn remove(&mut self, link: LinkId, account: AccountId, (network, came): (Network, u32)) {
        self.of_account.remove(&(account, came, link));
        self.of_network.remove(&(network, came, link));
        self.by_account.change(account, 1, 0);
        self.by_network.change(network, 1, 0);
    }

    /// Returns the link to evict. If the account with the most links has several, that is the one
    /// of its links heard least recently. Otherwise it is the first link of the network with the
    /// most links.
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

    /// Returns the number of links of an account, and of a network.
    #[cfg(test)]
    pub fn counts(&self, account: AccountId, network: Network) -> (usize, usize) {
        (self.by_account.of(account), self.by_network.of(network))
    }
}
