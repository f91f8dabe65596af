//! Sets of byte ranges of a message: those that have arrived, or are lost.

use alloc::vec::Vec;
use core::ops::Range;

/// Disjoint ranges that do not touch, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// True if the set is empty.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Memory of the ranges, in bytes.
    pub const fn memory(&self) -> usize {
        self.0.capacity() * size_of::<Range<u64>>()
    }

    /// The first range.
    pub fn first(&self) -> Option<Range<u64>> {
        self.0.first().cloned()
    }

    /// The ranges, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// True if the set contains all of `range`.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty()
            || self
                .0
                .iter()
                .any(|known| known.start <= range.start && range.end <= known.end)
    }

    /// The number of ranges after `range` is inserted.
    pub fn count_with(&self, range: &Range<u64>) -> usize {
        let apart = |known: &&Range<u64>| known.end < range.start || range.end < known.start;
        self.0.iter().filter(apart).count() + 1
    }

    /// Inserts `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut whole = range;
        self.0.retain(|known| {
            let apart = known.end < whole.start || whole.end < known.start;
            if !apart {
                whole = whole.start.min(known.start)..whole.end.max(known.end);
            }
            apart
        });
        let at = self.0.partition_point(|known| known.start < whole.start);
        self.0.insert(at, whole);
    }

    /// Removes `range`.
    pub fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let known = core::mem::take(&mut self.0);
        for known in known {
            let before = known.start..known.end.min(range.start);
            let after = known.start.max(range.end)..known.end;
            let pieces = [before, after];
            self.0
                .extend(pieces.into_iter().filter(|piece| !piece.is_empty()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The ranges equal a set of single bytes.
        #[test]
        fn ranges_equal_set_of_single_bytes(steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 0..40)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (insert, start, len) in steps {
                let range = start..start + len;
                if insert {
                    let count = ranges.count_with(&range);
                    ranges.insert(range.clone());
                    model.extend(range.clone());
                    prop_assert!(range.is_empty() || ranges.0.len() == count);
                } else {
                    ranges.remove(&range);
                    model.retain(|byte| !range.contains(byte));
                }
                let bytes: Vec<u64> = ranges.0.iter().cloned().flatten().collect();
                prop_assert_eq!(bytes, model.iter().copied().collect::<Vec<_>>());
                prop_assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert_eq!(ranges.covers(&range), range.clone().all(|byte| model.contains(&byte)));
            }
        }
    }
}
