//! Some things in order, to be looked up in.

use smallvec::SmallVec;

use super::limits::ASKING_KEPT;

/// At most as many as packets are remembered for what they ask, nearly always.
pub type Sorted<T> = SmallVec<[T; ASKING_KEPT]>;

/// Puts them in order. They nearly are: each is looked for from the end, which takes less code than sorting does.
pub fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Sorted<T> {
    let mut sorted = Sorted::new();
    for item in items {
        let behind = sorted.iter().rev().take_while(|other| **other > item);
        let at = sorted.len() - behind.count();
        sorted.insert(at, item);
    }
    sorted
}
