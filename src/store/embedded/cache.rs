//! The cache of values that are read often: sessions, accounts, members of groups.
//!
//! Readers add values that they have read from the disk, and the writer updates them once a change
//! is on the disk. So a cached value is the value on the disk. The writer does not add values that
//! nobody has read.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use hashbrown::HashTable;

use super::{
    super::{Key, NAME_BYTES_MAX, Version, Versioned},
    layout::Latest,
};

/// The memory for cached values, in bytes.
pub const VALUES_BYTES: usize = 16 << 20;
/// The number of parts. Each has its own lock, so that workers seldom wait for each other.
const PARTS: usize = 16;
/// The approximate overhead of a value besides its bytes and its key's, in bytes: its slot in the
/// table and its allocation.
const AROUND: usize = 160;
/// The largest cached value, in bytes. A larger one would push out many small ones.
const VALUE_BYTES_MAX: usize = 4096;

/// The values of some keys.
#[derive(Debug)]
pub struct Cache {
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
    /// The last version on the disk.
    committed: AtomicU64,
}

/// The result of a cache look-up.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// The value, or none if the key has no value.
    Known(Option<T>),
    /// Not cached: the value must be read from the disk.
    Unknown,
}

/// A key and its hash, which is computed once for all look-ups of an operation.
#[derive(Clone, Copy)]
struct Hashed<'a> {
    key: &'a Key,
    hash: u64,
}

#[derive(Debug)]
struct Cached {
    hash: u64,
    key: Key,
    value: Option<Versioned>,
}

impl Cached {
    fn bytes(&self) -> usize {
        let value = self.value.as_ref().map_or(0, |value| value.value.len());
        self.key.0.len() + value + AROUND
    }
}

/// The young and the old half of a part's values. A value found in the old half moves to the young
/// half. When the young half is full, the old half is dropped.
#[derive(Debug, Default)]
struct Part {
    young: HashTable<Cached>,
    old: HashTable<Cached>,
    young_bytes: usize,
    /// The last version that changed a value not cached here.
    missed: u64,
    /// The last version that changed a value that is or was cached here.
    noted: u64,
}

/// Removes and returns an entry.
fn take(table: &mut HashTable<Cached>, Hashed { key, hash }: Hashed<'_>) -> Option<Cached> {
    let found = table.find_entry(hash, |known| known.key == *key).ok()?;
    Some(found.remove().0)
}

impl Part {
    fn find(&mut self, hashed: Hashed<'_>) -> Option<&mut Option<Versioned>> {
        let Hashed { key, hash } = hashed;
        if self.young.find(hash, |known| known.key == *key).is_none() {
            let known = take(&mut self.old, hashed)?;
            self.insert(known);
        }
        let known = self.young.find_mut(hash, |known| known.key == *key)?;
        Some(&mut known.value)
    }

    fn forget(&mut self, hashed: Hashed<'_>, version: Version) {
        // It is in one of the two tables at most.
        if take(&mut self.young, hashed).is_none() {
            take(&mut self.old, hashed);
        }
        self.missed = self.missed.max(version.0);
    }

    fn insert(&mut self, known: Cached) {
        self.young_bytes += known.bytes();
        if self.young_bytes > VALUES_BYTES / PARTS / 2 {
            self.swap();
            self.young_bytes = known.bytes();
            // Growing the table step by step costs as much as filling it.
            self.young.reserve(self.old.len(), |known| known.hash);
        }
        self.young
            .insert_unique(known.hash, known, |known| known.hash);
    }

    /// Makes the young half the old half, and drops the old half.
    fn swap(&mut self) {
        // A reader that started before a dropped value changed must not add the old value.
        self.missed = self.missed.max(self.noted);
        self.young_bytes = 0;
        std::mem::swap(&mut self.old, &mut self.young);
        self.young.clear();
    }

    /// As [`Part::swap`], and frees the memory of the unused table.
    fn age(&mut self) {
        self.swap();
        self.young = HashTable::new();
    }
}

impl Cache {
    /// Returns an empty cache of a store whose last version is `committed`.
    pub fn new(committed: u64) -> Self {
        const { assert!(VALUES_BYTES / PARTS / 2 > VALUE_BYTES_MAX + NAME_BYTES_MAX + AROUND) };
        Self {
            hasher: RandomState::new(),
            parts: std::array::from_fn(|_| Mutex::default()),
            committed: AtomicU64::new(committed),
        }
    }

    /// Drops values that were not read since the call before the last.
    pub fn age(&self) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.age();
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the remainder of a division by the number of parts"
    )]
    fn part<'a>(&self, key: &'a Key) -> (MutexGuard<'_, Part>, Hashed<'a>) {
        let hash = self.hasher.hash_one(key);
        // The table uses the other bits of the hash.
        let [_, _, _, bits, ..] = hash.to_be_bytes();
        let part = self.parts[usize::from(bits) % PARTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (part, Hashed { key, hash })
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &Key) -> Lookup<Versioned> {
        let (mut part, hashed) = self.part(key);
        match part.find(hashed) {
            Some(value) => Lookup::Known(value.clone()),
            None => Lookup::Unknown,
        }
    }

    /// Returns the version of `key`'s current value.
    pub fn version(&self, key: &Key) -> Lookup<Version> {
        let (mut part, hashed) = self.part(key);
        match part.find(hashed) {
            Some(value) => Lookup::Known(value.as_ref().map(|value| value.version)),
            None => Lookup::Unknown,
        }
    }

    /// Returns the last version on the disk. A reader must ask for it before it reads a value that
    /// it then adds with [`Cache::bring`].
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Adds a value that a reader has read from the disk, unless it may have changed since the
    /// reader asked for `committed`.
    pub fn bring(&self, key: &Key, value: Option<&Versioned>, committed: u64) {
        if value.is_some_and(|value| value.value.len() > VALUE_BYTES_MAX) {
            return;
        }
        let (mut part, hashed) = self.part(key);
        if part.missed <= committed && part.find(hashed).is_none() {
            part.insert(Cached {
                hash: hashed.hash,
                key: key.clone(),
                value: value.cloned(),
            });
        }
    }

    /// Updates a value with a change that is on the disk.
    pub fn changed(&self, key: &Key, latest: &Latest) {
        let (mut part, hashed) = self.part(key);
        let value = latest.value.as_ref();
        let is_small = value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX);
        part.noted = part.noted.max(latest.version.0);
        match part.find(hashed) {
            Some(known) if is_small => *known = latest.versioned(),
            Some(_) => part.forget(hashed, latest.version),
            None => part.missed = part.missed.max(latest.version.0),
        }
    }

    /// Drops a value whose write may or may not have reached the disk: only the disk can tell.
    pub fn forget(&self, key: &Key, version: Version) {
        let (mut part, hashed) = self.part(key);
        part.forget(hashed, version);
    }

    /// Notes that all changes up to this version are on the disk and in the cache.
    pub fn note_committed(&self, version: u64) {
        self.committed.store(version, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> Key {
        Key(n.to_be_bytes()[..].into())
    }

    fn value(version: u64, len: usize) -> Versioned {
        latest(version, Some(len)).versioned().unwrap()
    }

    fn latest(version: u64, len: Option<usize>) -> Latest {
        Latest {
            version: Version(version),
            value: len.map(|len| vec![7; len].into()),
        }
    }

    #[test]
    fn cache_returns_value_written_last() {
        let cache = Cache::new(3);
        assert_eq!(cache.get(&key(1)), Lookup::Unknown);
        cache.bring(&key(1), Some(&value(2, 9)), cache.committed());
        cache.bring(&key(2), None, cache.committed());
        assert_eq!(cache.get(&key(1)), Lookup::Known(Some(value(2, 9))));
        assert_eq!(cache.version(&key(1)), Lookup::Known(Some(Version(2))));
        assert_eq!(cache.get(&key(2)), Lookup::Known(None));
        cache.changed(&key(1), &latest(4, Some(1)));
        cache.changed(&key(2), &latest(4, Some(2)));
        cache.changed(&key(1), &latest(5, None));
        cache.note_committed(5);
        assert_eq!(cache.get(&key(1)), Lookup::Known(None));
        assert_eq!(cache.get(&key(2)), Lookup::Known(Some(value(4, 2))));
        // A value that has grown too large is dropped as a whole.
        let large = latest(6, Some(VALUE_BYTES_MAX + 1));
        cache.changed(&key(2), &large);
        cache.note_committed(6);
        cache.bring(&key(2), large.versioned().as_ref(), cache.committed());
        assert_eq!(cache.get(&key(2)), Lookup::Unknown);
    }

    /// A late reader must not add an old value: it reads from the disk, then the value changes, and
    /// only then does the reader add it.
    #[test]
    fn cache_late_reader_adds_no_old_value() {
        let cache = Cache::new(3);
        let asked = cache.committed();
        cache.changed(&key(1), &latest(4, Some(1)));
        cache.note_committed(4);
        cache.bring(&key(1), Some(&value(2, 9)), asked);
        assert_eq!(cache.get(&key(1)), Lookup::Unknown);
        cache.bring(&key(1), Some(&value(4, 1)), cache.committed());
        assert_eq!(cache.get(&key(1)), Lookup::Known(Some(value(4, 1))));
    }

    #[test]
    fn cache_unused_value_is_forgotten() {
        let cache = Cache::new(3);
        let before = cache.committed();
        for n in 1..3 {
            cache.bring(&key(n), Some(&value(2, 9)), before);
        }
        cache.changed(&key(2), &latest(4, Some(1)));
        cache.note_committed(4);
        for _ in 0..2 {
            cache.age();
            assert_eq!(cache.get(&key(1)), Lookup::Known(Some(value(2, 9))));
        }
        assert_eq!(cache.get(&key(2)), Lookup::Unknown);
        // A reader that read the value before the change, and adds it only now.
        cache.bring(&key(2), Some(&value(2, 9)), before);
        assert_eq!(cache.get(&key(2)), Lookup::Unknown);
    }

    #[test]
    fn cache_is_bounded_and_keeps_used_values() {
        let cache = Cache::new(0);
        let count = u32::try_from(3 * VALUES_BYTES / 1000).unwrap();
        cache.bring(&key(0), Some(&value(1, 5)), 0);
        for n in 1..count {
            cache.bring(&key(n), Some(&value(1, 1000)), 0);
            assert_eq!(
                cache.version(&key(0)),
                Lookup::Known(Some(Version(1))),
                "{n}"
            );
        }
        let kept: usize = cache
            .parts
            .iter()
            .map(|part| {
                let part = part.lock().unwrap();
                let all = part.young.iter().chain(&part.old);
                all.map(Cached::bytes).sum::<usize>()
            })
            .sum();
        assert!(kept <= VALUES_BYTES, "{kept}");
        assert_eq!(cache.get(&key(1)), Lookup::Unknown);
    }
}
