//! Holds what is read here of the engine's files to what the engine writes: an upgrade that changes
//! that fails here, and not at an operator's next start.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the files of tests are small"
)]

use std::fs;

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

use super::{
    examine::{journals, trees},
    journal::{Contents, Journal, Record},
    mark::{self, Mark},
    scrubber::Scrubbed,
    *,
};
use crate::store::Version;

pub(super) fn opening() -> Opening {
    Opening {
        reserve: 0,
        scrub: None,
        ..Opening::default()
    }
}

pub(super) fn key(n: u16) -> Key {
    Key([b"k", &n.to_be_bytes()[..]].concat()[..].into())
}

pub(super) fn put(n: u16, value: Vec<u8>) -> Batch {
    let mut batch = Batch::new();
    batch.put(key(n), value);
    batch
}

fn log() -> Log {
    Log(b"log"[..].into())
}

/// No two are alike, so that compression leaves them several blocks.
fn entry(n: u16) -> Vec<u8> {
    let mut state = u64::from(n) + 1;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(200).collect()
}

/// A store with so many values and entries, in tables if asked for.
pub(super) async fn filled(directory: &Path, values: u16, in_tables: bool) {
    let store = Embedded::open_as(directory, opening()).unwrap();
    for n in 0..values {
        let mut batch = put(n, vec![n as u8; 40]);
        batch.append(log(), entry(n));
        store.commit(batch).await.unwrap();
    }
    if in_tables {
        assert!(store.data.rotate_memtable().unwrap());
        while store.data.table_count() == 0 {
            std::thread::yield_now();
        }
    }
}

pub(super) fn journal_of(data: &Path) -> std::path::PathBuf {
    journals(&data.join(STORE)).unwrap().pop().unwrap().1
}

pub(super) fn records(path: &Path) -> (Vec<Record>, u64) {
    let mut journal = Journal::open(path).unwrap();
    let (mut records, mut at) = (Vec::new(), 0);
    loop {
        match journal.at(at).unwrap() {
            Contents::Record(record) => {
                at = record.end;
                records.push(record);
            }
            Contents::End => return (records, at),
            Contents::Bad => panic!("{at} is bad after {records:?}"),
        }
    }
}

/// Every kind of item that the engine writes is read: values short and long (which it compresses),
/// deletions, cleared keyspaces, and commits of one.
#[test]
fn journal_written_by_engine_is_read_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::builder(directory.path()).open().unwrap();
    let data = database.keyspace("data", KeyspaceCreateOptions::default);
    let data = data.unwrap();
    for n in 0..40u32 {
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for m in 0..=n % 5 {
            batch.insert(&data, m.to_be_bytes(), vec![n as u8; n as usize * 700]);
            batch.remove(&data, (m + 100).to_be_bytes());
        }
        batch.commit().unwrap();
    }
    data.insert(b"alone", b"1").unwrap();
    data.clear().unwrap();
    data.remove(b"alone").unwrap();
    database.persist(PersistMode::SyncAll).unwrap();
    let path = directory.path().join("0.jnl");
    let (found, end) = records(&path);
    assert_eq!(found.len(), 43);
    assert!(found.is_sorted_by(|one, next| one.sequence < next.sequence));
    let bytes = fs::read(&path).unwrap();
    assert!(bytes[end as usize..].iter().all(|byte| *byte == 0));
    assert!(bytes[..end as usize].ends_with(b"FJL\x03"));
}

/// A store's own records bear its seal, with the version that it was at.
#[tokio::test]
async fn journal_records_bear_seal_of_store() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 5, false).await;
    let mark::StoredMark::Mark(mark) = Mark::read(directory.path()).unwrap() else {
        panic!("there is no mark");
    };
    assert_eq!(mark.version, Version(5));
    let (found, _) = records(&journal_of(directory.path()));
    let sealed = found.iter().filter_map(|record| record.seal);
    let versions: Vec<u64> = sealed
        .filter(|seal| seal.token == mark.token)
        .map(|seal| seal.version.0)
        .collect();
    assert_eq!(versions, [1, 2, 3, 4, 5]);
}

/// The lists of tables name the files that there are, with the checksums that they have.
#[tokio::test]
async fn manifest_lists_existing_files_with_checksums() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 200, true).await;
    let trees = trees(&directory.path().join(STORE)).unwrap();
    assert_eq!(trees.len(), 2);
    for tree in trees {
        let mut listed = manifest::tables(&tree).unwrap();
        listed.sort_by(|one, other| one.path.cmp(&other.path));
        let files = fs::read_dir(tree.join("tables")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        let named: Vec<_> = listed.iter().map(|table| table.path.clone()).collect();
        assert!(!files.is_empty());
        assert_eq!(named, files);
        for table in listed {
            let len = fs::metadata(&table.path).unwrap().len();
            table.glance().unwrap();
            assert_eq!(table.check(|| true).unwrap(), Some(len));
        }
    }
}

pub(super) fn table_of(data: &Path) -> std::path::PathBuf {
    let tree = trees(&data.join(STORE)).unwrap().pop().unwrap();
    manifest::tables(&tree).unwrap().pop().unwrap().path
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if entry.metadata().unwrap().len() < 1 << 20 {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Wherever a table has rotted (a block, the index, the filter, its table of contents), reading
/// answers an error or what was written, and never nothing; and the file is named.
#[tokio::test]
async fn damage_anywhere_in_table_is_never_read_as_nothing() {
    let directory = super::harness::scratch();
    let made = directory.path().join("made");
    filled(&made, 60, true).await;
    // Its journal is not longer than what is in it, so that copying is quick.
    drop(Embedded::open_as(&made, opening()).unwrap());
    let len = fs::metadata(table_of(&made)).unwrap().len();
    let (mut refused, mut failed) = (0, 0);
    for at in (0..len).step_by(89) {
        let copied = directory.path().join("copied");
        copy(&made, &copied);
        // All is in the table now: the journal would cover it up.
        let journal = journal_of(&copied);
        fs::write(&journal, b"").unwrap();
        let table = table_of(&copied);
        let mut bytes = fs::read(&table).unwrap();
        bytes[at as usize] ^= 0x10;
        fs::write(&table, bytes).unwrap();
        match Embedded::open_as(&copied, opening()) {
            Err(OpenError::Damaged { path, .. }) => {
                assert_eq!(path, table, "{at}");
                refused += 1;
            }
            Err(error) => panic!("{at}: {error}"),
            Ok(store) => {
                let mut errors = 0;
                for n in 0..60 {
                    let one = PageLimit {
                        entries: 1,
                        bytes: 1,
                    };
                    match store.read(&log(), Position(n.into()), one).await {
                        Ok(page) => {
                            assert_eq!(
                                page.entries,
                                [(Position(u64::from(n) + 1), entry(n))],
                                "{at}"
                            );
                        }
                        Err(StoreError::Damaged(_)) => errors += 1,
                        Err(error) => panic!("{at}: {error}"),
                    }
                    match store.get(&key(n)).await {
                        Ok(found) => assert_eq!(found.unwrap().value, vec![n as u8; 40], "{at}"),
                        Err(StoreError::Damaged(_)) => errors += 1,
                        Err(error) => panic!("{at}: {error}"),
                    }
                }
                if errors > 0 {
                    failed += 1;
                    let damaged = vec![table];
                    assert_eq!(store.keeper.scrubbed(1), Scrubbed { times: 1, damaged });
                }
            }
        }
        fs::remove_dir_all(&copied).unwrap();
    }
    assert!(refused > 0 && failed > 0, "{refused} {failed}");
}

/// What needs a damaged record is refused by itself: it is not written, and others are, also in the
/// same group.
#[tokio::test]
async fn damage_in_record_refuses_only_batches_that_need_it() {
    let directory = super::harness::scratch();
    let made = directory.path().join("made");
    // Its end is not in the block of what a start reads.
    let first = Log(b"a"[..].into());
    let store = Embedded::open_as(&made, opening()).unwrap();
    for n in 0..60 {
        let mut batch = Batch::new();
        batch.append(first.clone(), entry(n));
        store.commit(batch).await.unwrap();
    }
    drop(store);
    filled(&made, 60, true).await;
    let len = fs::metadata(table_of(&made)).unwrap().len();
    for at in (0..len).step_by(500) {
        let copied = directory.path().join(at.to_string());
        copy(&made, &copied);
        // All is in the table now: the journal would cover it up.
        fs::write(copied.join("store/0.jnl"), b"").unwrap();
        let table = table_of(&copied);
        let mut bytes = fs::read(&table).unwrap();
        bytes[at as usize] ^= 0x10;
        fs::write(&table, bytes).unwrap();
        let Ok(store) = Embedded::open_as(&copied, opening()) else {
            continue;
        };
        if store.last(&first).await.is_ok() {
            continue;
        }
        let mut appending = Batch::new();
        appending.append(first, b"next".to_vec());
        let (refused, written) = tokio::join!(
            store.commit(appending),
            store.commit(put(100, b"other".to_vec()))
        );
        assert!(
            matches!(refused, Err(CommitError::Store(StoreError::Damaged(_)))),
            "{refused:?}"
        );
        written.unwrap();
        assert_eq!(store.get(&key(100)).await.unwrap().unwrap().value, "other");
        return;
    }
    panic!("the end of the log was damaged nowhere");
}

/// All tables are read at a start, and what is wrong with them is found before anybody asks for it.
#[tokio::test]
async fn scrub_names_damaged_file() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 200, true).await;
    let scrubbing = Opening {
        scrub: Some(crate::store::SCRUB),
        ..opening()
    };
    let store = Embedded::open_as(directory.path(), scrubbing).unwrap();
    let sound = store.keeper.scrubbed(1);
    assert_eq!(sound.damaged, Vec::<std::path::PathBuf>::new());
    drop(store);
    let table = table_of(directory.path());
    let mut bytes = fs::read(&table).unwrap();
    let at = bytes.len() * 2 / 3;
    bytes[at] ^= 1;
    fs::write(&table, bytes).unwrap();
    let store = Embedded::open_as(directory.path(), scrubbing).unwrap();
    assert_eq!(store.keeper.scrubbed(1).damaged, [table]);
}

/// What is missing beside a filled store is named, and no empty store is made of the rest.
#[tokio::test]
async fn recovery_with_missing_files_names_them() {
    let missing = [
        ("store", "is gone"),
        ("store/version", "store/version is missing"),
        ("store/0.jnl", "its journal is missing"),
        ("store/keyspaces", "store/keyspaces is missing"),
        ("store/keyspaces/0", "store/keyspaces/0 is missing"),
        ("store/keyspaces/1", "store/keyspaces/1 is missing"),
        (
            "store/keyspaces/0/current",
            "keyspaces/0/current is missing",
        ),
        (
            "store/keyspaces/1/current",
            "keyspaces/1/current is missing",
        ),
        ("store/keyspaces/1/tables", "keyspaces/1/tables/"),
    ];
    for (path, said) in missing {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 20, true).await;
        let path = directory.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let error = Embedded::open_as(directory.path(), opening()).unwrap_err();
        assert!(error.to_string().contains(said), "{path:?}: {error}");
        let again = Embedded::open_as(directory.path(), opening()).unwrap_err();
        assert_eq!(error.to_string(), again.to_string(), "{path:?}");
        assert!(!path.exists(), "{path:?} was made again");
    }
}

/// A store of an earlier release has no mark, and gets one.
#[tokio::test]
async fn mark_missing_or_damaged_is_rewritten() {
    for damage in [None, Some(&b"half a mark"[..])] {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 3, false).await;
        let file = directory.path().join("store.mark");
        match damage {
            None => fs::remove_file(&file).unwrap(),
            Some(bytes) => fs::write(&file, bytes).unwrap(),
        }
        let store = Embedded::open_as(directory.path(), opening()).unwrap();
        assert!(store.get(&key(2)).await.unwrap().is_some());
        let found = Mark::read(directory.path()).unwrap();
        assert!(matches!(found, mark::StoredMark::Mark(mark) if mark.version == Version(3)));
    }
}
