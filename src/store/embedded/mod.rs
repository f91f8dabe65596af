//! The embedded engine: `fjall`, an LSM tree in one directory that needs no setup.
//!
//! One thread writes ([`writer`]): it takes all batches that wait, applies them in order, syncs
//! once and answers them all. Reads run concurrently, and see only data that is on the disk.

mod cache;
mod closing;
mod compaction;
mod compaction_gate;
mod disk_space;
mod dispatchers;
mod error;
mod examine;
mod flags;
mod health;
mod journal;
mod layout;
mod manifest;
mod mark;
mod memtables;
mod open;
mod scrubber;
mod write_behind;
mod writer;
mod writes;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

pub use cache::VALUES_BYTES;
use cache::{Cache, Lookup};
use compaction_gate::Closing;
use disk_space::DiskSpace;
use dispatchers::Dispatchers;
pub use error::{OpenError, is_full, may_pass};
use fjall::{Database, Keyspace};
use flags::Flag;
use health::Health;
#[cfg(test)]
pub(crate) use health::scripted::{fail_next_sync, hold_closing, panic_at_next_write};
pub use memtables::{MEMTABLE_BYTES, MEMTABLES};
pub use open::Opening;
use scrubber::Keeper;
use tokio::sync::{mpsc, oneshot};
pub use write_behind::BEHIND_BYTES;
use write_behind::{Bounds, WriteBehind};
use writer::Job;

use super::{
    Batch, CommitError, Committed, Gap, Key, Log, Page, PageLimit, Position, Prefix, Store,
    StoreError, Subscribers, Subscription, Versioned, concat,
};
use crate::faults::{Fault, is_planted};

/// The memory for recently read data, in bytes.
pub const CACHE_BYTES: u64 = 32 << 20;
/// The number of files of recent writes before they are merged with older ones. Each merge rewrites
/// all of that data.
const FRESH_FILES: u8 = 8;
/// The directory of the engine's files, inside the data directory.
const STORE: &str = "store";
/// The maximum number of batches that wait for the writer. Further callers wait for a free slot.
pub const WRITES_WAITING: usize = 1024;

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A store in a directory of this machine.
pub struct Embedded {
    // Fields are dropped in order: the end of the queue lets the writer finish.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    /// Set when the store is being closed: then the writer waits for nothing.
    is_closing: Arc<AtomicBool>,
    gate: Option<Closing>,
    data: Keyspace,
    cache: Arc<Cache>,
    behind: Arc<WriteBehind>,
    dispatchers: Dispatchers,
    subscribers: Arc<Subscribers>,
    health: Arc<Health>,
    // Writes the mark for the last time, after the writer has ended.
    keeper: Keeper,
    #[cfg_attr(not(test), expect(dead_code, reason = "it was logged"))]
    report: examine::Report,
    /// Closed last, when nothing is written any more.
    engine: Option<Database>,
    directory: PathBuf,
    lock: Arc<File>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the store in `directory`, and creates it if it is missing.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        Self::open_as(directory, Opening::default())
    }

    /// As [`Embedded::open`], with options.
    pub fn open_as(directory: &Path, opening: Opening) -> Result<Self, OpenError> {
        let room = DiskSpace::of(directory, opening.reserve);
        let limits = memtables::Limits::default();
        Self::open_with(directory, opening, room, Bounds::default(), limits)
    }

    /// As [`Embedded::open`], with a test's disk: `free` returns its free bytes, and `reserve`
    /// bytes are kept free.
    #[cfg(test)]
    pub(crate) fn open_on(
        directory: &Path,
        reserve: u64,
        free: impl Fn() -> io::Result<u64> + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let room = DiskSpace::scripted(directory, reserve, free);
        let (opening, limits) = (Opening::default(), memtables::Limits::default());
        Self::open_with(directory, opening, room, Bounds::default(), limits)
    }

    /// True if there is a store in `directory`.
    pub fn exists(directory: &Path) -> bool {
        directory.join(STORE).exists()
    }

    /// True if the store in `directory` was restored, or damage to it was accepted, and
    /// [`Embedded::forget_restored`] has not been called since, in this or another process.
    pub fn is_restored(directory: &Path) -> io::Result<bool> {
        Flag::Restored.is_raised(directory)
    }

    /// Clears the restored state of the store in `directory`, once data that others remember of the
    /// lost store can be distinguished.
    pub fn forget_restored(directory: &Path) -> io::Result<()> {
        Flag::Restored.lower(directory)
    }

    /// Notes that a write has failed, so that the next process that opens the store in `directory`
    /// does not trust what it reads. This may fail for the same reason as the write, so a process
    /// that waits for the disk notes it again.
    pub fn distrust(directory: &Path) -> io::Result<()> {
        Flag::Distrusted.raise(directory)
    }

    /// Returns the findings and repairs of the opening.
    #[cfg(test)]
    fn report(&self) -> &examine::Report {
        &self.report
    }

    /// Converts the error of a failed read, and reports it.
    fn unread(&self, error: &fjall::Error) -> StoreError {
        self.keeper.look();
        // The writers detect a disk that fails as a whole.
        error::read_error(error)
    }

    /// Returns the first log with an entry at or behind `from`.
    fn log_from(&self, from: &[u8]) -> Result<Option<Log>, StoreError> {
        let Some(guard) = self.data.range(from..layout::LOGS_END).next() else {
            return Ok(None);
        };
        let key = guard.key().map_err(|error| self.unread(&error))?;
        let log = self.sound(layout::parse_log(&key), "an entry without its log")?;
        Ok(Some(log))
    }

    /// Returns the place where logs can be read again behind `from`, which is unreadable.
    fn after_gap(&self, from: &[u8]) -> Option<layout::Place> {
        let place = |behind: &[u8]| concat(&[layout::LOG_PREFIX, behind]);
        let mut gap = Gap::behind(from.strip_prefix(layout::LOG_PREFIX)?);
        while let Some(behind) = gap.next() {
            gap.tell(self.log_from(&place(&behind)).is_ok());
        }
        gap.end().map(|behind| place(&behind))
    }

    /// Returns the error if the writer is gone without an answer.
    fn unwritten(&self) -> StoreError {
        let error = StoreError::Failed("the store's writer has ended".into());
        self.health.fail(&error);
        error
    }

    /// Returns what was parsed of a record, or reports that the record is damaged.
    fn sound<T>(&self, parsed: Option<T>, damage: &str) -> Result<T, StoreError> {
        parsed.ok_or_else(|| {
            self.keeper.look();
            StoreError::Damaged(damage.into())
        })
    }

    fn parse_value(&self, stored: &[u8]) -> Result<Versioned, StoreError> {
        self.sound(layout::parse_value(stored), "a value without its version")
    }

    fn parse_position(&self, key: &[u8]) -> Result<Position, StoreError> {
        let position = layout::parse_entry_position(key);
        self.sound(position, "an entry without its position")
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue = None;
        self.is_closing.store(true, Ordering::Release);
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has already failed every commit; there is nothing left to do.
            let _ = writer.join();
        }
        // A merge that waits for room is given up.
        self.gate = None;
        // All answered commits are on the disk. Write the mark before the wait for the engine.
        self.keeper.stop();
        if let Some(engine) = self.engine.take() {
            closing::close(&self.directory, engine, Arc::clone(&self.lock));
        }
    }
}

// Reads run on the calling thread: most find their block in memory, and the others take less time
// than a hand-over to another thread and back.
impl Store for Embedded {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.health.check()?;
        if let Lookup::Known(known) = self.cache.get(key) {
            return Ok(known);
        }
        let committed = self.cache.committed();
        let value = match self.behind.get(key) {
            Lookup::Known(known) => known,
            Lookup::Unknown => {
                let stored = self.data.get(layout::key(key));
                match stored.map_err(|error| self.unread(&error)) {
                    Err(_) if is_planted(Fault::ServeDamageAsNothing) => None,
                    stored => stored?
                        .map(|stored| self.parse_value(&stored))
                        .transpose()?,
                }
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
        self.health.check()?;
        let after = after.filter(|after| after.0.as_slice() >= prefix.0.as_slice());
        let behind = self.behind.list(prefix, after, limit);
        let prefix = layout::prefix(prefix);
        let to = layout::after_prefix(&prefix);
        let from = after.map_or(prefix, layout::after);
        if from >= to {
            return Ok(Vec::new());
        }
        let placed = self
            .data
            .range(from..to)
            .map(|guard| match guard.into_inner() {
                Ok((key, stored)) => {
                    let value = self.parse_value(&stored)?;
                    let key = self.sound(layout::parse_key(&key), "a value without its key")?;
                    Ok((key, Some(value)))
                }
                Err(error) => Err(self.unread(&error)),
            });
        write_behind::merge(behind, &mut placed.fuse(), limit)
    }

    async fn read(&self, log: &Log, after: Position, limit: PageLimit) -> Result<Page, StoreError> {
        self.health.check()?;
        let mut page = Page::default();
        let mut bytes = 0;
        let from = layout::entry(log, Position(after.0.saturating_add(1)));
        let to = layout::entry(log, Position(u64::MAX));
        for guard in self.data.range(from..=to) {
            if page.entries.len() >= limit.entries || bytes >= limit.bytes {
                page.more = true;
                break;
            }
            let (key, entry) = match guard.into_inner() {
                Ok(found) => found,
                Err(error) => {
                    let error = self.unread(&error);
                    if is_planted(Fault::ServeDamageAsNothing) {
                        break;
                    }
                    return Err(error);
                }
            };
            bytes += entry.len();
            page.entries
                .push((self.parse_position(&key)?, entry.to_vec()));
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
                dispatcher: self.dispatchers.here(),
            })
            .await
            .map_err(|_| self.unwritten())?;
        answered.await.map_err(|_| self.unwritten())?
    }

    async fn last(&self, log: &Log) -> Result<Position, StoreError> {
        self.health.check()?;
        let from = layout::entry(log, Position(0));
        let to = layout::entry(log, Position(u64::MAX));
        match self.data.range(from..=to).next_back() {
            Some(guard) => {
                let key = guard.key().map_err(|error| self.unread(&error))?;
                self.parse_position(&key)
            }
            None => Ok(Position(writer::trimmed_end(&self.data, log)?)),
        }
    }

    async fn logs(&self, after: Option<&Log>, limit: usize) -> Result<Vec<Log>, StoreError> {
        self.health.check()?;
        let mut found: Vec<Log> = Vec::new();
        let mut from = after.map_or_else(|| layout::LOG_PREFIX.into(), layout::after_log);
        while found.len() < limit {
            // All entries of a log are skipped at once.
            match self.log_from(&from) {
                Ok(Some(log)) => {
                    from = layout::after_log(&log);
                    found.push(log);
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "names of logs could not be read; the logs were passed over");
                    match self.after_gap(&from) {
                        Some(end) => from = end,
                        None => break,
                    }
                }
            }
        }
        Ok(found)
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.subscribers.subscribe(logs)
    }

    async fn failed(&self) -> StoreError {
        self.health.failed().await
    }

    fn age(&self) {
        self.cache.age();
    }
}

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod format_tests;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod tests;
