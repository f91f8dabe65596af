//! The storage of a profile's records: keys and values in transactions, shared by all processes of
//! the profile.
//!
//! The interface is narrow, so that the program can use a database ([`sqlite`](self)), a light
//! client a small file, and a simulated machine its memory. The meaning of the records is defined
//! in `state` and `outbox`, which are written once, against [`Records`].
//!
//! Every value is a format number (one byte), a CRC-32 of key and value (four bytes), and a
//! `postcard` record. A value that is corrupt or under another value's key is an error.

#[cfg(not(feature = "sqlite"))]
mod file;
#[cfg(any(test, not(feature = "sqlite")))]
mod memory;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::{
    fmt,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

#[cfg(not(feature = "sqlite"))]
use file::FileStore;
#[cfg(test)]
pub use memory::Memory;
#[cfg(feature = "sqlite")]
use sqlite::SqliteStore;

use super::{ProfileError, files::open_lock};
use crate::faults::{Fault, is_planted};

/// The current format of values.
const FORMAT: u8 = 1;
/// The size of the header of a value, in bytes.
const HEAD: usize = 5;

/// How often to check for changes if the system does not report them.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The records of a profile in a transaction.
pub trait Records {
    /// Returns the value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ProfileError>;
    /// Returns at most `limit` pairs with keys that begin with `prefix` and are greater than
    /// `after`, sorted by key.
    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, ProfileError>;
    /// Sets the value of a key.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), ProfileError>;
    /// Deletes a key.
    fn delete(&mut self, key: &[u8]) -> Result<(), ProfileError>;
    /// Returns the error for an invalid value.
    fn damaged(&self) -> ProfileError;
}

/// The work of a transaction.
pub type Work<'a> = &'a mut dyn FnMut(&mut dyn Records) -> Result<(), ProfileError>;

/// A store for the records of one profile.
pub trait Store: fmt::Debug + Send + Sync {
    /// Runs `work` as a transaction: all or nothing, isolated from all other processes of the
    /// profile, durable on return. If `work` fails, nothing changes.
    fn write(&self, work: Work<'_>) -> Result<(), ProfileError>;

    /// Runs the read-only `work` on one snapshot of the records.
    fn read(&self, work: Work<'_>) -> Result<(), ProfileError> {
        self.write(work)
    }

    /// Waits until records may have changed since the last call, by any process. It may return
    /// without a change.
    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Takes the role of the carrier for a realm. `None` if another process has it. Held until it
    /// is dropped.
    fn try_carry(&self, realm: u32) -> Result<Option<Box<dyn Carrying>>, ProfileError>;
}

/// The role of the carrier. Held until it is dropped or the process ends.
pub trait Carrying: fmt::Debug + Send + Sync {}

#[derive(Debug)]
struct Locked(#[expect(dead_code, reason = "the lock ends with the file")] File);

impl Carrying for Locked {}

/// Takes the role for a realm by locking a file in the profile's directory. `None` if another
/// process has it.
fn lock_role(directory: &Path, realm: u32) -> Result<Option<Box<dyn Carrying>>, ProfileError> {
    let path = directory.join(format!("carrier-{realm}"));
    let lock = open_lock(&path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Box::new(Locked(lock)))),
        Err(TryLockError::WouldBlock) => Ok(None),
        // On a file system without locks no process would ever be the carrier.
        Err(TryLockError::Error(source)) => Err(ProfileError::Io { path, source }),
    }
}

/// Opens the store in a profile's directory.
#[cfg_attr(
    not(feature = "sqlite"),
    expect(clippy::unnecessary_wraps, reason = "opening a database fails")
)]
pub fn open(directory: &Path) -> Result<Box<dyn Store>, ProfileError> {
    #[cfg(feature = "sqlite")]
    return Ok(Box::new(SqliteStore::open(directory)?));
    #[cfg(not(feature = "sqlite"))]
    return Ok(Box::new(FileStore::open(directory)));
}

/// Runs a transaction and returns its result.
pub fn write<T>(
    store: &dyn Store,
    work: impl FnOnce(&mut dyn Records) -> Result<T, ProfileError>,
) -> Result<T, ProfileError> {
    let (mut work, mut result) = (Some(work), None);
    store.write(&mut |records| {
        if let Some(work) = work.take() {
            result = Some(work(records)?);
        }
        Ok(())
    })?;
    result.ok_or_else(nothing_done)
}

/// Runs a read-only transaction and returns its result.
pub fn read<T>(
    store: &dyn Store,
    work: impl FnOnce(&dyn Records) -> Result<T, ProfileError>,
) -> Result<T, ProfileError> {
    let (mut work, mut result) = (Some(work), None);
    store.read(&mut |records| {
        if let Some(work) = work.take() {
            result = Some(work(records)?);
        }
        Ok(())
    })?;
    result.ok_or_else(nothing_done)
}

/// Returns the error for a store that did not run the work. Every store runs it.
fn nothing_done() -> ProfileError {
    ProfileError::Io {
        path: PathBuf::new(),
        source: io::Error::other("the transaction did nothing"),
    }
}

fn checksum(key: &[u8], record: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(record);
    hasher.finalize().to_be_bytes()
}

fn open_value<'a>(
    records: &dyn Records,
    key: &[u8],
    value: &'a [u8],
) -> Result<&'a [u8], ProfileError> {
    match value.split_at_checked(HEAD) {
        Some(([FORMAT, sum @ ..], record)) if *sum == checksum(key, record) => Ok(record),
        Some((_, record)) if is_planted(Fault::BelieveDamage) => Ok(record),
        _ => Err(records.damaged()),
    }
}

/// Returns the record under a key.
pub fn get<T: DeserializeOwned>(
    records: &dyn Records,
    key: &[u8],
) -> Result<Option<T>, ProfileError> {
    let Some(record) = get_bytes(records, key)? else {
        return Ok(None);
    };
    postcard::from_bytes(&record)
        .map(Some)
        .map_err(|_| records.damaged())
}

/// Returns the bytes of the record under a key.
pub fn get_bytes(records: &dyn Records, key: &[u8]) -> Result<Option<Vec<u8>>, ProfileError> {
    let Some(value) = records.get(key)? else {
        return Ok(None);
    };
    open_value(records, key, &value).map(|record| Some(record.to_vec()))
}

/// Parses a value from a scan.
pub fn parse<T: DeserializeOwned>(
    records: &dyn Records,
    key: &[u8],
    value: &[u8],
) -> Result<T, ProfileError> {
    let record = open_value(records, key, value)?;
    postcard::from_bytes(record).map_err(|_| records.damaged())
}

/// Stores a record under a key.
pub fn put<T: Serialize>(
    records: &mut dyn Records,
    key: &[u8],
    record: &T,
) -> Result<(), ProfileError> {
    let record = postcard::to_stdvec(record).map_err(|_| records.damaged())?;
    put_bytes(records, key, &record)
}

/// Stores the bytes of a record under a key.
pub fn put_bytes(records: &mut dyn Records, key: &[u8], record: &[u8]) -> Result<(), ProfileError> {
    let mut value = Vec::with_capacity(HEAD + record.len());
    value.push(FORMAT);
    value.extend_from_slice(&checksum(key, record));
    value.extend_from_slice(record);
    records.put(key, &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests the contract of every store.
    async fn suite(store: &dyn Store, again: &dyn Store) {
        tokio::join!(again.changed(), async {
            write(store, |records| put(records, b"c", &1_u32)).unwrap();
        });
        write(store, |records| {
            put(records, b"a/1", &1_u32)?;
            put(records, b"a/2", &2_u32)?;
            put(records, b"b/1", &3_u32)
        })
        .unwrap();
        let found = read(again, |records| {
            assert_eq!(get::<u32>(records, b"a/2")?, Some(2));
            records.scan(b"a/", b"a/1", 10)
        });
        assert_eq!(found.unwrap().len(), 1);
        // Work that fails changes nothing.
        let failed = write(again, |records| {
            put(records, b"a/1", &9_u32)?;
            records.delete(b"a/2")?;
            Err::<(), _>(records.damaged())
        });
        assert!(failed.is_err());
        write(store, |records| {
            assert_eq!(get::<u32>(records, b"a/1")?, Some(1));
            assert_eq!(get::<u32>(records, b"a/2")?, Some(2));
            records.delete(b"a/2")
        })
        .unwrap();
        let carrying = store.try_carry(1).unwrap();
        assert!(carrying.is_some());
        assert!(
            again.try_carry(1).unwrap().is_none(),
            "one carries at a time"
        );
        drop(carrying);
        assert!(again.try_carry(1).unwrap().is_some());
        assert!(
            again.try_carry(2).unwrap().is_some(),
            "each realm has its own"
        );
    }

    #[tokio::test]
    async fn profile_store_in_memory_keeps_contract() {
        let memory = Memory::default();
        suite(&memory.clone(), &memory.clone()).await;
    }

    #[tokio::test]
    async fn profile_store_in_directory_keeps_contract() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path()).unwrap();
        suite(&*store, &*open(directory.path()).unwrap()).await;
        drop(store);
        let found = read(&*open(directory.path()).unwrap(), |records| {
            get::<u32>(records, b"b/1")
        });
        assert_eq!(found.unwrap(), Some(3));
    }

    #[test]
    fn profile_store_value_damaged_or_misplaced_is_refused() {
        let memory = Memory::default();
        let outcome = write(&memory, |records| {
            put(records, b"k", &7_u32)?;
            let mut value = records.get(b"k")?.unwrap_or_default();
            records.put(b"other", &value)?;
            assert!(get::<u32>(records, b"other").is_err());
            if let Some(last) = value.last_mut() {
                *last ^= 1;
            }
            records.put(b"k", &value)?;
            assert!(get::<u32>(records, b"k").is_err());
            Ok(())
        });
        outcome.unwrap();
    }
}
