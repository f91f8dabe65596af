//! Bounds what the engine holds in memory of what was written, until it has sorted it into files.
//!
//! The engine's only worker does not write files while it merges tables. From a memtable's limit on, each commit then adds a message
//! to the worker's queue; when the queue is full, the worker blocks itself for ever, as it puts messages into it, too. So this store's
//! writer seals a memtable as soon as it is full, which takes one message, and waits when too many are sealed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fjall::{AbstractTree as _, Database, Keyspace, PersistMode};

/// Memory for what was written lately, until it is sorted into files, in bytes. What is larger than the processor's
/// cache takes twice as long to sort in.
pub const MEMTABLE_BYTES: u64 = 16 << 20;
/// Memtables at most: one is filled while the others wait to be written to files. With one more than that the engine
/// itself would hold each commit back, and would do so for ever once its worker has ended.
pub const MEMTABLES: usize = 4;
/// How long a group waits for the engine. Those who come later are told to come again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The wait before the engine is asked again.
const ASKED_AGAIN: Duration = Duration::from_millis(5);

/// How much may be in memory, and how long a group waits when that much is.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one memtable; the group that leads beyond it still goes into it.
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

/// Finds out whether the engine's worker has failed.
///
/// # Errors
/// When it has: then nothing can be written.
pub fn check_worker(database: &Database) -> Result<(), fjall::Error> {
    // Writes nothing that is not written already.
    database.persist(PersistMode::Buffer)
}

/// The engine's memtables, for the writer.
pub struct Memtables {
    database: Database,
    data: Keyspace,
    limits: Limits,
    /// Set once the store is being closed: then no group waits.
    is_closing: Arc<AtomicBool>,
    /// True once a group has waited in vain, until there is place again.
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

    /// Bytes of what is not in files yet.
    pub fn bytes(&self) -> u64 {
        self.database.write_buffer_size()
    }

    /// As [`check_worker`].
    pub fn check(&self) -> Result<(), fjall::Error> {
        check_worker(&self.database)
    }

    /// Makes place for the next group, and waits for it. False when the engine lags for too long, or lags while the store is being
    /// closed: then nothing may be written.
    ///
    /// # Errors
    /// When the engine's worker has failed: it will make no place.
    pub fn make_place(&mut self) -> Result<bool, fjall::Error> {
        let began = Instant::now();
        while !self.has_place()? {
            // Whoever manages services kills what takes long to end.
            if self.is_closing.load(Ordering::Acquire) {
                return Ok(false);
            }
            if self.lags || began.elapsed() >= self.limits.patience {
                if !self.lags {
                    tracing::warn!(
                        memtables = MEMTABLES,
                        "the store has not written to files what is in memory, while it merges tables: commands are answered `busy` until \
                         it has; the disk may be slow, or have too little room for merging"
                    );
                }
                self.lags = true;
                return Ok(false);
            }
            thread::sleep(ASKED_AGAIN);
        }
        if self.lags {
            tracing::warn!("the store has written to files what was in memory");
        }
        self.lags = false;
        Ok(true)
    }

    /// True when the next group may be written. Seals the memtable that is full, if there may be another.
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
