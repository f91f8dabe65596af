//! What has outlived its use leaves the store: sessions that have expired, what was answered to devices that are gone, and messages
//! that have been kept for long enough (SES-8, EXACT-14, READ-10).
//!
//! It is done in steps, between which others have their turn, and each step in commits of its own: a pass that is cut off has done
//! what it has done.

use super::{
    Failure, Moment, Realm,
    records::{
        self, IdleRecord, OperationRecord, Record as _, RecordedAnswer, SessionHash, SessionRecord,
    },
    sessions::Current,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, Log, Store, Version},
};

/// Logs, or keys, that one step looks at.
const PER_STEP: usize = 32;
/// What is written of one owner's numbers at most (EXACT-4).
const RECORDS_MAX: usize = 256;
/// What was answered to the commands of a device without a session is kept for so long after the last of them, in seconds of the realm's
/// running time: more than twice as long as any client asks again.
const ANSWERS_KEPT_SECONDS: u32 = 60 * 86_400;

/// How far a pass over the store is.
#[derive(Clone, Debug)]
pub enum Pass {
    /// Among the sessions, behind this one.
    Sessions(Option<Key>),
    /// Among what was answered, behind what was to this device.
    Answers(Option<Key>),
    /// Among the logs, behind this one.
    Logs(Option<Log>),
}

impl Pass {
    /// At the beginning.
    pub const BEGIN: Self = Self::Sessions(None);
}

impl<S: Store> Realm<S> {
    /// One step of a pass over the store, and where the next one goes on. None at the end of the pass.
    pub async fn tidy(&self, pass: Pass, now: Moment) -> Option<Pass> {
        let step = async {
            Ok::<_, Failure>(match pass {
                Pass::Sessions(after) => Some(match self.tidy_sessions(after, now).await? {
                    Some(last) => Pass::Sessions(Some(last)),
                    None => Pass::Answers(None),
                }),
                Pass::Answers(after) => Some(match self.tidy_answers(after, now.running).await? {
                    Some(last) => Pass::Answers(Some(last)),
                    None => Pass::Logs(None),
                }),
                Pass::Logs(after) => {
                    let found = self.store.logs(after.as_ref(), PER_STEP).await?;
                    for log in &found {
                        if let Err(failure) = self.sweep_log(log, now.running).await {
                            // It is looked at again with the next pass.
                            self.note("retention", &failure);
                        }
                    }
                    found.last().map(|last| Pass::Logs(Some(last.clone())))
                }
            })
        };
        step.await.unwrap_or_else(|failure| {
            self.note("housekeeping", &failure);
            None
        })
    }

    /// Ends the sessions that nobody can use any more.
    async fn tidy_sessions(&self, after: Option<Key>, now: Moment) -> Result<Option<Key>, Failure> {
        let prefix = records::sessions();
        let found = self.store.list(&prefix, after.as_ref(), PER_STEP).await?;
        for (key, found) in &found {
            let record = SessionRecord::from_value(&found.value)?;
            let hash: Option<SessionHash> = key
                .0
                .strip_prefix(prefix.0.as_slice())
                .and_then(|hash| hash.try_into().ok());
            let (Some(hash), Ok(user)) = (hash, record.user.parse()) else {
                continue;
            };
            let unused = now.running.saturating_sub(record.last);
            if u64::from(unused) < self.limits.session_ttl.as_secs()
                || is_planted(Fault::KeepForever)
            {
                continue;
            }
            let current = Current {
                hash,
                user,
                record,
                version: found.version,
            };
            let mut batch = Batch::tidying();
            current.rely_on(&mut batch);
            self.end_sessions(&[current], None, &mut batch).await?;
            // If it has changed meanwhile, it is in use.
            self.commit(batch).await?;
        }
        Ok(found.last().map(|(key, _)| key.clone()))
    }

    /// Closes the numbers of owners that have gone, one after another.
    async fn tidy_answers(&self, after: Option<Key>, now: u32) -> Result<Option<Key>, Failure> {
        let prefix = records::all_operations();
        let mut after = after;
        for _ in 0..PER_STEP {
            let found = self.store.list(&prefix, after.as_ref(), 1).await?;
            let Some((key, _)) = found.first() else {
                return Ok(None);
            };
            let Some(owner) = records::owner_in(key) else {
                after = Some(key.clone());
                continue;
            };
            self.tidy_owner(owner, now).await?;
            after = Some(records::operations_end(owner));
        }
        Ok(after)
    }

    async fn tidy_owner(&self, owner: [u8; 16], now: u32) -> Result<(), Failure> {
        let idle_key = records::idle(owner);
        let idle = self.record::<IdleRecord>(&idle_key).await?;
        let kept = self
            .store
            .list(&records::operations_of(owner), None, RECORDS_MAX)
            .await?;
        let is_closed = match &kept[..] {
            [(_, only)] => {
                OperationRecord::from_value(&only.value)?.answer == RecordedAnswer::Closed
            }
            _ => false,
        };
        if is_closed || self.is_in_session(owner).await? {
            if idle.is_some() {
                let mut batch = Batch::tidying();
                batch.delete(idle_key);
                self.commit(batch).await?;
            }
            return Ok(());
        }
        let newest = kept
            .iter()
            .map(|(_, found)| found.version)
            .max()
            .unwrap_or(Version(0));
        let mut batch = Batch::tidying();
        match idle {
            Some((idle, version)) if idle.newest == newest.0 => {
                if now.saturating_sub(idle.since) < ANSWERS_KEPT_SECONDS
                    || is_planted(Fault::KeepForever)
                {
                    return Ok(());
                }
                let mut highest: Option<(u64, &Key)> = None;
                for (key, found) in &kept {
                    let number = OperationRecord::from_value(&found.value)?.number;
                    if highest.is_none_or(|(other, _)| number > other) {
                        highest = Some((number, key));
                    }
                }
                let Some((number, last)) = highest else {
                    return Ok(());
                };
                batch.expect(idle_key, Expected::At(version));
                for (key, found) in &kept {
                    batch.expect(key.clone(), Expected::At(found.version));
                    if key != last {
                        batch.delete(key.clone());
                    }
                }
                // All up to it count as used for good: what was recorded by a stranger takes effect no more.
                let closed = OperationRecord {
                    number,
                    fingerprint: [0; 8],
                    answer: RecordedAnswer::Closed,
                };
                batch.put(last.clone(), closed.to_value()?);
            }
            _ => {
                let idle = IdleRecord {
                    since: now,
                    newest: newest.0,
                };
                batch.put(idle_key, idle.to_value()?);
            }
        }
        // On a conflict it is in use.
        self.commit(batch).await?;
        Ok(())
    }

    /// True when there is a session of the device, or the session, whose numbers these are.
    async fn is_in_session(&self, owner: [u8; 16]) -> Result<bool, Failure> {
        let device = self
            .store
            .list(&records::devices_like(owner), None, 1)
            .await?;
        let session = self.store.get(&records::session(&owner)).await?;
        Ok(!device.is_empty() || session.is_some())
    }
}
