//! What is made of journals that are torn, damaged, divided, or hold what looks like a record.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the files of tests are small"
)]

use std::fs;

use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use proptest::prelude::*;

use super::{
    examine::{Manner, examine},
    format_tests::{filled, journal_of, key, opening, put, records},
    journal::{Journal, Record},
    mark::{self, Mark},
    *,
};
use crate::store::Version;

/// The engine writes a record that a user has made up. Its checksum has no key.
fn forged(directory: &Path, sequence: u64) -> Vec<u8> {
    let database = Database::builder(directory).open().unwrap();
    let data = database
        .keyspace("data", KeyspaceCreateOptions::default)
        .unwrap();
    let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
    batch.insert(
        &data,
        &layout::key(&key(0))[..],
        b"\0\0\0\0\0\0\0\x01forged".to_vec(),
    );
    batch.commit().unwrap();
    let path = directory.join("0.jnl");
    let (found, _) = records(&path);
    let bytes = fs::read(path).unwrap();
    let mut record = bytes[found[0].at as usize..found[0].end as usize].to_vec();
    record[5..13].copy_from_slice(&sequence.to_le_bytes());
    record
}

/// What a user has written is no record, however it looks: a torn tail that holds such is a torn
/// tail, and where damage is accepted it does not come back to life.
#[tokio::test]
async fn journal_record_forged_by_user_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    filled(&data, 3, false).await;
    let before = records(&journal_of(&data));
    let forged = forged(&directory.path().join("engine"), before.0[3].sequence + 2);
    let mut value = vec![b'x'; 600];
    value.extend(forged);
    value.extend([b'x'; 600]);
    let store = Embedded::open_as(&data, opening()).unwrap();
    store.commit(put(1, value)).await.unwrap();
    let journal = journal_of(&data);
    let mut bytes = fs::read(&journal).unwrap();
    // The mark is as it was before, as after a crash; of the last record the beginning has not
    // reached the disk.
    let mark = fs::read(data.join("store.mark")).unwrap();
    drop(store);
    fs::write(data.join("store.mark"), mark).unwrap();
    let from = before.1 as usize;
    bytes[from..from + 400].fill(0);
    fs::write(&journal, &bytes).unwrap();
    for accepts_damage in [false, true] {
        fs::write(&journal, &bytes).unwrap();
        let opening = Opening {
            accepts_damage,
            ..opening()
        };
        let store = Embedded::open_as(&data, opening).unwrap();
        let cut = store.report().cut.as_ref().map(|cut| cut.at);
        assert_eq!(cut, Some(before.1));
        assert_eq!(
            store.get(&key(0)).await.unwrap().unwrap().value,
            vec![0; 40]
        );
    }
}

/// A value in which a record stands that its writer has made up.
fn with_forged(directory: &Path, sequence: u64) -> Vec<u8> {
    let mut value = vec![b'x'; 600];
    value.extend(forged(directory, sequence));
    value.extend([b'x'; 600]);
    value
}

/// The same where the mark is lost: the store's own records show what its seals begin with.
#[tokio::test]
async fn journal_record_forged_by_user_is_ignored_without_mark() {
    let directory = super::harness::scratch();
    let data = directory.path().join("data");
    filled(&data, 3, false).await;
    let (before, end) = records(&journal_of(&data));
    let value = with_forged(&directory.path().join("engine"), before[3].sequence + 2);
    let store = Embedded::open_as(&data, opening()).unwrap();
    store.commit(put(1, value)).await.unwrap();
    drop(store);
    let journal = journal_of(&data);
    let mut bytes = fs::read(&journal).unwrap();
    bytes[end as usize..end as usize + 400].fill(0);
    for accepts_damage in [false, true] {
        fs::write(&journal, &bytes).unwrap();
        fs::remove_file(data.join("store.mark")).unwrap();
        let opening = Opening {
            accepts_damage,
            ..opening()
        };
        let store = Embedded::open_as(&data, opening).unwrap();
        assert_eq!(store.report().cut.as_ref().map(|cut| cut.at), Some(end));
        let found = store.get(&key(0)).await.unwrap().unwrap();
        assert_eq!(found.value, vec![0; 40]);
    }
}

/// A store of an earlier release has no seals either. What stands in a torn record is no reason to
/// refuse it; and what may be a record or a user's is not taken for one, also where damage is
/// accepted.
#[tokio::test]
async fn journal_record_forged_by_user_is_ignored_without_seals() {
    let directory = super::harness::scratch();
    let data = directory.path().join("data");
    let database = Database::builder(data.join("store")).open().unwrap();
    let engine = database.keyspace("data", KeyspaceCreateOptions::default);
    let engine = engine.unwrap();
    let write = |key: &[u8], value: &[u8]| {
        let mut batch = database.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&engine, key, value);
        batch.commit().unwrap();
    };
    let mut value = Vec::new();
    layout::add_value(&mut value, Version(1), b"real");
    write(layout::FORMAT_KEY, &layout::FORMAT.to_be_bytes());
    write(&layout::key(&key(0)), &value);
    let journal = journal_of(&data);
    let (found, end) = records(&journal);
    let sequence = found.last().unwrap().sequence + 2;
    let mut value = Vec::new();
    let forged = with_forged(&directory.path().join("engine"), sequence);
    layout::add_value(&mut value, Version(2), &forged);
    write(&layout::key(&key(1)), &value);
    drop((engine, database));
    let written = fs::read(&journal).unwrap();
    let whole = records(&journal).1 as usize;
    let end = end as usize;
    for torn in [whole - 300..whole, end..end + 400] {
        let is_told = torn.start == end;
        let mut bytes = written.clone();
        bytes[torn].fill(0);
        for accepts_damage in [false, true] {
            fs::write(&journal, &bytes).unwrap();
            let _ = fs::remove_file(data.join("store.mark"));
            let opening = Opening {
                accepts_damage,
                ..opening()
            };
            let store = match Embedded::open_as(&data, opening) {
                Ok(store) => store,
                Err(OpenError::Lost { .. }) if is_told && !accepts_damage => continue,
                Err(error) => panic!("{error}"),
            };
            assert!(!is_told || accepts_damage);
            let found = store.get(&key(0)).await.unwrap().unwrap();
            assert_eq!(found.value, "real");
            assert_eq!(store.get(&key(1)).await.unwrap(), None);
        }
    }
}

/// A store of ten values in two journals, as the engine divides them when one has grown long; of
/// the older the end is cut off.
async fn divided(cut_off: usize) -> tempfile::TempDir {
    let directory = super::harness::scratch();
    filled(directory.path(), 10, false).await;
    let (first, second) = (
        journal_of(directory.path()),
        directory.path().join("store/1.jnl"),
    );
    let middle = records(&first).0[6].at as usize;
    let bytes = fs::read(&first).unwrap();
    fs::write(&second, &bytes[middle..]).unwrap();
    fs::write(&first, &bytes[..middle - cut_off]).unwrap();
    directory
}

/// The files of several journals count together: the older is whole where the newer begins, and
/// none between is missing.
#[tokio::test]
async fn journal_files_are_checked_as_one_sequence() {
    let sound = divided(0).await;
    let store = Embedded::open_as(sound.path(), opening()).unwrap();
    for n in 0..10 {
        assert!(store.get(&key(n)).await.unwrap().is_some(), "{n}");
    }
    drop(store);
    let refused = |directory: &Path, said: &str| {
        let error = Embedded::open_as(directory, opening()).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    };
    refused(divided(5).await.path(), "0.jnl");
    let between = divided(0).await;
    let store = between.path().join("store");
    fs::rename(store.join("1.jnl"), store.join("2.jnl")).unwrap();
    refused(between.path(), "1.jnl is missing");
    let newest = divided(0).await;
    fs::remove_file(newest.path().join("store/1.jnl")).unwrap();
    refused(newest.path(), "it is at version 5, and was at 10");
}

/// A start that is refused leaves the files to those who come with a backup, or accept the loss:
/// the engine, which has an old journal to sort into a table and to delete, does not begin with it.
#[tokio::test]
async fn mark_ahead_of_store_refuses_start_without_changes() {
    let directory = divided(0).await;
    let data = directory.path();
    let mark::StoredMark::Mark(mark) = Mark::read(data).unwrap() else {
        panic!("there is no mark");
    };
    let ahead = Mark {
        version: Version(11),
        ..mark
    };
    ahead.write(data).unwrap();
    let all = || {
        let files = super::harness::files(&data.join(STORE)).into_iter();
        let files = files.map(|path| (path.clone(), super::harness::written(&path)));
        files.collect::<Vec<_>>()
    };
    let before = all();
    for _ in 0..20 {
        let error = Embedded::open_as(data, opening()).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("it is at version 10, and was at 11"),
            "{said}"
        );
        assert!(all() == before, "a refused start has changed the store");
    }
    mark.write(data).unwrap();
    let store = Embedded::open_as(data, opening()).unwrap();
    assert!(store.get(&key(9)).await.unwrap().is_some());
    // The same start may do it.
    while data.join("store/0.jnl").exists() {
        std::thread::yield_now();
    }
}

/// The engine makes another journal also after a write has failed: what is torn in the one before
/// was not acknowledged, and what is whole there is distrusted.
#[cfg(unix)]
#[tokio::test]
async fn journal_torn_before_empty_one_is_cut_off_and_rewritten() {
    use std::os::unix::fs::MetadataExt as _;

    let directory = super::harness::scratch();
    let data = directory.path();
    let mark = || match Mark::read(data).unwrap() {
        mark::StoredMark::Mark(mark) => mark,
        other => panic!("{other:?}"),
    };
    filled(data, 10, false).await;
    let earlier = mark();
    let store = Embedded::open_as(data, opening()).unwrap();
    store.commit(put(10, vec![1; 40])).await.unwrap();
    drop(store);
    let torn = journal_of(data);
    let last = records(&torn).0.pop().unwrap();
    let mut bytes = fs::read(&torn).unwrap();
    bytes.truncate(last.end as usize - 20);
    let empty = fs::File::create(data.join("store/1.jnl")).unwrap();
    empty.set_len(64 << 20).unwrap();
    // What the mark says was durable is lost.
    fs::write(&torn, &bytes).unwrap();
    let error = examine(data, Some(&mark()), Manner::default()).unwrap_err();
    assert!(error.to_string().contains("0.jnl"), "{error}");
    let inode = || fs::metadata(&torn).unwrap().ino();
    for distrusts_journal in [false, true] {
        fs::write(&torn, &bytes).unwrap();
        let before = inode();
        let manner = Manner {
            distrusts_journal,
            ..Manner::default()
        };
        let report = examine(data, Some(&earlier), manner).unwrap();
        assert_eq!(report.cut.map(|cut| cut.at), Some(last.at));
        assert_eq!(inode() != before, distrusts_journal);
    }
    earlier.write(data).unwrap();
    let store = Embedded::open_as(data, opening()).unwrap();
    assert!(store.get(&key(9)).await.unwrap().is_some());
    assert_eq!(store.get(&key(10)).await.unwrap(), None);
}

/// What is cut off before it is known that the store is behind its mark is kept.
#[tokio::test]
async fn journal_end_cut_off_is_kept_while_store_may_be_behind() {
    let directory = super::harness::scratch();
    let data = directory.path();
    filled(data, 20, true).await;
    let mark::StoredMark::Mark(mark) = Mark::read(data).unwrap() else {
        panic!("there is no mark");
    };
    // All is in the tables, and of the only record in the journal the end is missing, from behind
    // the seal's key on.
    let journal = journal_of(data);
    let last = records(&journal).0.pop().unwrap();
    let bytes = fs::read(&journal).unwrap();
    let torn = &bytes[last.at as usize..last.end as usize - 13 - layout::SEAL_BYTES];
    let mended = Mark {
        version: Version(30),
        ..mark
    };
    for (mark, is_behind) in [(mended, true), (mark, false)] {
        fs::write(&journal, torn).unwrap();
        mark.write(data).unwrap();
        let opened = Embedded::open_as(data, opening());
        match opened {
            Err(OpenError::Lost { what, .. }) if is_behind => {
                assert!(what.contains("30"), "{what}");
            }
            Ok(_) if !is_behind => {}
            opened => panic!("{opened:?}"),
        }
        let kept = data.join("damaged/0.jnl.at-0");
        assert_eq!(fs::read(&kept).unwrap(), torn);
        fs::remove_file(kept).unwrap();
    }
}

/// What is under a record's checksum.
fn items(bytes: &[u8], record: &Record) -> Vec<u8> {
    bytes[record.at as usize + 13..record.end as usize].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However much of a journal is overwritten, what is found in it was written there.
    #[test]
    fn journal_overwritten_anywhere_shows_nothing_new(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 1usize..700, any::<u8>(), any::<bool>()), 1..8),
    ) {
        let directory = super::harness::scratch();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(filled(directory.path(), 12, false));
        let path = journal_of(directory.path());
        let (written, end) = records(&path);
        let mut bytes = fs::read(&path).unwrap();
        let written: Vec<_> = written.iter().map(|record| items(&bytes, record)).collect();
        for (at, len, byte, is_zeroed) in edits {
            let at = at.index(end as usize);
            let to = (at + len).min(end as usize);
            bytes[at..to].fill(if is_zeroed { 0 } else { byte });
        }
        fs::write(&path, &bytes).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        let mut at = 0;
        while let Some(found) = journal.next_record(at, |_| true).unwrap() {
            prop_assert!(written.contains(&items(&bytes, &found)), "{found:?}");
            at = found.end;
        }
        let accepting = Opening { accepts_damage: true, ..opening() };
        let store = Embedded::open_as(directory.path(), accepting).unwrap();
        for n in 0..12 {
            let found = runtime.block_on(store.get(&key(n))).unwrap();
            prop_assert!(found.is_none_or(|found| found.value == vec![n as u8; 40]), "{n}");
        }
        drop(store);
        Embedded::open_as(directory.path(), opening()).unwrap();
    }
}
