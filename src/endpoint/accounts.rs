//! Links of devices that are logged in, and of peers (HS-13): whose they are, and which of them makes room when there is no place
//! left. A user has as many keys as they like: without a share for each, one account would take all places.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU64,
};

use smallvec::SmallVec;

use super::{Endpoint, LinkId, SERVES, limits::LINKS_PER_ACCOUNT_SHARE, path::SubnetId};
use crate::faults::{Fault, is_planted};

/// Stands for a user who is logged in over a link, or for a peer. Whoever gives it knows for which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(NonZeroU64);

impl AccountId {
    const FIRST: Self = Self(NonZeroU64::MIN);
    const LAST: Self = Self(NonZeroU64::MAX);

    /// The account of a number; 0 and 1 are the same. Links are many, and this takes no more of each than it has to.
    pub const fn new(number: u64) -> Self {
        match NonZeroU64::new(number) {
            Some(number) => Self(number),
            None => Self::FIRST,
        }
    }
}

/// Of the links that may make room, so many of the oldest are compared.
const COMPARED_MAX: usize = 32;

/// When something was added, among all that was: the latest is the least, so that of two that have as many the older comes first.
type Added = Reverse<u64>;

/// How many links each has, and who has the most.
#[derive(Debug)]
struct Ranking<K> {
    counts: BTreeMap<K, (usize, Added)>,
    /// The most last.
    order: BTreeSet<(usize, Added, K)>,
}

impl<K> Default for Ranking<K> {
    fn default() -> Self {
        Self {
            counts: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<K: Ord + Copy> Ranking<K> {
    /// One more, added now.
    fn add(&mut self, key: K, now: Added) {
        let (count, before) = self.counts.get(&key).copied().unwrap_or((0, now));
        self.order.remove(&(count, before, key));
        self.counts.insert(key, (count + 1, now));
        self.order.insert((count + 1, now, key));
    }

    /// One less.
    fn remove(&mut self, key: K) {
        let Some((count, added)) = self.counts.remove(&key) else {
            return;
        };
        self.order.remove(&(count, added, key));
        if count > 1 {
            self.counts.insert(key, (count - 1, added));
            self.order.insert((count - 1, added, key));
        }
    }

    fn first(&self) -> Option<(usize, K)> {
        self.order.last().map(|(count, _, key)| (*count, *key))
    }
}

/// The links of one account from one subnet, oldest first, and when the last was added.
#[derive(Debug)]
struct Group {
    links: SmallVec<[LinkId; 2]>,
    added: Added,
}

/// The proven links of accounts.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    groups: BTreeMap<(AccountId, SubnetId), Group>,
    /// How many links each account has from each subnet, the most last.
    of_subnets: BTreeSet<(SubnetId, usize, Added, AccountId)>,
    by_account: Ranking<AccountId>,
    by_subnet: Ranking<SubnetId>,
    /// How many were added so far.
    added: u64,
}

impl Accounts {
    /// Memory of the link of an account that has no other, from a subnet from which no other comes, in bytes.
    pub const LINK_BYTES: usize = 2
        * (size_of::<((AccountId, SubnetId), Group)>()
            + size_of::<(SubnetId, usize, Added, AccountId)>()
            + size_of::<(AccountId, usize, Added)>()
            + size_of::<(usize, Added, AccountId)>()
            + size_of::<(SubnetId, usize, Added)>()
            + size_of::<(usize, Added, SubnetId)>());

    fn add(&mut self, address: SocketAddr, account: AccountId, link: LinkId) {
        let subnet = SubnetId::of(address);
        self.added += 1;
        let now = Reverse(self.added);
        let group = self.groups.entry((account, subnet));
        let group = group.or_insert_with(|| Group {
            links: SmallVec::new(),
            added: now,
        });
        if group.links.contains(&link) {
            return;
        }
        let count = group.links.len();
        self.of_subnets
            .remove(&(subnet, count, group.added, account));
        group.links.push(link);
        group.added = now;
        self.of_subnets.insert((subnet, count + 1, now, account));
        self.by_account.add(account, now);
        self.by_subnet.add(subnet, now);
    }

    fn remove(&mut self, address: SocketAddr, account: AccountId, link: LinkId) {
        let subnet = SubnetId::of(address);
        let Some(group) = self.groups.get_mut(&(account, subnet)) else {
            return;
        };
        let count = group.links.len();
        group.links.retain(|other| *other != link);
        if group.links.len() == count {
            return;
        }
        let added = group.added;
        self.of_subnets.remove(&(subnet, count, added, account));
        if count > 1 {
            self.of_subnets.insert((subnet, count - 1, added, account));
        } else {
            self.groups.remove(&(account, subnet));
        }
        self.by_account.remove(account);
        self.by_subnet.remove(subnet);
    }

    /// Links of which one is to make room: of the account that has more than its share, or else, of the subnet from which most come,
    /// those of the account that has most of them.
    fn first(&self) -> SmallVec<[LinkId; COMPARED_MAX]> {
        let groups = match self.by_account.first() {
            Some((count, account)) if count > LINKS_PER_ACCOUNT_SHARE => {
                (account, SubnetId::FIRST)..=(account, SubnetId::LAST)
            }
            _ => {
                let Some((_, subnet)) = self.by_subnet.first() else {
                    return SmallVec::new();
                };
                let beyond = (subnet, usize::MAX, Reverse(0), AccountId::LAST);
                let Some((_, _, _, account)) = self.of_subnets.range(..beyond).next_back() else {
                    return SmallVec::new();
                };
                (*account, subnet)..=(*account, subnet)
            }
        };
        let links = self
            .groups
            .range(groups)
            .flat_map(|(_, group)| &group.links);
        links.take(COMPARED_MAX).copied().collect()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.groups.values().map(|group| group.links.len()).sum()
    }

    /// Links of an account from the subnet of `address`.
    #[cfg(test)]
    pub fn count(&self, address: SocketAddr, account: AccountId) -> usize {
        let group = self.groups.get(&(account, SubnetId::of(address)));
        group.map_or(0, |group| group.links.len())
    }
}

impl Endpoint {
    /// A link is proven, and its device known to be an account's.
    pub(super) fn add_to_account(&mut self, id: LinkId) {
        let Some(slot) = self.slots.get(&id).filter(|_| SERVES) else {
            return;
        };
        if let Some(account) = slot.account.filter(|_| slot.link.is_proven()) {
            self.accounts.add(slot.path.remote, account, id);
        }
    }

    /// A link of an account is not at `address` any more, where it was so far.
    pub(super) fn remove_from_account(
        &mut self,
        id: LinkId,
        account: Option<AccountId>,
        address: SocketAddr,
    ) {
        if let Some(account) = account.filter(|_| SERVES) {
            self.accounts.remove(address, account, id);
        }
    }

    /// The link of an account that is to make room for another: of those of whoever has too many, the one that has been silent for
    /// longest.
    pub(super) fn first_of_accounts(&self) -> Option<LinkId> {
        if !SERVES || is_planted(Fault::AccountsStay) {
            return None;
        }
        let heard = |id: &LinkId| self.slots.get(id).and_then(|slot| slot.heard);
        self.accounts.first().into_iter().min_by_key(heard)
    }
}
