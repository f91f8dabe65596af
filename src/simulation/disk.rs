//! A simulated disk and its store engine, in memory and seeded. It acknowledges after a simulated
//! sync, loses unsynced writes when its machine dies, tears writes, fails and fills up.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt as _, rngs::StdRng};
use tokio::sync::{mpsc, oneshot};

use super::machine::Machine;
use crate::store::{
    Batch, Change, CommitError, Committed, Key, Log, Memory, Page, PageLimit, Position, Prefix,
    Store, StoreError, Subscribers, Subscription, Versioned,
};

/// The number of batches that may wait to be written.
const QUEUE_MAX: usize = 64;

/// The state of a disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// The longest time that a sync takes.
    pub sync: Duration,
    /// The share of groups of batches whose write fails.
    pub failing: f64,
    /// The disk has no space left.
    pub is_full: bool,
}

/// The content of the disk.
#[derive(Debug, Default)]
struct Contents {
    stored: Memory,
    /// Batches that are written and not synced.
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

    /// Returns the present state of the disk.
    pub fn health(&self) -> Health {
        *self.health.lock().unwrap()
    }

    /// Returns the bytes of all entries of all logs.
    pub fn logged(&self) -> usize {
        self.contents.lock().unwrap().stored.logged()
    }

    /// Returns a copy of the durable content, like a snapshot.
    pub fn copy(&self) -> Memory {
        self.contents.lock().unwrap().stored.clone()
    }

    /// Replaces the content by a copy. No process may be using the disk.
    pub fn restore(&self, copy: Memory) {
        let unsynced = Vec::new();
        let stored = copy;
        *self.contents.lock().unwrap() = Contents { stored, unsynced };
    }

    /// The machine has died. A random number of whole batches of the unsynced write have reached
    /// the disk. A torn batch has no effect.
    pub fn power_off(&self) {
        let mut contents = self.contents.lock().unwrap();
        let unsynced = std::mem::take(&mut contents.unsynced);
        let survive = self.rng.lock().unwrap().random_range(0..=unsynced.len());
        for batch in unsynced.into_iter().take(survive) {
            let _ = contents.stored.apply(batch);
        }
    }

    /// Opens the store on the disk.
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

type Job = (Batch, oneshot::Sender<Result<Committed, CommitError>>);

/// The writer. It writes all waiting batches together.
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
                // Batches that free space are still accepted.
                for (_, answer) in group.extract_if(.., |(batch, _)| !batch.tidies) {
                    let _ = answer.send(Err(CommitError::Full));
                }
            }
            if group.is_empty() {
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
            let outcome = contents.stored.apply(batch);
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

/// The store on a [`Disk`], as one process has opened it.
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
        Ok(contents.stored.get(key))
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        self.machine.moment().await;
        let contents = self.disk.contents.lock().unwrap();
        Ok(contents.stored.list(prefix, after, limit))
    }

    async fn read(&self, log: &Log, after: Position, limit: PageLimit) -> Result<Page, StoreError> {
        self.machine.moment().await;
        let contents = self.disk.contents.lock().unwrap();
        Ok(contents.stored.read(log, after, limit))
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
        Ok(contents.stored.last(log))
    }

    async fn logs(&self, after: Option<&Log>, limit: usize) -> Result<Vec<Log>, StoreError> {
        self.machine.moment().await;
        let contents = self.disk.contents.lock().unwrap();
        Ok(contents.stored.logs(after, limit))
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.subscribers.subscribe(logs)
    }
}
