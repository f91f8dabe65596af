//! What a realm must not forget: one narrow interface, and its engines.
//!
//! A store holds keys with values, and logs of entries at increasing positions. All writing goes
//! through [`Store::commit`]: a batch takes effect as a whole or not at all, and only while what its
//! author relied on still holds (optimistic concurrency; there are no locks). Knows nothing of chat.
//!
//! Engines: [`Embedded`], in one directory of this machine. Every engine passes `tests/store.rs`.

mod batch;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(test)]
mod faulty;
#[cfg(test)]
mod memory;
mod subscribe;
#[cfg(all(test, feature = "client", feature = "embedded"))]
mod tests;
mod unreadable_range;

use std::{
    future::Future,
    hash::{Hash, Hasher},
};

pub use batch::{Batch, Change, Expected};
use bytes::Bytes;
#[cfg(feature = "embedded")]
pub use embedded::{
    BEHIND_BYTES, CACHE_BYTES, Embedded, MEMTABLE_BYTES, MEMTABLES, OpenError, Opening,
    RESERVE_BYTES, SCRUB, VALUES_BYTES, WRITES_WAITING, is_full, may_pass,
};
#[cfg(test)]
#[cfg(feature = "embedded")]
pub(crate) use embedded::{fail_next_sync, hold_closing, panic_at_next_write};
#[cfg(test)]
pub use faulty::{Asked, Faulty};
#[cfg(test)]
pub use memory::Memory;
use smallvec::SmallVec;
pub use subscribe::{Subscribers, Subscription};
pub(crate) use unreadable_range::Gap;

pub use crate::wire::Position;

/// The longest key, prefix or log name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// What keys, prefixes and logs are called. Nearly all are in place, so that comparing them leads nowhere else in memory.
pub type NameBytes = SmallVec<[u8; 36]>;

/// Some bytes one after another, in place if there is room for them.
pub(crate) fn concat<const N: usize>(parts: &[&[u8]]) -> SmallVec<[u8; N]> {
    let mut bytes = [0; N];
    let mut len = 0;
    for part in parts {
        let Some(place) = bytes.get_mut(len..len + part.len()) else {
            return parts.concat().into();
        };
        place.copy_from_slice(part);
        len += part.len();
    }
    SmallVec::from_buf_and_len(bytes, len)
}

/// Names a value. At most [`NAME_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub NameBytes);

/// What the keys of one kind begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(pub NameBytes);

/// Names a log. At most [`NAME_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Log(pub NameBytes);

// Nothing is hashed beside them, so their lengths need not be.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Hash for Log {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// Tells one value of a key from those before and after it: each commit has a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A value, and which one of its key's values it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// To be named in [`Batch::expect`].
    pub version: Version,
    /// The value.
    pub value: Bytes,
}

/// How much of a log to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// At most so many entries.
    pub entries: usize,
    /// No further entry once so many bytes are read. The first entry comes whole, whatever its size.
    pub bytes: usize,
}

/// A piece of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries and their positions, oldest first.
    pub entries: Vec<(Position, Vec<u8>)>,
    /// Others follow.
    pub more: bool,
}

/// What a commit has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The version of every key that the batch put.
    pub version: Version,
    /// Where the entries that the batch appended stand, in the order of the batch.
    pub positions: Vec<Position>,
}

/// The engine failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A write failed. Whether it is on the disk is not known, and nothing is served before the store is opened again.
    #[error("the store failed: {0}")]
    Failed(String),
    /// One record cannot be read or makes no sense; the others are as good as before. What needed it was not written.
    #[error("the store holds a damaged record: {0}")]
    Damaged(String),
    /// One record cannot be read now, or not by this release: the disk has failed to, or a newer release has written it. It may be sound, so
    /// nothing is done as if it were lost; else as [`StoreError::Damaged`].
    #[error("a record of the store cannot be read: {0}")]
    Unread(String),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// True when one record cannot be read, and all others are as good as before.
    pub const fn is_of_one_record(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Unread(_) => true,
            Self::Failed(_) | Self::Closed => false,
        }
    }
}

/// Why a batch had no effect.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// An expectation no longer holds: read again, decide again.
    #[error("what the batch relied on has changed")]
    Conflict,
    /// There is too little room on the disk, or the disk does not keep up. Reading goes on, and writing as soon as there is room.
    #[error("the disk is full, or does not keep up")]
    Full,
    /// A key or a log's name is longer than [`NAME_BYTES_MAX`].
    #[error("the batch cannot be written: {0}")]
    Refused(String),
    /// The engine failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A durable, ordered store. Everything a realm must not forget goes through it.
pub trait Store: Send + Sync + 'static {
    /// The value under `key` and its version. What the disk has damaged is an error, here and below, and never nothing.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Versioned>, StoreError>> + Send;

    /// Keys under a prefix with their values, in order, those after `after`, at most `limit`.
    fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Key, Versioned)>, StoreError>> + Send;

    /// Entries of `log` after `position`, oldest first.
    fn read(
        &self,
        log: &Log,
        after: Position,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// All of it or nothing, durable when it returns.
    fn commit(&self, batch: Batch) -> impl Future<Output = Result<Committed, CommitError>> + Send;

    /// The last position given out in `log`, also when its entries were trimmed; 0 when there was none.
    fn last(&self, log: &Log) -> impl Future<Output = Result<Position, StoreError>> + Send;

    /// Names of logs that have entries, those behind `after`, at most `limit`, in an order of the engine's. Those whose
    /// names the disk has damaged are left out, which the engine logs.
    fn logs(
        &self,
        after: Option<&Log>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Log>, StoreError>> + Send;

    /// Wakes when one of `logs` has grown.
    fn subscribe(&self, logs: &[Log]) -> Subscription;

    /// Waits until the store has failed, be it by itself, while nobody asks it for anything. One that cannot do so lets wait for ever: what it
    /// is asked for says that it has failed.
    fn failed(&self) -> impl Future<Output = StoreError> + Send {
        core::future::pending()
    }

    /// Gives back memory of what nobody has asked for since this was called the last time but one.
    fn age(&self) {}
}
