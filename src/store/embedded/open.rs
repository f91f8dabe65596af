//! Opens a store, or reports why it cannot be opened.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    thread,
    time::Duration,
};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, compaction::Leveled};
use tokio::sync::mpsc;

use super::{
    super::{RESERVE_BYTES, SCRUB, StoreError, Subscribers, Version},
    CACHE_BYTES, Embedded, FRESH_FILES, MEMTABLE_BYTES, STORE, WRITES_WAITING,
    cache::Cache,
    compaction_gate::{Closing, CompactionGate},
    disk_space::DiskSpace,
    dispatchers::Dispatchers,
    error::{OpenError, engine_error, is_full, unreadable},
    examine::{self, Manner, Report},
    flags::Flag,
    health::Health,
    layout,
    manifest::{self, Trouble},
    mark::{self, Mark},
    memtables::{self, Memtables},
    scrubber::{Engine, Keeper, Scrub},
    write_behind::{Bounds, Rows, WriteBehind},
    writer::{Durable, Writer},
};
use crate::faults::{Fault, is_planted};

/// The options for opening a store.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The disk space that is kept free, in bytes.
    pub reserve: u64,
    /// True if unreadable data is dropped, and lost data is accepted as lost.
    pub accepts_damage: bool,
    /// True if the store was copied from one that was in use.
    pub is_restored: bool,
    /// True if a write has failed since the store was last opened: data that is read may not be on
    /// the disk.
    pub is_after_failure: bool,
    /// The interval at which all tables are read, the first time at the start; None for never.
    pub scrub: Option<Duration>,
}

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

/// The engine's name for the tree that holds all data.
const DATA: &str = "data";
/// The directory of the engine's files while they are created.
pub(super) const STORE_NEW: &str = "store.new";

impl Embedded {
    pub(super) fn open_with(
        directory: &Path,
        opening: Opening,
        room: DiskSpace,
        bounds: Bounds,
        limits: memtables::Limits,
    ) -> Result<Self, OpenError> {
        let is_new = !Self::exists(directory)
            && matches!(Mark::read(directory), Ok(mark::StoredMark::Nothing));
        Self::open_at(directory, opening, room, bounds, limits).map_err(|error| match error {
            OpenError::Io { path, source } if is_full(&source) => OpenError::Full {
                path,
                source,
                is_new,
            },
            error => error,
        })
    }

    fn open_at(
        directory: &Path,
        opening: Opening,
        room: DiskSpace,
        bounds: Bounds,
        limits: memtables::Limits,
    ) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: directory.into(),
            source,
        };
        // The engine does not say which file is damaged.
        let unread = |error: OpenError| match error {
            OpenError::Engine { .. } => damaged_table(directory).unwrap_or(error),
            error => error,
        };
        fs::create_dir_all(directory).map_err(io)?;
        let lock = lock(directory)?;
        let mark = read_mark(directory).map_err(io)?;
        let mut lost = None;
        if !Self::exists(directory) {
            lost = refuse_lost(directory, mark.as_ref(), opening)?;
            make(directory).map_err(io)??;
        }
        if opening.is_restored || opening.accepts_damage {
            // Before any change: the next process must know, however this one ends.
            Flag::Restored.raise(directory).map_err(io)?;
        }
        // The process in which a write failed may have ended for another reason.
        let opening = Opening {
            is_after_failure: opening.is_after_failure
                || Flag::Distrusted.is_raised(directory).map_err(io)?,
            ..opening
        };
        let mut report = look(directory, mark.as_ref(), opening)?;
        report.missing.extend(lost);
        if opening.is_after_failure {
            Flag::Distrusted.lower(directory).map_err(io)?;
            tracing::info!(
                "journal was rewritten and all tables were read: store.distrusted was there, or a write had failed"
            );
        }
        if let Err(error) = Flag::Distrusted.prepare(directory) {
            tracing::warn!(%error, "store.distrusted.spare could not be made: a failed write may not be noted on a full disk");
        }
        refuse_behind(directory, mark, &report, opening).map_err(unread)?;
        let gate = CompactionGate::new(room.disk());
        let (database, data) = open_engine(&directory.join(STORE), Some(&gate))
            .map_err(|error| unread(engine_error(directory, error)))?;
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
            // The tables have just been read.
            begins_later: opening.is_after_failure,
        };
        let engine = Engine {
            database: database.clone(),
            disk: room.disk(),
            gate: Arc::clone(&gate.0),
            health: Arc::clone(&health),
            is_noted: false,
        };
        // Started before the writer: if this failed, nobody would wait for the writer, and the lock
        // would be released while it still uses the engine.
        let keeper = Keeper::start(directory, mark, Arc::clone(&durable), engine, scrub);
        let keeper = keeper.map_err(io)?;
        let is_closing = Arc::<AtomicBool>::default();
        let closing = Arc::clone(&is_closing);
        let memtables = Memtables::new(database.clone(), data.clone(), limits, closing);
        let writer = Writer::new(
            (database.clone(), data.clone(), memtables),
            version.0,
            Arc::clone(&cache),
            (rows, Arc::clone(&behind)),
            Arc::clone(&subscribers),
            room,
            Durable {
                token: mark.token,
                version: durable,
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
            is_closing,
            gate: Some(gate),
            data,
            cache,
            behind,
            dispatchers: Dispatchers::default(),
            subscribers,
            health,
            keeper,
            report,
            engine: Some(database),
            directory: directory.into(),
            lock: Arc::new(lock),
        })
    }
}

/// Locks the directory against other processes.
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

/// Reads the mark, if there is one. Without it fewer losses are found, but that is no reason to
/// stop.
fn read_mark(directory: &Path) -> io::Result<Option<Mark>> {
    Ok(match Mark::read(directory)? {
        mark::StoredMark::Mark(mark) => Some(mark),
        mark::StoredMark::Nothing => {
            if Embedded::exists(directory) {
                tracing::warn!(
                    directory = %directory.display(),
                    "store.mark was missing: whether the store has lost its last writes cannot be told this time; if you have not removed \
                     it, look at the disk, and compare with a backup"
                );
            }
            None
        }
        mark::StoredMark::Unreadable => {
            tracing::warn!(
                directory = %directory.display(),
                "store.mark was damaged: whether the store has lost its last writes cannot be told this time"
            );
            None
        }
    })
}

/// Refuses to create a new store if there was one before, unless that loss is accepted: then
/// returns what is lost.
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
        tracing::warn!(
            lost = what,
            "store began anew without what it had lost (--accept-damage)"
        );
        return Ok(Some(what));
    }
    let path = directory.join(STORE);
    Err(OpenError::Lost { path, what })
}

/// Examines the files, and logs the repairs for the operator.
fn look(directory: &Path, mark: Option<&Mark>, opening: Opening) -> Result<Report, OpenError> {
    let manner = Manner {
        accepts_damage: opening.accepts_damage,
        distrusts_journal: opening.is_after_failure,
    };
    // The journal is rewritten before the tables are read: on a full disk that fails, and a long
    // read before it would be wasted.
    let report = examine::examine(directory, mark, manner)?;
    if let Some(cut) = &report.cut {
        let lost = if mark.is_some() {
            "what was acknowledged after the version that was noted"
        } else {
            "what was acknowledged last"
        };
        tracing::warn!(
            file = %cut.file.display(), offset = cut.at, bytes = cut.bytes, noted = mark.map(|mark| mark.version.0),
            lost_if_damaged = lost,
            "unfinished end of the journal was cut off; unless the disk has damaged it since, nobody was told that it was stored"
        );
    }
    for piece in &report.dropped {
        tracing::warn!(
            file = %piece.file.display(), offset = piece.at, bytes = piece.bytes,
            "damaged records were left out (--accept-damage); the file as it was is in the directory `damaged`"
        );
    }
    for missing in &report.missing {
        tracing::warn!(
            lost = missing,
            "store went on without what it had lost (--accept-damage)"
        );
    }
    if opening.is_after_failure
        && let Some(error) = damaged_table(directory)
    {
        // The failed write may be the cause of this damage.
        return Err(error);
    }
    Ok(report)
}

/// Refuses a store that is behind its mark before the engine's worker changes any of it. If the
/// journals show that it is not behind, as nearly always, the engine is not opened for this.
fn refuse_behind(
    directory: &Path,
    mark: Option<Mark>,
    report: &Report,
    opening: Opening,
) -> Result<(), OpenError> {
    let is_shown = |mark: &Mark| report.sealed.is_some_and(|sealed| sealed >= mark.version);
    let Some(mark) = mark.filter(|mark| mark.version > Version(0) && !is_shown(mark)) else {
        return Ok(());
    };
    if opening.accepts_damage || is_planted(Fault::IgnoreMark) {
        return Ok(());
    }
    let version = preview(directory)?;
    if version < mark.version {
        return Err(behind_mark(directory, version, &mark));
    }
    Ok(())
}

/// Returns the store's version. Opens the engine only to read; it deletes its unfinished files.
fn preview(directory: &Path) -> Result<Version, OpenError> {
    let engine = |error| engine_error(directory, error);
    let database = Database::builder(directory.join(STORE))
        .worker_threads_unchecked(0)
        .open()
        .map_err(engine)?;
    if !database.keyspace_exists(DATA) {
        return Ok(Version(0));
    }
    let data = database.keyspace(DATA, KeyspaceCreateOptions::default);
    let data = data.map_err(engine)?;
    find_format(directory, &data)?;
    let (version, ..) = read_state(directory, &data, Bounds::default())?;
    Ok(version)
}

fn behind_mark(directory: &Path, version: Version, mark: &Mark) -> OpenError {
    OpenError::Lost {
        path: directory.join(STORE),
        what: said_behind(version, mark),
    }
}

fn said_behind(version: Version, mark: &Mark) -> String {
    format!(
        "it is at version {}, and was at {} when that was noted last",
        version.0, mark.version.0
    )
}

/// Refuses a store that is behind its mark, and writes the new mark.
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
        if !opening.accepts_damage {
            return Err(behind_mark(directory, version, &mark));
        }
        let what = said_behind(version, &mark);
        tracing::warn!(
            lost = what,
            "store went on without what it had lost (--accept-damage)"
        );
    }
    if opening.accepts_damage && report.is_sound() && behind.is_none() {
        tracing::warn!(
            "--accept-damage was given and nothing was damaged; leave it out from now on"
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
        // The disk may be full, but the store must remain readable.
        tracing::warn!(%error, "store.mark could not be written: the next start detects fewer losses");
    }
    Ok(mark)
}

/// Returns which of the engine's files is damaged. Reads all of them.
fn damaged_table(directory: &Path) -> Option<OpenError> {
    let check = || {
        for tree in examine::trees(&directory.join(STORE))? {
            for table in manifest::tables_on_disk(&tree)? {
                table.check(|| true)?;
            }
        }
        Ok::<(), Trouble>(())
    };
    check().err().map(OpenError::from)
}

/// Opens the engine's files. With a gate, the engine can be closed only after the gate.
fn open_engine(
    path: &Path,
    gate: Option<&Arc<CompactionGate>>,
) -> Result<(Database, Keyspace), fjall::Error> {
    let mut builder = Database::builder(path)
        .cache_size(CACHE_BYTES)
        // With several workers, one would keep a processor busy with handing work to the others.
        .worker_threads(1);
    if let Some(gate) = gate {
        builder = builder.with_compaction_filter_factories(gate.filters());
    }
    let database = builder.open()?;
    let data = database.keyspace(DATA, || {
        KeyspaceCreateOptions::default()
            .max_memtable_size(MEMTABLE_BYTES)
            .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(FRESH_FILES)))
    })?;
    Ok((database, data))
}

/// Creates a store beside its final place, and moves it there when it is complete: the engine does
/// not open a partly created one.
fn make(directory: &Path) -> io::Result<Result<(), OpenError>> {
    let (place, fresh) = (directory.join(STORE), directory.join(STORE_NEW));
    match fs::remove_dir_all(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let engine = |error: fjall::Error| engine_error(directory, error);
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

/// Returns the store's version, and the values that are not in their places yet.
fn read_state(
    directory: &Path,
    data: &Keyspace,
    bounds: Bounds,
) -> Result<(Version, Rows, WriteBehind), OpenError> {
    let placed = read_record(directory, data, layout::VERSION_KEY, layout::number)?;
    let placed = Version(placed.unwrap_or(0));
    let sealed = read_record(directory, data, layout::SEAL_KEY, layout::Seal::parse);
    // The rows hold the version too: without its seal the store is whole.
    let sealed = sealed.unwrap_or_else(|error| {
        tracing::warn!(%error, "seal of the last group was damaged; the rows say how far the store had come");
        None
    });
    let (rows, behind) =
        read_rows(data, placed, bounds).map_err(|error| unreadable(directory, &error))?;
    let version = rows.last().unwrap_or(placed);
    let version = sealed.map_or(version, |sealed| sealed.version.max(version));
    Ok((version, rows, behind))
}

/// Returns one of the store's own records, if it is there.
fn read_record<T>(
    directory: &Path,
    data: &Keyspace,
    key: &[u8],
    parse: fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, OpenError> {
    let stored = data.get(key);
    let Some(stored) = stored.map_err(|error| engine_error(directory, error))? else {
        return Ok(None);
    };
    let damaged = || {
        let what = format!("its record {:?} is invalid", String::from_utf8_lossy(key));
        unreadable(directory, &StoreError::Damaged(what))
    };
    parse(&stored).map(Some).ok_or_else(damaged)
}

/// Returns the contents of the rows of the last groups. Those up to `placed` no longer count.
fn read_rows(
    data: &Keyspace,
    placed: Version,
    bounds: Bounds,
) -> Result<(Rows, WriteBehind), StoreError> {
    let rows = data.prefix(layout::ROW_PREFIX).map(|guard| {
        let (key, row) = guard.into_inner()?;
        Ok((key.to_vec(), row.to_vec()))
    });
    Rows::read(rows, placed, bounds)
}

/// Returns the format of the store, if it has one. Refuses one that a newer release wrote.
fn find_format(directory: &Path, data: &Keyspace) -> Result<Option<u32>, OpenError> {
    match read_record(directory, data, layout::FORMAT_KEY, layout::parse_format)? {
        Some(found) if found > layout::FORMAT => Err(OpenError::Newer {
            path: directory.into(),
            found,
        }),
        found => Ok(found),
    }
}

/// Refuses a store that a newer release wrote. Marks a new one, and one that an older release
/// wrote: from now on the older release would miss the values in rows.
fn check_format(directory: &Path, database: &Database, data: &Keyspace) -> Result<(), OpenError> {
    if find_format(directory, data)? == Some(layout::FORMAT) {
        return Ok(());
    }
    let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(data, layout::FORMAT_KEY, layout::FORMAT.to_be_bytes());
    batch
        .commit()
        .map_err(|error| engine_error(directory, error))
}
