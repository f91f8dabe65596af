//! A small sorted collection for lookups.

use smallvec::SmallVec;

use super::limits::REQUEST_PACKETS_KEPT;

/// A sorted collection. It nearly always fits as many items as packets are remembered for their
/// requests.
pub type Sorted<T> = SmallVec<[T; REQUEST_PACKETS_KEPT]>;

/// Sorts the items, which are nearly sorted: each position is searched from the end, which needs
/// less code than a sort.
pub fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Sorted<T> {
    let mut sorted = Sorted::new();
    for item in items {
        let behind = sorted.iter().rev().take_while(|other| **other > item);
        let at = sorted.len() - behind.count();
        sorted.insert(at, item);
    }
    sorted
}
