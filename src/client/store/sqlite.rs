//! The program's store: one table in an `SQLite` database, which handles concurrent processes,
//! transactions and crashes.

use std::{
    cell::Cell,
    fs::File,
    io::{Seek as _, Write as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior, params};

#[cfg(target_os = "linux")]
use rustix::fs::inotify;
#[cfg(target_os = "linux")]
use tokio::net::unix::pipe::Receiver;

use super::{Carrying, LOOK_AGAIN, Pair, Records, Store, Work, lock_role};
use crate::client::{
    ProfileError,
    files::{make, open_lock},
};

/// How long a process waits for transactions of other processes, which take milliseconds.
const BUSY: Duration = Duration::from_secs(20);

/// The records in the database of a directory.
#[derive(Debug)]
pub struct SqliteStore {
    directory: PathBuf,
    connection: Mutex<Connection>,
    /// Written to after each commit: `SQLite`'s own writes happen before the commit can be read.
    wake: File,
    #[cfg(target_os = "linux")]
    watcher: OnceLock<Option<Watcher>>,
}

/// Watches for changes by other processes, with inotify on the file that is written to after each
/// commit. Its events are read like bytes of a pipe; their content is ignored.
#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Watcher(Receiver);

#[cfg(target_os = "linux")]
impl Watcher {
    /// Returns `None` if the system provides none. Then changes are polled.
    fn new(directory: &Path) -> Option<Self> {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let events = inotify::init(flags).ok()?;
        inotify::add_watch(&events, directory.join("wake"), inotify::WatchFlags::MODIFY).ok()?;
        Receiver::from_owned_fd_unchecked(events).ok().map(Self)
    }

    async fn changed(&self) {
        if self.0.readable().await.is_err() {
            return tokio::time::sleep(LOOK_AGAIN).await;
        }
        let mut events = [0; 4096];
        while self.0.try_read(&mut events).is_ok_and(|len| len > 0) {}
    }
}

/// The database in a transaction.
struct Open<'a> {
    connection: &'a Connection,
    path: PathBuf,
    is_changed: &'a Cell<bool>,
}

impl SqliteStore {
    pub fn open(directory: &Path) -> Result<Self, ProfileError> {
        let path = directory.join("profile.db");
        // Created here so that nobody else can read it. SQLite gives its other files the same mode
        // and owner.
        make(&path)?;
        let made = || {
            let connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY)?;
            // An answer `ok` means durable, here as on the realm.
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            // Delivered messages must not remain readable in free pages.
            connection.pragma_update(None, "secure_delete", "ON")?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
            )?;
            Ok(connection)
        };
        let connection = made().map_err(|error| failed(&path, &error))?;
        Ok(Self {
            directory: directory.into(),
            connection: Mutex::new(connection),
            wake: open_lock(&directory.join("wake"))?,
            #[cfg(target_os = "linux")]
            watcher: OnceLock::new(),
        })
    }

    fn path(&self) -> PathBuf {
        self.directory.join("profile.db")
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn transact(&self, behavior: TransactionBehavior, work: Work<'_>) -> Result<(), ProfileError> {
        let path = self.path();
        let is_changed = Cell::new(false);
        let mut connection = self.lock();
        let transaction = connection
            .transaction_with_behavior(behavior)
            .map_err(|error| failed(&path, &error))?;
        // A transaction that is dropped before its commit is rolled back.
        work(&mut Open {
            connection: &transaction,
            path: path.clone(),
            is_changed: &is_changed,
        })?;
        transaction
            .commit()
            .map_err(|error| failed(&path, &error))?;
        if is_changed.get() {
            // A process that is not woken checks again after a while.
            let _ = (&self.wake).write(b".");
            let _ = (&self.wake).rewind();
        }
        Ok(())
    }
}

impl Store for SqliteStore {
    fn write(&self, work: Work<'_>) -> Result<(), ProfileError> {
        self.transact(TransactionBehavior::Immediate, work)
    }

    fn read(&self, work: Work<'_>) -> Result<(), ProfileError> {
        self.transact(TransactionBehavior::Deferred, work)
    }

    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        #[cfg(target_os = "linux")]
        if let Some(watcher) = self.watcher.get_or_init(|| Watcher::new(&self.directory)) {
            return Box::pin(watcher.changed());
        }
        Box::pin(tokio::time::sleep(LOOK_AGAIN))
    }

    fn try_carry(&self, realm: u32) -> Result<Option<Box<dyn Carrying>>, ProfileError> {
        lock_role(&self.directory, realm)
    }
}

impl Open<'_> {
    fn failed(&self, error: &rusqlite::Error) -> ProfileError {
        failed(&self.path, error)
    }
}

impl Records for Open<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ProfileError> {
        let value = || {
            let mut select = self
                .connection
                .prepare_cached("SELECT value FROM records WHERE key = ?1")?;
            select.query_row([key], |row| row.get(0)).optional()
        };
        value().map_err(|error| self.failed(&error))
    }

    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, ProfileError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let pairs = || {
            let mut select = self.connection.prepare_cached(
                "SELECT key, value FROM records WHERE key > ?1 AND key >= ?2 ORDER BY key LIMIT ?3",
            )?;
            let mut rows = select.query(params![after, prefix, limit])?;
            let mut pairs = Vec::new();
            while let Some(row) = rows.next()? {
                let key: Vec<u8> = row.get(0)?;
                if !key.starts_with(prefix) {
                    break;
                }
                pairs.push((key, row.get(1)?));
            }
            Ok(pairs)
        };
        pairs().map_err(|error| self.failed(&error))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), ProfileError> {
        self.is_changed.set(true);
        let put = || {
            let mut insert = self
                .connection
                .prepare_cached("INSERT OR REPLACE INTO records (key, value) VALUES (?1, ?2)")?;
            insert.execute([key, value])
        };
        put().map(drop).map_err(|error| self.failed(&error))
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), ProfileError> {
        self.is_changed.set(true);
        let delete = || {
            let mut delete = self
                .connection
                .prepare_cached("DELETE FROM records WHERE key = ?1")?;
            delete.execute([key])
        };
        delete().map(drop).map_err(|error| self.failed(&error))
    }

    fn damaged(&self) -> ProfileError {
        ProfileError::Damaged(self.path.clone())
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> ProfileError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            ProfileError::Damaged(path.into())
        }
        _ => ProfileError::Io {
            path: path.into(),
            source: std::io::Error::other(error.to_string()),
        },
    }
}
