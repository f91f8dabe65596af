//! Housekeeping: removes records that are not needed any more. These are expired sessions, recorded
//! answers to devices that are gone, messages that were kept for long enough, and cursors of groups
//! that have ended (SES-8, EXACT-14, READ-10, READ-6).
//!
//! The work is done in steps, and other tasks run in between. Each step makes its own commits, so
//! an interrupted pass keeps what it has done.

use serde_bytes::ByteBuf;

use super::{
    Realm,
    current_session::Current,
    failure::Failure,
    records::{self, IdleRecord, OperationRecord, Record as _, RecordedAnswer, SessionRecord},
    time::Moment,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, Log, Store, Version, Versioned},
};

/// The number of logs or keys that one step looks at.
const PER_STEP: usize = 32;
/// The most records of one owner's numbers (EXACT-4).
const RECORDS_MAX: usize = 256;
/// How long recorded answers to a device without a session are kept after its last command, in
/// seconds of the realm's running time: more than twice as long as any client retries.
const ANSWERS_KEPT_SECONDS: u32 = 60 * 86_400;

/// The position of a pass over the store.
#[derive(Clone, Debug)]
pub enum Pass {
    /// Among the sessions, behind this one.
    Sessions(Option<Key>),
    /// Among the recorded answers, behind those to this device.
    Answers(Option<Key>),
    /// Among the logs, behind this one.
    Logs(Option<Log>),
    /// Among the cursors, behind this one.
    Cursors(Option<Key>),
    /// Among the posts to groups of other realms, behind this one.
    Posts(Option<Key>),
    /// Among the tickets, behind those of this device.
    Tickets(Option<Key>),
}

impl Pass {
    /// The beginning of a pass.
    pub const BEGIN: Self = Self::Logs(None);
}

impl<S: Store> Realm<S> {
    /// Does one step of a pass over the store, and returns where the next one continues, or `None`
    /// at the end of the pass. `now` returns the time, because a step may take long.
    pub async fn tidy(&self, pass: Pass, now: &(impl Fn() -> Moment + Sync)) -> Option<Pass> {
        let next = match pass {
            Pass::Logs(after) => {
                let found = self
                    .tidy_logs(after, now)
                    .await
                    .map(|last| last.map(|last| Pass::Logs(Some(last))));
                (found, Some(Pass::Sessions(None)))
            }
            Pass::Sessions(after) => {
                let found = self
                    .tidy_sessions(after, now())
                    .await
                    .map(|last| last.map(|last| Pass::Sessions(Some(last))));
                (found, Some(Pass::Answers(None)))
            }
            Pass::Answers(after) => {
                let found = self
                    .tidy_answers(after, now().running)
                    .await
                    .map(|last| last.map(|last| Pass::Answers(Some(last))));
                (found, Some(Pass::Cursors(None)))
            }
            Pass::Cursors(after) => {
                let found = self
                    .cursors
                    .tidy_cursors(after)
                    .await
                    .map(|last| last.map(|last| Pass::Cursors(Some(last))));
                (found, Some(Pass::Posts(None)))
            }
            Pass::Posts(after) => {
                let found = self
                    .posts
                    .tidy_posts(after, now())
                    .await
                    .map(|last| last.map(|last| Pass::Posts(Some(last))));
                (found, Some(Pass::Tickets(None)))
            }
            Pass::Tickets(after) => {
                let found = self
                    .tickets
                    .tidy(after, now())
                    .await
                    .map(|last| last.map(|last| Pass::Tickets(Some(last))));
                (found, None)
            }
        };
        let (found, after) = next;
        // A kind that cannot be listed does not stop the removal of the others.
        let found = found.unwrap_or_else(|failure| {
            self.storage.log_failure("housekeeping", &failure);
            None
        });
        found.or(after)
    }

    async fn tidy_logs(
        &self,
        after: Option<Log>,
        now: &(impl Fn() -> Moment + Sync),
    ) -> Result<Option<Log>, Failure> {
        let found = self.storage.logs(after.as_ref(), PER_STEP).await?;
        for log in &found {
            if let Err(failure) = self.sweeper.sweep_log(log, now).await {
                // The next pass looks at it again.
                self.storage.log_failure("retention", &failure);
            }
        }
        Ok(found.last().cloned())
    }

    /// Ends the sessions that have expired.
    async fn tidy_sessions(&self, after: Option<Key>, now: Moment) -> Result<Option<Key>, Failure> {
        let prefix = records::sessions();
        let found = self.storage.next_readable(prefix, after, PER_STEP).await?;
        for (key, found) in &found {
            // An unreadable one does not stop the removal of others.
            if let Err(failure) = self.tidy_session(key, found, now).await {
                self.storage.log_failure("sessions", &failure);
            }
        }
        Ok(found.last().map(|(key, _)| key.clone()))
    }

    async fn tidy_session(&self, key: &Key, found: &Versioned, now: Moment) -> Result<(), Failure> {
        let record = SessionRecord::from_value(&found.value)?;
        let (Some(hash), Ok(user)) = (records::session_in(key), record.user.parse()) else {
            return Ok(());
        };
        let unused = now.running.saturating_sub(record.last);
        let is_open = u64::from(unused) < self.limits.session_ttl.as_secs();
        if is_open || is_planted(Fault::KeepForever) {
            return Ok(());
        }
        let current = Current {
            hash,
            user,
            record,
            version: found.version,
        };
        let mut batch = Batch::tidying();
        current.rely_on(&mut batch);
        self.sessions
            .end_sessions(&[current], None, &mut batch)
            .await?;
        // On a conflict it is in use.
        self.storage.commit(batch).await?;
        Ok(())
    }

    /// Closes the numbers of owners that are gone, one after another.
    async fn tidy_answers(&self, after: Option<Key>, now: u32) -> Result<Option<Key>, Failure> {
        let prefix = records::all_operations();
        let mut after = after;
        for _ in 0..PER_STEP {
            let found = self
                .storage
                .next_readable(prefix.clone(), after.take(), 1)
                .await?;
            let Some((key, _)) = found.first() else {
                return Ok(None);
            };
            let Some(owner) = records::owner_in(key) else {
                after = Some(key.clone());
                continue;
            };
            if let Err(failure) = self.tidy_owner(owner, now).await {
                self.storage.log_failure("answers", &failure);
            }
            after = Some(records::operations_end(owner));
        }
        Ok(after)
    }

    async fn tidy_owner(&self, owner: [u8; 16], now: u32) -> Result<(), Failure> {
        let idle_key = records::idle(owner);
        let idle = self.storage.record::<IdleRecord>(&idle_key).await?;
        if self.is_in_session(owner).await? || self.is_closed(owner).await? {
            if idle.is_some() {
                let mut batch = Batch::tidying();
                batch.delete(idle_key);
                self.storage.commit(batch).await?;
            }
            return Ok(());
        }
        let prefix = records::operations_of(owner);
        let kept = self.storage.list(&prefix, None, RECORDS_MAX).await?;
        let newest = kept.iter().map(|(_, found)| found.version).max();
        let newest = newest.unwrap_or(Version(0));
        let mut batch = Batch::tidying();
        match idle {
            Some((idle, version)) if idle.newest == newest.0 => {
                let waited = now.saturating_sub(idle.since);
                if waited < ANSWERS_KEPT_SECONDS || is_planted(Fault::KeepForever) {
                    return Ok(());
                }
                batch
                    .expect(idle_key.clone(), Expected::At(version))
                    .delete(idle_key);
                if idle.is_session {
                    forget(&kept, &mut batch);
                } else {
                    close(&kept, &mut batch)?;
                }
            }
            idle => {
                let idle = IdleRecord {
                    since: now,
                    newest: newest.0,
                    is_session: idle.is_some_and(|(idle, _)| idle.is_session),
                };
                batch.put(idle_key, idle.to_value()?);
            }
        }
        // On a conflict it is in use.
        self.storage.commit(batch).await?;
        Ok(())
    }

    /// True if the only record of an owner's numbers says that they are used.
    async fn is_closed(&self, owner: [u8; 16]) -> Result<bool, Failure> {
        let kept = self
            .storage
            .list(&records::operations_of(owner), None, 2)
            .await?;
        Ok(match &kept[..] {
            [(_, only)] => matches!(
                OperationRecord::from_value(&only.value)?.answer,
                RecordedAnswer::Closed(_)
            ),
            [] | [_, _, ..] => false,
        })
    }

    /// True if there is a session that these numbers belong to, or a session of the device.
    async fn is_in_session(&self, owner: [u8; 16]) -> Result<bool, Failure> {
        let has_no_device = self.storage.is_empty(&records::devices_like(owner)).await?;
        let has_session = self.storage.has(&records::session(&owner)).await?;
        Ok(!has_no_device || has_session)
    }
}

/// Adds to `batch` the removal of an owner's records: its session has ended and never comes back,
/// so none of its numbers takes effect any more.
fn forget(kept: &[(Key, Versioned)], batch: &mut Batch) {
    for (key, found) in kept {
        batch
            .expect(key.clone(), Expected::At(found.version))
            .delete(key.clone());
    }
}

/// Adds to `batch` the removal of all of an owner's records but the last. All numbers up to it
/// count as used for good, so a command that a stranger has recorded takes effect no more.
fn close(kept: &[(Key, Versioned)], batch: &mut Batch) -> Result<(), Failure> {
    let mut last: Option<(OperationRecord, &Key)> = None;
    for (key, found) in kept {
        let record = OperationRecord::from_value(&found.value)?;
        batch.expect(key.clone(), Expected::At(found.version));
        if last
            .as_ref()
            .is_none_or(|(last, _)| record.number > last.number)
        {
            last = Some((record, key));
        }
    }
    let Some((record, last)) = last else {
        return Ok(());
    };
    for (key, _) in kept.iter().filter(|(key, _)| key != last) {
        batch.delete(key.clone());
    }
    // A repeat of this number gets the recorded answer, for example to a peer that was away for
    // longer.
    let answer = match record.answer {
        RecordedAnswer::Bytes(bytes) => Some(ByteBuf::from(bytes)),
        RecordedAnswer::Closed(answer) => answer,
        RecordedAnswer::Session => None,
    };
    let closed = OperationRecord {
        answer: RecordedAnswer::Closed(answer),
        ..record
    };
    batch.put(last.clone(), closed.to_value()?);
    Ok(())
}
