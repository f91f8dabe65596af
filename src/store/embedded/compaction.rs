//! Estimates how much the engine may write when it merges tables, from their number and sizes.
//!
//! The engine merges the tables of one level with the tables of the next whose keys overlap, one
//! merge at a time. When the fresh tables (level 0) have become many, all of them go to the first
//! deeper level that has any. A deeper level that has grown beyond its target moves some of its
//! tables to the next. The choice depends on their keys, so this module computes the maximum.

use super::FRESH_FILES;

/// The largest table that the engine makes, in bytes.
const TABLE_BYTES: u64 = 64 << 20;
/// The target size of the first level behind the fresh tables, in bytes: as many tables as are
/// fresh.
const LEVEL_BYTES: u64 = (FRESH_FILES as u64) * TABLE_BYTES;
/// The ratio of a level's target size to that of the level before.
const LEVEL_RATIO: u64 = 10;
/// The largest part of the next level that the engine merges at once with tables of a deeper one,
/// in bytes.
const OVERLAP_BYTES: u64 = 50 * TABLE_BYTES;

/// The tables of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub tables: u64,
    pub bytes: u64,
}

/// Returns the most that the next merge writes, in bytes, or the one after the fresh tables have
/// been merged. The levels are those of one tree, the fresh tables first.
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
    // A merge may make one table of many. If there are few, each overlaps more of the level below.
    to.tables = to.tables.max(fresh.tables.min(1));
    let merged = to.bytes;
    now.max(merged).max(deeper(&levels))
}

/// Returns the level that the fresh tables are merged into: the first that has any, or the one
/// above it if all levels with tables are full.
fn first(levels: &[Level]) -> usize {
    let above = levels.iter().take_while(|level| level.tables == 0).count();
    let used = levels.iter().skip(above);
    let is_full = |(level, target): (&Level, u64)| level.tables == 0 || level.bytes > target;
    let begins_level = above > 0 && used.zip(targets()).all(is_full);
    above - usize::from(begins_level)
}

/// Returns the target sizes of levels, in bytes: first of the level that the fresh tables are
/// merged into, then of those below.
fn targets() -> impl Iterator<Item = u64> {
    core::iter::successors(Some(LEVEL_BYTES), |target| {
        Some(target.saturating_mul(LEVEL_RATIO))
    })
}

/// Returns the most that a merge of a level with the next writes, in bytes.
fn deeper(levels: &[Level]) -> u64 {
    // If the fresh tables start a level above the others, the target of each level is that of the
    // next one before.
    let used: Vec<_> = levels.iter().skip(first(levels)).zip(targets()).collect();
    let merges = used.windows(2).map(|pair| match pair {
        [(level, target), (next, _)] if next.tables > 0 && level.bytes > *target => {
            // The engine picks the cheapest range of tables. That costs no more than the average
            // overlap of one table, plus a table at each end, plus one that other tables of the
            // level overlap as well. It may skip the tables at the ends of the level.
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

    /// Returns levels of tables of full size, of so many MiB each.
    fn levels(mib: [u64; 7]) -> [Level; 7] {
        mib.map(|mib| Level {
            tables: mib.div_ceil(64),
            bytes: mib << 20,
        })
    }

    /// The estimate covers each possible merge, also between deeper levels, and no more than that.
    #[test]
    fn compaction_estimate_covers_merge_of_each_level() {
        for (mib, needed) in [
            ([0, 0, 0, 0, 0, 0, 0], 0),
            ([80, 0, 0, 0, 0, 0, 0], 80),
            ([80, 0, 0, 0, 0, 0, 200], 280),
            // The fresh tables start a level above one that is full.
            ([80, 0, 0, 0, 0, 0, 5000], 80),
            ([80, 0, 0, 0, 0, 100, 5000], 180),
            // The level above the last is full: it is merged into the last, now or after the next
            // merge.
            ([0, 0, 0, 0, 0, 576, 4200], 512 + 4200 / 7 + 192),
            ([80, 0, 0, 0, 0, 500, 4200], 512 + 4200 / 6 + 192),
            // The last level has no more tables to merge with.
            ([0, 0, 0, 0, 0, 576, 100], 612),
            ([0, 0, 0, 0, 0, 576, 5000], 512 + 5000 / 7 + 192),
            ([0, 0, 0, 0, 0, 9, 60_000], 9),
            // All levels are full: each may grow tenfold, and nothing is merged before the fresh
            // tables have started a level.
            ([0, 0, 0, 0, 0, 576, 60_000], 0),
            ([80, 0, 0, 0, 0, 520, 5200], 80),
            // They will be full after the next merge.
            ([80, 0, 0, 0, 0, 500, 60_000], 580),
            // A level exceeds its new target, too.
            ([80, 0, 0, 0, 0, 6000, 60_000], 512 + 60_000 / 92 + 192),
            // The fresh tables do not go to this level, so they do not fill it.
            ([80, 0, 0, 0, 100, 5100, 49_000], 180),
            // A table without overlap below is moved.
            ([0, 0, 0, 0, 600, 0, 5000], 600),
            ([80, 0, 0, 0, 0, 600, 0], 80),
            // Two levels below.
            ([80, 0, 0, 0, 100, 6400, 49_000], 512 + 49_000 / 98 + 192),
        ] {
            assert_eq!(bytes(&levels(mib)) >> 20, needed, "{mib:?}");
        }
    }
}
