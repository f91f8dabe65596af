//! An in-memory store that fails on request, for tests of error handling.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Batch, CommitError, Committed, Key, Log, Memory, NameBytes, Page, PageLimit, Position, Prefix,
    Store, StoreError, Subscribers, Subscription, Versioned,
};

/// An operation on the store.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// A read of a key's value.
    Get(&'a Key),
    /// A list of the keys under a prefix.
    List(&'a Prefix),
    /// A key that a list reads: each key found and, if fewer than the limit were found, the next
    /// key behind them, which shows that there are no more.
    Past(&'a Key),
    /// A read of a log's entries or of its last position.
    Read(&'a Log),
    /// A list of the names of all logs.
    Logs,
    /// A write.
    Commit(&'a Batch),
}

/// Returns true for an operation that must fail.
type Plan = Box<dyn FnMut(Asked<'_>) -> bool + Send>;

struct Inner {
    memory: Mutex<Memory>,
    subscribers: Subscribers,
    plan: Mutex<Plan>,
    is_lost: AtomicBool,
}

/// The store. Its clones share their contents, as processes do that open a store one after another.
#[derive(Clone)]
pub struct Faulty(Arc<Inner>);

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").finish_non_exhaustive()
    }
}

/// Returns an empty store in which nothing fails.
impl Default for Faulty {
    fn default() -> Self {
        Self(Arc::new(Inner {
            memory: Mutex::default(),
            subscribers: Subscribers::default(),
            plan: Mutex::new(Box::new(|_| false)),
            is_lost: AtomicBool::new(false),
        }))
    }
}

impl Faulty {
    /// Sets whether a failed read reports permanent damage (true) or a failed disk read (false).
    pub fn lose(&self, is_lost: bool) {
        self.0.is_lost.store(is_lost, Ordering::Relaxed);
    }

    /// Makes the operations that `plan` selects fail from now on: a read as [`Faulty::lose`] says,
    /// a commit as on a full disk.
    pub fn fail_when(&self, plan: impl FnMut(Asked<'_>) -> bool + Send + 'static) {
        *self.0.plan.lock().unwrap() = Box::new(plan);
    }

    /// Makes nothing fail from now on.
    pub fn mend(&self) {
        self.fail_when(|_| false);
    }

    fn fails(&self, asked: Asked<'_>) -> bool {
        (self.0.plan.lock().unwrap())(asked)
    }

    fn read_of(&self, asked: Asked<'_>) -> Result<MutexGuard<'_, Memory>, StoreError> {
        if self.fails(asked) {
            let what = "as planned".to_string();
            return Err(if self.0.is_lost.load(Ordering::Relaxed) {
                StoreError::Damaged(what)
            } else {
                StoreError::Unread(what)
            });
        }
        Ok(self.0.memory.lock().unwrap())
    }
}

impl Store for Faulty {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        Ok(self.read_of(Asked::Get(key))?.get(key))
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        let found = self
            .read_of(Asked::List(prefix))?
            .list(prefix, after, limit);
        for (key, _) in &found {
            drop(self.read_of(Asked::Past(key))?);
        }
        if found.len() < limit {
            let begin = Key(prefix.0.clone());
            let last = found.last().map(|(key, _)| key).or(after);
            let last = last.map_or(&begin, |last| last.max(&begin));
            let all = Prefix(NameBytes::new());
            let behind = self.0.memory.lock().unwrap().list(&all, Some(last), 1);
            for (key, _) in &behind {
                drop(self.read_of(Asked::Past(key))?);
            }
        }
        Ok(found)
    }

    async fn read(&self, log: &Log, after: Position, limit: PageLimit) -> Result<Page, StoreError> {
        Ok(self.read_of(Asked::Read(log))?.read(log, after, limit))
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        if self.fails(Asked::Commit(&batch)) {
            return Err(CommitError::Full);
        }
        let logs: Vec<Log> = batch.grown().cloned().collect();
        let committed = self.0.memory.lock().unwrap().apply(batch)?;
        for log in &logs {
            self.0.subscribers.notify(log);
        }
        Ok(committed)
    }

    async fn last(&self, log: &Log) -> Result<Position, StoreError> {
        Ok(self.read_of(Asked::Read(log))?.last(log))
    }

    async fn logs(&self, after: Option<&Log>, limit: usize) -> Result<Vec<Log>, StoreError> {
        Ok(self.read_of(Asked::Logs)?.logs(after, limit))
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.0.subscribers.subscribe(logs)
    }
}
