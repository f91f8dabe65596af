//! The maintenance thread of an open store: writes the mark, and reads all tables from time to
//! time, so that damage is found while there is still a backup without it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use fjall::Database;

use super::{
    super::Version,
    STORE,
    compaction_gate::CompactionGate,
    disk_space::Disk,
    examine::{journals, trees},
    health::Health,
    manifest::{self, Table, Trouble},
    mark::Mark,
    memtables::check_worker,
};

/// How often the mark is written, if the store has changed: a loss at the end of the journal is
/// detected except for the last seconds. Each write takes two syncs besides those of the commits.
const MARK_EVERY: Duration = Duration::from_secs(10);
/// The pause after each piece of 256 KiB: at most 25 MB/s are read.
const PAUSE: Duration = Duration::from_millis(10);
/// After all tables were read, reads that meet damage start no other pass for this long.
const LOOK_AGAIN: Duration = Duration::from_hours(1);
/// The number of tries to list a tree that changes meanwhile.
const TRIES: usize = 5;

/// The result of the last pass over all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// The number of passes so far.
    pub times: u64,
    /// The damaged files.
    pub damaged: Vec<PathBuf>,
}

/// When all tables are read.
#[derive(Clone, Copy, Debug)]
pub struct Scrub {
    /// The interval; None for never.
    pub every: Option<Duration>,
    /// True if the first pass is not at the start.
    pub begins_later: bool,
}

/// The engine, which may have failed.
pub struct Engine {
    pub database: Database,
    pub disk: Disk,
    pub gate: Arc<CompactionGate>,
    pub health: Arc<Health>,
    /// True if it has failed, and the log says so.
    pub is_noted: bool,
}

impl Engine {
    /// Checks whether the engine's worker has failed. Nothing else detects that while nothing is
    /// written, as on a disk that a merge has filled. The files of that merge are removed only when
    /// the store is opened again. If there is no room for that, reads continue meanwhile.
    fn look(&mut self) {
        let Err(error) = check_worker(&self.database) else {
            return;
        };
        if self.gate.is_closed() {
            return;
        }
        if self.disk.can_reopen(self.database.write_buffer_size()) {
            self.health.fail(&error.into());
        } else if !self.is_noted {
            self.is_noted = true;
            tracing::error!(
                "engine stopped writing, and the disk has too little room to reopen the store: nothing is written until then; make room"
            );
        }
    }
}

/// The maintenance thread of one store.
#[derive(Debug)]
pub struct Keeper {
    wake: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    #[cfg_attr(not(test), expect(dead_code, reason = "it was logged"))]
    found: Arc<(Mutex<Scrubbed>, Condvar)>,
}

struct Work {
    directory: PathBuf,
    mark: Mark,
    durable: Arc<AtomicU64>,
    engine: Engine,
    scrub: Scrub,
    wake: mpsc::Receiver<()>,
    found: Arc<(Mutex<Scrubbed>, Condvar)>,
    mark_at: Instant,
}

impl Keeper {
    /// Starts the maintenance of the store in `directory`. `durable` always holds its last durable
    /// version.
    pub fn start(
        directory: &Path,
        mark: Mark,
        durable: Arc<AtomicU64>,
        engine: Engine,
        scrub: Scrub,
    ) -> io::Result<Self> {
        let (wake, woken) = mpsc::sync_channel(1);
        let found = Arc::default();
        let mut work = Work {
            directory: directory.into(),
            mark,
            durable,
            engine,
            scrub,
            wake: woken,
            found: Arc::clone(&found),
            mark_at: Instant::now() + MARK_EVERY,
        };
        let thread = thread::Builder::new()
            .name("store keeper".into())
            .spawn(move || work.run())?;
        Ok(Self {
            wake: Some(wake),
            thread: Some(thread),
            found,
        })
    }

    /// Starts a search for the damaged file after a read has met damage.
    pub fn look(&self) {
        if let Some(wake) = &self.wake {
            // One waiting request stands for all.
            let _ = wake.try_send(());
        }
    }

    /// Waits until all tables were read `times` times.
    #[cfg(test)]
    pub fn scrubbed(&self, times: u64) -> Scrubbed {
        let (found, changed) = &*self.found;
        let found = found.lock().unwrap();
        let found = changed.wait_while(found, |found| found.times < times);
        found.unwrap().clone()
    }
}

impl Keeper {
    /// Writes the mark for the last time. The store must have stopped writing.
    pub fn stop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(&mut self) {
        let Scrub {
            every,
            begins_later,
        } = self.scrub;
        let first = |every| if begins_later { every } else { Duration::ZERO };
        let mut scrub_at = every.map(|every| Instant::now() + first(every));
        let mut looked_at: Option<Instant> = None;
        loop {
            self.engine.look();
            if scrub_at.is_some_and(|at| at <= Instant::now()) {
                if !self.scrub() {
                    break;
                }
                looked_at = Some(Instant::now());
                scrub_at = every.map(|every| Instant::now() + every);
            }
            let next = scrub_at.map_or(self.mark_at, |at| at.min(self.mark_at));
            let wait = next.saturating_duration_since(Instant::now());
            match self.wake.recv_timeout(wait) {
                Ok(()) if looked_at.is_none_or(|at| at.elapsed() >= LOOK_AGAIN) => {
                    scrub_at = Some(Instant::now());
                }
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.keep_mark();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.write_mark();
    }

    /// Writes the mark if it is due. True if it was due.
    fn keep_mark(&mut self) -> bool {
        let is_time = self.mark_at <= Instant::now();
        if is_time {
            self.write_mark();
            self.mark_at = Instant::now() + MARK_EVERY;
        }
        is_time
    }

    fn write_mark(&mut self) {
        let version = Version(self.durable.load(Ordering::Acquire));
        if version == self.mark.version {
            return;
        }
        let newest = match journals(&self.directory.join(STORE)) {
            Ok(journals) => journals.last().map(|(number, _)| *number),
            Err(error) => {
                tracing::warn!(%error, "journals could not be listed; store.mark names the newest one of before");
                None
            }
        };
        let mark = Mark {
            version,
            journal: newest.unwrap_or(self.mark.journal),
            ..self.mark
        };
        match mark.write(&self.directory) {
            Ok(()) => self.mark = mark,
            Err(error) => {
                tracing::warn!(%error, "store.mark could not be written: the next start detects fewer losses");
            }
        }
    }

    /// Waits a little. False if the store is closed.
    fn pause(&mut self) -> bool {
        // A pass over all tables may take hours.
        if self.keep_mark() {
            self.engine.look();
        }
        !matches!(
            self.wake.recv_timeout(PAUSE),
            Err(RecvTimeoutError::Disconnected)
        )
    }

    /// Reads all tables. False if the store is closed meanwhile.
    fn scrub(&mut self) -> bool {
        let (mut tables, mut bytes, mut damaged) = (0u64, 0, Vec::new());
        let trees = match trees(&self.directory.join(STORE)) {
            Ok(trees) => trees,
            Err(trouble) => {
                note(trouble, &mut damaged);
                Vec::new()
            }
        };
        for tree in trees {
            let listed = match list(&tree) {
                Ok(listed) => listed,
                Err(trouble) => {
                    note(trouble, &mut damaged);
                    continue;
                }
            };
            for table in listed {
                match table.check(|| self.pause()) {
                    Ok(Some(len)) => {
                        tables += 1;
                        bytes += len;
                    }
                    Ok(None) => return false,
                    // The engine may have merged it into others meanwhile.
                    Err(_) if !list(&tree).is_ok_and(|now| now.contains(&table)) => {}
                    Err(trouble) => note(trouble, &mut damaged),
                }
            }
        }
        if damaged.is_empty() {
            tracing::info!(tables, bytes, "tables were read and found sound");
        }
        let (found, changed) = &*self.found;
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.times += 1;
        found.damaged = damaged;
        changed.notify_all();
        true
    }
}

/// Returns the tables of a tree that changes meanwhile, read from the disk.
fn list(tree: &Path) -> Result<Vec<Table>, Trouble> {
    let mut listed = manifest::tables_on_disk(tree);
    for _ in 1..TRIES {
        if listed.is_ok() {
            break;
        }
        thread::sleep(PAUSE);
        listed = manifest::tables_on_disk(tree);
    }
    listed
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Logs a fault for the operator.
fn note(trouble: Trouble, damaged: &mut Vec<PathBuf>) {
    let (path, how) = match trouble {
        Trouble::Unsound(file) => (file.path, file.how.to_owned()),
        Trouble::Io(path, error) => (path, format!("cannot be read: {error}")),
    };
    tracing::error!(
        file = %path.display(),
        fault = how,
        "damaged file was found: what is in it answers `internal`, and once it is merged with others nothing is served any more; stop the \
         server soon and restore the whole data directory from a backup, or see docs/disk.md for what to do without one"
    );
    damaged.push(path);
}
