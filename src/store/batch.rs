//! A batch: changes that a commit makes together, and the conditions for them.

use bytes::Bytes;

use super::{Key, Log, NAME_BYTES_MAX, Position, Version};

/// The approximate overhead of a record besides its name and its value, in bytes.
const AROUND_RECORD: usize = 24;

/// A condition on a key. The batch takes effect only if it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The key has no value.
    Absent,
    /// The key's value still has this version.
    At(Version),
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a value.
    Put(Key, Bytes),
    /// Removes a key.
    Delete(Key),
    /// Appends an entry to a log.
    Append(Log, Vec<u8>),
    /// Removes the log's entries below a position.
    Trim(Log, Position),
    /// Forgets the last position of a log without entries: its next entry has position 1 again.
    Forget(Log),
}

/// A list of expectations and changes that take effect together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The conditions on keys. The engine checks them.
    pub expectations: Vec<(Key, Expected)>,
    /// The last positions that logs must have. The engine checks them.
    pub ends: Vec<(Log, Position)>,
    /// The changes. The engine makes them in this order.
    pub changes: Vec<Change>,
    /// True if the batch frees space or overwrites a few existing records. It is then also written
    /// when the disk has too little space for anything else.
    pub tidies: bool,
}

impl Batch {
    /// Returns an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a batch that frees space, or that takes no space for good because it overwrites a
    /// few existing records. It is also written when the disk is full.
    pub fn tidying() -> Self {
        Self {
            tidies: true,
            ..Self::default()
        }
    }

    /// Adds a condition: the batch takes effect only if `expected` holds for `key`.
    pub fn expect(&mut self, key: Key, expected: Expected) -> &mut Self {
        self.expectations.push((key, expected));
        self
    }

    /// Adds a condition: the batch takes effect only if `position` is still the last position of
    /// `log`.
    pub fn expect_end(&mut self, log: Log, position: Position) -> &mut Self {
        self.ends.push((log, position));
        self
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, key: Key, value: impl Into<Bytes>) -> &mut Self {
        self.changes.push(Change::Put(key, value.into()));
        self
    }

    /// Removes `key`, if it exists.
    pub fn delete(&mut self, key: Key) -> &mut Self {
        self.changes.push(Change::Delete(key));
        self
    }

    /// Appends `entry` to `log`. The commit returns its position.
    pub fn append(&mut self, log: Log, entry: Vec<u8>) -> &mut Self {
        self.changes.push(Change::Append(log, entry));
        self
    }

    /// Removes the entries of `log` below `position`. Positions are never reused.
    pub fn trim(&mut self, log: Log, position: Position) -> &mut Self {
        self.changes.push(Change::Trim(log, position));
        self
    }

    /// Forgets the last position of `log`, which has no entries any more and never will have: its
    /// positions start at 1 again. Has no effect on a log that has entries.
    pub fn forget(&mut self, log: Log) -> &mut Self {
        self.changes.push(Change::Forget(log));
        self
    }

    /// Returns the log of each entry that the batch appends.
    pub fn grown(&self) -> impl Iterator<Item = &Log> {
        self.changes.iter().filter_map(|change| match change {
            Change::Append(log, _) => Some(log),
            Change::Put(..) | Change::Delete(_) | Change::Trim(..) | Change::Forget(_) => None,
        })
    }

    /// Returns the approximate number of bytes that the batch adds to the store. Removals do not
    /// count.
    pub fn bytes(&self) -> usize {
        let added = self.changes.iter().map(|change| match change {
            Change::Put(Key(name), value) => name.len() + value.len() + AROUND_RECORD,
            Change::Append(Log(name), entry) => name.len() + entry.len() + AROUND_RECORD,
            Change::Delete(_) | Change::Trim(..) | Change::Forget(_) => 0,
        });
        added.sum()
    }

    /// True if no name of a key or log is longer than the engine accepts.
    pub fn names_fit(&self) -> bool {
        self.changes.iter().all(|change| match change {
            Change::Put(Key(name), _)
            | Change::Delete(Key(name))
            | Change::Append(Log(name), _)
            | Change::Trim(Log(name), _)
            | Change::Forget(Log(name)) => name.len() <= NAME_BYTES_MAX,
        })
    }
}
