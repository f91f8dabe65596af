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

/// The most that the next merge writes, in bytes: the levels are those of one tree, the fresh tables first.
pub fn bytes(levels: &[Level]) -> u64 {
    let Some((fresh, levels)) = levels.split_first() else {
        return 0;
    };
    let targets = core::iter::successors(Some(LEVEL_BYTES), |target| {
        Some(target.saturating_mul(LEVEL_RATIO))
    });
    let above = levels.iter().take_while(|level| level.tables == 0).count();
    let used: Vec<_> = levels.iter().skip(above).zip(targets).collect();
    let is_full = |(level, target): &(&Level, u64)| level.tables == 0 || level.bytes > *target;
    // If all are full, the fresh ones begin a level of their own.
    let begins_level = above > 0 && used.iter().all(is_full);
    let first = used.first().filter(|_| !begins_level);
    let first = fresh.bytes + first.map_or(0, |(level, _)| level.bytes);
    let deeper = used.windows(2).map(|pair| match pair {
        // It may become full by the merge before.
        [(level, target), (next, _)] if next.tables > 0 && level.bytes + fresh.bytes > *target => {
            // The engine takes the least that it can, and that is no more than what a table of the level overlaps on average, and a
            // table at each end, and one that others of the level overlap as well. Of those at the ends of the level it may take none.
            let tables = level.tables.max(FRESH_FILES.into()) - 2;
            let overlapped = next.bytes / tables + 3 * TABLE_BYTES;
            level.bytes.min(LEVEL_BYTES) + next.bytes.min(OVERLAP_BYTES).min(overlapped)
        }
        _ => 0,
    });
    deeper.fold(first, u64::max)
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
            ([80, 0, 0, 0, 0, 500, 4200], 500 + 4200 / 6 + 192),
            // There are no more tables than that to be merged with.
            ([0, 0, 0, 0, 0, 576, 100], 612),
            ([0, 0, 0, 0, 0, 576, 60_000], 512 + 3200),
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
