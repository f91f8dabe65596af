//! Opens a store, or says why it cannot be opened.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, compaction::Leveled};
use tokio::sync::mpsc;

use super::{
    super::{StoreError, Subscribers, Version},
    CACHE_BYTES, Embedded, FRESH_FILES, MEMTABLE_BYTES, STORE, WRITES_WAITING,
    answers::Desks,
    behind::{Behind, Bounds, Rows},
    cache::Cache,
    examine::{self, Manner, Report},
    flags::Flag,
    gate::{Closing, Gate},
    health::Health,
    keeper::{Engine, Keeper, Scrub},
    layout,
    manifest::{self, Trouble},
    mark::{self, Mark},
    memtables::{self, Memtables},
    room::{RESERVE_BYTES, Room},
    writer::{Durable, Writer},
};
use crate::faults::{Fault, is_planted};

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
    #[error("the store in {} cannot be opened: {reason}; restore the whole data directory from a backup, or see docs/disk.md", path.display())]
    Engine {
        /// The directory.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// What was acknowledged is not there any more, and going on without it is possible.
    #[error("the store has lost writes: {what} ({}). Restore the whole data directory from a backup, or start once with --accept-damage to \
        go on without what is lost: docs/disk.md says what that takes", path.display())]
    Lost {
        /// The file, or the directory of several.
        path: PathBuf,
        /// What is lost.
        what: String,
    },
    /// A file is damaged or missing without which nothing can be made of the others.
    #[error("the store is damaged: {} {what}. --accept-damage is of no use here: restore the whole data directory from a backup, or move it away \
        to begin anew (docs/disk.md)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// How a store is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// So much of the disk's room is left alone, in bytes.
    pub reserve: u64,
    /// What cannot be read is left out, and what has been lost is done without.
    pub accepts_damage: bool,
    /// The store was copied from one that was in use.
    pub is_restored: bool,
    /// A write has failed since the store was opened last: what is read need not be on the disk.
    pub is_after_failure: bool,
    /// All tables are read at the start and each time so much time has passed, or never.
    pub scrub: Option<Duration>,
}

/// All tables are read as often unless it is set otherwise.
pub const SCRUB: Duration = Duration::from_hours(7 * 24);

impl Default for Opening {
    fn default() -> Self {
        Self {
            reserve: RESERVE_BYTES,
            accepts_damage: false,
            is_restored: false,
            is_after_failure: false,
            scrub: Some(SCRUB),
        }
    }
}

/// The engine's files while they are made.
pub(super) const STORE_NEW: &str = "store.new";

impl Embedded {
    pub(super) fn open_with(
        directory: &Path,
        opening: Opening,
        room: Room,
        bounds: Bounds,
        limits: memtables::Limits,
    ) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: directory.into(),
            source,
        };
        // The engine does not say which file it is about.
        let unread = |error: OpenError| damaged_table(directory).unwrap_or(error);
        fs::create_dir_all(directory).map_err(io)?;
        let lock = lock(directory)?;
        let mark = read_mark(directory).map_err(io)?;
        let mut lost = None;
        if !Self::exists(directory) {
            lost = refuse_lost(directory, mark.as_ref(), opening)?;
            make(directory).map_err(io)??;
        }
        if opening.is_restored || opening.accepts_damage {
            // Before anything is changed: whoever starts next has to know, however this ends.
            Flag::Restored.raise(directory).map_err(io)?;
        }
        // Perhaps the process in which it failed has ended for another reason.
        let opening = Opening {
            is_after_failure: opening.is_after_failure
                || Flag::Distrusted.is_raised(directory).map_err(io)?,
            ..opening
        };
        let mut report = look(directory, mark.as_ref(), opening)?;
        report.missing.extend(lost);
        if opening.is_after_failure {
            Flag::Distrusted.lower(directory).map_err(io)?;
        }
        let gate = Gate::new(room.disk());
        let (database, data) = open_engine(&directory.join(STORE), Some(&gate))
            .map_err(|error| unread(engine_error(directory, &error)))?;
        let gate = Closing(gate);
        check_format(directory, &database, &data).map_err(unread)?;
        let (version, rows, behind) = read_state(directory, &data, bounds).map_err(unread)?;
        let subscribers = Arc::<Subscribers>::default();
        let (queue, jobs) = mpsc::channel(WRITES_WAITING);
        let behind = Arc::new(behind);
        let mark = go_on(directory, version, mark, &report, opening)?;
        let cache = Arc::new(Cache::new(version.0));
        let health = Arc::new(Health::of(directory));
        let durable = Arc::new(AtomicU64::new(version.0));
        let scrub = Scrub {
            every: opening.scrub,
            // They have just been read.
            begins_later: opening.is_after_failure,
        };
        let engine = Engine {
            database: database.clone(),
            disk: room.disk(),
            gate: Arc::clone(&gate.0),
            health: Arc::clone(&health),
            is_noted: false,
        };
        let memtables = Memtables::new(database.clone(), data.clone(), limits);
        let writer = Writer::new(
            (database, data.clone(), memtables),
            version.0,
            Arc::clone(&cache),
            (rows, Arc::clone(&behind)),
            Arc::clone(&subscribers),
            room,
            Durable {
                token: mark.token,
                version: Arc::clone(&durable),
                health: Arc::clone(&health),
                trusts: is_planted(Fault::TrustAfterFailedSync),
            },
        );
        let writer = thread::Builder::new()
            .name("store writer".into())
            .spawn(move || writer.run(jobs))
            .map_err(io)?;
        Ok(Self {
            queue: Some(queue),
            writer: Some(writer),
            gate,
            data,
            cache,
            behind,
            desks: Desks::default(),
            subscribers,
            health,
            keeper: Keeper::start(directory, mark, durable, engine, scrub).map_err(io)?,
            report,
            _lock: lock,
        })
    }
}

/// Keeps other processes out.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io {
        path: directory.into(),
        source,
    };
    let lock = File::create(directory.join("merpati.lock")).map_err(io)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(directory.into())),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

/// The mark, if there is one. Without it less is found out, but it is not worth stopping for.
fn read_mark(directory: &Path) -> io::Result<Option<Mark>> {
    Ok(match Mark::read(directory)? {
        mark::Found::Mark(mark) => Some(mark),
        mark::Found::Nothing => None,
        mark::Found::Unreadable => {
            tracing::warn!(
                directory = %directory.display(),
                "the file store.mark is damaged and is written anew: whether the store has lost its last writes cannot be told this time"
            );
            None
        }
    })
}

/// Refuses to begin anew where there was a store; what is lost with it, if that is accepted.
fn refuse_lost(
    directory: &Path,
    mark: Option<&Mark>,
    opening: Opening,
) -> Result<Option<String>, OpenError> {
    let Some(mark) = mark.filter(|_| !is_planted(Fault::IgnoreMark)) else {
        return Ok(None);
    };
    let version = mark.version.0;
    let what =
        format!("all of it is gone, which was at version {version} when that was noted last");
    if opening.accepts_damage {
        tracing::warn!("the store begins anew without what it has lost, as was asked for: {what}");
        return Ok(Some(what));
    }
    let path = directory.join(STORE);
    Err(OpenError::Lost { path, what })
}

/// Looks at the files, and tells the operator what was done about them.
fn look(directory: &Path, mark: Option<&Mark>, opening: Opening) -> Result<Report, OpenError> {
    let manner = Manner {
        accepts_damage: opening.accepts_damage,
        distrusts_journal: opening.is_after_failure,
    };
    // The journal is written anew before the tables are read: on a full disk that fails, and need not be preceded by long reading.
    let report = examine::examine(directory, mark, manner)?;
    if let Some(cut) = &report.cut {
        tracing::warn!(
            file = %cut.file.display(), offset = cut.at, bytes = cut.bytes, noted = mark.map(|mark| mark.version.0),
            "the end of the store's journal was not whole and was cut off: it is what was being written when the process or the machine \
             stopped, and nobody was told that it was stored; if the disk has damaged it since, what was acknowledged after the version \
             that was noted is lost"
        );
    }
    for piece in &report.dropped {
        tracing::warn!(
            file = %piece.file.display(), offset = piece.at, bytes = piece.bytes,
            "damaged records were left out, as was asked for; the file as it was is in the directory `damaged`"
        );
    }
    for missing in &report.missing {
        tracing::warn!("the store goes on without what it has lost, as was asked for: {missing}");
    }
    if opening.is_after_failure
        && let Some(error) = damaged_table(directory)
    {
        // What is not sound then is what the write has failed of, perhaps.
        return Err(error);
    }
    Ok(report)
}

/// Refuses a store that is behind its mark, and writes the mark that counts from now on.
fn go_on(
    directory: &Path,
    version: Version,
    mark: Option<Mark>,
    report: &Report,
    opening: Opening,
) -> Result<Mark, OpenError> {
    let io = |source| OpenError::Io {
        path: directory.into(),
        source,
    };
    let behind = mark.filter(|mark| mark.version > version && !is_planted(Fault::IgnoreMark));
    if let Some(mark) = behind {
        let what = format!(
            "it is at version {}, and was at {} when that was noted last",
            version.0, mark.version.0
        );
        if !opening.accepts_damage {
            let path = directory.join(STORE);
            return Err(OpenError::Lost { path, what });
        }
        tracing::warn!("the store goes on without what it has lost, as was asked for: {what}");
    }
    if opening.accepts_damage && report.is_sound() && behind.is_none() {
        tracing::warn!(
            "--accept-damage was given and nothing is damaged: leave it out from now on"
        );
    }
    let (token, sealed_from) = match &mark {
        Some(mark) => (mark.token, mark.sealed_from),
        None => (rand::random(), report.last_sequence + 1),
    };
    let journals = examine::journals(&directory.join(STORE)).map_err(io)?;
    let mark = Mark {
        token,
        sealed_from,
        version,
        journal: journals.last().map_or(0, |(number, _)| *number),
    };
    if let Err(error) = mark.write(directory) {
        // The disk may be full, and is to be read all the same.
        tracing::warn!(%error, "how far the store has come cannot be noted beside it");
    }
    Ok(mark)
}

/// Which of the engine's files is damaged. Reads all of them.
fn damaged_table(directory: &Path) -> Option<OpenError> {
    let check = || {
        for tree in examine::trees(&directory.join(STORE))? {
            for table in manifest::tables(&tree)? {
                table.check(|| true)?;
            }
        }
        Ok::<(), Trouble>(())
    };
    check().err().map(OpenError::from)
}

/// Opens the engine's files. With a gate it can be closed only behind that.
fn open_engine(
    path: &Path,
    gate: Option<&Arc<Gate>>,
) -> Result<(Database, Keyspace), fjall::Error> {
    let mut builder = Database::builder(path)
        .cache_size(CACHE_BYTES)
        // Of several, one would keep a processor busy with handing work to the others.
        .worker_threads(1);
    if let Some(gate) = gate {
        builder = builder.with_compaction_filter_factories(gate.filters());
    }
    let database = builder.open()?;
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
    let engine = |error: fjall::Error| engine_error(directory, &error);
    let made = open_engine(&fresh, None)
        .map_err(engine)
        .and_then(|(database, data)| check_format(directory, &database, &data));
    if made.is_err() {
        return Ok(made);
    }
    fs::rename(&fresh, &place)?;
    File::open(directory)?.sync_all()?;
    Ok(Ok(()))
}

fn engine_error(directory: &Path, error: &impl ToString) -> OpenError {
    OpenError::Engine {
        path: directory.into(),
        reason: error.to_string(),
    }
}

/// The version that the store is at, and what is behind.
fn read_state(
    directory: &Path,
    data: &Keyspace,
    bounds: Bounds,
) -> Result<(Version, Rows, Behind), OpenError> {
    let number = |key| {
        let stored = data.get(key);
        stored.map_err(|error| engine_error(directory, &error))
    };
    let placed = number(layout::VERSION_KEY)?;
    let placed = Version(placed.map_or(0, |stored| layout::number(&stored)));
    let sealed = number(layout::SEAL_KEY)?.and_then(|seal| layout::Seal::parse(&seal));
    let (rows, behind) =
        read_rows(data, placed, bounds).map_err(|error| engine_error(directory, &error))?;
    let version = rows.last().unwrap_or(placed);
    let version = sealed.map_or(version, |sealed| sealed.version.max(version));
    Ok((version, rows, behind))
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
    let engine = |error: fjall::Error| engine_error(directory, &error);
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
