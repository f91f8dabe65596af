//! Checks the free space on the disk before each group is written: a write that fails for lack of
//! space ends all reads, too.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::Batch,
    STORE, compaction,
    examine::{journals, trees},
    manifest,
};

/// How long a check of the free space stays valid.
const ROOM_LIFETIME: Duration = Duration::from_secs(1);
/// A check also expires once this fraction of the reserve has been written. Journals take that
/// space, and tables take it once more.
const WRITTEN_SHARE: u64 = 8;
/// The number of bytes that may always be written before the next check, which lists all tables.
const WRITTEN_BYTES: u64 = 64 << 10;
/// The fraction of the reserve that even tidying batches leave free: they are written first, and
/// free space only later.
const TIDYING_SHARE: u64 = 4;

/// Which batches may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// All batches.
    Enough,
    /// Only batches that free space.
    Little,
    /// No batch.
    None,
}

impl Space {
    /// True if `batch` may be written.
    pub const fn admits(self, batch: &Batch) -> bool {
        match self {
            Self::Enough => true,
            Self::Little => batch.tidies,
            Self::None => false,
        }
    }
}

/// The disk that a store is on.
#[derive(Clone)]
pub struct Disk {
    /// The directory of the engine's files.
    store: PathBuf,
    /// Returns the free space, in bytes.
    free: Arc<dyn Fn() -> io::Result<u64> + Send + Sync>,
    /// The part of the reserve that even tidying batches leave free, in bytes.
    spare: u64,
}

/// The space that the engine's tables take and may take, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Tables {
    /// The most that a merge may write.
    merging: u64,
    /// The size of the files that no table list names: a merge writes them until it is done. They
    /// are freed with the merge's input, or become what was counted as `merging`.
    unlisted: u64,
}

impl Disk {
    /// Returns the free space and the space that a merge needs while it leaves the spare space
    /// alone, if the disk has too little. None if it has enough.
    pub fn lacks(&self) -> Option<(u64, u64)> {
        // If either is unknown, try the merge.
        let (free, tables) = ((self.free)().ok()?, self.tables()?);
        let needed = tables.merging.saturating_add(self.spare);
        (free < needed).then_some((free, needed))
    }

    /// False if a store with a failed engine and `unflushed` bytes outside tables could not be
    /// opened again. Opening removes the files that merges have left, rewrites the last journal,
    /// and flushes the unflushed data to tables.
    pub fn can_reopen(&self, unflushed: u64) -> bool {
        let needed = || {
            // If the tables cannot be listed now, count no unlisted files.
            let unlisted = self.tables().unwrap_or_default().unlisted;
            let free = (self.free)().ok()?.saturating_add(unlisted);
            let journals = journals(&self.store).ok()?;
            // The newest journal may be empty: then the one before it is rewritten.
            let last = journals.iter().rev().take(2);
            let taken = last.map(|(_, path)| Some(taken_bytes(&fs::metadata(path).ok()?)));
            let journal = taken.collect::<Option<Vec<_>>>()?.into_iter().max()?;
            Some(free >= journal.saturating_add(unflushed))
        };
        // If the sizes are unknown, try to open it.
        needed().unwrap_or(true)
    }

    /// Returns the tables' sizes. None if they cannot be read now because they change.
    fn tables(&self) -> Option<Tables> {
        let mut all = Tables::default();
        for tree in trees(&self.store).ok()? {
            let files = manifest::files(&tree).ok()?;
            all.merging += compaction::bytes(&files.levels);
            all.unlisted += files.unlisted.iter().map(|(_, bytes)| bytes).sum::<u64>();
        }
        Some(all)
    }
}

/// Checks from time to time whether the disk has space.
pub struct DiskSpace {
    disk: Disk,
    looked: Option<(Instant, Space)>,
    /// The number of bytes written since the last check.
    written: u64,
    /// When the last check found that the store could not be opened again.
    found_stuck: Option<Instant>,
    lifetime: Duration,
    /// The space that is kept free, in bytes.
    reserve: u64,
    /// The engine's tables at the last check that could list them.
    tables: Tables,
    /// True if the disk did not report its free space.
    is_unknown: bool,
}

impl DiskSpace {
    /// Returns the space check for the disk that holds `directory`.
    pub fn of(directory: &Path, reserve: u64) -> Self {
        let free = {
            let directory = PathBuf::from(directory);
            move || free_bytes(&directory)
        };
        Self::new(directory, reserve, ROOM_LIFETIME, free)
    }

    /// Returns a space check for tests.
    #[cfg(test)]
    pub fn scripted(
        directory: &Path,
        reserve: u64,
        free: impl Fn() -> io::Result<u64> + Send + Sync + 'static,
    ) -> Self {
        Self::new(directory, reserve, Duration::ZERO, free)
    }

    /// Returns a space check in which `free` returns the free space and each check is valid for at
    /// most `lifetime`.
    pub fn new(
        directory: &Path,
        reserve: u64,
        lifetime: Duration,
        free: impl Fn() -> io::Result<u64> + Send + Sync + 'static,
    ) -> Self {
        Self {
            disk: Disk {
                store: directory.join(STORE),
                free: Arc::new(free),
                spare: reserve / TIDYING_SHARE,
            },
            looked: None,
            written: 0,
            found_stuck: None,
            lifetime,
            reserve,
            tables: Tables::default(),
            is_unknown: false,
        }
    }

    /// Returns the disk.
    pub fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// Returns which batches may be written now, with `unflushed` bytes still to be written to
    /// tables.
    pub fn look(&mut self, unflushed: u64) -> Space {
        if let Some((at, space)) = self.looked
            && at.elapsed() < self.lifetime
            && self.written <= (self.reserve / WRITTEN_SHARE).max(WRITTEN_BYTES)
        {
            return space;
        }
        self.written = 0;
        let space = match (self.disk.free)() {
            Ok(free) => {
                self.is_unknown = false;
                self.judge(free, unflushed)
            }
            Err(error) => {
                if !self.is_unknown {
                    tracing::error!(
                        %error,
                        "free disk space could not be read; it counts as before"
                    );
                }
                self.is_unknown = true;
                // A write that fails for lack of space can be survived. Refusing writes for ever
                // without need is no better.
                self.looked.map_or(Space::Enough, |(_, space)| space)
            }
        };
        self.looked = Some((Instant::now(), space));
        space
    }

    /// Notes that `bytes` are being written, so that the last check expires sooner.
    pub const fn note_written(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes);
    }

    /// As [`Disk::can_reopen`]; a negative result is checked again only from time to time.
    pub fn can_reopen(&mut self, unflushed: u64) -> bool {
        if self
            .found_stuck
            .is_some_and(|at| at.elapsed() < self.lifetime)
        {
            return false;
        }
        let can = self.disk.can_reopen(unflushed);
        self.found_stuck = (!can).then(Instant::now);
        can
    }

    fn judge(&mut self, free: u64, unflushed: u64) -> Space {
        // If the tables cannot be listed, a merge has probably ended, and its output is in the
        // list.
        let merging = self.tables.merging;
        let as_before = || Tables {
            merging,
            unlisted: 0,
        };
        self.tables = self.disk.tables().unwrap_or_else(as_before);
        let Tables { merging, unlisted } = self.tables;
        let spare = self.disk.spare;
        // A merge starts only if it leaves the spare space alone. A tidying batch frees no space
        // before tables are merged: below this limit, it only takes space.
        let engine = merging.saturating_add(unflushed).saturating_add(spare);
        // While a merge runs, its output is already written. That space is not free, and not part
        // of the reserve.
        let has_engine_room = free.saturating_add(unlisted) >= engine;
        let space = if has_engine_room && free >= self.reserve {
            Space::Enough
        } else if has_engine_room && free >= spare {
            Space::Little
        } else {
            Space::None
        };
        let was = self.looked.map_or(Space::Enough, |(_, was)| was);
        if space != was {
            self.log(space, free, engine);
        }
        space
    }

    /// Logs for the operator which batches may be written from now on: `free` bytes are free, and
    /// the engine needs `needed`.
    fn log(&self, space: Space, free: u64, needed: u64) {
        let reserve = self.reserve;
        match space {
            Space::Enough => tracing::warn!(free, "disk has room again; all writes resumed"),
            Space::Little => tracing::error!(
                ?space,
                free,
                reserve,
                "free disk space, in bytes, fell below `reserve`: commands that need space are answered `busy`, and those that free it \
                 succeed; free some, or lower `reserve` in [store]"
            ),
            Space::None => tracing::error!(
                ?space,
                free,
                needed,
                reserve,
                "free disk space, in bytes, fell below what the store needs to write and merge tables, a quarter of `reserve` included: \
                 commands that write are answered `busy`; make room"
            ),
        }
    }
}

/// Returns the free space on the disk, in bytes.
#[cfg(unix)]
fn free_bytes(directory: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may not say")]
fn free_bytes(_: &Path) -> io::Result<u64> {
    Ok(u64::MAX)
}

/// Returns the space that a file takes. The engine makes journals of 64 MiB, and fills them later.
#[cfg(unix)]
fn taken_bytes(file: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    file.blocks().saturating_mul(512)
}

#[cfg(not(unix))]
fn taken_bytes(file: &fs::Metadata) -> u64 {
    file.len()
}

#[cfg(test)]
mod tests {
    use std::{
        fmt::Write as _,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    use tracing::{Event, Metadata, Subscriber, field, span};

    use super::*;

    /// Records log lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<Line>>>);

    /// One line of the log.
    #[derive(Debug, Default)]
    struct Line {
        message: String,
        fields: String,
    }

    impl field::Visit for Line {
        fn record_debug(&mut self, field: &field::Field, value: &dyn std::fmt::Debug) {
            match field.name() {
                "message" => self.message = format!("{value:?}"),
                name => write!(self.fields, "{name}={value:?} ").unwrap(),
            }
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line::default();
            event.record(&mut line);
            self.0.lock().unwrap().push(line);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    /// Each change of what may be written is logged once, with a remedy.
    #[test]
    fn disk_full_change_is_logged_once_with_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(100));
        let seen = Arc::clone(&free);
        let asked = move || Ok(seen.load(Ordering::SeqCst));
        let mut room = DiskSpace::scripted(directory.path(), 100, asked);
        let lines = Lines::default();
        tracing::subscriber::with_default(lines.clone(), || {
            let (some, none) = ("those that free it", "commands that write are answered");
            for (left, says) in [
                (100, None),
                (99, Some(("space=Little free=99 reserve=100 ", some))),
                (50, None),
                (
                    24,
                    Some(("space=None free=24 needed=25 reserve=100 ", none)),
                ),
                (23, None),
                (25, Some(("space=Little free=25 reserve=100 ", some))),
                (100, Some(("free=100 ", "all writes resumed"))),
            ] {
                free.store(left, Ordering::SeqCst);
                let _ = room.look(0);
                let said = std::mem::take(&mut *lines.0.lock().unwrap());
                assert_eq!(said.len(), usize::from(says.is_some()), "{left}: {said:?}");
                for (line, (fields, part)) in said.iter().zip(says) {
                    assert_eq!(line.fields, fields);
                    assert!(line.message.contains(part), "{left}: {line:?}");
                }
            }
        });
    }
}
