//! The store: one narrow interface to durable data, and its engines.
//!
//! A store holds keys with values, and logs of entries at increasing positions. All writes go
//! through [`Store::commit`]: a batch takes effect as a whole or not at all, and only while the
//! conditions of its author still hold (optimistic concurrency; there are no locks). This module
//! knows nothing of chat.
//!
//! Engines: `Embedded` (feature `embedded`), in one directory of this machine, and [`InMemory`],
//! which keeps nothing. Every engine passes `src/store/tests.rs`.

mod batch;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(test)]
mod faulty;
mod memory;
mod subscribe;
#[cfg(all(test, feature = "client", feature = "embedded"))]
mod tests;
mod unreadable_range;

use std::{
    future::Future,
    hash::{Hash, Hasher},
    time::Duration,
};

pub use batch::{Batch, Change, Expected};
use bytes::Bytes;
#[cfg(feature = "embedded")]
pub(crate) use embedded::{
    BEHIND_BYTES, CACHE_BYTES, MEMTABLE_BYTES, MEMTABLES, VALUES_BYTES, WRITES_WAITING, is_full,
    may_pass,
};
#[cfg(feature = "embedded")]
pub use embedded::{Embedded, OpenError, Opening};
#[cfg(test)]
#[cfg(feature = "embedded")]
pub(crate) use embedded::{fail_next_sync, hold_closing, panic_at_next_write};
#[cfg(test)]
pub use faulty::{Asked, Faulty};
pub use memory::InMemory;
#[cfg(test)]
pub use memory::Memory;
use smallvec::SmallVec;
pub use subscribe::{Subscribers, Subscription};
pub(crate) use unreadable_range::Gap;

pub use crate::wire::Position;

/// The longest key, prefix or log name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// The default disk space that is kept free, in bytes: the engine needs it to tidy up, and so does
/// the operator.
pub(crate) const RESERVE_BYTES: u64 = 32 << 20;
/// The default interval at which all tables are read.
pub(crate) const SCRUB: Duration = Duration::from_hours(7 * 24);

/// The name of a key, prefix or log. Nearly all names are stored inline, so a comparison reads no
/// other memory.
pub type NameBytes = SmallVec<[u8; 36]>;

/// Concatenates byte strings. The result is stored inline if it fits.
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

/// The name of a value. At most [`NAME_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub NameBytes);

/// The prefix of all keys of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(pub NameBytes);

/// The name of a log. At most [`NAME_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Log(pub NameBytes);

// The name is the only field that is hashed, so its length need not be hashed.
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

/// The version of a key's value. Each commit has a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// A value and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The version, for [`Batch::expect`].
    pub version: Version,
    /// The value.
    pub value: Bytes,
}

/// The most that a read of a log returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// The maximum number of entries.
    pub entries: usize,
    /// The number of bytes after which no further entry is read. The first entry is always returned
    /// whole, whatever its size.
    pub bytes: usize,
}

/// A part of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The entries and their positions, oldest first.
    pub entries: Vec<(Position, Vec<u8>)>,
    /// True if more entries follow.
    pub more: bool,
}

/// The result of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The version of every key that the batch put.
    pub version: Version,
    /// The positions of the entries that the batch appended, in the order of the batch.
    pub positions: Vec<Position>,
}

/// The engine failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A write failed. It is not known whether the data is on the disk, and the store serves
    /// nothing until it is opened again.
    #[error("the store failed: {0}")]
    Failed(String),
    /// One record is unreadable or invalid. The others are not affected. A commit that needed it
    /// was not written.
    #[error("the store holds a damaged record: {0}")]
    Damaged(String),
    /// One record cannot be read now, or not by this release: the disk failed to read it, or a
    /// newer release wrote it. It may be intact, so it must not be treated as lost. Otherwise as
    /// [`StoreError::Damaged`].
    #[error("a record of the store cannot be read: {0}")]
    Unread(String),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// True if only one record cannot be read, and the others are not affected.
    pub const fn is_of_one_record(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Unread(_) => true,
            Self::Failed(_) | Self::Closed => false,
        }
    }
}

/// Why a batch had no effect.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A condition no longer holds: read again and decide again.
    #[error("what the batch relied on has changed")]
    Conflict,
    /// The disk has too little space, or it does not keep up. Reads go on, and writes resume as
    /// soon as there is space.
    #[error("the disk is full, or does not keep up")]
    Full,
    /// A key or a log's name is longer than [`NAME_BYTES_MAX`].
    #[error("the batch cannot be written: {0}")]
    Refused(String),
    /// The engine failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A durable, ordered store. All durable data of a realm goes through it.
pub trait Store: Send + Sync + 'static {
    /// Returns the value of `key` and its version. Data that the disk has damaged is an error, here
    /// and below, and never an absent value.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Versioned>, StoreError>> + Send;

    /// Returns at most `limit` keys under a prefix with their values, in order, after `after`.
    fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Key, Versioned)>, StoreError>> + Send;

    /// Returns entries of `log` after `position`, oldest first.
    fn read(
        &self,
        log: &Log,
        after: Position,
        limit: PageLimit,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Commits a batch as a whole or not at all. It is durable when this returns.
    fn commit(&self, batch: Batch) -> impl Future<Output = Result<Committed, CommitError>> + Send;

    /// Returns the last position used in `log`, even if its entries were trimmed; 0 if there was
    /// none.
    fn last(&self, log: &Log) -> impl Future<Output = Result<Position, StoreError>> + Send;

    /// Returns at most `limit` names of logs that have entries, after `after`, in an order that the
    /// engine chooses. Logs with damaged names are left out, which the engine logs.
    fn logs(
        &self,
        after: Option<&Log>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Log>, StoreError>> + Send;

    /// Returns a subscription that wakes when one of `logs` has grown.
    fn subscribe(&self, logs: &[Log]) -> Subscription;

    /// Waits until the store has failed, even while it gets no requests. An engine that cannot
    /// detect this waits for ever: its operations then report the failure.
    fn failed(&self) -> impl Future<Output = StoreError> + Send {
        core::future::pending()
    }

    /// Frees memory of cached data that was not used since the call before the last.
    fn age(&self) {}
}
