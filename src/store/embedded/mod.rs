//! The embedded engine: `fjall`, an LSM tree in one directory, nothing to set up.
//!
//! One thread writes ([`writer`]): it takes all batches that wait, applies them in order, syncs once
//! and answers them all. Reading goes on beside it, and sees nothing that is not on the disk yet.

mod answers;
mod behind;
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
pub use behind::BEHIND_BYTES;
use behind::{Behind, Bounds, Rows};
pub use cache::VALUES_BYTES;
use cache::{Cache, Lookup};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, compaction::Leveled};
use tokio::sync::{mpsc, oneshot};
pub use writer::RESERVE_BYTES;
use writer::{Job, Room, Writer};

use super::{
    Batch, CommitError, Committed, Key, Log, Page, PageLimit, Position, Prefix, Store, StoreError,
    Subscribers, Subscription, Version, Versioned,
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
    behind: Arc<Behind>,
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
        Self::open_leaving(directory, RESERVE_BYTES)
    }

    /// The same, leaving so much of the disk's room alone, in bytes.
    pub fn open_leaving(directory: &Path, reserve: u64) -> Result<Self, OpenError> {
        Self::open_with(directory, Room::of(directory, reserve), Bounds::default())
    }

    /// True when there is a store in `directory`.
    pub fn exists(directory: &Path) -> bool {
        directory.join(STORE).exists()
    }

    fn open_with(directory: &Path, room: Room, bounds: Bounds) -> Result<Self, OpenError> {
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
        if !Self::exists(directory) {
            make(directory).map_err(io)??;
        }
        let (database, data) = open_engine(&directory.join(STORE)).map_err(engine)?;
        check_format(directory, &database, &data)?;
        let subscribers = Arc::<Subscribers>::default();
        let (queue, jobs) = mpsc::channel(WRITES_WAITING);
        let stored = data.get(layout::VERSION_KEY).map_err(engine)?;
        let placed = Version(stored.map_or(0, |stored| layout::number(&stored)));
        let (rows, behind) =
            read_rows(&data, placed, bounds).map_err(|error| OpenError::Engine {
                path: directory.into(),
                reason: error.to_string(),
            })?;
        let behind = Arc::new(behind);
        let version = rows.last().unwrap_or(placed).0;
        let cache = Arc::new(Cache::new(version));
        let writer = Writer::new(
            (database, data.clone()),
            version,
            Arc::clone(&cache),
            (rows, Arc::clone(&behind)),
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
            behind,
            desks: Desks::default(),
            subscribers,
            _lock: lock,
        })
    }
}

/// The engine's files.
const STORE: &str = "store";
/// The same while they are made.
const STORE_NEW: &str = "store.new";

fn open_engine(path: &Path) -> Result<(Database, Keyspace), fjall::Error> {
    let database = Database::builder(path)
        .cache_size(CACHE_BYTES)
        // Of several, one would keep a processor busy with handing work to the others.
        .worker_threads(1)
        .open()?;
    let data = database.keyspace("data", || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(MEMTABLE_BYTES)
            .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(FRESH_FILES)))
    })?;
    Ok((database, data))
}

/// Makes a store beside its place, and puts it there when it is whole: the engine does not open one whose making was cut off.
fn make(directory: &Path) -> io::Result<Result<(), OpenError>> {
    let (place, fresh) = (directory.join(STORE), directory.join(STORE_NEW));
    match fs::remove_dir_all(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let engine = |error: fjall::Error| OpenError::Engine {
        path: directory.into(),
        reason: error.to_string(),
    };
    let made = open_engine(&fresh)
        .map_err(engine)
        .and_then(|(database, data)| check_format(directory, &database, &data));
    if made.is_err() {
        return Ok(made);
    }
    fs::rename(&fresh, &place)?;
    File::open(directory)?.sync_all()?;
    Ok(Ok(()))
}

/// What the rows of the last groups say, of which those up to `placed` count no more.
fn read_rows(
    data: &Keyspace,
    placed: Version,
    bounds: Bounds,
) -> Result<(Rows, Behind), StoreError> {
    let rows = data.prefix(layout::ROW_PREFIX).map(|guard| {
        let (key, row) = guard.into_inner()?;
        Ok((key.to_vec(), row.to_vec()))
    });
    Rows::read(rows, placed, bounds)
}

/// Refuses a store that a newer release wrote; marks a new one, and one that an older release wrote: from now on that
/// would miss what is in rows.
fn check_format(directory: &Path, database: &Database, data: &Keyspace) -> Result<(), OpenError> {
    let engine = |error: fjall::Error| OpenError::Engine {
        path: directory.into(),
        reason: error.to_string(),
    };
    let stored = data.get(layout::FORMAT_KEY).map_err(engine)?;
    let found = stored.map(|stored| {
        let number = stored.first_chunk().copied();
        number.map_or(u32::MAX, u32::from_be_bytes)
    });
    match found {
        Some(found) if found > layout::FORMAT => Err(OpenError::Newer {
            path: directory.into(),
            found,
        }),
        Some(layout::FORMAT) => Ok(()),
        Some(_) | None => {
            let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
            batch.insert(data, layout::FORMAT_KEY, layout::FORMAT.to_be_bytes());
            batch.commit().map_err(engine)
        }
    }
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
        let value = match self.behind.get(key) {
            Lookup::Known(known) => known,
            Lookup::Unknown => {
                let stored = self.data.get(layout::key(key))?;
                stored.and_then(|stored| layout::parse_value(&stored))
            }
        };
        self.cache.bring(key, value.as_ref(), committed);
        Ok(value)
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        let after = after.filter(|after| after.0.as_slice() >= prefix.0.as_slice());
        let behind = self.behind.list(prefix, after, limit);
        let prefix = layout::prefix(prefix);
        let from = after.map_or_else(|| prefix.clone(), layout::after);
        let placed = self.data.range(from..).map_while(|guard| {
            let found = guard.into_inner().map(|(key, stored)| {
                let value = layout::parse_value(&stored);
                key.starts_with(&prefix)
                    .then(|| (layout::parse_key(&key), value))
            });
            found.transpose()
        });
        behind::merge(behind, &mut placed.fuse(), limit).map_err(StoreError::from)
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
            None => Ok(Position(writer::trimmed_end(&self.data, log)?)),
        }
    }

    async fn logs(&self, after: Option<&Log>, limit: usize) -> Result<Vec<Log>, StoreError> {
        let mut found: Vec<Log> = Vec::new();
        let mut from = after.map_or_else(|| layout::LOG_PREFIX.into(), layout::after_log);
        while found.len() < limit {
            // All entries of a log are passed over at once.
            let next = self.data.range(&from[..]..layout::LOGS_END).next();
            let Some(guard) = next else {
                break;
            };
            let key = guard.key()?;
            let log = layout::parse_log(&key)
                .ok_or_else(|| StoreError::Damaged("an entry has no log".into()))?;
            from = layout::after_log(&log);
            found.push(log);
        }
        Ok(found)
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.subscribers.subscribe(logs)
    }

    fn age(&self) {
        self.cache.age();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        sync::atomic::{AtomicBool, Ordering},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::store::{Expected, NameBytes};

    /// A full disk refuses what is to be written, goes on serving what is there, and writes again as
    /// soon as there is room.
    #[tokio::test]
    async fn a_full_disk_refuses_writes_and_recovers() {
        let directory = tempfile::tempdir().unwrap();
        let full = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&full);
        let room = Room::scripted(move || !seen.load(Ordering::SeqCst));
        let store = Embedded::open_with(directory.path(), room, Bounds::default()).unwrap();
        let key = Key(b"a"[..].into());
        let put = |value: &[u8]| {
            let mut batch = Batch::new();
            batch.put(key.clone(), value.to_vec());
            store.commit(batch)
        };
        put(b"1").await.unwrap();
        full.store(true, Ordering::SeqCst);
        assert!(matches!(put(b"2").await, Err(CommitError::Full)));
        assert_eq!(store.get(&key).await.unwrap().unwrap().value, "1");
        full.store(false, Ordering::SeqCst);
        put(b"3").await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().unwrap().value, "3");
    }

    /// The room that is left alone is what was asked for.
    #[tokio::test]
    async fn so_much_room_is_left_alone_as_is_asked_for() {
        for (reserve, is_written) in [(0, true), (u64::MAX, false)] {
            let directory = tempfile::tempdir().unwrap();
            let store = Embedded::open_leaving(directory.path(), reserve).unwrap();
            let mut batch = Batch::new();
            batch.put(Key(b"a"[..].into()), b"1".to_vec());
            assert_eq!(store.commit(batch).await.is_ok(), is_written, "{reserve}");
        }
    }

    /// What a start that was cut off has left is in nobody's way.
    #[test]
    fn a_store_whose_making_was_cut_off_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let fresh = directory.path().join(STORE_NEW);
        fs::create_dir_all(fresh.join("keyspaces")).unwrap();
        fs::write(fresh.join("0.jnl"), b"half").unwrap();
        drop(Embedded::open(directory.path()).unwrap());
        assert!(Embedded::exists(directory.path()) && !fresh.exists());
    }

    /// Before format 2 each value stood in its place at once.
    #[tokio::test]
    async fn a_store_of_the_first_format_is_read_and_then_written_in_this_one() {
        let directory = tempfile::tempdir().unwrap();
        let raw = || {
            let builder = Database::builder(directory.path().join("store"));
            let database = builder.open().unwrap();
            let data = database.keyspace("data", KeyspaceCreateOptions::default);
            (database, data.unwrap())
        };
        let (database, data) = raw();
        let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&data, layout::FORMAT_KEY, 1u32.to_be_bytes());
        batch.insert(&data, layout::VERSION_KEY, 7u64.to_be_bytes());
        let mut value = Vec::new();
        layout::add_value(&mut value, Version(7), b"old");
        batch.insert(&data, &layout::key(&key(1))[..], value);
        batch.commit().unwrap();
        drop((database, data));
        for (version, value) in [(7, "old"), (8, "new"), (9, "new")] {
            let store = Embedded::open(directory.path()).unwrap();
            let found = store.get(&key(1)).await.unwrap().unwrap();
            assert_eq!(
                (found.version.0, &*found.value),
                (version, value.as_bytes())
            );
            let mut batch = Batch::new();
            batch.expect(key(1), Expected::At(found.version));
            batch.put(key(1), b"new".to_vec());
            store.commit(batch).await.unwrap();
        }
        let (_database, data) = raw();
        let format = data.get(layout::FORMAT_KEY).unwrap().unwrap();
        assert_eq!(format.first_chunk(), Some(&layout::FORMAT.to_be_bytes()));
    }

    /// What a test does to a store.
    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u16),
        Delete(u8),
        List(u8, Option<u8>, usize),
        Open,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0u8..60, 0u16..300).prop_map(|(key, len)| Step::Put(key, len)),
            3 => (0u8..60).prop_map(Step::Delete),
            2 => (0u8..4, prop::option::of(0u8..60), 0usize..40).prop_map(|(prefix, after, limit)| Step::List(prefix, after, limit)),
            1 => Just(Step::Open),
        ];
        prop::collection::vec(step, 1..150)
    }

    /// Keys under some prefixes.
    fn key(n: u8) -> Key {
        Key([b'a' + n / 16, n][..].into())
    }

    async fn follow(steps: Vec<Step>, bounds: Bounds) {
        let directory = tempfile::tempdir().unwrap();
        let open = || {
            let room = Room::of(directory.path(), 0);
            Embedded::open_with(directory.path(), room, bounds).unwrap()
        };
        let mut store = open();
        let mut model: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(n, len) => {
                    let value = vec![n; len.into()];
                    let mut batch = Batch::new();
                    batch.put(key(n), value.clone());
                    // A second key in the same group, with a version that is asked for.
                    let other = store.get(&key(n ^ 1)).await.unwrap();
                    if let Some(other) = other {
                        batch.expect(key(n ^ 1), Expected::At(other.version));
                        batch.put(key(n ^ 1), vec![0]);
                        model.insert(key(n ^ 1), vec![0]);
                    }
                    model.insert(key(n), value);
                    store.commit(batch).await.unwrap();
                }
                Step::Delete(n) => {
                    let mut batch = Batch::new();
                    batch.delete(key(n));
                    store.commit(batch).await.unwrap();
                    model.remove(&key(n));
                }
                Step::List(prefix, after, limit) => {
                    let prefix = Prefix([b'a' + prefix][..].into());
                    let after = after.map(key);
                    let found = store.list(&prefix, after.as_ref(), limit).await.unwrap();
                    let found: Vec<_> = found
                        .into_iter()
                        .map(|(key, value)| (key, value.value.to_vec()))
                        .collect();
                    let expected: Vec<_> = model
                        .iter()
                        .filter(|(key, _)| key.0.starts_with(&prefix.0))
                        .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
                        .take(limit)
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    assert_eq!(found, expected);
                }
                Step::Open => {
                    drop(store);
                    store = open();
                }
            }
        }
        for n in 0..60 {
            let found = store.get(&key(n)).await.unwrap();
            assert_eq!(
                found.map(|found| found.value.to_vec()).as_ref(),
                model.get(&key(n))
            );
        }
        let all = Prefix(NameBytes::new());
        let (rows, held) = (bounds.rows, store.behind.list(&all, None, usize::MAX).len());
        assert!(held <= 60, "{held} values behind, {rows} rows");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// However little may be behind, what was put is found, in its place or on its way there, also after a start.
        #[test]
        fn what_is_behind_is_found_as_if_it_were_in_its_place(steps in steps(), rows in 2usize..12, bytes in 300usize..5000) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(follow(steps, Bounds { rows, bytes }));
        }
    }
}
