//! The writes of one group, and their size.

use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode, UserKey, UserValue};

/// The journal's overhead for a record besides its key and its value, in bytes.
const AROUND_ITEM: usize = 24;

/// Writes that go to the disk together.
pub struct Writes {
    batch: OwnedWriteBatch,
    data: Keyspace,
    bytes: u64,
}

impl Writes {
    /// Returns an empty set of writes.
    pub fn new(database: &Database, data: &Keyspace) -> Self {
        Self {
            batch: database.batch(),
            data: data.clone(),
            bytes: 0,
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Returns the most that they take in the journal, in bytes: it compresses values.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a write of a value.
    pub fn insert(&mut self, key: impl Into<UserKey>, value: impl Into<UserValue>) {
        let (key, value) = (key.into(), value.into());
        self.count(key.len() + value.len());
        self.batch.insert(&self.data, key, value);
    }

    /// Adds a removal of a value.
    pub fn remove(&mut self, key: impl Into<UserKey>) {
        let key = key.into();
        self.count(key.len());
        self.batch.remove(&self.data, key);
    }

    /// Commits the writes. They are on the disk before a reader sees them.
    pub fn commit(self) -> Result<(), fjall::Error> {
        self.batch.durability(Some(PersistMode::SyncData)).commit()
    }

    const fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add((bytes + AROUND_ITEM) as u64);
    }
}
