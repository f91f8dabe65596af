//! Values on their way to their places. What a group of batches puts or deletes goes to the disk in one row; to its own
//! keys it comes later, a little with each group. What is overwritten before that never gets there: the answers to
//! commands, of which each device has a few hundred that it writes over and over, are most of what a realm puts.
//!
//! The rows stand in a ring. The writer knows which of them still count ([`Rows`]); what stands in those is in memory
//! ([`Behind`]), where readers look before they ask the disk. At a start it is read from there.

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

/// Memory of the values that are behind, in bytes: from half of it on they are written to their places, and a group
/// that leads beyond it waits for all of them.
pub const BEHIND_BYTES: usize = 8 << 20;
/// Rows of groups at most, and so what is read at a start.
const ROWS: usize = 4096;
/// What a value takes besides its bytes and its key's, about: its place in the tree, and what is around its bytes.
const AROUND: usize = 160;
/// Values that one group brings to their places at least, while any are brought there.
const SWEPT_MIN: usize = 16;

/// How much may be behind.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub rows: usize,
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
    /// The place in the ring after `at`.
    fn after(self, at: u16) -> u16 {
        u16::try_from((usize::from(at) + 1) % self.rows).unwrap_or(0)
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
pub struct Behind(RwLock<Values>);

impl Behind {
    fn values(&self) -> RwLockReadGuard<'_, Values> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands under `key`, if that is not to be found on the disk.
    pub fn get(&self, key: &Key) -> Lookup<Versioned> {
        match self.values().by_key.get(key) {
            Some(latest) => Lookup::Known(latest.versioned()),
            None => Lookup::Unknown,
        }
    }

    /// Which of `key`'s values is the present one, if that is not to be found on the disk.
    pub fn version(&self, key: &Key) -> Lookup<Version> {
        match self.values().by_key.get(key) {
            Some(latest) => Lookup::Known(latest.value.as_ref().map(|_| latest.version)),
            None => Lookup::Unknown,
        }
    }

    /// The keys under a prefix, those after `after` if that is one of them, and what has become of them; as many as it takes to find
    /// `limit` with a value. To be asked for before the disk is: what comes to its place meanwhile is then found twice, and not missed.
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

    /// So many keys after `after`.
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

    /// Takes in what a group has put, and forgets what has come to its place, unless that has been put anew.
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

/// What one group brings to its place, and how far that leads.
#[derive(Debug, Default)]
pub struct Sweep {
    /// The keys and what has become of them.
    pub placed: Vec<(Key, Latest)>,
    /// All rows up to this version count no more.
    pub done: Option<Version>,
}

/// The rows of groups that still count, for the writer.
#[derive(Debug)]
pub struct Rows {
    bounds: Bounds,
    /// Where the next goes.
    next: u16,
    /// The versions of those that count, the oldest first.
    counting: VecDeque<Version>,
    /// Until which version values are being brought to their places, and the last key that was.
    sweeping: Option<(Version, Option<Key>)>,
}

impl Rows {
    /// What the rows found on the disk say, of which those up to `placed` count no more.
    pub fn read(
        rows: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>>,
        placed: Version,
        bounds: Bounds,
    ) -> Result<(Self, Behind), StoreError> {
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
        let behind = Behind::default();
        let values = found.into_iter().flat_map(|(.., values)| values);
        behind.change(values, &[]);
        Ok((rows, behind))
    }

    /// The last version that a row has.
    pub fn last(&self) -> Option<Version> {
        self.counting.back().copied()
    }

    /// Where the row of the next group goes.
    pub const fn next(&self) -> u16 {
        self.next
    }

    /// What the next group is to bring to its place: nothing, while there is room.
    pub fn sweep(&mut self, behind: &Behind) -> Sweep {
        let (rows, bytes) = (self.counting.len(), behind.bytes());
        if self.sweeping.is_none()
            && (rows >= self.bounds.rows / 2 || bytes >= self.bounds.bytes / 2)
        {
            self.sweeping = self.last().map(|version| (version, None));
        }
        let Some((until, last)) = &mut self.sweeping else {
            return Sweep::default();
        };
        let is_full = rows + 1 >= self.bounds.rows || bytes >= self.bounds.bytes;
        // A quarter of the room is used up until it is done.
        let count = if is_full {
            usize::MAX
        } else {
            (behind.len() / (self.bounds.rows / 4).max(1)).max(SWEPT_MIN)
        };
        let placed = behind.some_after(last.as_ref(), count);
        let done = (placed.len() < count).then_some(*until);
        *last = placed.last().map(|(key, _)| key.clone());
        Sweep { placed, done }
    }

    /// A group is on the disk, with what it has put and with what it has brought to its place.
    pub fn committed(
        &mut self,
        behind: &Behind,
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

    /// A group is not on the disk.
    pub fn failed(&mut self) {
        // What it would have brought to its place is brought again.
        self.sweeping = None;
    }
}

/// The first keys of what is behind and what is in its place together, with their values, so many at most. Of a key
/// that is in both, the newer counts.
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
