//! The embedded engine: `fjall`, an LSM tree in one directory, nothing to set up.
//!
//! One thread writes ([`writer`]): it takes all batches that wait, applies them in order, syncs once
//! and answers them all. Reading goes on beside it, and sees nothing that is not on the disk yet.

mod answers;
mod cache;
mod layout;
mod writer;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use answers::Desks;
pub use cache::VALUES_BYTES;
use cache::{Cache, Lookup};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, compaction::Leveled};
use tokio::sync::{mpsc, oneshot};
use writer::{Job, Room, Writer};

use super::{
    Batch, CommitError, Committed, Key, Log, Page, PageLimit, Position, Prefix, Store, StoreError,
    Subscribers, Subscription, Versioned,
};

/// Memory for what was read lately, in bytes.
pub const CACHE_BYTES: u64 = 32 << 20;
/// Files of what was written lately, before they are merged with what is older: each time all of that is written anew.
const FRESH_FILES: u8 = 8;
/// Memory for what was written lately, until it is sorted into files, in bytes. What is larger than the processor's
/// cache takes twice as long to sort in.
pub const MEMTABLE_BYTES: u64 = 16 << 20;
/// Batches that may wait for the writer; whoever comes then waits to be let in.
pub const WRITES_WAITING: usize = 1024;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error("cannot use the store directory {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("another merpati serves from the directory {}; stop it first, or give --data another directory", .0.display())]
    Locked(PathBuf),
    /// A newer release wrote it.
    #[error("the store in {} was written by a newer merpati (format {found}, this one knows {}); use that release", path.display(), layout::FORMAT)]
    Newer {
        /// The directory.
        path: PathBuf,
        /// The format number found.
        found: u32,
    },
    /// The engine refused it.
    #[error("the store in {} cannot be opened: {reason}; restore it from a backup", path.display())]
    Engine {
        /// The directory.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A store in a directory of this machine.
pub struct Embedded {
    // Dropped first to last: the queue's end lets the writer finish.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    data: Keyspace,
    cache: Arc<Cache>,
    desks: Desks,
    subscribers: Arc<Subscribers>,
    _lock: File,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the store in `directory`, which is made if it is missing.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_with(directory, Room::of(directory))
    }

    fn open_with(directory: &Path, room: Room) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: directory.into(),
            source,
        };
        let engine = |error: fjall::Error| OpenError::Engine {
            path: directory.into(),
            reason: error.to_string(),
        };
        fs::create_dir_all(directory).map_err(io)?;
        let lock = File::create(directory.join("merpati.lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(directory.into())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let database = Database::builder(directory.join("store"))
            .cache_size(CACHE_BYTES)
            // Of several, one would keep a processor busy with handing work to the others.
            .worker_threads(1)
            .open()
            .map_err(engine)?;
        let data = database
            .keyspace("data", || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES)
                    .compaction_strategy(Arc::new(
                        Leveled::default().with_l0_threshold(FRESH_FILES),
                    ))
            })
            .map_err(engine)?;
        check_format(directory, &database, &data)?;
        let subscribers = Arc::<Subscribers>::default();
        let (queue, jobs) = mpsc::channel(WRITES_WAITING);
        let stored = data.get(layout::VERSION_KEY).map_err(engine)?;
        let version = stored.map_or(0, |stored| layout::number(&stored));
        let cache = Arc::new(Cache::new(version));
        let writer = Writer::new(
            (database, data.clone()),
            version,
            Arc::clone(&cache),
            Arc::clone(&subscribers),
            room,
        );
        let writer = thread::Builder::new()
            .name("store writer".into())
            .spawn(move || writer.run(jobs))
            .map_err(io)?;
        Ok(Self {
            queue: Some(queue),
            writer: Some(writer),
            data,
            cache,
            desks: Desks::default(),
            subscribers,
            _lock: lock,
        })
    }
}

/// Refuses a store that a newer release wrote; marks a new one.
fn check_format(directory: &Path, database: &Database, data: &Keyspace) -> Result<(), OpenError> {
    let engine = |error: fjall::Error| OpenError::Engine {
        path: directory.into(),
        reason: error.to_string(),
    };
    match data.get(layout::FORMAT_KEY).map_err(engine)? {
        Some(stored) => {
            let found = u32::from_be_bytes(stored.first_chunk().copied().unwrap_or([0xff; 4]));
            if found > layout::FORMAT {
                return Err(OpenError::Newer {
                    path: directory.into(),
                    found,
                });
            }
        }
        None => {
            let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(data, layout::FORMAT_KEY, layout::FORMAT.to_be_bytes());
            batch.commit().map_err(engine)?;
        }
    }
    Ok(())
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already failed every commit; there is nothing left to do.
            let _ = writer.join();
        }
    }
}

// Reads are done where they are asked for: most find their block in memory, and the others take less
// time than handing them to another thread and back.
impl Store for Embedded {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        if let Lookup::Known(known) = self.cache.get(key) {
            return Ok(known);
        }
        let committed = self.cache.committed();
        let stored = self.data.get(layout::key(key))?;
        let value = stored.and_then(|stored| layout::parse_value(&stored));
        self.cache.bring(key, value.as_ref(), committed);
        Ok(value)
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        let prefix = layout::prefix(prefix);
        let from = after.map_or_else(
            || prefix.clone(),
            |after| [&layout::key(after)[..], &[0]].concat(),
        );
        let mut found = Vec::new();
        for guard in self.data.range(from..).take(limit) {
            let (key, stored) = guard.into_inner()?;
            if !key.starts_with(&prefix) {
                break;
            }
            if let Some(value) = layout::parse_value(&stored) {
                found.push((layout::parse_key(&key), value));
            }
        }
        Ok(found)
    }

    async fn read(&self, log: &Log, after: Position, limit: PageLimit) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let mut bytes = 0;
        let from = layout::entry(log, Position(after.0.saturating_add(1)));
        let to = layout::entry(log, Position(u64::MAX));
        for guard in self.data.range(from..=to) {
            if page.entries.len() >= limit.entries || bytes >= limit.bytes {
                page.more = true;
                break;
            }
            let (key, entry) = guard.into_inner()?;
            bytes += entry.len();
            page.entries
                .push((layout::parse_entry_position(&key), entry.to_vec()));
        }
        Ok(page)
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue
            .send(Job {
                batch,
                answer,
                desk: self.desks.here(),
            })
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    async fn last(&self, log: &Log) -> Result<Position, StoreError> {
        let from = layout::entry(log, Position(0));
        let to = layout::entry(log, Position(u64::MAX));
        match self.data.range(from..=to).next_back() {
            Some(guard) => Ok(layout::parse_entry_position(&guard.key()?)),
            None => Ok(Position(0)),
        }
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.subscribers.subscribe(logs)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A full disk refuses what is to be written, goes on serving what is there, and writes again as
    /// soon as there is room.
    #[tokio::test]
    async fn a_full_disk_refuses_writes_and_recovers() {
        let directory = tempfile::tempdir().unwrap();
        let full = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&full);
        let room = Room::scripted(move || !seen.load(Ordering::SeqCst));
        let store = Embedded::open_with(directory.path(), room).unwrap();
        let key = Key(b"a".to_vec());
        let put = |value: &[u8]| {
            let mut batch = Batch::new();
            batch.put(key.clone(), value.to_vec());
            store.commit(batch)
        };
        put(b"1").await.unwrap();
        full.store(true, Ordering::SeqCst);
        assert!(matches!(put(b"2").await, Err(CommitError::Full)));
        assert_eq!(store.get(&key).await.unwrap().unwrap().value, b"1");
        full.store(false, Ordering::SeqCst);
        put(b"3").await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().unwrap().value, b"3");
    }
}
