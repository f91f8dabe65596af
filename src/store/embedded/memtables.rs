//! Bounds the data that the engine holds in memory until it has sorted it into files.
//!
//! The engine's only worker does not write files while it merges tables. Once a memtable exceeds
//! its limit, each commit adds a message to the worker's queue. When the queue is full, the worker
//! blocks itself for ever, as it also sends messages to this queue. So this store's writer seals a
//! memtable as soon as it is full, which takes one message, and waits when too many are sealed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fjall::{AbstractTree as _, Database, Keyspace, PersistMode};

/// The size of a memtable, in bytes: recent writes stay there until they are sorted into files.
/// Sorting a memtable larger than the processor's cache takes twice as long.
pub const MEMTABLE_BYTES: u64 = 16 << 20;
/// The maximum number of memtables: one is filled while the others wait to be written to files.
/// With one more, the engine itself would delay each commit, and would do so for ever once its
/// worker has ended.
pub const MEMTABLES: usize = 4;
/// How long a group waits for the engine. Later batches are told to try again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait before the engine is checked again.
const ASKED_AGAIN: Duration = Duration::from_millis(5);

/// The limits of the data in memory, and how long a group waits at them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The size of one memtable, in bytes. The group that exceeds it still goes into it.
    pub bytes: u64,
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: MEMTABLE_BYTES,
            patience: PATIENCE,
        }
    }
}

/// Checks whether the engine's worker has failed.
///
/// # Errors
/// If it has failed: then nothing can be written.
pub fn check_worker(database: &Database) -> Result<(), fjall::Error> {
    // Writes no new data.
    database.persist(PersistMode::Buffer)
}

/// The engine's memtables, for the writer.
pub struct Memtables {
    database: Database,
    data: Keyspace,
    limits: Limits,
    /// Set once the store is being closed: then no group waits.
    is_closing: Arc<AtomicBool>,
    /// True after a group has waited without success, until there is room again.
    lags: bool,
}

impl Memtables {
    pub fn new(
        database: Database,
        data: Keyspace,
        limits: Limits,
        is_closing: Arc<AtomicBool>,
    ) -> Self {
        Self {
            database,
            data,
            limits,
            is_closing,
            lags: false,
        }
    }

    /// Returns the number of bytes that are not in files yet.
    pub fn bytes(&self) -> u64 {
        self.database.write_buffer_size()
    }

    /// As [`check_worker`].
    pub fn check(&self) -> Result<(), fjall::Error> {
        check_worker(&self.database)
    }

    /// Waits for room for the next group, and makes it if possible. False if the engine lags for
    /// too long, or lags while the store is being closed: then nothing may be written.
    ///
    /// # Errors
    /// If the engine's worker has failed: it will never make room.
    pub fn make_place(&mut self) -> Result<bool, fjall::Error> {
        let began = Instant::now();
        while !self.has_place()? {
            // Service managers kill a process that takes long to end.
            if self.is_closing.load(Ordering::Acquire) {
                return Ok(false);
            }
            if self.lags || began.elapsed() >= self.limits.patience {
                if !self.lags {
                    tracing::warn!(
                        memtables = MEMTABLES,
                        "memtables stayed full while tables were merged: commands that write are answered `busy` until they are in files; \
                         look whether the disk is slow, or has too little room for merging"
                    );
                }
                self.lags = true;
                return Ok(false);
            }
            thread::sleep(ASKED_AGAIN);
        }
        if self.lags {
            tracing::warn!("memtables were written to files; commands that write are taken again");
        }
        self.lags = false;
        Ok(true)
    }

    /// True if the next group may be written. Seals a full memtable if the limit allows another.
    fn has_place(&self) -> Result<bool, fjall::Error> {
        let sealed = self.data.sealed_memtable_count();
        let is_full = self.data.tree.active_memtable().size() >= self.limits.bytes;
        if is_full && sealed + 1 < MEMTABLES {
            self.data.rotate_memtable()?;
            return Ok(true);
        }
        if is_full || sealed >= MEMTABLES {
            self.check()?;
            return Ok(false);
        }
        Ok(true)
    }
}
