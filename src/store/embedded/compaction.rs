//! How much the engine may write when it merges tables, told from how many there are and how large they are.
//!
//! The engine merges the tables of one level with those of the next whose keys overlap, one merge at a time. When the fresh tables, which
//! are level 0, have become many, all of them go to the first level behind that has any. A deeper level that has become larger than its
//! target gives some of its tables to the next. Which these are depends on their keys, so this says the most that it may be.

use super::FRESH_FILES;

/// What the engine lets one table grow to, in bytes.
const TABLE_BYTES: u64 = 64 << 20;
/// What the engine lets the first level behind the fresh tables grow to, in bytes: as many tables as are fresh.
const LEVEL_BYTES: u64 = (FRESH_FILES as u64) * TABLE_BYTES;
/// The target of a level is so many times that of the one before.
const LEVEL_RATIO: u64 = 10;
/// Bytes of the next level that the engine merges at once with tables of a deeper one.
const OVERLAP_BYTES: u64 = 50 * TABLE_BYTES;

/// The tables of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub tables: u64,
    pub bytes: u64,
}

/// The most that the next merge writes, in bytes, or the one after the fresh tables have been merged: the levels are those of one tree, the
/// fresh tables first.
pub fn bytes(levels: &[Level]) -> u64 {
    let Some((fresh, levels)) = levels.split_first() else {
        return 0;
    };
    let mut levels = levels.to_vec();
    let now = deeper(&levels);
    let to = first(&levels);
    let Some(to) = levels.get_mut(to) else {
        return fresh.bytes;
    };
    to.bytes += fresh.bytes;
    // Merging may make one table of many. Of few, each has the more below it.
    to.tables = to.tables.max(fresh.tables.min(1));
    let merged = to.bytes;
    now.max(merged).max(deeper(&levels))
}

/// Which level the fresh tables are merged into: the first that has any, or the one above that if all that have any are full.
fn first(levels: &[Level]) -> usize {
    let above = levels.iter().take_while(|level| level.tables == 0).count();
    let used = levels.iter().skip(above);
    let is_full = |(level, target): (&Level, u64)| level.tables == 0 || level.bytes > target;
    let begins_level = above > 0 && used.zip(targets()).all(is_full);
    above - usize::from(begins_level)
}

/// What levels may grow to, in bytes: that which the fresh tables are merged into, and those below.
fn targets() -> impl Iterator<Item = u64> {
    core::iter::successors(Some(LEVEL_BYTES), |target| {
        Some(target.saturating_mul(LEVEL_RATIO))
    })
}

/// The most that merging a level with the next writes, in bytes.
fn deeper(levels: &[Level]) -> u64 {
    // If a level is begun above the others, each of these may grow to what the next might before.
    let used: Vec<_> = levels.iter().skip(first(levels)).zip(targets()).collect();
    let merges = used.windows(2).map(|pair| match pair {
        [(level, target), (next, _)] if next.tables > 0 && level.bytes > *target => {
            // The engine takes the least that it can, and that is no more than what a table of the level overlaps on average, and a
            // table at each end, and one that others of the level overlap as well. Of those at the ends of the level it may take none.
            let tables = level.tables.max(FRESH_FILES.into()) - 2;
            let overlapped = next.bytes / tables + 3 * TABLE_BYTES;
            level.bytes.min(LEVEL_BYTES) + next.bytes.min(OVERLAP_BYTES).min(overlapped)
        }
        _ => 0,
    });
    merges.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels of tables that are as large as they get, of so many MiB each.
    fn levels(mib: [u64; 7]) -> [Level; 7] {
        mib.map(|mib| Level {
            tables: mib.div_ceil(64),
            bytes: mib << 20,
        })
    }

    /// For each merge there is room for what it may write, also for one between deeper levels, and for no more than that.
    #[test]
    fn merge_of_each_level_is_counted() {
        for (mib, needed) in [
            ([0, 0, 0, 0, 0, 0, 0], 0),
            ([80, 0, 0, 0, 0, 0, 0], 80),
            ([80, 0, 0, 0, 0, 0, 200], 280),
            // The fresh ones begin a level above one that is full.
            ([80, 0, 0, 0, 0, 0, 5000], 80),
            ([80, 0, 0, 0, 0, 100, 5000], 180),
            // The level above the last is full: it is merged into that, or will be after the next merge.
            ([0, 0, 0, 0, 0, 576, 4200], 512 + 4200 / 7 + 192),
            ([80, 0, 0, 0, 0, 500, 4200], 512 + 4200 / 6 + 192),
            // There are no more tables than that to be merged with.
            ([0, 0, 0, 0, 0, 576, 100], 612),
            ([0, 0, 0, 0, 0, 576, 5000], 512 + 5000 / 7 + 192),
            ([0, 0, 0, 0, 0, 9, 60_000], 9),
            // All are full: each may grow to ten times as much, and nothing is merged before the fresh ones have begun a level.
            ([0, 0, 0, 0, 0, 576, 60_000], 0),
            ([80, 0, 0, 0, 0, 520, 5200], 80),
            // They will be after the next merge.
            ([80, 0, 0, 0, 0, 500, 60_000], 580),
            // Also by what they may grow to then, one is full.
            ([80, 0, 0, 0, 0, 6000, 60_000], 512 + 60_000 / 92 + 192),
            // One that the fresh ones do not go to is not made full by them.
            ([80, 0, 0, 0, 100, 5100, 49_000], 180),
            // What nothing is below is moved.
            ([0, 0, 0, 0, 600, 0, 5000], 600),
            ([80, 0, 0, 0, 0, 600, 0], 80),
            // Two levels below.
            ([80, 0, 0, 0, 100, 6400, 49_000], 512 + 49_000 / 98 + 192),
        ] {
            assert_eq!(bytes(&levels(mib)) >> 20, needed, "{mib:?}");
        }
    }
}
