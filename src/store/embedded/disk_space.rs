//! Whether the disk has room, asked before each group is written: a write that fails for want of room ends all reading, too.

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

/// Room on the disk that is left alone unless it is set otherwise, in bytes: the engine needs it to tidy up, and so does the operator.
pub const RESERVE_BYTES: u64 = 32 << 20;
/// How long a look at the free room holds.
const ROOM_LIFETIME: Duration = Duration::from_secs(1);
/// It holds no longer than until this part of the reserve has been written. Journals take that, and tables once more.
const WRITTEN_SHARE: u64 = 8;
/// So much may always be written before the next look, which looks at each table.
const WRITTEN_BYTES: u64 = 64 << 10;
/// This part of the reserve is left alone also by what gives room back: that is written first, and gives room back later.
const TIDYING_SHARE: u64 = 4;

/// How much may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Anything.
    Enough,
    /// Only what gives room back.
    Little,
    /// Nothing.
    None,
}

impl Space {
    /// True when `batch` may be written.
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
    /// The engine's files.
    store: PathBuf,
    /// The room that is left, in bytes.
    free: Arc<dyn Fn() -> io::Result<u64> + Send + Sync>,
    /// The part of the reserve that is left alone also by what gives room back, in bytes.
    spare: u64,
}

/// What the engine's tables take and may take, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Tables {
    /// Merging them may take so much.
    merging: u64,
    /// Files have so much that are not tables: those that a merge writes, until it is done. They are given back with what they are
    /// made from, or become what was counted as `merging`.
    unlisted: u64,
}

impl Disk {
    /// What merging tables takes and the disk does not have: how much is free, and how much has to be, so that the merge leaves the
    /// spare room alone.
    pub fn lacks(&self) -> Option<(u64, u64)> {
        // If either cannot be said, the merge may as well be tried.
        let (free, tables) = ((self.free)().ok()?, self.tables()?);
        let needed = tables.merging.saturating_add(self.spare);
        (free < needed).then_some((free, needed))
    }

    /// False if a store could not be opened again whose engine has failed with so much that is not in tables: what merges have left
    /// is removed then, the last journal is written anew, and what is not in tables yet is written to some.
    pub fn can_reopen(&self, unflushed: u64) -> bool {
        let needed = || {
            // What cannot be told apart now is not relied on.
            let unlisted = self.tables().unwrap_or_default().unlisted;
            let free = (self.free)().ok()?.saturating_add(unlisted);
            let journals = journals(&self.store).ok()?;
            // The newest may be empty: then it is the one before that is written anew.
            let last = journals.iter().rev().take(2);
            let taken = last.map(|(_, path)| Some(taken_bytes(&fs::metadata(path).ok()?)));
            let journal = taken.collect::<Option<Vec<_>>>()?.into_iter().max()?;
            Some(free >= journal.saturating_add(unflushed))
        };
        // If it cannot be said, it may as well be tried.
        needed().unwrap_or(true)
    }

    /// None if it cannot be read now, because it changes.
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

/// Whether the disk has room, asked once in a while.
pub struct Room {
    disk: Disk,
    looked: Option<(Instant, Space)>,
    /// What was written since, in bytes.
    written: u64,
    /// When it was found out last that the store could not be opened again.
    found_stuck: Option<Instant>,
    lifetime: Duration,
    /// The room that is left alone, in bytes.
    reserve: u64,
    /// The engine's tables when they could be looked at last.
    tables: Tables,
    /// The disk has not said how much is free.
    is_unknown: bool,
}

impl Room {
    /// The room on the disk that holds `directory`.
    pub fn of(directory: &Path, reserve: u64) -> Self {
        let free = {
            let directory = PathBuf::from(directory);
            move || free_bytes(&directory)
        };
        Self::new(directory, reserve, ROOM_LIFETIME, free)
    }

    /// Room as a test has it.
    #[cfg(test)]
    pub fn scripted(
        directory: &Path,
        reserve: u64,
        free: impl Fn() -> io::Result<u64> + Send + Sync + 'static,
    ) -> Self {
        Self::new(directory, reserve, Duration::ZERO, free)
    }

    /// The room that `free` says there is, where each look holds for `lifetime` at most.
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

    /// The disk.
    pub fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// How much may be written now, while `unflushed` bytes are to be written to tables.
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
                        "the disk does not say how much room it has: it counts as having as much as before"
                    );
                }
                self.is_unknown = true;
                // A write that fails for want of room is survived; one that is refused for ever for nothing is not better.
                self.looked.map_or(Space::Enough, |(_, space)| space)
            }
        };
        self.looked = Some((Instant::now(), space));
        space
    }

    /// So many bytes are being written: what was seen last holds the shorter.
    pub const fn note_written(&mut self, bytes: u64) {
        self.written = self.written.saturating_add(bytes);
    }

    /// The same as [`Disk::can_reopen`], found out once in a while where it cannot.
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
        // Where they cannot be looked at, a merge has ended, perhaps, and what it wrote is in the list.
        let merging = self.tables.merging;
        let as_before = || Tables {
            merging,
            unlisted: 0,
        };
        self.tables = self.disk.tables().unwrap_or_else(as_before);
        let Tables { merging, unlisted } = self.tables;
        let spare = self.disk.spare;
        // A merge begins only where it leaves the spare room alone. Writing something that gives room back gives none back before
        // tables are merged: below this, it only takes some.
        let engine = merging.saturating_add(unflushed).saturating_add(spare);
        // While a merge runs, what it has written is no longer to come; but it is not free, and so is none of the reserve.
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

    /// Tells the operator how much may be written from now on: `free` bytes are free, and the engine needs `needed`.
    fn log(&self, space: Space, free: u64, needed: u64) {
        let reserve = self.reserve;
        match space {
            Space::Enough => tracing::warn!(free, "the disk has room again: everything is written"),
            Space::Little => tracing::error!(
                ?space,
                free,
                reserve,
                "the disk has less free space, in bytes, than `reserve`: commands that need space are answered `busy`, what gives space \
                 back is written; free some, or lower `reserve` in [store]"
            ),
            Space::None => tracing::error!(
                ?space,
                free,
                needed,
                reserve,
                "the disk has less free space, in bytes, than the store needs to write and merge tables, a quarter of `reserve` included: \
                 nothing is written, and commands that write are answered `busy`; make room"
            ),
        }
    }
}

/// Room that the disk has left, in bytes.
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

/// Room that a file takes. The engine makes journals of 64 MiB, and fills them later.
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

    /// Keeps what is logged.
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

    /// The operator reads what is written, and what helps, each time that is something else, and once.
    #[test]
    fn full_disk_is_logged_as_what_is_still_written() {
        let directory = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(100));
        let seen = Arc::clone(&free);
        let asked = move || Ok(seen.load(Ordering::SeqCst));
        let mut room = Room::scripted(directory.path(), 100, asked);
        let lines = Lines::default();
        tracing::subscriber::with_default(lines.clone(), || {
            let (some, none) = ("what gives space back is written", "nothing is written");
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
                (100, Some(("free=100 ", "everything is written"))),
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
