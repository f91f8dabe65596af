//! What only this engine does: it handles a full disk, keeps values in the write-behind, and reads
//! former formats.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fjall::{AbstractTree as _, Database, KeyspaceCreateOptions, PersistMode};
use proptest::prelude::*;

use super::{disk_space::Space, open::STORE_NEW, *};
use crate::store::{Expected, NameBytes, Version};

/// More than merging the tables of these stores takes.
const MIB: u64 = 1 << 20;

/// Opens a store on a disk whose free space, in bytes, the test sets.
pub(super) fn store_with_room(
    directory: &Path,
    reserve: u64,
    bounds: Bounds,
) -> (Embedded, Arc<AtomicU64>) {
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let seen = Arc::clone(&free);
    let room = DiskSpace::scripted(directory, reserve, move || Ok(seen.load(Ordering::SeqCst)));
    let (opening, limits) = (Opening::default(), memtables::Limits::default());
    let store = Embedded::open_with(directory, opening, room, bounds, limits).unwrap();
    (store, free)
}

pub(super) fn put(n: u8, value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(key(n), value.to_vec());
    batch
}

/// A full disk refuses writes, still serves reads, and accepts writes again as soon as there is
/// space.
#[tokio::test]
async fn disk_full_refuses_writes_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let (store, free) = store_with_room(directory.path(), 100 * MIB, Bounds::default());
    store.commit(put(1, b"1")).await.unwrap();
    free.store(99 * MIB, Ordering::SeqCst);
    let refused = store.commit(put(1, b"2")).await;
    assert!(matches!(refused, Err(CommitError::Full)));
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().value, "1");
    free.store(100 * MIB, Ordering::SeqCst);
    store.commit(put(1, b"3")).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().value, "3");
}

/// A commit that frees space is written while there is some, but not down to the last byte.
#[tokio::test]
async fn disk_full_accepts_tidying_down_to_quarter_of_reserve() {
    let directory = tempfile::tempdir().unwrap();
    let (store, free) = store_with_room(directory.path(), 100 * MIB, Bounds::default());
    for (left, is_written) in [(99, true), (26, true), (24, false), (0, false)] {
        free.store(left * MIB, Ordering::SeqCst);
        let mut tidying = Batch::tidying();
        tidying.delete(key(1));
        let outcome = store.commit(tidying).await;
        assert_eq!(outcome.is_ok(), is_written, "{left}: {outcome:?}");
    }
}

/// Nothing is written to a full disk on behalf of a refused commit. Such a write would fail, and a
/// failed write ends all reading.
#[tokio::test]
async fn disk_full_is_not_written_to_for_refused_commits() {
    let directory = tempfile::tempdir().unwrap();
    let bounds = Bounds {
        rows: 4,
        bytes: 5000,
    };
    let (store, free) = store_with_room(directory.path(), 100 * MIB, bounds);
    // The next group has values to bring from the write-behind to their own places.
    for n in 0..2 {
        store.commit(put(n, b"1")).await.unwrap();
    }
    for left in [99, 0] {
        free.store(left * MIB, Ordering::SeqCst);
        fail_next_sync(directory.path());
        for _ in 0..4 {
            let refused = store.commit(put(1, b"2")).await;
            assert!(matches!(refused, Err(CommitError::Full)), "{refused:?}");
        }
        assert_eq!(store.get(&key(1)).await.unwrap().unwrap().value, "1");
    }
    free.store(100 * MIB, Ordering::SeqCst);
    let failed = store.commit(put(1, b"3")).await;
    assert!(matches!(failed, Err(CommitError::Store(_))), "{failed:?}");
}

/// Returns the bytes of all tables, and of the memtable that will be written to tables.
fn engine_bytes(store: &Embedded, directory: &Path) -> u64 {
    let trees = examine::trees(&directory.join(STORE)).unwrap();
    let tables = trees
        .iter()
        .flat_map(|tree| manifest::tables(tree).unwrap());
    let bytes = tables.map(|table| fs::metadata(table.path).unwrap().len());
    bytes.sum::<u64>() + store.data.tree.active_memtable().size()
}

/// The engine stops for good if it has no space to write and merge tables. Before that, no commit
/// is given to it, not even one that would free space only with a merge.
#[tokio::test]
async fn disk_full_leaves_space_for_compaction() {
    let directory = tempfile::tempdir().unwrap();
    super::format_tests::filled(directory.path(), 200, true).await;
    let (store, free) = store_with_room(directory.path(), 100, Bounds::default());
    let spare = 100 / 4;
    let tidying = || Batch {
        tidies: true,
        ..put(1, b"1")
    };
    for (lacking, is_written) in [(0, true), (1, false)] {
        for batch in [put(1, b"1"), tidying()] {
            let bytes = engine_bytes(&store, directory.path());
            assert!(bytes > 10_000, "{bytes}");
            free.store(bytes + spare - lacking, Ordering::SeqCst);
            let outcome = store.commit(batch).await;
            assert_eq!(outcome.is_ok(), is_written, "{lacking}: {outcome:?}");
        }
    }
}

/// Dropping the store does not wait until tables are merged: all that was answered is on disk, and
/// the mark records it. Until the engine is closed nobody else opens the store.
#[tokio::test]
async fn compaction_is_not_awaited_when_store_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let store = Embedded::open(data).unwrap();
    store.commit(put(1, b"1")).await.unwrap();
    let hold = hold_closing(data);
    drop(store);
    let mark::StoredMark::Mark(mark) = mark::Mark::read(data).unwrap() else {
        panic!("there is no mark");
    };
    assert_eq!(mark.version, Version(1));
    let locked = Embedded::open(data).unwrap_err();
    assert!(matches!(locked, OpenError::Locked(_)), "{locked}");
    assert!(locked.may_pass());
    drop(hold);
    let store = loop {
        match Embedded::open(data) {
            Err(OpenError::Locked(_)) => std::thread::yield_now(),
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().value, "1");
}

/// The engine's own lock stays held after a panic in it. That is not damage, and no backup helps.
#[test]
fn engine_still_locked_asks_for_restart() {
    let directory = tempfile::tempdir().unwrap();
    drop(Embedded::open(directory.path()).unwrap());
    let engine = Database::builder(directory.path().join(STORE)).open();
    // The engine that is still alive is writing this table.
    let tree = examine::trees(&directory.path().join(STORE)).unwrap().pop();
    let merging = tree.unwrap().join("tables/999");
    fs::write(&merging, "half a table").unwrap();
    let held = Embedded::open(directory.path()).unwrap_err();
    assert!(matches!(held, OpenError::Held(_)), "{held}");
    let said = held.to_string();
    assert!(
        said.contains("start merpati again") && !said.contains("backup"),
        "{said}"
    );
    assert!(!held.may_pass());
    assert!(merging.exists());
    drop(engine);
    drop(Embedded::open(directory.path()).unwrap());
}

/// The space for what a running merge has already written is not needed again, so others go on
/// writing.
#[tokio::test]
async fn disk_full_counts_space_of_running_compaction_once() {
    const WRITTEN: u16 = 10_000;
    let directory = tempfile::tempdir().unwrap();
    super::format_tests::filled(directory.path(), 200, true).await;
    let (store, free) = store_with_room(directory.path(), 0, Bounds::default());
    let written = store.data.path().join("tables/999");
    fs::write(&written, [0; WRITTEN as usize]).unwrap();
    for is_written in [true, false] {
        let bytes = engine_bytes(&store, directory.path());
        free.store(bytes - u64::from(WRITTEN), Ordering::SeqCst);
        let outcome = store.commit(put(1, b"1")).await;
        assert_eq!(outcome.is_ok(), is_written, "{outcome:?}");
        if is_written {
            fs::remove_file(&written).unwrap();
        }
    }
}

/// What a running merge has written is not free. Neither concurrent writes nor the merge take the
/// reserve.
#[tokio::test]
async fn disk_full_keeps_reserve_during_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let (reserve, spare) = (100 * MIB, 25 * MIB);
    let (store, free) = store_with_room(directory.path(), reserve, Bounds::default());
    let written = fs::File::create(store.data.path().join("tables/999")).unwrap();
    written.set_len(1000 * MIB).unwrap();
    for (left, is_written, tidies) in [
        (reserve, true, true),
        (reserve - 1, false, true),
        (spare, false, true),
        (spare - 1, false, false),
    ] {
        free.store(left, Ordering::SeqCst);
        let outcome = store.commit(put(1, b"1")).await;
        assert_eq!(outcome.is_ok(), is_written, "{left}: {outcome:?}");
        let mut tidying = Batch::tidying();
        tidying.delete(key(2));
        let outcome = store.commit(tidying).await;
        assert_eq!(outcome.is_ok(), tidies, "{left}: {outcome:?}");
    }
}

/// A look at the free space holds only for a bounded number of bytes written to a disk that was not
/// full.
#[tokio::test]
async fn disk_full_is_detected_after_bounded_bytes_written() {
    for (bytes, is_refused) in [(90 << 10, false), (140 << 10, true)] {
        let directory = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(u64::MAX));
        let seen = Arc::clone(&free);
        let asked = move || Ok(seen.load(Ordering::SeqCst));
        let room = DiskSpace::new(directory.path(), MIB, Duration::from_hours(1), asked);
        let (bounds, limits) = (Bounds::default(), memtables::Limits::default());
        let opening = Opening::default();
        let store = Embedded::open_with(directory.path(), opening, room, bounds, limits).unwrap();
        store.commit(put(1, b"1")).await.unwrap();
        free.store(0, Ordering::SeqCst);
        store.commit(put(2, &vec![b'v'; bytes])).await.unwrap();
        let outcome = store.commit(put(3, b"3")).await;
        let has_refused = matches!(outcome, Err(CommitError::Full));
        assert_eq!(has_refused, is_refused, "{outcome:?}");
    }
}

/// If the list of tables cannot be read any more, the bytes that a merge had written no longer
/// count: they may have been freed, or be in the list.
#[tokio::test]
async fn disk_full_ignores_running_compaction_with_unreadable_list() {
    let directory = tempfile::tempdir().unwrap();
    super::format_tests::filled(directory.path(), 200, true).await;
    let trees = examine::trees(&directory.path().join(STORE)).unwrap();
    let written = trees.last().unwrap().join("tables/999");
    fs::write(written, [0; 1000]).unwrap();
    let levels = trees
        .iter()
        .flat_map(|tree| manifest::files(tree).unwrap().levels);
    let merging: u64 = levels.map(|level| level.bytes).sum();
    let left = merging - 1000;
    let mut room = DiskSpace::scripted(directory.path(), 0, move || Ok(left));
    let trees = directory.path().join(STORE).join("keyspaces");
    assert_eq!(room.look(0), Space::Enough);
    fs::rename(&trees, trees.with_extension("aside")).unwrap();
    assert_eq!(room.look(0), Space::None);
}

/// A merge begins only if it leaves a quarter of the reserve.
#[tokio::test]
async fn compaction_leaves_quarter_of_reserve() {
    let directory = tempfile::tempdir().unwrap();
    super::format_tests::filled(directory.path(), 200, true).await;
    let tables = examine::trees(&directory.path().join(STORE)).unwrap();
    let tables = tables
        .iter()
        .flat_map(|tree| manifest::tables(tree).unwrap());
    let merging: u64 = tables
        .map(|table| fs::metadata(table.path).unwrap().len())
        .sum();
    let needed = merging + 25;
    for (left, lacks) in [(needed, None), (needed - 1, Some((needed - 1, needed)))] {
        let room = DiskSpace::scripted(directory.path(), 100, move || Ok(left));
        assert_eq!(room.disk().lacks(), lacks);
    }
}

/// If the disk does not report its free space, it counts as full as before, and not as full because
/// of that.
#[test]
fn disk_full_state_is_kept_when_free_space_is_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let said = Arc::new(Mutex::new(None));
    let saying = Arc::clone(&said);
    let free = move || {
        let said: Option<u64> = *saying.lock().unwrap();
        said.ok_or_else(|| io::Error::other("it does not say"))
    };
    let mut room = DiskSpace::scripted(directory.path(), 100, free);
    for (says, space) in [
        (None, Space::Enough),
        (Some(99), Space::Little),
        (None, Space::Little),
        (Some(0), Space::None),
        (None, Space::None),
        (Some(100), Space::Enough),
        (None, Space::Enough),
    ] {
        *said.lock().unwrap() = says;
        assert_eq!(room.look(0), space, "{says:?}");
    }
}

/// The remains of an unfinished merge are deleted before a journal is rewritten, because there may
/// be no other space. A start that is refused leaves everything as it was.
#[tokio::test]
async fn compaction_remains_are_deleted_before_journal_is_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    super::format_tests::filled(directory.path(), 20, true).await;
    let tree = examine::trees(&directory.path().join(STORE)).unwrap().pop();
    let left = tree.unwrap().join("tables/999");
    fs::write(&left, "half a table").unwrap();
    let journal = format_tests::journal_of(directory.path());
    let aside = journal.with_extension("aside");
    fs::rename(&journal, &aside).unwrap();
    let refused = Embedded::open_as(directory.path(), format_tests::opening());
    assert!(
        matches!(refused, Err(OpenError::Lost { .. })),
        "{refused:?}"
    );
    assert!(left.exists());
    fs::rename(&aside, &journal).unwrap();
    // The journal cannot be rewritten, as on a full disk.
    let obstacle = journal.with_extension("mended");
    fs::create_dir(&obstacle).unwrap();
    let again = || {
        let opening = Opening {
            is_after_failure: true,
            ..format_tests::opening()
        };
        Embedded::open_as(directory.path(), opening)
    };
    let failed = again();
    assert!(matches!(failed, Err(OpenError::Io { .. })), "{failed:?}");
    assert!(!left.exists());
    fs::remove_dir(&obstacle).unwrap();
    let store = again().unwrap();
    let found = store.get(&format_tests::key(7)).await.unwrap();
    assert_eq!(found.unwrap().value.len(), 40);
}

/// The configured reserve is left free.
#[tokio::test]
async fn disk_full_reserve_is_left_free_as_configured() {
    for (reserve, is_written) in [(0, true), (u64::MAX, false)] {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open_as(
            directory.path(),
            Opening {
                reserve,
                ..Opening::default()
            },
        )
        .unwrap();
        let mut batch = Batch::new();
        batch.put(Key(b"a"[..].into()), b"1".to_vec());
        assert_eq!(store.commit(batch).await.is_ok(), is_written, "{reserve}");
    }
}

/// The remains of an interrupted first start do no harm.
#[test]
fn recovery_after_interrupted_first_start_creates_store() {
    let directory = tempfile::tempdir().unwrap();
    let fresh = directory.path().join(STORE_NEW);
    fs::create_dir_all(fresh.join("keyspaces")).unwrap();
    fs::write(fresh.join("0.jnl"), b"half").unwrap();
    drop(Embedded::open(directory.path()).unwrap());
    assert!(Embedded::exists(directory.path()) && !fresh.exists());
}

/// Before format 2 each value was in its own place at once.
#[tokio::test]
async fn store_of_format_1_is_read_and_converted() {
    let directory = tempfile::tempdir().unwrap();
    let raw = || {
        let builder = Database::builder(directory.path().join("store"));
        let database = builder.open().unwrap();
        let data = database.keyspace("data", KeyspaceCreateOptions::default);
        (database, data.unwrap())
    };
    let (database, data) = raw();
    let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(&data, layout::FORMAT_KEY, 1u32.to_be_bytes());
    batch.insert(&data, layout::VERSION_KEY, 7u64.to_be_bytes());
    let mut value = Vec::new();
    layout::add_value(&mut value, Version(7), b"old");
    batch.insert(&data, &layout::key(&key(1))[..], value);
    batch.commit().unwrap();
    drop((database, data));
    for (version, value) in [(7, "old"), (8, "new"), (9, "new")] {
        let store = Embedded::open(directory.path()).unwrap();
        let found = store.get(&key(1)).await.unwrap().unwrap();
        assert_eq!(
            (found.version.0, &*found.value),
            (version, value.as_bytes())
        );
        let mut batch = Batch::new();
        batch.expect(key(1), Expected::At(found.version));
        batch.put(key(1), b"new".to_vec());
        store.commit(batch).await.unwrap();
    }
    let (_database, data) = raw();
    let format = data.get(layout::FORMAT_KEY).unwrap().unwrap();
    assert_eq!(format.first_chunk(), Some(&layout::FORMAT.to_be_bytes()));
}

/// A step of a test with a store.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Delete(u8),
    List(u8, Option<u8>, usize),
    Open,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0u8..60, 0u16..300).prop_map(|(key, len)| Step::Put(key, len)),
        3 => (0u8..60).prop_map(Step::Delete),
        2 => (0u8..4, prop::option::of(0u8..60), 0usize..40).prop_map(|(prefix, after, limit)| Step::List(prefix, after, limit)),
        1 => Just(Step::Open),
    ];
    prop::collection::vec(step, 1..150)
}

/// Returns a key; keys share a few prefixes.
pub(super) fn key(n: u8) -> Key {
    Key([b'a' + n / 16, n][..].into())
}

async fn follow(steps: Vec<Step>, bounds: Bounds) {
    let directory = tempfile::tempdir().unwrap();
    let open = || {
        let room = DiskSpace::of(directory.path(), 0);
        let (opening, limits) = (Opening::default(), memtables::Limits::default());
        Embedded::open_with(directory.path(), opening, room, bounds, limits).unwrap()
    };
    let mut store = open();
    let mut model: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put(n, len) => {
                let value = vec![n; len.into()];
                let mut batch = Batch::new();
                batch.put(key(n), value.clone());
                // A second key in the same group, with an expected version.
                let other = store.get(&key(n ^ 1)).await.unwrap();
                if let Some(other) = other {
                    batch.expect(key(n ^ 1), Expected::At(other.version));
                    batch.put(key(n ^ 1), vec![0]);
                    model.insert(key(n ^ 1), vec![0]);
                }
                model.insert(key(n), value);
                store.commit(batch).await.unwrap();
            }
            Step::Delete(n) => {
                let mut batch = Batch::new();
                batch.delete(key(n));
                store.commit(batch).await.unwrap();
                model.remove(&key(n));
            }
            Step::List(prefix, after, limit) => {
                let prefix = Prefix([b'a' + prefix][..].into());
                let after = after.map(key);
                let found = store.list(&prefix, after.as_ref(), limit).await.unwrap();
                let found: Vec<_> = found
                    .into_iter()
                    .map(|(key, value)| (key, value.value.to_vec()))
                    .collect();
                let expected: Vec<_> = model
                    .iter()
                    .filter(|(key, _)| key.0.starts_with(&prefix.0))
                    .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
                    .take(limit)
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                assert_eq!(found, expected);
            }
            Step::Open => {
                drop(store);
                store = open();
            }
        }
    }
    for n in 0..60 {
        let found = store.get(&key(n)).await.unwrap();
        assert_eq!(
            found.map(|found| found.value.to_vec()).as_ref(),
            model.get(&key(n))
        );
    }
    let all = Prefix(NameBytes::new());
    let (rows, held) = (bounds.rows, store.behind.list(&all, None, usize::MAX).len());
    assert!(held <= 60, "{held} values behind, {rows} rows");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However small the write-behind may be, each value that was put is found, in its own place or
    /// on its way there, also after a start.
    #[test]
    fn write_behind_values_are_found_as_if_in_place(steps in steps(), rows in 2u16..12, bytes in 300usize..5000) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(follow(steps, Bounds { rows, bytes }));
    }
}

/// Two servers on one directory would undo each other's work.
#[test]
fn store_directory_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let error = Embedded::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    assert!(error.to_string().contains("stop it first"));
    drop(store);
    Embedded::open(directory.path()).unwrap();
}

#[test]
fn store_directory_not_creatable_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Embedded::open(&file.path().join("below")).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }));
    assert!(error.to_string().contains(file.path().to_str().unwrap()));
}

/// A record of a wrong length is damage, and never a plausible value: positions of a log would be
/// used again if the mark of what was trimmed were read as 0.
#[tokio::test]
async fn record_of_wrong_length_is_damage_and_not_a_value() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).unwrap();
    let [trimmed, filled] = [b"t", b"f"].map(|name| Log(name[..].into()));
    let place = layout::trimmed(&trimmed);
    store.data.insert(&place[..], [0; 7]).unwrap();
    let mut place = layout::entry(&filled, Position(1));
    place.push(0);
    store.data.insert(&place[..], "entry").unwrap();
    for log in [trimmed, filled] {
        let found = store.last(&log).await;
        assert!(matches!(found, Err(StoreError::Damaged(_))), "{found:?}");
        let mut batch = Batch::new();
        batch.append(log.clone(), b"x".to_vec());
        let refused = store.commit(batch).await;
        let is_damage = matches!(refused, Err(CommitError::Store(StoreError::Damaged(_))));
        assert!(is_damage, "{refused:?}");
    }
    // Nothing else of the store is affected.
    store.commit(put(1, b"1")).await.unwrap();
}
