//! Writes a store, takes an image of its files as a stop or a crash would leave them, and damages
//! that.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

use rand::{RngExt as _, rngs::StdRng};
use tempfile::TempDir;

use super::super::{examine::journals, *};

const SECTOR: u64 = 512;
/// What a store must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub values: BTreeMap<Key, Vec<u8>>,
    pub entries: Vec<Vec<u8>>,
}

pub fn key(n: u8) -> Key {
    Key([b'k', n][..].into())
}

pub fn all() -> Log {
    Log(b"all"[..].into())
}

/// What is done to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Nothing,
    ZeroSector,
    FlipBit,
    CutOff,
    Lose,
    LoseDirectory,
}

/// How the process ended that had the store open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It closed the store.
    Stop,
    /// It was killed: all that it has written is there.
    Kill,
    /// The machine died: of what was not synced some sectors are there.
    PowerLoss,
}

/// A written store, with its expected contents after each commit.
pub struct Written {
    pub directory: TempDir,
    pub models: Vec<Model>,
    /// Where the journal ended after each commit.
    pub ends: Vec<u64>,
    /// The commit that was acknowledged last when the image was taken.
    pub acknowledged: usize,
    /// The last commit that the mark declares durable.
    pub marked: usize,
    pub end: End,
}

impl Written {
    pub fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// True when a piece of the journal has something of a commit.
    pub fn touches(&self, piece: &Range<u64>, commit: usize) -> bool {
        self.ends[commit] > piece.start && self.ends[commit - 1] < piece.end
    }
}

/// A directory in memory, if there is one.
pub fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let named = tempfile::Builder::new()
        .prefix("merpati-damage-")
        .to_owned();
    if memory.is_dir() {
        named.tempdir_in(memory).unwrap()
    } else {
        named.tempdir().unwrap()
    }
}

pub fn opening(accepts_damage: bool) -> Opening {
    Opening {
        reserve: 0,
        accepts_damage,
        scrub: None,
        ..Opening::default()
    }
}

pub fn newest_journal(data: &Path) -> PathBuf {
    let journals = journals(&data.join(STORE)).unwrap();
    journals.last().unwrap().1.clone()
}

/// The bytes of a file without the zeros behind them.
pub fn written(path: &Path) -> Vec<u8> {
    let (mut file, mut bytes) = (fs::File::open(path).unwrap(), Vec::new());
    loop {
        let before = bytes.len();
        (&mut file).take(1 << 16).read_to_end(&mut bytes).unwrap();
        if bytes[before..].iter().all(|byte| *byte == 0) {
            break;
        }
    }
    let len = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    bytes.truncate(len);
    bytes
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::write(&place, written(&entry.path())).unwrap();
            let len = entry.metadata().unwrap().len();
            let copied = fs::OpenOptions::new().write(true).open(&place).unwrap();
            copied.set_len(len).unwrap();
        }
    }
}

pub fn random_batch(rng: &mut StdRng, model: &mut Model) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..rng.random_range(1..4) {
        let n = rng.random_range(0..12);
        if rng.random_bool(0.2) {
            batch.delete(key(n));
            model.values.remove(&key(n));
        } else {
            let len = if rng.random_bool(0.1) { 6000 } else { 300 };
            let mut value = vec![0; rng.random_range(0..len.max(1))];
            rng.fill(&mut value[..]);
            batch.put(key(n), value.clone());
            model.values.insert(key(n), value);
        }
    }
    // Long ones are in blocks of their own, which a start does not read.
    let len = if rng.random_bool(0.2) { 3000 } else { 200 };
    let mut entry = vec![0; rng.random_range(1..len)];
    rng.fill(&mut entry[..]);
    batch.append(all(), entry.clone());
    model.entries.push(entry);
    batch
}

/// Sorts what was written into a table, and waits until that is done.
pub fn flush(store: &Embedded) {
    let tables = store.data.table_count();
    if store.data.rotate_memtable().unwrap() {
        while store.data.table_count() == tables {
            std::thread::yield_now();
        }
    }
}

pub async fn write(rng: &mut StdRng) -> Written {
    let directory = scratch();
    let (live, image) = (
        directory.path().join("live"),
        directory.path().join("image"),
    );
    let open = || Embedded::open_as(&live, opening(false)).unwrap();
    let mut store = open();
    let commits = rng.random_range(2..20);
    let acknowledged = rng.random_range(1..=commits);
    let end = [End::Stop, End::Kill, End::PowerLoss][rng.random_range(0..3)];
    let (mut models, mut ends, mut marked) = (vec![Model::default()], vec![0], 0);
    for n in 1..=acknowledged {
        if rng.random_bool(0.1) {
            // Marked, and with a journal that has no room reserved.
            drop(store);
            store = open();
            marked = n - 1;
        }
        if rng.random_bool(0.15) {
            flush(&store);
        }
        let mut model = models[n - 1].clone();
        store.commit(random_batch(rng, &mut model)).await.unwrap();
        models.push(model);
        ends.push(written(&newest_journal(&live)).len() as u64);
    }
    if end == End::Stop {
        drop(store);
        marked = acknowledged;
        copy(&live, &image);
    } else {
        copy(&live, &image);
        let before = written(&newest_journal(&live));
        let mut model = models[acknowledged].clone();
        store.commit(random_batch(rng, &mut model)).await.unwrap();
        models.push(model);
        let after = written(&newest_journal(&live));
        ends.push(after.len() as u64);
        tear(rng, end, &newest_journal(&image), &before, after);
    }
    Written {
        directory,
        models,
        ends,
        acknowledged,
        marked,
        end,
    }
}

/// Writes a part of what was written between two images.
pub fn tear(rng: &mut StdRng, end: End, journal: &Path, before: &[u8], mut after: Vec<u8>) {
    let is_reserved = fs::metadata(journal).unwrap().len() > after.len() as u64;
    if end == End::PowerLoss {
        for at in (0..after.len()).step_by(SECTOR as usize) {
            let sector = at..after.len().min(at + SECTOR as usize);
            if rng.random_bool(0.5) {
                for at in sector {
                    after[at] = before.get(at).copied().unwrap_or_default();
                }
            }
        }
    }
    if rng.random_bool(0.5) {
        after.truncate(rng.random_range(before.len()..=after.len()));
    }
    let mut file = fs::OpenOptions::new().write(true).open(journal).unwrap();
    file.write_all(&after).unwrap();
    if !is_reserved {
        file.set_len(after.len() as u64).unwrap();
    }
}

pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Damages one file of an image; which, and where.
pub fn damage(rng: &mut StdRng, image: &Path) -> (Damage, PathBuf, Range<u64>) {
    use Damage::{CutOff, FlipBit, Lose, LoseDirectory, Nothing, ZeroSector};

    let kinds = [
        Nothing,
        ZeroSector,
        ZeroSector,
        FlipBit,
        FlipBit,
        CutOff,
        Lose,
        LoseDirectory,
    ];
    let kind = kinds[rng.random_range(0..kinds.len())];
    let mut candidates = files(image);
    candidates.retain(|path| {
        let name = path.file_name().unwrap();
        name != "merpati.lock" && (name == "lock" || !written(path).is_empty())
    });
    // The journal and the tables are where things are.
    let journal = newest_journal(image);
    let mut tables = candidates.clone();
    tables.retain(|path| path.parent().unwrap().ends_with("1/tables"));
    let path = if !tables.is_empty() && rng.random_bool(0.4) {
        tables[rng.random_range(0..tables.len())].clone()
    } else if rng.random_bool(0.4) && !written(&journal).is_empty() {
        journal
    } else {
        candidates[rng.random_range(0..candidates.len())].clone()
    };
    let len = written(&path).len() as u64;
    // There is nothing in the engine's lock file that could be damaged.
    let kind = if len == 0 { Lose } else { kind };
    let at = rng.random_range(0..len.max(1));
    let range = match kind {
        Nothing => 0..0,
        ZeroSector => {
            let from = at / SECTOR * SECTOR;
            from..(from + SECTOR).min(len)
        }
        FlipBit => at..at + 1,
        CutOff => at..len,
        Lose | LoseDirectory => 0..len,
    };
    let open = || {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap()
    };
    match kind {
        Nothing => {}
        ZeroSector | FlipBit => {
            let mut file = open();
            let mut bytes = vec![0; (range.end - range.start) as usize];
            if kind == FlipBit {
                file.seek(SeekFrom::Start(at)).unwrap();
                file.read_exact(&mut bytes).unwrap();
                bytes[0] ^= 1 << rng.random_range(0..8);
            }
            file.seek(SeekFrom::Start(range.start)).unwrap();
            file.write_all(&bytes).unwrap();
        }
        CutOff => open().set_len(at).unwrap(),
        Lose => fs::remove_file(&path).unwrap(),
        LoseDirectory => {
            let store = image.join(STORE);
            let trees = store.join("keyspaces");
            let lost = [
                store,
                trees.join("0"),
                trees.join("1"),
                trees.join("1/tables"),
                trees,
            ];
            let lost = lost[rng.random_range(0..lost.len())].clone();
            fs::remove_dir_all(&lost).unwrap();
            return (kind, lost, range);
        }
    }
    (kind, path, range)
}
