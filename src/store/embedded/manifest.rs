//! Reads the list of tables of the engine's trees, and the checksums of these files.
//!
//! A tree is a directory. `current` names the current one of the files `v1`, `v2`, … (its number 8,
//! its checksum 16, 0). That file lists the tables, each with the checksum of its whole file (XXH3
//! with 128 bits). The engine does not check these checksums, only those of the blocks that it
//! reads. It treats a tree without `current` as a new one.
//!
//! Both kinds of files are archives: sections, then a table of contents ("TOC!", count 4, each:
//! position 8, length 8, name length 2, name), then its own place ("SFA!", 1, 0, checksum 16,
//! position 8, length 8).

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, SeekFrom},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::compaction::Level;

/// The directory of a tree's tables, inside the tree's own.
const TABLES: &str = "tables";
/// The size of the trailer behind an archive's table of contents, in bytes.
const TRAILER_BYTES: usize = 38;
/// The longest list of tables and the longest table of contents that this module reads, in bytes.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// The number of bytes hashed at once.
const PIECE: usize = 256 << 10;
/// The number of tries to read a tree whose list changes meanwhile.
const TRIES: usize = 5;

/// A file of the engine and its expected checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub path: PathBuf,
    pub checksum: u128,
}

/// A file that differs from the one that the engine wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsound {
    pub path: PathBuf,
    pub how: &'static str,
}

/// A file is damaged, or it cannot be read.
#[derive(Debug)]
pub enum Trouble {
    Unsound(Unsound),
    Io(PathBuf, io::Error),
}

impl Trouble {
    pub fn unsound(path: &Path, how: &'static str) -> Self {
        Self::Unsound(Unsound {
            path: path.into(),
            how,
        })
    }

    /// Converts the error for a file that must exist.
    pub fn from_io(path: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::unsound(path, "is missing"),
            _ => Self::Io(path.into(), error),
        }
    }
}

/// Drops the file's pages from the system's cache, so that the next read comes from the disk.
/// Otherwise the system returns the cached data as it was written, even if the disk has damaged it.
/// Pages that are not written yet stay.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn drop_cached(file: &File) {
    // If the system does not take the advice, its cached data is the best available.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Does nothing: this system has no such advice, so its cached data is the best available.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn drop_cached(_: &File) {}

/// As [`tables`], read from the disk and not from the system's cache.
pub fn tables_on_disk(tree: &Path) -> Result<Vec<Table>, Trouble> {
    // The code that needs a missing file reports it.
    for entry in fs::read_dir(tree).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = File::open(entry.path())
        {
            drop_cached(&file);
        }
    }
    tables(tree)
}

/// Returns the tables of the tree in a directory.
pub fn tables(tree: &Path) -> Result<Vec<Table>, Trouble> {
    let place = tree.join(TABLES);
    let listed = listed(tree)?.into_iter();
    Ok(listed
        .map(|(_, id, checksum)| {
            let path = place.join(id.to_string());
            Table { path, checksum }
        })
        .collect())
}

/// The table files of a tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The tables that the list names by level, the fresh tables first.
    pub levels: Vec<Level>,
    /// Files that the list does not name, and their lengths: a merge is writing them or has left
    /// them unfinished, or they are about to be deleted.
    pub unlisted: Vec<(PathBuf, u64)>,
}

/// Returns the table files of the tree in a directory.
pub fn files(tree: &Path) -> Result<Files, Trouble> {
    files_with(tree, || {})
}

/// As [`files`]; calls `between` between the read of the list and the read of the directory.
fn files_with(tree: &Path, mut between: impl FnMut()) -> Result<Files, Trouble> {
    let current = tree.join("current");
    for _ in 0..TRIES {
        let before = read_bounded(&current)?;
        let found = listed(tree).and_then(|listed| {
            between();
            files_of(tree, &listed)
        });
        // A merge that ends in between adds files to the list.
        if read_bounded(&current)? == before {
            return found;
        }
    }
    Err(Trouble::unsound(&current, "changes all the time"))
}

/// Returns the files of a tree whose list names these tables.
fn files_of(tree: &Path, listed: &[Listed]) -> Result<Files, Trouble> {
    let place = tree.join(TABLES);
    let io = |error| Trouble::from_io(&place, error);
    let levels: HashMap<u64, u8> = listed.iter().map(|(level, id, _)| (*id, *level)).collect();
    let mut found = Files::default();
    let entries = match fs::read_dir(&place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(id) = name.and_then(|name| name.parse::<u64>().ok()) else {
            continue;
        };
        let bytes = match fs::metadata(&path) {
            Ok(file) => file.len(),
            // It was deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(io(error)),
        };
        let Some(level) = levels.get(&id).map(|level| usize::from(*level)) else {
            found.unlisted.push((path, bytes));
            continue;
        };
        if found.levels.len() <= level {
            found.levels.resize(level + 1, Level::default());
        }
        if let Some(level) = found.levels.get_mut(level) {
            level.tables += 1;
            level.bytes += bytes;
        }
    }
    Ok(found)
}

/// A table in the list: its level, its number, and its checksum.
type Listed = (u8, u64, u128);

/// Returns the tables in the list of the tree in a directory.
fn listed(tree: &Path) -> Result<Vec<Listed>, Trouble> {
    let current = tree.join("current");
    let read = read_bounded(&current)?;
    let (number, checksum) =
        parse_current(&read).ok_or_else(|| Trouble::unsound(&current, "is damaged"))?;
    let list = tree.join(format!("v{number}"));
    let read = read_bounded(&list)?;
    let damaged = || Trouble::unsound(&list, "is damaged");
    if xxh3_128(&read) != checksum {
        return Err(damaged());
    }
    let contents = contents(&mut io::Cursor::new(&read)).map_err(|_| damaged())?;
    let section = contents
        .ok_or_else(damaged)?
        .into_iter()
        .find(|section| section.name == b"tables")
        .and_then(|section| section.of(&read).map(<[u8]>::to_vec));
    let listed = section.as_deref().and_then(parse_tables);
    listed.ok_or_else(damaged)
}

impl Table {
    /// Checks only the file's length and its table of contents. The engine allocates memory by a
    /// number in there before it checks it.
    pub fn glance(&self) -> Result<(), Trouble> {
        let io = |error| Trouble::from_io(&self.path, error);
        let mut file = File::open(&self.path).map_err(io)?;
        match contents(&mut file) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Trouble::unsound(&self.path, "is damaged")),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Trouble::unsound(&self.path, "is cut off"))
            }
            Err(error) => Err(io(error)),
        }
    }

    /// Reads the whole file from the disk. Calls `pause` after each piece, and stops if it returns
    /// false. Returns None if it was stopped.
    pub fn check(&self, mut pause: impl FnMut() -> bool) -> Result<Option<u64>, Trouble> {
        let io = |error| Trouble::from_io(&self.path, error);
        let file = File::open(&self.path).map_err(io)?;
        // The cache is not dropped again afterwards: pages that others use are back by then, and
        // pages that nobody uses leave the cache first.
        drop_cached(&file);
        let mut file = BufReader::with_capacity(PIECE, file);
        let mut hash = Xxh3::new();
        let mut bytes = 0;
        loop {
            let piece = file.fill_buf().map_err(io)?;
            let len = piece.len();
            if len == 0 {
                break;
            }
            hash.update(piece);
            file.consume(len);
            bytes += len as u64;
            if !pause() {
                return Ok(None);
            }
        }
        if hash.digest128() == self.checksum {
            Ok(Some(bytes))
        } else {
            Err(Trouble::unsound(&self.path, "is damaged"))
        }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Trouble> {
    let io = |error| Trouble::from_io(path, error);
    if fs::metadata(path).map_err(io)?.len() > LIST_BYTES_MAX {
        return Err(Trouble::unsound(path, "is longer than it can be"));
    }
    fs::read(path).map_err(io)
}

fn parse_current(bytes: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let (number, checksum) = (u64::from_le_bytes(*number), u128::from_le_bytes(*checksum));
    (rest == [0]).then_some((number, checksum))
}

/// A section of an archive.
struct Section {
    name: Vec<u8>,
    at: u64,
    len: u64,
}

impl Section {
    fn of<'a>(&self, archive: &'a [u8]) -> Option<&'a [u8]> {
        let from = usize::try_from(self.at).ok()?;
        let len = usize::try_from(self.len).ok()?;
        archive.get(from..)?.get(..len)
    }
}

/// Returns the sections of an archive. None if its table of contents is damaged.
fn contents(archive: &mut (impl io::Read + io::Seek)) -> io::Result<Option<Vec<Section>>> {
    let len = archive.seek(SeekFrom::End(0))?;
    let Some(trailer_at) = len.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    archive.seek(SeekFrom::Start(trailer_at))?;
    let mut trailer = [0; TRAILER_BYTES];
    archive.read_exact(&mut trailer)?;
    let Some((checksum, at)) = parse_trailer(&trailer) else {
        return Ok(None);
    };
    let Some(take) = trailer_at
        .checked_sub(at)
        .filter(|take| *take <= LIST_BYTES_MAX)
    else {
        return Ok(None);
    };
    archive.seek(SeekFrom::Start(at))?;
    let mut table = Vec::new();
    archive.take(take).read_to_end(&mut table)?;
    Ok((xxh3_128(&table) == checksum)
        .then(|| parse_contents(&table))
        .flatten())
}

fn parse_trailer(bytes: &[u8]) -> Option<(u128, u64)> {
    let rest = bytes.strip_prefix(b"SFA!\x01\x00")?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let (at, _) = rest.split_first_chunk()?;
    Some((u128::from_le_bytes(*checksum), u64::from_le_bytes(*at)))
}

fn parse_contents(bytes: &[u8]) -> Option<Vec<Section>> {
    let rest = bytes.strip_prefix(b"TOC!")?;
    let (count, mut rest) = rest.split_first_chunk()?;
    let mut sections = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (at, after) = rest.split_first_chunk()?;
        let (len, after) = after.split_first_chunk()?;
        let (name, after) = after.split_first_chunk()?;
        let (name, after) = after.split_at_checked(u16::from_le_bytes(*name).into())?;
        sections.push(Section {
            name: name.into(),
            at: u64::from_le_bytes(*at),
            len: u64::from_le_bytes(*len),
        });
        rest = after;
    }
    Some(sections)
}

/// Parses the levels, numbers and checksums of the tables: levels 1, in each runs 1, in each tables
/// 4, in each its number 8, 0, checksum 16, sequence number 8.
fn parse_tables(bytes: &[u8]) -> Option<Vec<Listed>> {
    let mut tables = Vec::new();
    let (levels, mut rest) = bytes.split_first()?;
    for level in 0..*levels {
        let (runs, after) = rest.split_first()?;
        rest = after;
        for _ in 0..*runs {
            let (count, after) = rest.split_first_chunk()?;
            rest = after;
            for _ in 0..u32::from_le_bytes(*count) {
                let (id, after) = rest.split_first_chunk()?;
                let after = after.strip_prefix(&[0])?;
                let (checksum, after) = after.split_first_chunk()?;
                let (_, after) = after.split_first_chunk::<8>()?;
                tables.push((
                    level,
                    u64::from_le_bytes(*id),
                    u128::from_le_bytes(*checksum),
                ));
                rest = after;
            }
        }
    }
    rest.is_empty().then_some(tables)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{IoSliceMut, Write as _};

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    use super::*;

    const BYTES: usize = 32 << 20;
    const TRIES: usize = 20;
    /// The type number of tmpfs, a file system without a disk.
    const TMPFS: i64 = 0x0102_1994;

    /// True if the system has the byte at `at` in its cache. None if it does not tell.
    fn is_cached(file: &File, at: u64) -> Option<bool> {
        let mut byte = [0];
        let mut into = [IoSliceMut::new(&mut byte)];
        match preadv2(file, &mut into, at, ReadWriteFlags::NOWAIT) {
            Ok(_) => Some(true),
            Err(Errno::AGAIN) => Some(false),
            Err(_) => None,
        }
    }

    /// The check reads from the disk: if the store fits into memory, the system would always return
    /// the cached data.
    #[test]
    fn scrub_reads_cached_table_from_disk() {
        let program = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let path = directory.path().join("1");
        let bytes = vec![7; BYTES];
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        let file = File::open(&path).unwrap();
        let end = BYTES as u64 - 1;
        if rustix::fs::fstatfs(&file).unwrap().f_type == TMPFS || is_cached(&file, end).is_none() {
            eprintln!("not tried: the file system does not tell what is in memory");
            return;
        }
        let checksum = xxh3_128(&bytes);
        let table = Table {
            path: path.clone(),
            checksum,
        };
        // The system may ignore the advice: it keeps a page that it is just moving.
        let was_read_from_disk = (0..TRIES).any(|_| {
            fs::read(&path).unwrap();
            assert_eq!(is_cached(&file, end), Some(true));
            // The last piece has not been read yet after the first one.
            let mut seen = None;
            let checked = table.check(|| {
                seen.get_or_insert_with(|| is_cached(&file, end));
                true
            });
            assert_eq!(checked.unwrap(), Some(BYTES as u64));
            seen == Some(Some(false))
        });
        assert!(was_read_from_disk, "in none of {TRIES} tries");
    }
}

#[cfg(test)]
mod list_tests {
    use super::{
        super::{Embedded, STORE, Store as _, examine::trees, format_tests},
        *,
    };

    /// A table that is added to the list while the directory is read does not count as the
    /// unfinished file of a merge: its space is not free.
    #[tokio::test]
    async fn manifest_table_just_listed_is_not_unlisted() {
        let directory = tempfile::tempdir().unwrap();
        let (data, before) = (directory.path().join("data"), directory.path().join("old"));
        format_tests::filled(&data, 60, true).await;
        format_tests::copy(&data, &before);
        let store = Embedded::open_as(&data, format_tests::opening()).unwrap();
        store
            .commit(format_tests::put(1, vec![7; 40]))
            .await
            .unwrap();
        let tables = store.data.table_count();
        assert!(store.data.rotate_memtable().unwrap());
        while store.data.table_count() == tables {
            std::thread::yield_now();
        }
        drop(store);
        let tree = trees(&data.join(STORE)).unwrap().pop().unwrap();
        let old = trees(&before.join(STORE)).unwrap().pop().unwrap();
        let now = files(&tree).unwrap();
        assert_eq!((now.unlisted.len(), now.levels.is_empty()), (0, false));
        // The old list, until the directory is about to be read.
        let current = tree.join("current");
        let listed = fs::read(&current).unwrap();
        for entry in fs::read_dir(&old).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, tree.join(path.file_name().unwrap())).unwrap();
            }
        }
        assert_ne!(fs::read(&current).unwrap(), listed);
        assert!(!files(&tree).unwrap().unlisted.is_empty());
        let found = files_with(&tree, || fs::write(&current, &listed).unwrap());
        assert_eq!(found.unwrap(), now);
        // A list that changes each time is not used.
        let mut changes = 0u64;
        let changing = files_with(&tree, || {
            changes += 1;
            let is_even = changes.is_multiple_of(2);
            let other = fs::read(old.join("current")).unwrap();
            fs::write(&current, if is_even { &listed } else { &other }).unwrap();
        });
        assert!(changing.is_err(), "{changing:?}");
    }
}
