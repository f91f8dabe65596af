//! Checks the engine's files before the engine opens them, as the engine treats unreadable data as
//! never written.
//!
//! The writer syncs each group before it begins the next. So a crash leaves at most one incomplete
//! record, the last: it is cut off, and logged. Anything else that is missing or fails its checksum
//! was acknowledged: then the store is not opened unless its operator accepts the loss, and nothing
//! is changed before that is known.

use std::{
    borrow::Cow,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    OpenError, STORE,
    journal::{Contents, Journal, Record},
    layout,
    manifest::{self, Trouble},
    mark::{Mark, sync_directory},
};
use crate::{
    faults::{Fault, is_planted},
    store::Version,
};

/// The directory of the engine's trees, inside the engine's own.
const TREES: &str = "keyspaces";
/// The number of the first tree, which lists the others.
const TREE_OF_TREES: u64 = 0;
/// The directory for the original copies of repaired journals.
const ASIDE: &str = "damaged";
/// The contents of the engine's file `version`.
const ENGINE_VERSION: &[u8] = b"FJL\x03";
/// The number of tries to take the engine's lock, as in the engine itself: a store that was just
/// closed may release it a little later.
const LOCK_TRIES: usize = 3;
/// The wait between two tries.
const LOCK_AGAIN: Duration = Duration::from_millis(100);

/// How a store is examined.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// True if unreadable data is dropped, and the store is opened without it.
    pub accepts_damage: bool,
    /// True if the last journal with a record is rewritten, and those behind it: a sync has failed,
    /// so data that is read there may not be on the disk. The engine may have made another journal
    /// since.
    pub distrusts_journal: bool,
}

/// A range of bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub file: PathBuf,
    pub at: u64,
    pub bytes: u64,
}

/// The findings, and the repairs that were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The bytes that were cut off the end of the last journal that holds data.
    pub cut: Option<Piece>,
    /// The ranges that were dropped because their loss is accepted.
    pub dropped: Vec<Piece>,
    /// What else is missing, with its loss accepted.
    pub missing: Vec<String>,
    /// The engine's sequence number of the last commit in the journals; 0 if they hold none.
    pub last_sequence: u64,
    /// The highest version in the journals' seals; None if there is none.
    pub sealed: Option<Version>,
}

impl Report {
    /// True if there was no loss to accept.
    pub fn is_sound(&self) -> bool {
        self.dropped.is_empty() && self.missing.is_empty()
    }
}

/// Examines the store in `directory`.
pub fn examine(directory: &Path, mark: Option<&Mark>, manner: Manner) -> Result<Report, OpenError> {
    if is_planted(Fault::SkipExamine) {
        return Ok(Report::default());
    }
    let store = directory.join(STORE);
    let mut report = Report::default();
    look_at_trees(&store)?;
    // Held until the end: an engine that is still running would not notice the changes made here.
    let _lock = lock_engine(directory)?;
    let journals = journals(&store).map_err(|source| io_at(&store, source))?;
    for what in missing(&store, &journals, mark) {
        if !manner.accepts_damage {
            let path = store;
            return Err(OpenError::Lost { path, what });
        }
        report.missing.push(what);
    }
    let mut walk = Walk::new(mark);
    for (_, path) in &journals {
        walk.journal(path).map_err(|source| io_at(path, source))?;
    }
    report.last_sequence = walk.last.as_ref().map_or(0, |(_, record)| record.sequence);
    report.sealed = walk.sealed;
    let last_held = walk.last.as_ref().map(|(path, _)| path.clone());
    // The version is compared later, too. If no seal contained a version, that check may still find
    // the store behind its mark.
    let is_compared = mark.is_none() || walk.sealed.is_some();
    let (gaps, cut) = walk.verdict().map_err(|source| io_at(&store, source))?;
    if let (Some(first), false) = (gaps.first(), manner.accepts_damage) {
        let bytes: u64 = gaps.iter().map(|gap| gap.bytes).sum();
        let count = match gaps.len() {
            1 => "one place".into(),
            count => format!("{count} places"),
        };
        let what = format!(
            "{bytes} bytes that were acknowledged are damaged, in {count}, the first at byte {}; what else of its last writes is missing \
             is said once that is left out",
            first.at,
        );
        let path = first.file.clone();
        return Err(OpenError::Lost { path, what });
    }
    remove_unlisted(&store)?;
    let mut is_distrusted = manner.distrusts_journal && last_held.is_none();
    for (_, path) in &journals {
        is_distrusted |= manner.distrusts_journal && last_held.as_ref() == Some(path);
        let io = |source| io_at(path, source);
        let gaps: Vec<_> = gaps.iter().filter(|gap| gap.file == *path).collect();
        let tail = cut.as_ref().filter(|cut| cut.file == *path);
        if !gaps.is_empty() {
            set_aside(directory, path).map_err(io)?;
        }
        if let (Some(tail), false) = (tail, is_compared) {
            keep_tail(directory, tail).map_err(io)?;
        }
        if !gaps.is_empty() || is_distrusted {
            rewrite(path, &gaps, tail).map_err(io)?;
        } else if let Some(tail) = tail {
            let file = OpenOptions::new().write(true).open(path).map_err(io)?;
            file.set_len(tail.at).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
    }
    report.dropped = gaps;
    report.cut = cut;
    Ok(report)
}

fn io_at(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io {
        path: path.into(),
        source,
    }
}

impl From<Trouble> for OpenError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unsound(file) => Self::Damaged {
                path: file.path,
                what: file.how,
            },
            Trouble::Io(path, source) => Self::Io { path, source },
        }
    }
}

/// Returns the directories of the engine's trees in `store`.
pub fn trees(store: &Path) -> Result<Vec<PathBuf>, Trouble> {
    let place = store.join(TREES);
    let io = |error| Trouble::from_io(&place, error);
    let mut trees = Vec::new();
    for entry in fs::read_dir(&place).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        trees.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    trees.sort_unstable();
    let tree_at = |tree: u64| place.join(tree.to_string());
    // The engine creates missing files here, and then deletes files that it finds unused.
    if trees.first() != Some(&TREE_OF_TREES) {
        return Err(Trouble::unsound(&tree_at(TREE_OF_TREES), "is missing"));
    }
    if trees.len() == 1 {
        return Err(Trouble::unsound(&tree_at(TREE_OF_TREES + 1), "is missing"));
    }
    Ok(trees.into_iter().map(tree_at).collect())
}

/// Checks the engine's files except its journals. Of the larger ones only the tables of contents
/// are read.
fn look_at_trees(store: &Path) -> Result<(), Trouble> {
    let version = store.join("version");
    let found = fs::read(&version).map_err(|error| Trouble::from_io(&version, error))?;
    if found != ENGINE_VERSION {
        return Err(Trouble::unsound(&version, "is damaged"));
    }
    for (number, tree) in trees(store)?.iter().enumerate() {
        for table in manifest::tables(tree)? {
            if number == 0 {
                // The engine panics if this file lacks what it expects.
                table.check(|| true)?;
            }
            table.glance()?;
        }
    }
    Ok(())
}

/// Removes the files of an unfinished merge. The engine does so, too, but only when it is opened.
/// Before that, a journal may have to be rewritten, and on a disk that the merge has filled there
/// is no other space.
fn remove_unlisted(store: &Path) -> Result<(), OpenError> {
    for tree in trees(store)? {
        for (path, bytes) in manifest::files(&tree)?.unlisted {
            fs::remove_file(&path).map_err(|source| io_at(&path, source))?;
            tracing::info!(file = %path.display(), bytes, "unfinished table was removed");
        }
    }
    Ok(())
}

/// Takes the engine's lock. The lock file is empty; it is created if it is missing.
fn lock_engine(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(STORE).join("lock");
    let io = |source| io_at(&path, source);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let lock = options.open(&path).map_err(io)?;
    for tried in 1..=LOCK_TRIES {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if tried < LOCK_TRIES => thread::sleep(LOCK_AGAIN),
            Err(TryLockError::WouldBlock) => break,
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
    }
    Err(OpenError::Held(directory.into()))
}

/// Returns the numbers and paths of the journals in `store`, the oldest first.
pub fn journals(store: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl")?.parse().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort_unstable();
    Ok(journals)
}

/// Returns which journals are missing. The engine deletes only the oldest, and always has one to
/// write to.
fn missing(store: &Path, journals: &[(u64, PathBuf)], mark: Option<&Mark>) -> Vec<String> {
    let mut missing = Vec::new();
    let path = |number: u64| store.join(format!("{number}.jnl")).display().to_string();
    let Some((newest, _)) = journals.last() else {
        return vec!["its journal is missing: there is no file *.jnl".into()];
    };
    for pair in journals.windows(2) {
        if let [(one, _), (next, _)] = pair
            && *next != one + 1
        {
            missing.push(format!("its journal {} is missing", path(one + 1)));
        }
    }
    if let Some(mark) = mark.filter(|mark| mark.journal > *newest) {
        missing.push(format!("its journal {} is missing", path(mark.journal)));
    }
    missing
}

/// A pass over all journals.
struct Walk<'a> {
    mark: Option<&'a Mark>,
    gaps: Vec<Piece>,
    /// The place where the last journal read so far stops being valid, if it does.
    open_end: Option<(PathBuf, u64)>,
    /// The last record and its file.
    last: Option<(PathBuf, Record)>,
    /// The sequence number of the record before it.
    before: u64,
    /// The highest version in a seal.
    sealed: Option<Version>,
    /// The token in the seals, from the mark or from the first record that has one.
    token: Option<[u8; 8]>,
}

impl<'a> Walk<'a> {
    const fn new(mark: Option<&'a Mark>) -> Self {
        Self {
            mark,
            gaps: Vec::new(),
            open_end: None,
            last: None,
            before: 0,
            sealed: None,
            token: match mark {
                Some(mark) => Some(mark.token),
                None => None,
            },
        }
    }

    fn journal(&mut self, path: &Path) -> io::Result<()> {
        let mut journal = Journal::open(path)?;
        let mut at = 0;
        loop {
            let found = journal.at(at)?;
            if found != Contents::End {
                // A journal is synced before the next one is written to: if the next one has data,
                // this one was complete. The existence of the next one alone does not prove that:
                // the engine creates it also after a failed write.
                self.close_end()?;
            }
            match found {
                Contents::End => return Ok(()),
                Contents::Record(record) => {
                    self.record(path, record);
                    at = record.end;
                }
                Contents::Bad => {
                    let next = match self.token {
                        Some(token) => self.next_own(&mut journal, at, token)?,
                        None if self.has_more(&mut journal, at)? => {
                            let end = journal.written_end(at)?;
                            self.gap(path, at, end);
                            return Ok(());
                        }
                        None => None,
                    };
                    let Some(next) = next else {
                        self.open_end = Some((path.into(), at));
                        return Ok(());
                    };
                    self.gap(path, at, next.at);
                    at = next.at;
                }
            }
        }
    }

    fn is_later(&self, record: &Record) -> bool {
        let last = self.last.as_ref().map(|(_, record)| record.sequence);
        last.is_none_or(|last| record.sequence > last)
    }

    /// Returns the first record behind `at` that this store has written.
    fn next_own(
        &self,
        journal: &mut Journal,
        at: u64,
        token: [u8; 8],
    ) -> io::Result<Option<Record>> {
        let is_own = |record: &Record| match self.mark {
            Some(mark) => mark.is_own(record),
            None => record.seal.is_some_and(|seal| seal.token == token),
        };
        journal.next_record(at + 1, |record| self.is_later(record) && is_own(record))
    }

    /// True if something that looks like a record follows `at`. If no seal is known, a user may
    /// have written it: so it shows that there may be more data, but is not used as a record. The
    /// bytes that a record torn at `at` claims for itself are certainly a user's.
    fn has_more(&self, journal: &mut Journal, at: u64) -> io::Result<bool> {
        let from = journal.claimed_end(at)?.max(at + 1);
        let found = journal.next_record(from, |record| self.is_later(record))?;
        Ok(found.is_some())
    }

    fn gap(&mut self, file: &Path, at: u64, end: u64) {
        self.gaps.push(Piece {
            file: file.into(),
            at,
            bytes: end - at,
        });
    }

    /// Adds a record with a valid checksum. The checksum does not cover its sequence number, but
    /// each number is higher than the one before.
    fn record(&mut self, path: &Path, record: Record) {
        let last = self.last.as_ref().map(|(_, last)| last.sequence);
        if last.is_some_and(|last| record.sequence <= last) {
            if record.sequence <= self.before {
                return self.gap(path, record.at, record.end);
            }
            // Without the record before it, the order is right.
            if let Some((path, last)) = self.last.take() {
                self.gap(&path, last.at, last.end);
            }
        } else if let Some(last) = last {
            self.before = last;
        }
        self.token = self.token.or(record.seal.map(|seal| seal.token));
        let own = |seal: &layout::Seal| self.token == Some(seal.token);
        let sealed = record.seal.filter(own).map(|seal| seal.version);
        self.sealed = self.sealed.max(sealed);
        self.last = Some((path.into(), record));
    }

    fn close_end(&mut self) -> io::Result<()> {
        if let Some((path, at)) = self.open_end.take() {
            let end = Journal::open(&path)?.written_end(at)?;
            self.gap(&path, at, end);
        }
        Ok(())
    }

    /// Returns the damaged ranges, and the range that was not written completely.
    fn verdict(mut self) -> io::Result<(Vec<Piece>, Option<Piece>)> {
        let is_behind = |mark: &Mark| self.sealed.is_some_and(|sealed| sealed < mark.version);
        if self.mark.is_some_and(is_behind) && !is_planted(Fault::IgnoreMark) {
            self.close_end()?;
        }
        let cut = match self.open_end.take() {
            Some((file, at)) => {
                let end = Journal::open(&file)?.written_end(at)?;
                let bytes = end - at;
                Some(Piece { file, at, bytes })
            }
            None => None,
        };
        Ok((self.gaps, cut))
    }
}

fn name_of(path: &Path) -> io::Result<Cow<'_, str>> {
    let nameless = || io::Error::new(io::ErrorKind::InvalidInput, "a journal without a name");
    let name = path.file_name().ok_or_else(nameless)?;
    Ok(name.to_string_lossy())
}

/// Keeps a copy of a journal under another name by a hard link, which takes no space. On a file
/// system without hard links no copy is kept.
fn set_aside(directory: &Path, path: &Path) -> io::Result<()> {
    let place = directory.join(ASIDE);
    fs::create_dir_all(&place)?;
    let name = name_of(path)?;
    for number in 1..=u32::MAX {
        match fs::hard_link(path, place.join(format!("{name}.{number}"))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "damaged file could not be kept beside the mended one");
                break;
            }
            Ok(()) => break,
        }
    }
    Ok(())
}

/// Saves the bytes that are to be cut off a journal. The file's name contains their offset.
fn keep_tail(directory: &Path, tail: &Piece) -> io::Result<()> {
    let place = directory.join(ASIDE);
    fs::create_dir_all(&place)?;
    let name = name_of(&tail.file)?;
    let mut from = File::open(&tail.file)?;
    from.seek(SeekFrom::Start(tail.at))?;
    // A file with the same name was cut off at the same offset.
    let mut kept = File::create(place.join(format!("{name}.at-{}", tail.at)))?;
    io::copy(&mut from.take(tail.bytes), &mut kept)?;
    kept.sync_all()?;
    sync_directory(&place)
}

/// Rewrites a journal without some ranges. The old one stays until the new one is on the disk.
fn rewrite(path: &Path, gaps: &[&Piece], tail: Option<&Piece>) -> io::Result<()> {
    let mut journal = Journal::open(path)?;
    let end = match tail {
        Some(tail) => tail.at,
        None => journal.written_end(0)?,
    };
    let mut gaps: Vec<_> = gaps
        .iter()
        .map(|gap| (gap.at, gap.at + gap.bytes))
        .collect();
    gaps.sort_unstable();
    gaps.push((end, end));
    let fresh = path.with_extension("mended");
    let mut old = File::open(path)?;
    let written = (|| {
        let mut new = File::create(&fresh)?;
        let mut at = 0;
        for (from, to) in gaps {
            old.seek(SeekFrom::Start(at))?;
            io::copy(&mut (&mut old).take(from.saturating_sub(at)), &mut new)?;
            at = to;
        }
        new.sync_all()?;
        fs::rename(&fresh, path)
    })();
    if written.is_err() {
        // The disk may be full: leave no partial file.
        let _ = fs::remove_file(&fresh);
    }
    written?;
    path.parent().map_or(Ok(()), sync_directory)
}
