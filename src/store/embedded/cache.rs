//! The values that are asked for all the time, in memory: sessions, accounts, who is in which group.
//!
//! Readers bring in what they have looked up, the writer tells what has changed once it is on the disk; so what is
//! found here is what stands there. What the writer changes and nobody has asked for is not brought in.

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

/// Memory for them, in bytes.
pub const VALUES_BYTES: usize = 16 << 20;
/// So many parts, each with a lock of its own, so that workers seldom wait for each other.
const PARTS: usize = 16;
/// What a value takes besides its bytes and its key's, about: its place in the table, and what is around its bytes.
const AROUND: usize = 160;
/// Larger ones are not kept: they would push out many that are small.
const VALUE_BYTES_MAX: usize = 4096;

/// What stands under some keys.
#[derive(Debug)]
pub struct Cache {
    hasher: RandomState,
    parts: [Mutex<Part>; PARTS],
    /// The last version that is on the disk.
    committed: AtomicU64,
}

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// What stands there, or that nothing does.
    Known(Option<T>),
    /// The disk has to be asked.
    Unknown,
}

/// A key and its hash, which is made once for all that is asked of it.
#[derive(Clone, Copy)]
struct Hashed<'a> {
    key: &'a Key,
    hash: u64,
}

#[derive(Debug)]
struct Known {
    hash: u64,
    key: Key,
    value: Option<Versioned>,
}

impl Known {
    fn bytes(&self) -> usize {
        let value = self.value.as_ref().map_or(0, |value| value.value.len());
        self.key.0.len() + value + AROUND
    }
}

/// The younger half of a part's values, and the older. What is found among the older moves to the younger; when those
/// fill their half, the older ones go.
#[derive(Debug, Default)]
struct Part {
    young: HashTable<Known>,
    old: HashTable<Known>,
    young_bytes: usize,
    /// The last version by which something changed that is not here.
    missed: u64,
    /// The last by which something changed that is, or was.
    noted: u64,
}

/// Takes one out.
fn take(table: &mut HashTable<Known>, Hashed { key, hash }: Hashed<'_>) -> Option<Known> {
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
        // It is in one of them at most.
        if take(&mut self.young, hashed).is_none() {
            take(&mut self.old, hashed);
        }
        self.missed = self.missed.max(version.0);
    }

    fn insert(&mut self, known: Known) {
        self.young_bytes += known.bytes();
        if self.young_bytes > VALUES_BYTES / PARTS / 2 {
            self.swap();
            self.young_bytes = known.bytes();
            // To let it grow costs as much as to fill it.
            self.young.reserve(self.old.len(), |known| known.hash);
        }
        self.young
            .insert_unique(known.hash, known, |known| known.hash);
    }

    /// The younger ones are the older ones now, and those go.
    fn swap(&mut self) {
        // Whoever began to look before what goes now was changed must not bring in how it was.
        self.missed = self.missed.max(self.noted);
        self.young_bytes = 0;
        std::mem::swap(&mut self.old, &mut self.young);
        self.young.clear();
    }

    /// The same, and what is not in use takes no memory.
    fn age(&mut self) {
        self.swap();
        self.young = HashTable::new();
    }
}

impl Cache {
    /// An empty one, of a store whose last version is `committed`.
    pub fn new(committed: u64) -> Self {
        const { assert!(VALUES_BYTES / PARTS / 2 > VALUE_BYTES_MAX + NAME_BYTES_MAX + AROUND) };
        Self {
            hasher: RandomState::new(),
            parts: std::array::from_fn(|_| Mutex::default()),
            committed: AtomicU64::new(committed),
        }
    }

    /// Forgets what nobody has asked for since this was called the last time but one.
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
        // Not by the bits by which a table goes.
        let at = usize::try_from((hash >> 32) % PARTS as u64).unwrap_or_default();
        let part = self.parts[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (part, Hashed { key, hash })
    }

    /// What stands under `key`.
    pub fn get(&self, key: &Key) -> Lookup<Versioned> {
        let (mut part, hashed) = self.part(key);
        match part.find(hashed) {
            Some(value) => Lookup::Known(value.clone()),
            None => Lookup::Unknown,
        }
    }

    /// Which of `key`'s values is the present one.
    pub fn version(&self, key: &Key) -> Lookup<Version> {
        let (mut part, hashed) = self.part(key);
        match part.find(hashed) {
            Some(value) => Lookup::Known(value.as_ref().map(|value| value.version)),
            None => Lookup::Unknown,
        }
    }

    /// To be asked before a value is looked up that is to be brought in.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Brings in what a reader has found on the disk, where nothing can have changed since it asked for `committed`.
    pub fn bring(&self, key: &Key, value: Option<&Versioned>, committed: u64) {
        if value.is_some_and(|value| value.value.len() > VALUE_BYTES_MAX) {
            return;
        }
        let (mut part, hashed) = self.part(key);
        if part.missed <= committed && part.find(hashed).is_none() {
            part.insert(Known {
                hash: hashed.hash,
                key: key.clone(),
                value: value.cloned(),
            });
        }
    }

    /// Takes in what has been written; it is on the disk.
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

    /// Only the disk can tell whether what was written stands.
    pub fn forget(&self, key: &Key, version: Version) {
        let (mut part, hashed) = self.part(key);
        part.forget(hashed, version);
    }

    /// All up to this version is on the disk, and has been taken in.
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
    fn what_is_known_is_what_was_written_last() {
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
        // What has grown too large is not known any more, and not half known either.
        let large = latest(6, Some(VALUE_BYTES_MAX + 1));
        cache.changed(&key(2), &large);
        cache.note_committed(6);
        cache.bring(&key(2), large.versioned().as_ref(), cache.committed());
        assert_eq!(cache.get(&key(2)), Lookup::Unknown);
    }

    /// A reader looks on the disk, then the value changes, and only then does the reader bring in what it has seen.
    #[test]
    fn a_reader_who_is_late_brings_nothing_in() {
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
    fn what_nobody_asks_for_is_forgotten() {
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
        // Who has looked before it was changed, and comes only now.
        cache.bring(&key(2), Some(&value(2, 9)), before);
        assert_eq!(cache.get(&key(2)), Lookup::Unknown);
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_asked_for() {
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
                all.map(Known::bytes).sum::<usize>()
            })
            .sum();
        assert!(kept <= VALUES_BYTES, "{kept}");
        assert_eq!(cache.get(&key(1)), Lookup::Unknown);
    }
}
