//! Finds the holder with the largest amount. Among equals that is the one whose last addition is
//! the oldest.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// The serial number of an addition, reversed: of two holders with the same amount the older one
/// ranks higher.
type Added = Reverse<u64>;

/// The amounts of all holders, sorted.
#[derive(Debug)]
pub(super) struct Ranking<K> {
    amounts: BTreeMap<K, (usize, Added)>,
    /// The largest amount last.
    order: BTreeSet<(usize, Added, K)>,
    /// The number of additions.
    added: u64,
}

impl<K> Default for Ranking<K> {
    fn default() -> Self {
        Self {
            amounts: BTreeMap::new(),
            order: BTreeSet::new(),
            added: 0,
        }
    }
}

impl<K: Ord + Copy> Ranking<K> {
    /// Memory of one holder, in bytes.
    pub const EACH_BYTES: usize =
        2 * (size_of::<(K, usize, Added)>() + size_of::<(usize, Added, K)>());

    /// Changes a holder's amount by minus `less` and plus `more`.
    pub fn change(&mut self, key: K, less: usize, more: usize) {
        let (before, mut added) = self.amounts.remove(&key).unwrap_or_default();
        self.order.remove(&(before, added, key));
        let after = before.saturating_sub(less).saturating_add(more);
        if after > before {
            self.added += 1;
            added = Reverse(self.added);
        }
        if after > 0 {
            self.amounts.insert(key, (after, added));
            self.order.insert((after, added, key));
        }
    }

    /// Returns the largest amount and its holder.
    pub fn first(&self) -> Option<(usize, K)> {
        self.order.last().map(|(amount, _, key)| (*amount, *key))
    }

    #[cfg(test)]
    pub fn of(&self, key: K) -> usize {
        self.amounts.get(&key).map_or(0, |(amount, _)| *amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_ranking_puts_oldest_of_largest_holders_first() {
        let mut ranking = Ranking::default();
        assert_eq!(ranking.first(), None);
        for key in ["a", "b", "c"] {
            ranking.change(key, 0, 2);
        }
        assert_eq!(ranking.first(), Some((2, "a")));
        ranking.change("b", 0, 1);
        assert_eq!(ranking.first(), Some((3, "b")));
        // The last addition of `b` is newer than that of `a`, so `a` ranks first.
        ranking.change("b", 1, 0);
        assert_eq!(ranking.first(), Some((2, "a")));
        ranking.change("a", 9, 0);
        ranking.change("c", 2, 0);
        assert_eq!(ranking.first(), Some((2, "b")));
        ranking.change("b", 2, 0);
        assert_eq!((ranking.first(), ranking.of("b")), (None, 0));
        assert!(ranking.amounts.is_empty() && ranking.order.is_empty());
    }
}
