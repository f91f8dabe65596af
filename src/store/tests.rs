//! Tests of each promise of the `Store` trait, with conflicts and restarts. Every store engine must
//! pass them. An engine takes part by implementing [`Engine`].

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use super::*;
use crate::simulation;
use proptest::{prelude::*, test_runner::TestRunner};
use rand::{SeedableRng as _, rngs::StdRng};

/// A place in which an engine keeps a store that can be opened repeatedly.
trait Engine {
    type Store: Store;
    fn open(&self) -> Self::Store;
}

struct EmbeddedDirectory(tempfile::TempDir);

impl Engine for EmbeddedDirectory {
    type Store = Embedded;

    fn open(&self) -> Embedded {
        Embedded::open(self.0.path()).unwrap()
    }
}

fn embedded() -> EmbeddedDirectory {
    EmbeddedDirectory(tempfile::tempdir().unwrap())
}

impl Engine for Arc<Mutex<Memory>> {
    type Store = InMemory;

    fn open(&self) -> InMemory {
        InMemory::over(Self::clone(self))
    }
}

fn contents() -> Arc<Mutex<Memory>> {
    Arc::default()
}

impl Engine for simulation::Disk {
    type Store = simulation::SimulatedStore;

    fn open(&self) -> Self::Store {
        Self::open(self, simulation::Machine::alone())
    }
}

fn simulated() -> simulation::Disk {
    simulation::Disk::new(StdRng::seed_from_u64(1))
}

fn key(name: &str) -> Key {
    Key(name.as_bytes().into())
}

fn log(name: &str) -> Log {
    Log(name.as_bytes().into())
}

const ALL: PageLimit = PageLimit {
    entries: usize::MAX,
    bytes: usize::MAX,
};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

async fn values(store: &impl Store, log_name: &str) -> Vec<(u64, String)> {
    let page = store.read(&log(log_name), Position(0), ALL).await.unwrap();
    page.entries
        .into_iter()
        .map(|(position, entry)| (position.0, String::from_utf8(entry).unwrap()))
        .collect()
}

macro_rules! suite_on {
    ($module:ident, $engine:ident: $($name:ident)*) => {
        mod $module { $(
            #[test]
            fn $name() {
                super::block_on(async { super::suite::$name(&super::$engine()).await });
            }
        )* }
    };
}

macro_rules! suite {
    ($($name:ident)*) => {
        suite_on! { on_disk, embedded: $($name)* }
        suite_on! { in_memory, contents: $($name)* }
        suite_on! { simulated, simulated: $($name)* }
    };
}

suite! {
    value_put_is_found_with_rising_version
    batch_takes_effect_whole_or_not_at_all
    conflict_on_outdated_version_is_reported
    conflict_among_many_writers_lets_one_win
    conflict_on_outdated_log_end_is_reported
    list_returns_keys_in_order_by_prefix
    log_positions_have_no_gaps
    log_pages_end_at_limits
    log_trimmed_never_reuses_positions
    log_list_has_each_log_with_entries_once
    log_empty_and_forgotten_starts_again
    batch_appends_to_any_number_of_logs
    restart_keeps_values_logs_and_versions
    subscription_wakes_when_log_grows
    name_too_long_is_refused
}

mod suite {
    use super::*;

    pub async fn value_put_is_found_with_rising_version(engine: &impl Engine) {
        let store = engine.open();
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
        let mut last = Version(0);
        for value in ["one", "two", ""] {
            let mut batch = Batch::new();
            batch.put(key("a"), value);
            let committed = store.commit(batch).await.unwrap();
            let found = store.get(&key("a")).await.unwrap().unwrap();
            assert_eq!(found.value, value.as_bytes());
            assert_eq!(found.version, committed.version);
            assert!(found.version > last);
            last = found.version;
        }
        let mut batch = Batch::new();
        batch.delete(key("a")).delete(key("never there"));
        store.commit(batch).await.unwrap();
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
    }

    pub async fn batch_takes_effect_whole_or_not_at_all(engine: &impl Engine) {
        let store = engine.open();
        let mut batch = Batch::new();
        batch
            .expect(key("absent"), Expected::Absent)
            .put(key("a"), b"1".to_vec())
            .put(key("b"), b"1".to_vec())
            .append(log("l"), b"x".to_vec());
        store.commit(batch).await.unwrap();
        let mut batch = Batch::new();
        batch
            .put(key("a"), b"2".to_vec())
            .append(log("l"), b"y".to_vec())
            .delete(key("b"))
            .expect(key("b"), Expected::Absent);
        assert!(matches!(
            store.commit(batch).await,
            Err(CommitError::Conflict)
        ));
        assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "1");
        assert!(store.get(&key("b")).await.unwrap().is_some());
        assert_eq!(values(&store, "l").await, [(1, "x".into())]);
    }

    pub async fn conflict_on_outdated_version_is_reported(engine: &impl Engine) {
        let store = engine.open();
        let put = |expected: Expected| {
            let mut batch = Batch::new();
            batch
                .expect(key("a"), expected)
                .put(key("a"), b"x".to_vec());
            store.commit(batch)
        };
        assert!(matches!(
            put(Expected::At(Version(1))).await,
            Err(CommitError::Conflict)
        ));
        let first = put(Expected::Absent).await.unwrap().version;
        assert!(matches!(
            put(Expected::Absent).await,
            Err(CommitError::Conflict)
        ));
        let second = put(Expected::At(first)).await.unwrap().version;
        assert!(matches!(
            put(Expected::At(first)).await,
            Err(CommitError::Conflict)
        ));
        put(Expected::At(second)).await.unwrap();
    }

    pub async fn conflict_among_many_writers_lets_one_win(engine: &impl Engine) {
        let store = Arc::new(engine.open());
        let mut batch = Batch::new();
        batch.put(key("count"), 0u64.to_be_bytes().to_vec());
        store.commit(batch).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let mut conflicts = 0;
                for _ in 0..20 {
                    loop {
                        let found = store.get(&key("count")).await.unwrap().unwrap();
                        let count = u64::from_be_bytes(found.value[..].try_into().unwrap());
                        let mut batch = Batch::new();
                        batch
                            .expect(key("count"), Expected::At(found.version))
                            .put(key("count"), (count + 1).to_be_bytes().to_vec());
                        match store.commit(batch).await {
                            Ok(_) => break,
                            Err(CommitError::Conflict) => conflicts += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                conflicts
            });
        }
        let conflicts: u32 = tasks.join_all().await.into_iter().sum();
        let found = store.get(&key("count")).await.unwrap().unwrap();
        assert_eq!(found.value, 320u64.to_be_bytes()[..]);
        assert!(conflicts > 0, "they did meet");
    }

    pub async fn conflict_on_outdated_log_end_is_reported(engine: &impl Engine) {
        let store = engine.open();
        let append = |end: Option<u64>| {
            let mut batch = Batch::new();
            if let Some(end) = end {
                batch.expect_end(log("a"), Position(end));
            }
            batch.append(log("a"), b"x".to_vec());
            store.commit(batch)
        };
        append(Some(0)).await.unwrap();
        append(None).await.unwrap();
        for end in [0, 1, 3] {
            let outcome = append(Some(end)).await;
            assert!(matches!(outcome, Err(CommitError::Conflict)), "{end}");
        }
        append(Some(2)).await.unwrap();
        // One of two concurrent commits is the first, and trimmed entries count.
        let (first, second) = tokio::join!(append(Some(3)), append(Some(3)));
        assert!(first.is_ok() != second.is_ok());
        let mut batch = Batch::new();
        batch.trim(log("a"), Position(u64::MAX));
        store.commit(batch).await.unwrap();
        append(Some(4)).await.unwrap();
    }

    pub async fn list_returns_keys_in_order_by_prefix(engine: &impl Engine) {
        let store = engine.open();
        let mut batch = Batch::new();
        for name in ["b/2", "a/1", "b/1", "b/10", "c/1", "b"] {
            batch.put(key(name), name);
        }
        store.commit(batch).await.unwrap();
        let list = async |prefix: &str, after: Option<&str>, limit| {
            let prefix = Prefix(prefix.as_bytes().into());
            let found = store
                .list(&prefix, after.map(key).as_ref(), limit)
                .await
                .unwrap();
            found
                .into_iter()
                .map(|(key, _)| String::from_utf8(key.0.to_vec()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(list("b/", None, 9).await, ["b/1", "b/10", "b/2"]);
        assert_eq!(list("b/", None, 2).await, ["b/1", "b/10"]);
        assert_eq!(list("b/", Some("b/10"), 9).await, ["b/2"]);
        assert_eq!(list("b", None, 9).await, ["b", "b/1", "b/10", "b/2"]);
        assert!(list("d", None, 9).await.is_empty());
        assert!(list("b/", Some("b/2"), 9).await.is_empty());
    }

    pub async fn log_positions_have_no_gaps(engine: &impl Engine) {
        let store = engine.open();
        // The name of one log is a prefix of the other's. Their entries must not mix.
        for (name, entry, position) in [
            ("l", "a", 1),
            ("la", "b", 1),
            ("l", "c", 2),
            ("la", "d", 2),
            ("l", "e", 3),
        ] {
            let mut batch = Batch::new();
            batch.append(log(name), entry.into());
            assert_eq!(
                store.commit(batch).await.unwrap().positions,
                [Position(position)]
            );
        }
        let mut batch = Batch::new();
        batch
            .append(log("l"), b"f".to_vec())
            .append(log("l"), b"g".to_vec());
        assert_eq!(
            store.commit(batch).await.unwrap().positions,
            [Position(4), Position(5)]
        );
        let got: Vec<_> = values(&store, "l")
            .await
            .into_iter()
            .map(|(_, e)| e)
            .collect();
        assert_eq!(got.concat(), "acefg");
        assert!(values(&store, "m").await.is_empty());
    }

    pub async fn log_pages_end_at_limits(engine: &impl Engine) {
        let store = engine.open();
        let mut batch = Batch::new();
        for entry in ["aaaa", "bbbb", "cccc", "dddd"] {
            batch.append(log("l"), entry.into());
        }
        store.commit(batch).await.unwrap();
        let read = async |after, entries, bytes| {
            let limit = PageLimit { entries, bytes };
            let page = store.read(&log("l"), Position(after), limit).await.unwrap();
            (
                page.entries.iter().map(|(p, _)| p.0).collect::<Vec<_>>(),
                page.more,
            )
        };
        assert_eq!(read(0, 9, 99).await, (vec![1, 2, 3, 4], false));
        assert_eq!(read(1, 2, 99).await, (vec![2, 3], true));
        assert_eq!(read(2, 2, 99).await, (vec![3, 4], false));
        assert_eq!(
            read(0, 9, 1).await,
            (vec![1], true),
            "the first comes whole"
        );
        assert_eq!(read(0, 9, 5).await, (vec![1, 2], true));
        assert_eq!(read(4, 9, 99).await, (vec![], false));
        assert_eq!(read(u64::MAX, 9, 99).await, (vec![], false));
    }

    pub async fn log_trimmed_never_reuses_positions(engine: &impl Engine) {
        let store = engine.open();
        let mut batch = Batch::new();
        for entry in ["a", "b", "c"] {
            batch.append(log("l"), entry.into());
        }
        store.commit(batch).await.unwrap();
        let trim = async |below| {
            let mut batch = Batch::new();
            batch.trim(log("l"), Position(below));
            store.commit(batch).await.unwrap();
        };
        trim(3).await;
        assert_eq!(values(&store, "l").await, [(3, "c".into())]);
        trim(1_000).await;
        // Trimmed entries stay trimmed, also if both trims are written together.
        trim(1).await;
        let mut both = Batch::new();
        both.trim(log("l"), Position(9)).trim(log("l"), Position(2));
        store.commit(both).await.unwrap();
        assert!(values(&store, "l").await.is_empty());
        assert_eq!(store.last(&log("l")).await.unwrap(), Position(3));
        drop(store);
        let store = engine.open();
        assert_eq!(store.last(&log("l")).await.unwrap(), Position(3));
        let mut batch = Batch::new();
        batch.append(log("l"), b"d".to_vec());
        assert_eq!(store.commit(batch).await.unwrap().positions, [Position(4)]);
    }

    /// A log trimmed to nothing has no entries. Logs whose names have a common prefix or an equal
    /// length are different logs.
    pub async fn log_list_has_each_log_with_entries_once(engine: &impl Engine) {
        let store = engine.open();
        let names = ["b", "a", "ab", "abc", "b\u{7f}", "gone"];
        for name in names {
            let mut batch = Batch::new();
            for _ in 0..3 {
                batch.append(log(name), b"x".to_vec());
            }
            store.commit(batch).await.unwrap();
        }
        let mut batch = Batch::new();
        batch.trim(log("gone"), Position(9));
        store.commit(batch).await.unwrap();
        let mut found = Vec::new();
        loop {
            let next = store.logs(found.last(), 2).await.unwrap();
            assert!(next.len() <= 2);
            if next.is_empty() {
                break;
            }
            found.extend(next);
        }
        found.sort();
        let mut wanted: Vec<Log> = names[..5].iter().map(|name| log(name)).collect();
        wanted.sort();
        assert_eq!(found, wanted);
    }

    pub async fn log_empty_and_forgotten_starts_again(engine: &impl Engine) {
        let store = engine.open();
        let change = async |change: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new();
            change(&mut batch);
            store.commit(batch).await.unwrap().positions
        };
        let append = |batch: &mut Batch| {
            batch.append(log("l"), b"x".to_vec());
        };
        let forget = |batch: &mut Batch| {
            batch.forget(log("l"));
        };
        change(&append).await;
        change(&append).await;
        // The log has entries.
        change(&forget).await;
        assert_eq!(store.last(&log("l")).await.unwrap(), Position(2));
        let trim = |batch: &mut Batch| {
            batch.trim(log("l"), Position(9));
        };
        change(&trim).await;
        let both = change(&|batch| {
            batch.append(log("l"), b"x".to_vec()).forget(log("l"));
        });
        assert_eq!(both.await, [Position(3)]);
        assert_eq!(store.last(&log("l")).await.unwrap(), Position(3));
        change(&trim).await;
        change(&forget).await;
        assert_eq!(store.last(&log("l")).await.unwrap(), Position(0));
        assert_eq!(change(&append).await, [Position(1)]);
    }

    /// An engine may cache log ends, but must not drop those that only this batch has moved.
    pub async fn batch_appends_to_any_number_of_logs(engine: &impl Engine) {
        let store = engine.open();
        let mut batch = Batch::new();
        for name in (0..70_000).chain([0]) {
            batch.append(log(&name.to_string()), b"entry".to_vec());
        }
        let committed = store.commit(batch).await.unwrap();
        let first = Position(1);
        assert!(committed.positions[..70_000].iter().all(|at| *at == first));
        assert_eq!(committed.positions[70_000], Position(2));
        assert_eq!(store.last(&log("0")).await.unwrap(), Position(2));
    }

    pub async fn restart_keeps_values_logs_and_versions(engine: &impl Engine) {
        let mut last = Version(0);
        for round in 1..=3 {
            let store = engine.open();
            let mut batch = Batch::new();
            batch
                .put(key("a"), round.to_string())
                .append(log("l"), round.to_string().into());
            let committed = store.commit(batch).await.unwrap();
            assert_eq!(committed.positions, [Position(round)]);
            assert!(committed.version > last, "versions rise across restarts");
            last = committed.version;
        }
        let store = engine.open();
        assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "3");
        assert_eq!(values(&store, "l").await.len(), 3);
    }

    pub async fn subscription_wakes_when_log_grows(engine: &impl Engine) {
        let store = engine.open();
        let mut first = store.subscribe(&[log("k"), log("l")]);
        let mut other = store.subscribe(&[log("m")]);
        assert_eq!(store.last(&log("l")).await.unwrap(), Position(0));
        let mut batch = Batch::new();
        batch.append(log("l"), b"a".to_vec());
        store.commit(batch).await.unwrap();
        assert_eq!(
            first.grown().await,
            Some([1].into()),
            "the second of its logs"
        );
        assert_eq!(store.last(&log("l")).await.unwrap(), Position(1));
        tokio::select! {
            biased;
            _ = other.grown() => panic!("the other log has not grown"),
            () = std::future::ready(()) => {}
        }
        drop(store);
        assert_eq!(other.grown().await, None, "a closed store says so");
    }

    pub async fn name_too_long_is_refused(engine: &impl Engine) {
        let store = engine.open();
        let long = "x".repeat(256);
        let mut batch = Batch::new();
        batch.put(key("a"), vec![]).append(log(&long), vec![]);
        assert!(matches!(
            store.commit(batch).await,
            Err(CommitError::Refused(_))
        ));
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
        let mut batch = Batch::new();
        batch.append(log(&"x".repeat(255)), b"fits".to_vec());
        store.commit(batch).await.unwrap();
    }
}

#[test]
fn name_bytes_concatenated_are_whole_at_any_length() {
    for lens in [
        [0, 0, 0],
        [1, 2, 3],
        [12, 12, 12],
        [12, 12, 13],
        [36, 1, 0],
        [200, 0, 55],
    ] {
        let parts = lens.map(|len| vec![u8::try_from(len).unwrap(); len]);
        let parts: [&[u8]; 3] = core::array::from_fn(|at| &parts[at][..]);
        let put_together: NameBytes = concat(&parts);
        assert_eq!(put_together.to_vec(), parts.concat());
    }
}

/// Compares the engine with a model that forgets nothing: random batches, with restarts.
#[test]
fn engine_with_random_batches_matches_model() {
    let step = prop_oneof![
        4 => (0u8..4, 0u8..5, any::<u8>()).prop_map(Some),
        1 => Just(None),
    ];
    let mut runner = TestRunner::new(ProptestConfig::with_cases(24));
    runner
        .run(&prop::collection::vec(step, 1..40), |steps| {
            let engine = embedded();
            block_on(async {
                let mut store = Some(engine.open());
                let mut keys = BTreeMap::<Key, (Version, Vec<u8>)>::new();
                let mut logs = BTreeMap::<Log, Vec<Vec<u8>>>::new();
                for step in steps {
                    let Some((kind, name, value)) = step else {
                        drop(store.take());
                        store = Some(engine.open());
                        continue;
                    };
                    let store = store.as_ref().unwrap();
                    let (name_key, name_log) = (Key([name][..].into()), Log([name][..].into()));
                    let mut batch = Batch::new();
                    match kind {
                        0 => batch.put(name_key.clone(), vec![value]),
                        1 => batch.delete(name_key.clone()),
                        2 => batch.append(name_log.clone(), vec![value]),
                        _ => batch
                            .expect(name_key.clone(), Expected::At(Version(value.into())))
                            .put(name_key.clone(), vec![value]),
                    };
                    let outcome = store.commit(batch).await;
                    let conflict = kind == 3
                        && keys
                            .get(&name_key)
                            .is_none_or(|(v, _)| v.0 != u64::from(value));
                    assert_eq!(outcome.is_err(), conflict);
                    let Ok(committed) = outcome else { continue };
                    match kind {
                        1 => drop(keys.remove(&name_key)),
                        2 => {
                            let log = logs.entry(name_log).or_default();
                            log.push(vec![value]);
                            assert_eq!(committed.positions, [Position(log.len() as u64)]);
                        }
                        _ => drop(keys.insert(name_key, (committed.version, vec![value]))),
                    }
                }
                let store = store.as_ref().unwrap();
                let listed = store
                    .list(&Prefix(NameBytes::new()), None, 99)
                    .await
                    .unwrap();
                let listed: BTreeMap<_, _> = listed
                    .into_iter()
                    .map(|(k, v)| (k, (v.version, v.value.to_vec())))
                    .collect();
                assert_eq!(listed, keys);
                for (log, entries) in logs {
                    let page = store.read(&log, Position(0), ALL).await.unwrap();
                    assert!(page.entries.into_iter().map(|(_, e)| e).eq(entries));
                }
            });
            Ok(())
        })
        .unwrap();
}
