//! How the realm reads and writes its store: records instead of bytes, refusals instead of errors.

use tokio::sync::watch;

use super::{Caller, DISK_FULL_MS, failure::Failure, records::Record};
use crate::{
    faults::{Fault, is_planted},
    store::{
        Batch, CommitError, Expected, Gap, Key, Log, Page, PageLimit, Position, Prefix, Store,
        StoreError, Subscription, Version, Versioned, concat,
    },
    wire::Refusal,
};

/// The result of a commit that did not fail.
pub(super) enum Outcome {
    Durable,
    Conflict,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is durable.
    Durable,
    /// A value that it relied on has changed: nothing was written.
    Conflict,
    /// This realm's store cannot be read or written.
    Failed,
}

/// Records what is read, so that a decision can depend on it.
pub(super) trait Notes: Send {
    /// Notes that `key` was at `version`, or absent.
    fn note(&mut self, key: &Key, version: Option<Version>);
}

/// Notes nothing, for reads that decide nothing.
pub(super) struct Unnoted;

impl Notes for Unnoted {
    fn note(&mut self, _: &Key, _: Option<Version>) {}
}

/// The batch takes effect only if the values that were read have not changed.
impl Notes for Batch {
    fn note(&mut self, key: &Key, version: Option<Version>) {
        if !is_planted(Fault::RelyOnNothing) {
            let expected = version.map_or(Expected::Absent, Expected::At);
            self.expect(key.clone(), expected);
        }
    }
}

/// The limit of a read that is for one entry.
pub(super) const ONE: PageLimit = PageLimit {
    entries: 1,
    bytes: 1,
};

/// A walk over the readable keys under a prefix, in order. Damaged records are skipped, with as few
/// records behind them as possible.
pub(super) struct Walk {
    prefix: Prefix,
    after: Option<Key>,
    at_once: usize,
    limit: usize,
    /// The reason why something was skipped, if anything was.
    pub damage: Option<StoreError>,
    /// The end of the last part that was skipped.
    pub passed: Option<Key>,
}

impl Walk {
    /// Returns a walk over the keys behind `after`, at most `at_once` at a time.
    pub const fn new(prefix: Prefix, after: Option<Key>, at_once: usize) -> Self {
        Self {
            prefix,
            after,
            at_once,
            limit: at_once,
            damage: None,
            passed: None,
        }
    }

    /// Returns the next keys. Empty at the end, and also if nothing behind can be read.
    ///
    /// # Errors
    /// The store has failed in another way than by damage.
    pub async fn next(
        &mut self,
        storage: &Storage<impl Store>,
    ) -> Result<Vec<(Key, Versioned)>, StoreError> {
        loop {
            let store = &storage.store;
            let page = store.list(&self.prefix, self.after.as_ref(), self.limit);
            match page.await {
                Ok(page) => {
                    if let Some((last, _)) = page.last() {
                        self.after = Some(last.clone());
                        self.limit = self.at_once.min(self.limit * 2);
                    }
                    return Ok(page);
                }
                // All records before the damage are read, one by one in the end.
                Err(error) if error.is_of_one_record() && self.limit > 1 => self.limit /= 2,
                Err(error) if error.is_of_one_record() => {
                    self.damage = Some(error);
                    if !self.pass_over(storage).await? {
                        return Ok(Vec::new());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Skips an unreadable part. False if nothing behind it can be read.
    async fn pass_over(&mut self, storage: &Storage<impl Store>) -> Result<bool, StoreError> {
        let key = |behind: &[u8]| Key(concat(&[&self.prefix.0, behind]));
        let reached = self.after.as_ref();
        let reached = reached.and_then(|Key(name)| name.get(self.prefix.0.len()..));
        let mut gap = Gap::behind(reached.unwrap_or_default());
        while let Some(behind) = gap.next() {
            let behind = key(&behind);
            let readable = storage.store.list(&self.prefix, Some(&behind), 1);
            match readable.await {
                Ok(_) => gap.tell(true),
                Err(error) if error.is_of_one_record() => gap.tell(false),
                Err(error) => return Err(error),
            }
        }
        let end = gap.end();
        if let Some(behind) = end {
            self.after = Some(key(&behind));
            self.passed.clone_from(&self.after);
        }
        Ok(end.is_some())
    }
}

/// The store of a realm, and whether it has failed. All services read and write through it.
#[derive(Debug)]
pub struct Storage<S> {
    store: S,
    /// Set for good when the store fails.
    failed: watch::Sender<Option<StoreError>>,
}

impl<S: Store> Storage<S> {
    /// Returns the storage over `store`.
    pub(super) fn new(store: S) -> Self {
        Self {
            store,
            failed: watch::Sender::new(None),
        }
    }

    /// Waits until the store fails, also while no command arrives. After a failure nothing can be
    /// written; only a restart helps.
    pub async fn failed(&self) -> StoreError {
        let mut failed = self.failed.subscribe();
        tokio::select! {
            biased;
            failed = failed.wait_for(Option::is_some) => match failed.as_deref() {
                Ok(Some(error)) => error.clone(),
                // The wait ends with an error, or with none only if the sender is gone.
                Ok(None) | Err(_) => StoreError::Closed,
            },
            error = self.store.failed() => error,
        }
    }

    /// Logs a failure. A store failure is an error that the operator must see; a refusal is only a
    /// debug message.
    pub(super) fn log_failure(&self, command: &str, failure: &Failure) {
        match failure {
            Failure::Refused(refusal) => {
                tracing::debug!(command, code = %refusal.code, "operation refused");
            }
            Failure::Store(error) | Failure::Unknown(error) => {
                tracing::error!(command, %error, "operation failed");
                self.note_failed(error);
            }
        }
    }

    /// Logs the failure of a caller's command as [`Storage::log_failure`], with its device and the
    /// subnet that it came from.
    pub(super) fn log_failure_of(&self, caller: &Caller, command: &str, failure: &Failure) {
        let device = || caller.device().map(|device| device.fingerprint());
        let from = caller.subnet;
        match failure {
            Failure::Refused(refusal) => {
                let code = refusal.code;
                tracing::debug!(command, %from, device = device(), %code, "operation refused");
            }
            Failure::Store(error) | Failure::Unknown(error) => {
                tracing::error!(command, %from, device = device(), %error, "operation failed");
                self.note_failed(error);
            }
        }
    }

    fn note_failed(&self, error: &StoreError) {
        if matches!(error, StoreError::Failed(_)) {
            self.failed.send_replace(Some(error.clone()));
        }
    }

    /// Returns the record under `key` and its version.
    pub(super) async fn record<R: Record>(
        &self,
        key: &Key,
    ) -> Result<Option<(R, Version)>, Failure> {
        Ok(self.read_record(key).await?)
    }

    /// Reads as [`Storage::record`], for callers to whom no command is refused.
    pub(super) async fn read_record<R: Record>(
        &self,
        key: &Key,
    ) -> Result<Option<(R, Version)>, StoreError> {
        match self.store.get(key).await? {
            Some(found) => Ok(Some((R::from_value(&found.value)?, found.version))),
            None => Ok(None),
        }
    }

    /// Reads as [`Storage::record`], and notes what was read.
    pub(super) async fn noted<R: Record>(
        &self,
        notes: &mut impl Notes,
        key: &Key,
    ) -> Result<Option<(R, Version)>, Failure> {
        let found = self.record(key).await?;
        let version = found.as_ref().map(|(_, version)| *version);
        notes.note(key, version);
        Ok(found)
    }

    /// Returns the bytes of the record under `key`.
    pub(super) async fn value(&self, key: &Key) -> Result<Option<Versioned>, Failure> {
        Ok(self.store.get(key).await?)
    }

    /// True if there is a record under `key`, well-formed or not.
    pub(super) async fn has(&self, key: &Key) -> Result<bool, Failure> {
        Ok(self.value(key).await?.is_some())
    }

    /// Returns at most `limit` keys under a prefix with their values, in order, after `after`.
    pub(super) async fn list(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Versioned)>, Failure> {
        Ok(self.store.list(prefix, after, limit).await?)
    }

    /// True if there is no key under a prefix.
    pub(super) async fn is_empty(&self, prefix: &Prefix) -> Result<bool, Failure> {
        Ok(self.list(prefix, None, 1).await?.is_empty())
    }

    /// Calls `found` for each readable key under a prefix, in order. Returns the reason if
    /// something was skipped.
    pub(super) async fn list_readable(
        &self,
        prefix: &Prefix,
        at_once: usize,
        mut found: impl FnMut(&Key, Versioned) + Send,
    ) -> Option<StoreError> {
        let mut walk = Walk::new(prefix.clone(), None, at_once);
        loop {
            match walk.next(self).await {
                Ok(page) if page.is_empty() => return walk.damage,
                Ok(page) => page.into_iter().for_each(|(key, value)| found(&key, value)),
                Err(error) => return Some(error),
            }
        }
    }

    /// Returns the next readable keys under a prefix. Unreadable ones are skipped and logged.
    pub(super) async fn next_readable(
        &self,
        prefix: Prefix,
        after: Option<Key>,
        at_once: usize,
    ) -> Result<Vec<(Key, Versioned)>, Failure> {
        let mut walk = Walk::new(prefix, after, at_once);
        let found = walk.next(self).await;
        if let Some(error) = walk.damage {
            self.log_failure("housekeeping", &error.into());
        }
        Ok(found?)
    }

    /// Returns entries of a log after a position, oldest first.
    pub(super) async fn read(
        &self,
        log: &Log,
        after: Position,
        limit: PageLimit,
    ) -> Result<Page, Failure> {
        Ok(self.store.read(log, after, limit).await?)
    }

    /// Returns the first entry of a log after a position.
    pub(super) async fn entry_behind(
        &self,
        log: &Log,
        after: Position,
    ) -> Result<Option<(Position, Vec<u8>)>, Failure> {
        let page = self.read(log, after, ONE).await?;
        Ok(page.entries.into_iter().next())
    }

    /// Returns the last position used in a log, even if its entries were trimmed; 0 if there was
    /// none.
    pub(super) async fn last(&self, log: &Log) -> Result<Position, Failure> {
        Ok(self.store.last(log).await?)
    }

    /// Returns at most `limit` names of logs that have entries, after `after`.
    pub(super) async fn logs(
        &self,
        after: Option<&Log>,
        limit: usize,
    ) -> Result<Vec<Log>, Failure> {
        Ok(self.store.logs(after, limit).await?)
    }

    /// Returns a subscription that wakes when one of `logs` has grown.
    pub(super) fn subscribe(&self, logs: &[Log]) -> Subscription {
        self.store.subscribe(logs)
    }

    /// Frees memory of cached data that was not used since the call before the last.
    pub(super) fn age(&self) {
        self.store.age();
    }

    /// Commits a batch.
    pub(super) async fn commit(&self, batch: Batch) -> Result<Outcome, Failure> {
        Ok(match self.commit_placed(batch).await? {
            Some(_) => Outcome::Durable,
            None => Outcome::Conflict,
        })
    }

    /// Commits a batch. Returns the positions of the appended entries, or `None` on a conflict.
    pub(super) async fn commit_placed(
        &self,
        batch: Batch,
    ) -> Result<Option<Vec<Position>>, Failure> {
        let committing = self.store.commit(batch);
        let committed = if is_planted(Fault::AnswerBeforeCommit) {
            tokio::select! {
                biased;
                committed = committing => committed,
                () = tokio::task::yield_now() => return Ok(Some(Vec::new())),
            }
        } else {
            committing.await
        };
        match committed {
            Ok(committed) => Ok(Some(committed.positions)),
            Err(CommitError::Conflict) if is_planted(Fault::IgnoreConflict) => Ok(Some(Vec::new())),
            Err(CommitError::Conflict) => Ok(None),
            Err(CommitError::Full) if is_planted(Fault::IgnoreFullDisk) => Ok(Some(Vec::new())),
            Err(CommitError::Full) => Err(Refusal::busy(DISK_FULL_MS).into()),
            Err(CommitError::Refused(reason)) => Err(StoreError::Damaged(reason).into()),
            // The commit needed an unreadable record, so nothing was written.
            Err(CommitError::Store(error)) if error.is_of_one_record() => {
                Err(Failure::Store(error))
            }
            // It may have been written before the engine failed.
            Err(CommitError::Store(error)) => Err(Failure::Unknown(error)),
        }
    }

    /// Commits an optional batch. Returns its version, or `None` if it was not committed: after a
    /// conflict, on a full disk, or when the store refuses it.
    pub(super) async fn commit_if_possible(
        &self,
        batch: Batch,
    ) -> Result<Option<Version>, Failure> {
        match self.store.commit(batch).await {
            Ok(committed) => Ok(Some(committed.version)),
            Err(CommitError::Store(error)) => Err(error.into()),
            Err(CommitError::Conflict | CommitError::Full | CommitError::Refused(_)) => Ok(None),
        }
    }

    /// Returns the store.
    #[cfg(test)]
    pub(super) const fn store(&self) -> &S {
        &self.store
    }
}
