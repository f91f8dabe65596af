//! A store in memory, without a disk, and its contents, which tests keep, copy and compare.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Batch, Change, CommitError, Committed, Expected, Key, Log, Page, PageLimit, Position, Prefix,
    Store, StoreError, Subscribers, Subscription, Version, Versioned,
};

#[derive(Clone, Debug, Default)]
struct Entries {
    by_position: BTreeMap<u64, Vec<u8>>,
    last: u64,
}

/// The contents of a store. Each call is atomic.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    values: BTreeMap<Key, Versioned>,
    logs: BTreeMap<Log, Entries>,
    version: u64,
}

impl Memory {
    /// As [`super::Store::get`].
    pub fn get(&self, key: &Key) -> Option<Versioned> {
        self.values.get(key).cloned()
    }

    /// As [`super::Store::list`].
    pub fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Vec<(Key, Versioned)> {
        let from = Key(prefix.0.clone());
        let found = self.values.range(from..);
        let found = found.filter(|(key, _)| after.is_none_or(|after| *key > after));
        found
            .take_while(|(key, _)| key.0.starts_with(&prefix.0))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// As [`super::Store::read`].
    pub fn read(&self, log: &Log, after: Position, limit: PageLimit) -> Page {
        let mut page = Page::default();
        let mut bytes = 0;
        let Some(entries) = self.logs.get(log) else {
            return page;
        };
        for (position, entry) in entries.by_position.range(after.0.saturating_add(1)..) {
            if page.entries.len() >= limit.entries || bytes >= limit.bytes {
                page.more = true;
                break;
            }
            bytes += entry.len();
            page.entries.push((Position(*position), entry.clone()));
        }
        page
    }

    /// As [`super::Store::last`].
    pub fn last(&self, log: &Log) -> Position {
        Position(self.logs.get(log).map_or(0, |entries| entries.last))
    }

    /// As [`super::Store::logs`].
    pub fn logs(&self, after: Option<&Log>, limit: usize) -> Vec<Log> {
        let named = self
            .logs
            .iter()
            .filter(|(log, _)| after.is_none_or(|after| *log > after));
        let filled = named.filter(|(_, entries)| !entries.by_position.is_empty());
        filled.take(limit).map(|(log, _)| log.clone()).collect()
    }

    /// Bytes of all entries of all logs.
    #[cfg(test)]
    pub fn logged(&self) -> usize {
        let entries = self.logs.values().flat_map(|log| log.by_position.values());
        entries.map(Vec::len).sum()
    }

    /// Checks a batch and carries it out.
    pub fn apply(&mut self, batch: Batch) -> Result<Committed, CommitError> {
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
        let ends = batch.ends.iter();
        let holds = holds && ends.clone().all(|(log, end)| self.last(log) == *end);
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
                Change::Forget(log) => {
                    if self
                        .logs
                        .get(&log)
                        .is_some_and(|entries| entries.by_position.is_empty())
                    {
                        self.logs.remove(&log);
                    }
                }
            }
        }
        Ok(Committed { version, positions })
    }
}

/// An engine without a disk: what is committed lasts as long as this value. An answer `ok` of a
/// realm over it lasts as long as the process. Its memory has no bound but those of the realm's
/// rules.
#[derive(Debug, Default)]
pub struct InMemory {
    contents: Arc<Mutex<Memory>>,
    subscribers: Subscribers,
}

impl InMemory {
    /// Returns a store with these contents, which others may open after it.
    #[cfg(test)]
    pub(crate) fn over(contents: Arc<Mutex<Memory>>) -> Self {
        let subscribers = Subscribers::default();
        Self {
            contents,
            subscribers,
        }
    }

    fn contents(&self) -> MutexGuard<'_, Memory> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for InMemory {
    async fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        Ok(self.contents().get(key))
    }

    async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        Ok(self.contents().list(prefix, after, limit))
    }

    async fn read(&self, log: &Log, after: Position, limit: PageLimit) -> Result<Page, StoreError> {
        Ok(self.contents().read(log, after, limit))
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let grown: Vec<Log> = batch.grown().cloned().collect();
        // Other tasks run before a commit, as they do while another engine writes.
        tokio::task::yield_now().await;
        let committed = self.contents().apply(batch)?;
        for log in &grown {
            self.subscribers.notify(log);
        }
        Ok(committed)
    }

    async fn last(&self, log: &Log) -> Result<Position, StoreError> {
        Ok(self.contents().last(log))
    }

    async fn logs(&self, after: Option<&Log>, limit: usize) -> Result<Vec<Log>, StoreError> {
        Ok(self.contents().logs(after, limit))
    }

    fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.subscribers.subscribe(logs)
    }
}
