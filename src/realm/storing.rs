//! How the realm reads and writes its store: records instead of bytes, refusals instead of errors.

use super::{DISK_FULL_MS, Failure, Realm, records::Record};
use crate::{
    faults::{Fault, is_planted},
    store::{
        Batch, CommitError, Expected, Key, Position, Prefix, Store, StoreError, Version, Versioned,
        concat,
    },
    wire::Refusal,
};

/// How a commit ended that did not fail.
pub(super) enum Outcome {
    Durable,
    Conflict,
}

/// Takes note of what is read, so that what is decided from it can depend on it.
pub(super) trait Notes: Send {
    /// `key` was at `version`, or absent.
    fn note(&mut self, key: &Key, version: Option<Version>);
}

/// Whoever decides nothing.
pub(super) struct Unnoted;

impl Notes for Unnoted {
    fn note(&mut self, _: &Key, _: Option<Version>) {}
}

/// The batch takes effect only as long as what was read holds.
impl Notes for Batch {
    fn note(&mut self, key: &Key, version: Option<Version>) {
        if !is_planted(Fault::RelyOnNothing) {
            let expected = version.map_or(Expected::Absent, Expected::At);
            self.expect(key.clone(), expected);
        }
    }
}

/// Longer than what stands behind a prefix of keys that are listed in spite of damage.
const BEHIND_PREFIX: [u8; 64] = [u8::MAX; 64];

impl<S: Store> Realm<S> {
    /// Tells `found` all keys under a prefix that can be read, in order. What the disk has damaged is left out, with no more of what
    /// stands behind it than begins with the same byte behind the prefix. Why something was left out, if anything was.
    pub(super) async fn list_readable(
        &self,
        prefix: &Prefix,
        at_once: usize,
        mut found: impl FnMut(&Key, Versioned) + Send,
    ) -> Option<StoreError> {
        let (mut after, mut limit) = (None, at_once);
        let mut damage = None;
        // The part of the keys in which something was left out last.
        let mut skipped: Option<u8> = None;
        loop {
            match self.store.list(prefix, after.as_ref(), limit).await {
                Ok(page) => {
                    let Some((last, _)) = page.last() else {
                        return damage;
                    };
                    after = Some(last.clone());
                    for (key, value) in page {
                        found(&key, value);
                    }
                    limit = at_once.min(limit * 2);
                }
                // All that stands before the damage is read, one by one in the end.
                Err(StoreError::Damaged(_)) if limit > 1 => limit /= 2,
                Err(error @ StoreError::Damaged(_)) => {
                    damage = Some(error);
                    let reached = after.as_ref().and_then(|after| {
                        let Key(name) = after;
                        name.get(prefix.0.len()).copied()
                    });
                    let part = match skipped {
                        Some(skipped) if reached.is_none_or(|reached| reached <= skipped) => {
                            skipped.checked_add(1)
                        }
                        _ => Some(reached.unwrap_or(0)),
                    };
                    let Some(part) = part else {
                        return damage;
                    };
                    skipped = Some(part);
                    let end = concat(&[&prefix.0, &[part], &BEHIND_PREFIX]);
                    after = Some(Key(end));
                }
                Err(error) => return Some(error),
            }
        }
    }

    /// Commits.
    pub(super) async fn commit(&self, batch: Batch) -> Result<Outcome, Failure> {
        Ok(match self.commit_placed(batch).await? {
            Some(_) => Outcome::Durable,
            None => Outcome::Conflict,
        })
    }

    /// Commits; where the entries stand that were appended, or nothing on a conflict.
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
            // It needed what cannot be read, so it was not written.
            Err(CommitError::Store(error @ StoreError::Damaged(_))) => Err(Failure::Store(error)),
            // It may have been written before the engine failed.
            Err(CommitError::Store(error)) => Err(Failure::Unknown(error)),
        }
    }

    /// As [`Realm::record`], noted.
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

    /// The record under `key` and its version.
    pub(super) async fn record<R: Record>(
        &self,
        key: &Key,
    ) -> Result<Option<(R, Version)>, Failure> {
        match self.store.get(key).await? {
            Some(found) => Ok(Some((R::from_value(&found.value)?, found.version))),
            None => Ok(None),
        }
    }
}
