//! A disk, and the store engine on it: in memory, seeded. It acknowledges after a simulated sync, loses what is
//! not synced when its machine dies, tears what is being written, fails and fills up.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt as _, rngs::StdRng};
use tokio::sync::{mpsc, oneshot};

use super::machine::Machine;
use crate::store::{
    Batch, Change, CommitError, Committed, Expected, Key, Log, Page, PageLimit, Position, Prefix,
    Store, StoreError, Subscribers, Subscription, Version, Versioned,
};

/// Batches that may wait to be written.
const QUEUE_MAX: usize = 64;

/// How a disk is at present.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// The longest that a sync takes.
    pub sync: Duration,
    /// The part of the groups whose writing fails.
    pub failing: f64,
    /// There is no room.
    pub is_full: bool,
}

#[derive(Debug, Default)]
struct Entries {
    by_position: BTreeMap<u64, Vec<u8>>,
    last: u64,
}

/// What is on the disk for good.
#[derive(Debug, Default)]
struct Contents {
    values: BTreeMap<Key, Versioned>,
    logs: BTreeMap<Log, Entries>,
    version: u64,
    /// What is being written and not synced.
    unsynced: Vec<Batch>,
}

/// A disk. It outlives the processes that use it.
#[derive(Clone, Debug)]
pub struct Disk {
    contents: Arc<Mutex<Contents>>,
    health: Arc<Mutex<Health>>,
    rng: Arc<Mutex<StdRng>>,
}

impl Disk {
    pub fn new(rng: StdRng) -> Self {
        Self {
            contents: Arc::default(),
            health: Arc::default(),
            rng: Arc::new(Mutex::new(rng)),
        }
    }

    pub fn set_health(&self, health: Health) {
        *self.health.lock().unwrap() = health;
    }

    /// The machine has died: of what was being written, some whole batches may have reached the disk, and the one
    /// that was torn counts for nothing.
    pub fn power_off(&self) {
        let mut contents = self.contents.lock().unwrap();
        let unsynced = std::mem::take(&mut contents.unsynced);
        let survive = self.rng.lock().unwrap().random_range(0..=unsynced.len());
        for batch in unsynced.into_iter().take(survive) {
            let _ = contents.apply(batch);
        }
    }

    /// Opens the store that is on it.
    pub fn open(&self, machine: Machine) -> SimulatedStore {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let subscribers = Arc::<Subscribers>::default();
        let writer = Writer {
            disk: self.clone(),
            machine: machine.clone(),
            subscribers: Arc::clone(&subscribers),
        };
        tokio::spawn(writer.run(jobs));
        SimulatedStore {
            disk: self.clone(),
            machine,
            queue,
            subscribers,
        }
    }
}

impl Contents {
    /// Checks a batch and carries it out.
    fn apply(&mut self, batch: Batch) -> Result<Committed, CommitError> {
        if !batch.names_fit() {
            return Err(CommitError::Refused("a name is too long".into()));
        }
        let holds = batch.expectations.iter().all(|(key, expected)| {
            let found = self.values.get(key).map(|found| found.version);
            match expected {
                Expected::Absent => found.is_none(),
                Expected::At(version) => found == Some(*version),
            }
        });
        if !holds {
            return Err(CommitError::Conflict);
        }
        self.version += 1;
        let version = Version(self.version);
        let mut positions = Vec::new();
        for change in batch.changes {
            match change {
                Change::Put(key, value) => {
                    self.values.insert(key, Versioned { version, value });
                }
                Change::Delete(key) => {
                    self.values.remove(&key);
                }
                Change::Append(log, entry) => {
                    let entries = self.logs.entry(log).or_default();
                    entries.last += 1;
                    entries.by_position.insert(entries.last, entry);
                    positions.push(Position(entries.last));
                }
                Change::Trim(log, below) => {
                    let entries = self.logs.entry(log).or_default();
                    entries.by_position = entries.by_position.split_off(&below.0);
                }
            }
        }
        Ok(Committed { version, positions })
    }
}

type Job = (Batch, oneshot::Sender<Result<Committed, CommitError>>);

/// Writes: whatever waits goes together.
struct Writer {
    disk: Disk,
    machine: Machine,
    subscribers: Arc<Subscribers>,
}

impl Writer {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        let mut group: Vec<Job> = Vec::new();
        while jobs.recv_many(&mut group, QUEUE_MAX).await > 0 {
            self.machine.moment().await;
            let health = *self.disk.health.lock().unwrap();
            let (takes, fails) = {
                let mut rng = self.disk.rng.lock().unwrap();
                let takes = health.sync.mul_f64(rng.random());
                (takes, rng.random_bool(health.failing))
            };
            if health.is_full {
                for (_, answer) in group.drain(..) {
                    let _ = answer.send(Err(CommitError::Full));
                }
                continue;
            }
            let unsynced = group.iter().map(|(batch, _)| batch.clone()).collect();
            self.disk.contents.lock().unwrap().unsynced = unsynced;
            tokio::time::sleep(takes).await;
            self.machine.moment().await;
            if fails {
                self.machine.note(|| "the disk fails".into());
                self.disk.power_off();
                for (_, answer) in group.drain(..) {
                    let failed = StoreError::Failed("simulated".into());
                    let _ = answer.send(Err(failed.into()));
                }
                continue;
            }
            self.sync(&mut group);
        }
    }

    fn sync(&self, group: &mut Vec<Job>) {
        let mut grown = Vec::new();
        let mut contents = self.disk.contents.lock().unwrap();
        contents.unsynced.clear();
        for (batch, answer) in group.drain(..) {
            let logs = batch.changes.iter().filter_map(|change| match change {
                Change::Append(log, _) => Some(log.clone()),
                _ => None,
            });
            let logs: Vec<Log> = logs.collect();
            let outcome = contents.apply(batch);
            if outcome.is_ok() {
                grown.extend(logs);
            }
            let _ = answer.send(outcome);
        }
        drop(contents);
        for log in grown {
            self.subscribers.notify(&log);
        }
    }
}

/// The store on a [`Disk`], as one process has it open.
#[derive(Debug)]
pub struct SimulatedStore {
    disk: Disk,
    machine: Machine,
    queue: mpsc::Sender<Job>,
    subscribers: Arc<Subscribers>,
}

impl Store for SimulatedStore {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.machine.moment().await;
        let contents = self.disk.contents.lock().unwrap();
        Ok(contents.values.get(key).cloned())
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        self.machine.moment().await;
        let contents = self.disk.contents.lock().unwrap();
        let from = Key(prefix.0.clone());
        let found = contents
            .values
            .range(from..)
            .filter(|(key, _)| match after {
                Some(after) => *key > after,
                None => true,
            });
        let found = found.take_while(|(key, _)| key.0.starts_with(&prefix.0));
        Ok(found
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    async fn read(&self, log: &Log, after: Position, limit: PageLimit) -> Result<Page, StoreError> {
        self.machine.moment().await;
        let contents = self.disk.contents.lock().unwrap();
        let mut page = Page::default();
        let mut bytes = 0;
        let Some(entries) = contents.logs.get(log) else {
            return Ok(page);
        };
        for (position, entry) in entries.by_position.range(after.0.saturating_add(1)..) {
            if page.entries.len() >= limit.entries || bytes >= limit.bytes {
                page.more = true;
                break;
            }
            bytes += entry.len();
            page.entries.push((Position(*position), entry.clone()));
        }
        Ok(page)
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.machine.moment().await;
        let (answer, answered) = oneshot::channel();
        self.queue
            .send((batch, answer))
            .await
            .map_err(|_| StoreError::Closed)?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    async fn last(&self, log: &Log) -> Result<Position, StoreError> {
        self.machine.moment().await;
        let contents = self.disk.contents.lock().unwrap();
        let entries = contents.logs.get(log);
        Ok(Position(entries.map_or(0, |entries| entries.last)))
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.subscribers.subscribe(logs)
    }
}
