//! What is to be written together, and what it relies on.

use bytes::Bytes;

use super::{Key, Log, NAME_BYTES_MAX, Position, Version};

/// What a record takes besides its name and its bytes, about.
const AROUND_RECORD: usize = 24;

/// How a key must stand for a batch to take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// There is no value.
    Absent,
    /// The value is still this one.
    At(Version),
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a value.
    Put(Key, Bytes),
    /// Removes a key.
    Delete(Key),
    /// Adds an entry at the end of a log.
    Append(Log, Vec<u8>),
    /// Removes the log's entries below a position.
    Trim(Log, Position),
    /// Forgets where a log ended that has no entries: its next one has position 1 again.
    Forget(Log),
}

/// A list of expectations and changes that take effect together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// What must hold, for an engine to check.
    pub expectations: Vec<(Key, Expected)>,
    /// Where logs must end, for an engine to check.
    pub ends: Vec<(Log, Position)>,
    /// What is to be done then, for an engine to do in this order.
    pub changes: Vec<Change>,
    /// It gives room back, or writes over a few records that stand already, and is written when the disk has too little for anything
    /// else.
    pub tidies: bool,
}

impl Batch {
    /// A batch without content.
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch that gives room back, or takes none for good as it writes over a few records that stand already: it is also written when
    /// the disk is full.
    pub fn tidying() -> Self {
        Self {
            tidies: true,
            ..Self::default()
        }
    }

    /// The batch takes effect only if `key` stands as `expected`.
    pub fn expect(&mut self, key: Key, expected: Expected) -> &mut Self {
        self.expectations.push((key, expected));
        self
    }

    /// The batch takes effect only if nothing has been appended to `log` since it ended at `position`.
    pub fn expect_end(&mut self, log: Log, position: Position) -> &mut Self {
        self.ends.push((log, position));
        self
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, key: Key, value: impl Into<Bytes>) -> &mut Self {
        self.changes.push(Change::Put(key, value.into()));
        self
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, key: Key) -> &mut Self {
        self.changes.push(Change::Delete(key));
        self
    }

    /// Adds `entry` at the end of `log`. Its position comes with the commit.
    pub fn append(&mut self, log: Log, entry: Vec<u8>) -> &mut Self {
        self.changes.push(Change::Append(log, entry));
        self
    }

    /// Removes the entries of `log` below `position`. Positions are never given out again.
    pub fn trim(&mut self, log: Log, position: Position) -> &mut Self {
        self.changes.push(Change::Trim(log, position));
        self
    }

    /// Forgets where `log` ended, which has no entries any more and never will have: its positions begin anew. Nothing is done to one that
    /// has entries.
    pub fn forget(&mut self, log: Log) -> &mut Self {
        self.changes.push(Change::Forget(log));
        self
    }

    /// What it adds to the store, in bytes, about; what it takes away does not count.
    pub fn bytes(&self) -> usize {
        let added = self.changes.iter().map(|change| match change {
            Change::Put(Key(name), value) => name.len() + value.len() + AROUND_RECORD,
            Change::Append(Log(name), entry) => name.len() + entry.len() + AROUND_RECORD,
            Change::Delete(_) | Change::Trim(..) | Change::Forget(_) => 0,
        });
        added.sum()
    }

    /// True when every key and log has a name that an engine takes.
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
