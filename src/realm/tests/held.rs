//! A realm over a store in memory. The store can be copied, and a command can be held at a step.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use super::*;
use crate::store::{
    Change, CommitError, Committed, Key, Log, Memory, Page as LogPage, PageLimit, Prefix,
    Subscribers, Subscription, Versioned,
};

/// The number of the device that sends a command.
pub type Device = u8;

/// A store in which one command can be held at a step.
#[derive(Clone, Debug, Default)]
pub struct Held {
    memory: Arc<Mutex<Memory>>,
    pub hold: Arc<Hold>,
    subscribers: Arc<Subscribers>,
}

/// The step at which a command is held.
#[derive(Debug, Default)]
pub struct Hold {
    /// Steps until a command is held; 0 if none is to be held.
    pub left: AtomicUsize,
    pub held: Notify,
    pub release: Notify,
}

impl Held {
    pub fn over(memory: Memory) -> Self {
        Self {
            memory: Arc::new(Mutex::new(memory)),
            ..Self::default()
        }
    }

    async fn step(&self) {
        let left = &self.hold.left;
        let counted = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        });
        if counted == Ok(1) {
            self.hold.held.notify_one();
            self.hold.release.notified().await;
        }
    }

    pub fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }
}

impl Store for Held {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.step().await;
        Ok(self.memory().get(key))
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        self.step().await;
        Ok(self.memory().list(prefix, after, limit))
    }

    async fn read(
        &self,
        log: &Log,
        after: Position,
        limit: PageLimit,
    ) -> Result<LogPage, StoreError> {
        self.step().await;
        Ok(self.memory().read(log, after, limit))
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.step().await;
        let logs = batch.changes.iter().filter_map(|change| match change {
            Change::Append(log, _) => Some(log.clone()),
            _ => None,
        });
        let logs: Vec<Log> = logs.collect();
        let committed = self.memory().apply(batch)?;
        for log in logs {
            self.subscribers.notify(&log);
        }
        Ok(committed)
    }

    async fn last(&self, log: &Log) -> Result<Position, StoreError> {
        self.step().await;
        Ok(self.memory().last(log))
    }

    async fn logs(&self, after: Option<&Log>, limit: usize) -> Result<Vec<Log>, StoreError> {
        self.step().await;
        Ok(self.memory().logs(after, limit))
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.subscribers.subscribe(logs)
    }
}

pub fn realm_of(store: &Held) -> Realm<Held> {
    realm_over(store.clone(), |_, limits| {
        limits.password_threads = 0;
        limits.sessions_max = 2;
        // Rate limits do not matter here.
        limits.rates = Rates::UNLIMITED;
    })
}

pub async fn give(realm: &Realm<Held>, n: Device, command: &[u8]) -> Answer {
    let bytes = realm.answer(&caller(device(n), MOMENT), command).await;
    Answer::parse(&bytes).unwrap()
}

/// Adds a peer with key number `n`, which has agreed about the peering.
pub async fn add_peer(realm: &Realm<Held>, n: Device, name: &str) {
    let address = ("192.0.2.9".to_string(), 6377);
    let key = PublicKey([n; 32]);
    let realm_id = name.parse().unwrap();
    let added = realm.peers.list_peer(realm_id, key, address, None);
    assert!(added.await.unwrap());
    realm.agree_with(realm_id).await;
}
