//! Write-behind: a group's values are in one row first, and reach their own keys later, a few with
//! each group. A value that is overwritten before that is never written to its own key. Most values
//! of a realm are answers to commands, and each device overwrites its few hundred of them over and
//! over.
//!
//! The rows form a ring. The writer knows which of them still count ([`Rows`]). Their values are in
//! memory ([`WriteBehind`]), where readers look before they read the disk. At a start they are read
//! from the rows.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use bytes::Bytes;

use super::{
    super::{Key, Prefix, StoreError, Version, Versioned},
    cache::Lookup,
    layout::{self, Latest},
};

/// The memory for values that are not in their places yet, in bytes. From half of it on they are
/// written to their places, and a group that exceeds it waits for all of them.
pub const BEHIND_BYTES: usize = 8 << 20;
/// The maximum number of rows, and so of rows to read at a start.
const ROWS: u16 = 4096;
/// The approximate overhead of a value besides its bytes and its key's, in bytes: its slot in the
/// tree and its allocation.
const AROUND: usize = 160;
/// The minimum number of values that one group writes to their places, while any are being written
/// there.
const SWEPT_MIN: usize = 16;

/// The limits of write-behind.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub rows: u16,
    pub bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            rows: ROWS,
            bytes: BEHIND_BYTES,
        }
    }
}

impl Bounds {
    /// Returns the place in the ring after `at`.
    fn after(self, at: u16) -> u16 {
        (at % self.rows + 1) % self.rows
    }
}

#[derive(Debug, Default)]
struct Values {
    by_key: BTreeMap<Key, Latest>,
    bytes: usize,
}

fn bytes(key: &Key, latest: &Latest) -> usize {
    key.0.len() + latest.value.as_ref().map_or(0, Bytes::len) + AROUND
}

impl Values {
    fn put(&mut self, key: Key, latest: Latest) {
        self.bytes += bytes(&key, &latest);
        let len = key.0.len();
        if let Some(old) = self.by_key.insert(key, latest) {
            self.bytes -= len + old.value.map_or(0, |value| value.len()) + AROUND;
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.by_key.remove(key) {
            self.bytes -= bytes(key, &old);
        }
    }
}

/// The values that are not in their places yet.
#[derive(Debug, Default)]
pub struct WriteBehind(RwLock<Values>);

impl WriteBehind {
    fn values(&self) -> RwLockReadGuard<'_, Values> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the value of `key`, if it is not in its place on the disk yet.
    pub fn get(&self, key: &Key) -> Lookup<Versioned> {
        match self.values().by_key.get(key) {
            Some(latest) => Lookup::Known(latest.versioned()),
            None => Lookup::Unknown,
        }
    }

    /// Returns the version of `key`'s current value, if that is not in its place on the disk yet.
    pub fn version(&self, key: &Key) -> Lookup<Version> {
        match self.values().by_key.get(key) {
            Some(latest) => Lookup::Known(latest.value.as_ref().map(|_| latest.version)),
            None => Lookup::Unknown,
        }
    }

    /// Returns the keys under a prefix after `after` (if that is one of them) and their latest
    /// states; as many as it takes to find `limit` with a value. Call this before the disk is read:
    /// a value that reaches its place meanwhile is then found twice, and not missed.
    pub fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> BTreeMap<Key, Latest> {
        let mut live = 0;
        let prefix = Key(prefix.0.clone());
        let from = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(&prefix),
        };
        let values = self.values();
        let found = values.by_key.range::<Key, _>((from, Bound::Unbounded));
        found
            .take_while(|(key, latest)| {
                let is_wanted = live < limit && key.0.starts_with(&prefix.0);
                live += usize::from(latest.value.is_some());
                is_wanted
            })
            .map(|(key, latest)| (key.clone(), latest.clone()))
            .collect()
    }

    fn bytes(&self) -> usize {
        self.values().bytes
    }

    /// Returns at most `count` keys after `after`.
    fn some_after(&self, after: Option<&Key>, count: usize) -> Vec<(Key, Latest)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let values = self.values();
        let found = values.by_key.range::<Key, _>((from, Bound::Unbounded));
        found
            .take(count)
            .map(|(key, latest)| (key.clone(), latest.clone()))
            .collect()
    }

    fn len(&self) -> usize {
        self.values().by_key.len()
    }

    /// Adds the values of a group, and removes those that have reached their places, unless they
    /// were written anew.
    fn change(&self, put: impl Iterator<Item = (Key, Latest)>, placed: &[(Key, Latest)]) {
        let mut values = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, latest) in placed {
            if values.by_key.get(key) == Some(latest) {
                values.remove(key);
            }
        }
        put.for_each(|(key, latest)| values.put(key, latest));
    }
}

/// The values that one group writes to their places.
#[derive(Debug, Default)]
pub struct Sweep {
    /// The keys and their latest states.
    pub placed: Vec<(Key, Latest)>,
    /// The version up to which all rows no longer count.
    pub done: Option<Version>,
}

/// The rows that still count, for the writer.
#[derive(Debug)]
pub struct Rows {
    bounds: Bounds,
    /// The place of the next row.
    next: u16,
    /// The versions of the rows that count, the oldest first.
    counting: VecDeque<Version>,
    /// While values are written to their places: the version up to which, and the last key that was
    /// written.
    sweeping: Option<(Version, Option<Key>)>,
}

impl Rows {
    /// Returns the contents of the rows on the disk. Those up to `placed` no longer count.
    pub fn read(
        rows: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>>,
        placed: Version,
        bounds: Bounds,
    ) -> Result<(Self, WriteBehind), StoreError> {
        let mut found = Vec::new();
        for row in rows {
            let (key, row) = row?;
            let damaged = || StoreError::Damaged("a row of several values".into());
            let (at, values) = layout::parse_row(&key, &row).ok_or_else(damaged)?;
            let version = values.iter().map(|(_, latest)| latest.version).max();
            if let Some(version) = version.filter(|version| *version > placed) {
                found.push((version, at, values));
            }
        }
        found.sort_unstable_by_key(|(version, ..)| *version);
        let rows = Self {
            bounds,
            next: found.last().map_or(0, |(_, at, _)| bounds.after(*at)),
            counting: found.iter().map(|(version, ..)| *version).collect(),
            sweeping: None,
        };
        let behind = WriteBehind::default();
        let values = found.into_iter().flat_map(|(.., values)| values);
        behind.change(values, &[]);
        Ok((rows, behind))
    }

    /// Returns the last version that has a row.
    pub fn last(&self) -> Option<Version> {
        self.counting.back().copied()
    }

    /// Returns the place of the next group's row.
    pub const fn next(&self) -> u16 {
        self.next
    }

    /// Returns the values that the next group must write to their places: none while there is room.
    pub fn sweep(&mut self, behind: &WriteBehind) -> Sweep {
        let (rows, bytes) = (self.counting.len(), behind.bytes());
        let rows_max = usize::from(self.bounds.rows);
        if self.sweeping.is_none() && (rows >= rows_max / 2 || bytes >= self.bounds.bytes / 2) {
            self.sweeping = self.last().map(|version| (version, None));
        }
        let Some((until, last)) = &mut self.sweeping else {
            return Sweep::default();
        };
        let is_full = rows + 1 >= rows_max || bytes >= self.bounds.bytes;
        // A quarter of the room is used up by the time this is done.
        let count = if is_full {
            usize::MAX
        } else {
            (behind.len() / (rows_max / 4).max(1)).max(SWEPT_MIN)
        };
        let placed = behind.some_after(last.as_ref(), count);
        let done = (placed.len() < count).then_some(*until);
        *last = placed.last().map(|(key, _)| key.clone());
        Sweep { placed, done }
    }

    /// Notes that a group is on the disk, with its own values and those that it wrote to their
    /// places.
    pub fn committed(
        &mut self,
        behind: &WriteBehind,
        version: Version,
        put: impl Iterator<Item = (Key, Latest)>,
        sweep: &Sweep,
    ) {
        if let Some(done) = sweep.done {
            while self.counting.front().is_some_and(|first| *first <= done) {
                self.counting.pop_front();
            }
            self.sweeping = None;
        }
        let mut put = put.peekable();
        if put.peek().is_some() {
            self.counting.push_back(version);
            self.next = self.bounds.after(self.next);
        }
        behind.change(put, &sweep.placed);
    }

    /// Notes that a group is not on the disk.
    pub fn failed(&mut self) {
        // The values that it would have written to their places are written again.
        self.sweeping = None;
    }
}

/// Returns at most a number of the first keys, with their values, from write-behind and from the
/// disk together. If a key is in both, the newer value counts.
pub fn merge<E>(
    behind: BTreeMap<Key, Latest>,
    placed: &mut impl Iterator<Item = Result<(Key, Option<Versioned>), E>>,
    limit: usize,
) -> Result<Vec<(Key, Versioned)>, E> {
    let mut behind = behind.into_iter().peekable();
    let mut next = placed.next().transpose()?;
    let mut merged = Vec::new();
    while merged.len() < limit {
        let found = match (&next, behind.peek()) {
            (None, None) => break,
            (Some((key, _)), Some((other, _))) if key == other => {
                let (key, latest) = behind.next().unzip();
                let placed = next.take().and_then(|(_, value)| value);
                let is_newer = |value: &Versioned| {
                    latest
                        .as_ref()
                        .is_none_or(|latest| value.version > latest.version)
                };
                let value = match placed.filter(is_newer) {
                    Some(value) => Some(value),
                    None => latest.as_ref().and_then(Latest::versioned),
                };
                key.zip(value)
            }
            (Some((key, _)), other) if other.is_none_or(|(other, _)| key < other) => {
                next.take().and_then(|(key, value)| Some((key, value?)))
            }
            _ => behind
                .next()
                .and_then(|(key, latest)| Some((key, latest.versioned()?))),
        };
        merged.extend(found);
        if next.is_none() {
            next = placed.next().transpose()?;
        }
    }
    Ok(merged)
}
