//! The engine beneath the store: it lags, it stops, it has no room to merge tables, and it cannot
//! read some of them.

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use fjall::AbstractTree as _;

use super::{
    format_tests,
    tests::{key, put, store_with_room},
    *,
};

/// A store with memtables of so many bytes, and a writer that waits for nothing.
fn store_with_memtables(directory: &Path, bytes: u64) -> Embedded {
    let limits = memtables::Limits {
        bytes,
        patience: Duration::ZERO,
    };
    let (opening, room) = (format_tests::opening(), DiskSpace::of(directory, 0));
    Embedded::open_with(directory, opening, room, Bounds::default(), limits).unwrap()
}

/// A store whose engine is about to merge tables, for which there is no room.
async fn store_with_merge_due(directory: &Path) -> (Embedded, Arc<AtomicU64>) {
    let (store, free) = store_with_room(directory, 0, Bounds::default());
    for tables in 1..=usize::from(FRESH_FILES) + 1 {
        store.commit(put(1, b"1")).await.unwrap();
        if tables > usize::from(FRESH_FILES) {
            free.store(0, Ordering::SeqCst);
        }
        assert!(store.data.rotate_memtable().unwrap());
        while tables <= FRESH_FILES.into() && store.data.table_count() < tables {
            std::thread::yield_now();
        }
        // The first is moved, as nothing is below it. A second that came before would be merged
        // with the others, one too early.
        while tables == 1 && store.data.l0_table_count() > 0 {
            std::thread::yield_now();
        }
    }
    (store, free)
}

/// What the system has only failed to read may be sound: nothing is given up for lost because a
/// disk has failed once.
#[test]
fn damage_is_not_assumed_after_failed_read() {
    use std::io::{Error, ErrorKind};

    let eio = || Error::from_raw_os_error(5);
    let storage = |error| fjall::Error::Storage(fjall::LsmError::Io(error));
    for (error, is_damage) in [
        (fjall::Error::Io(eio()), false),
        (storage(eio()), false),
        (storage(ErrorKind::UnexpectedEof.into()), true),
        (fjall::Error::InvalidTrailer, true),
    ] {
        let read = error::read_error(&error);
        assert!(read.is_of_one_record());
        assert_eq!(
            matches!(read, StoreError::Damaged(_)),
            is_damage,
            "{read:?}"
        );
    }
}

/// Tables are merged only when there is room for it: a merge that runs out of room ends the
/// engine's worker.
#[tokio::test]
async fn compaction_without_space_waits_and_continues() {
    let directory = tempfile::tempdir().unwrap();
    let (store, free) = store_with_merge_due(directory.path()).await;
    assert!(store.gate.as_ref().unwrap().0.arrival().waits);
    let tables = store.data.table_count();
    assert_eq!(store.get(&key(1)).await.unwrap().unwrap().value, "1");
    let refused = store.commit(put(1, b"2")).await;
    assert!(matches!(refused, Err(CommitError::Full)), "{refused:?}");
    free.store(u64::MAX, Ordering::SeqCst);
    while store.data.table_count() >= tables {
        std::thread::yield_now();
    }
    store.commit(put(1, b"2")).await.unwrap();
}

/// A store whose merge waits can be closed, and opened as often as anybody likes, with nothing
/// wrong.
#[tokio::test]
async fn compaction_waiting_for_space_does_not_prevent_close() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = store_with_merge_due(directory.path()).await;
    for _ in 0..2 {
        assert!(store.gate.as_ref().unwrap().0.arrival().waits);
        drop(store);
        assert!(!Flag::Distrusted.is_raised(directory.path()).unwrap());
        let room = DiskSpace::scripted(directory.path(), 0, || Ok(0));
        let (bounds, limits) = (Bounds::default(), memtables::Limits::default());
        let opening = format_tests::opening();
        store = Embedded::open_with(directory.path(), opening, room, bounds, limits).unwrap();
        assert_eq!(store.get(&key(1)).await.unwrap().unwrap().value, "1");
    }
}

/// An engine that has stopped is found out about while nobody writes: it is to be opened again. On
/// a disk without room for that, reading goes on.
#[tokio::test]
async fn engine_stopped_is_detected_without_write() {
    for (left, is_opened_again) in [(10, false), (u64::MAX, true)] {
        let directory = tempfile::tempdir().unwrap();
        let free = Arc::new(AtomicU64::new(u64::MAX));
        let seen = Arc::clone(&free);
        let asked = move || Ok(seen.load(Ordering::SeqCst));
        let room = DiskSpace::scripted(directory.path(), 0, asked);
        let (bounds, limits) = (Bounds::default(), memtables::Limits::default());
        let opening = format_tests::opening();
        let store = Embedded::open_with(directory.path(), opening, room, bounds, limits).unwrap();
        store.commit(put(1, b"1")).await.unwrap();
        stop_engine(&store, || assert!(store.data.rotate_memtable().unwrap()));
        free.store(left, Ordering::SeqCst);
        store.keeper.look();
        store.keeper.scrubbed(1);
        let read = store.get(&key(1)).await;
        let has_failed = matches!(read, Err(StoreError::Failed(_)));
        assert_eq!(has_failed, is_opened_again, "{read:?}");
    }
}

/// A group that meets an engine that has stopped ends no reading while there is too little room to
/// open the store again.
#[tokio::test]
async fn engine_stopped_on_full_disk_still_serves_reads() {
    let directory = tempfile::tempdir().unwrap();
    let (store, free) = store_with_room(directory.path(), 0, Bounds::default());
    // It cannot be compressed, so the journal takes as much.
    let value: Vec<u8> = (0..1 << 20).map(|_| rand::random()).collect();
    store.commit(put(1, &value)).await.unwrap();
    stop_engine(&store, || assert!(store.data.rotate_memtable().unwrap()));
    let engine = store.engine.as_ref().unwrap();
    free.store(engine.write_buffer_size() + (64 << 10), Ordering::SeqCst);
    for _ in 0..2 {
        let refused = store.commit(put(2, b"2")).await;
        assert!(matches!(refused, Err(CommitError::Full)), "{refused:?}");
        assert!(store.get(&key(1)).await.unwrap().is_some());
    }
    free.store(u64::MAX, Ordering::SeqCst);
    let failed = store.commit(put(2, b"2")).await;
    let is_failure = matches!(failed, Err(CommitError::Store(StoreError::Failed(_))));
    assert!(is_failure, "{failed:?}");
    assert!(store.get(&key(1)).await.is_err());
}

/// What the engine has not written to files has an end, however long it merges tables; and then it
/// is written, all of it. So its worker has few messages to read, too: a thousand of them would
/// block it for ever.
#[test]
fn writer_waits_while_engine_lags_and_continues() {
    let (memtable, value) = (64 << 10, 8 << 10);
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_memtables(directory.path(), memtable as u64);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let put = |n: u16| {
        let batch = format_tests::put(n, vec![b'v'; value]);
        runtime.block_on(store.commit(batch))
    };
    // No file is written meanwhile.
    let merging = store.data.tree.get_flush_lock();
    let mut written = 0u16;
    let refused = loop {
        match put(written) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(usize::from(written) * value < 10 * MEMTABLES * memtable);
    };
    assert!(matches!(refused, CommitError::Full), "{refused:?}");
    assert_eq!(store.data.sealed_memtable_count(), MEMTABLES - 1);
    let in_memory = usize::try_from(store.data.tree.active_memtable().size()).unwrap();
    assert!(in_memory < memtable + 2 * value, "{in_memory}");
    for _ in 0..2000 {
        assert!(matches!(put(written), Err(CommitError::Full)));
    }
    drop(merging);
    for n in written..2 * written {
        while let Err(error) = put(n) {
            assert!(matches!(error, CommitError::Full), "{error:?}");
            std::thread::yield_now();
        }
    }
    for n in 0..2 * written {
        let found = runtime.block_on(store.get(&format_tests::key(n)));
        assert_eq!(found.unwrap().unwrap().value.len(), value);
    }
    assert!(store.data.table_count() > 0);
}

/// Who stops a realm does not wait until the engine has made place: what waits for that is refused
/// at once.
#[test]
fn writer_waiting_for_engine_is_refused_at_close() {
    let directory = tempfile::tempdir().unwrap();
    let limits = memtables::Limits {
        bytes: 16 << 10,
        patience: Duration::from_hours(1),
    };
    let (opening, room) = (format_tests::opening(), DiskSpace::of(directory.path(), 0));
    let store = Embedded::open_with(directory.path(), opening, room, Bounds::default(), limits);
    let store = store.unwrap();
    let job = || {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            batch: put(1, &[b'v'; 1 << 10]),
            answer,
            dispatcher: store.dispatchers.here(),
        };
        store.queue.as_ref().unwrap().blocking_send(job).unwrap();
        answered
    };
    let data = store.data.clone();
    let (merge, merging) = mpsc::channel();
    let (wait, waiting) = mpsc::channel::<oneshot::Receiver<dispatchers::Outcome>>();
    // The engine writes no files until the last group is answered. Bounded, so that this ends where
    // it would wait for itself.
    let merges = std::thread::spawn(move || {
        let _merging = data.tree.get_flush_lock();
        merge.send(()).unwrap();
        let mut answered = waiting.recv().unwrap();
        let began = std::time::Instant::now();
        loop {
            match answered.try_recv() {
                Ok(outcome) => return Some(outcome),
                Err(_) if began.elapsed() > Duration::from_secs(20) => return None,
                Err(_) => std::thread::yield_now(),
            }
        }
    });
    merging.recv().unwrap();
    while store.data.sealed_memtable_count() + 1 < MEMTABLES
        || store.data.tree.active_memtable().size() < limits.bytes
    {
        job().blocking_recv().unwrap().unwrap();
    }
    wait.send(job()).unwrap();
    drop(store);
    let outcome = merges.join().unwrap();
    assert!(
        matches!(outcome, Some(Err(CommitError::Full))),
        "{outcome:?}"
    );
}

/// An engine whose worker has ended makes no place: that is an error, and is not waited for.
#[test]
fn writer_waiting_for_stopped_engine_fails() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_with_memtables(directory.path(), 16 << 10);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let put = || runtime.block_on(store.commit(put(1, &[b'v'; 1 << 10])));
    let merging = store.data.tree.get_flush_lock();
    assert!((0..1000).any(|_| put().is_err()), "it does not wait");
    stop_engine(&store, || drop(merging));
    let outcome = put();
    let is_failure = matches!(outcome, Err(CommitError::Store(StoreError::Failed(_))));
    assert!(is_failure, "{outcome:?}");
}

impl Embedded {
    /// Lets the engine's worker end, and has the keeper look.
    pub(crate) fn stop_engine(&self) {
        // One that reads all tables need not be asked to look.
        self.keeper.scrubbed(1);
        stop_engine(self, || assert!(self.data.rotate_memtable().unwrap()));
        self.keeper.look();
    }
}

/// Lets the engine's worker end, as it finds no place to write a file to. It tries once `begin` is
/// done.
fn stop_engine(store: &Embedded, begin: impl FnOnce()) {
    let tables = store.data.path().join("tables");
    let aside = tables.with_extension("aside");
    fs::rename(&tables, &aside).unwrap();
    begin();
    // Behind the store's back: it is not to find out by that.
    while store.data.insert("x", "").is_ok() {
        std::thread::yield_now();
    }
    fs::rename(&aside, &tables).unwrap();
}

/// Commits these in one group.
async fn commit_together(
    store: &Embedded,
    held: &Held,
    one: Batch,
    other: Batch,
) -> (
    Result<Committed, CommitError>,
    Result<Committed, CommitError>,
) {
    // The writer asks for the free room with this one in its hand, and meanwhile the others wait
    // together.
    let (_, (one, other)) = tokio::join!(biased; store.commit(put(9, b"")), async {
        held.asked.recv().unwrap();
        let (one, other, ()) = tokio::join!(biased; store.commit(one), store.commit(other), async {
            held.go_on.send(()).unwrap();
            held.go_on.send(()).unwrap();
        });
        held.asked.recv().unwrap();
        (one, other)
    });
    (one, other)
}

/// A writer that is held back at the beginning of each group.
struct Held {
    asked: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
}

impl Held {
    fn room(directory: &Path) -> (DiskSpace, Self) {
        let (asking, asked) = mpsc::channel();
        let (go_on, going_on) = mpsc::channel();
        let going_on = Mutex::new(going_on);
        let room = DiskSpace::scripted(directory, 0, move || {
            let _ = asking.send(());
            let _ = going_on.lock().unwrap().recv();
            Ok(u64::MAX)
        });
        (room, Self { asked, go_on })
    }
}

/// Copies a store all of which is in its table, of which one bit is turned at a place.
fn copy_with_rot(made: &Path, copied: &Path, at: u64) {
    format_tests::copy(made, copied);
    // The journal would cover it up.
    fs::write(format_tests::journal_of(copied), b"").unwrap();
    let table = format_tests::table_of(copied);
    let mut bytes = fs::read(&table).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 0x10;
    fs::write(&table, bytes).unwrap();
}

/// A batch that trims a log, or forgets it, and cannot read what that takes is refused by itself:
/// others of its group are written.
#[tokio::test]
async fn damage_met_by_trim_refuses_only_that_batch() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log(b"log"[..].into());
    let made = directory.path().join("made");
    format_tests::filled(&made, 60, true).await;
    let len = fs::metadata(format_tests::table_of(&made)).unwrap().len();
    let mut refused = 0;
    for at in (0..len).step_by(500) {
        let copied = directory.path().join(at.to_string());
        copy_with_rot(&made, &copied, at);
        let (room, held) = Held::room(&copied);
        let (bounds, limits) = (Bounds::default(), memtables::Limits::default());
        let opening = format_tests::opening();
        let Ok(store) = Embedded::open_with(&copied, opening, room, bounds, limits) else {
            continue;
        };
        let reads_end = store.last(&log).await.is_ok();
        let mut trimming = Batch::tidying();
        trimming.trim(log.clone(), Position(50));
        let (trimmed, written) = commit_together(&store, &held, trimming, put(1, b"other")).await;
        written.unwrap();
        assert_eq!(store.get(&key(1)).await.unwrap().unwrap().value, "other");
        if let Err(error) = trimmed {
            let is_damaged = matches!(error, CommitError::Store(StoreError::Damaged(_)));
            assert!(is_damaged, "{error:?}");
            refused += usize::from(reads_end);
        }
    }
    assert!(refused > 0, "no trim met damage");
}

/// A block that cannot be read hides the logs in it, and none behind it: what is kept there could
/// not be let go of for ever.
#[tokio::test]
async fn damage_in_block_hides_no_logs_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made");
    let name = |n: u16| Log(format!("p/u{n:03}").as_bytes().into());
    let all = 60;
    {
        let store = Embedded::open_as(&made, format_tests::opening()).unwrap();
        for n in 0..all {
            let mut batch = Batch::new();
            let entry = (0..400).map(|_| rand::random()).collect();
            batch.append(name(n), entry);
            store.commit(batch).await.unwrap();
        }
        assert!(store.data.rotate_memtable().unwrap());
        while store.data.table_count() == 0 {
            std::thread::yield_now();
        }
    }
    let len = fs::metadata(format_tests::table_of(&made)).unwrap().len();
    let mut passed = 0;
    for at in (0..len).step_by(1000) {
        let copied = directory.path().join(at.to_string());
        copy_with_rot(&made, &copied, at);
        let Ok(store) = Embedded::open_as(&copied, format_tests::opening()) else {
            continue;
        };
        let mut found = Vec::new();
        loop {
            let next = store.logs(found.last(), 7).await.unwrap();
            if next.is_empty() {
                break;
            }
            found.extend(next);
        }
        assert!(found.is_sorted(), "{found:?}");
        let lost = usize::from(all) - found.len();
        let is_last_found = found.last() == Some(&name(all - 1));
        // A block has about ten of them.
        passed += usize::from(is_last_found && (1..20).contains(&lost));
    }
    assert!(passed > 5, "{passed}");
}
