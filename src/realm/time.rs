//! The time that a realm is given, and its total running time (SES-7).

use std::{sync::Arc, time::Duration};

use super::{
    failure::Failure,
    records::{self, Record as _, RunningRecord, SessionRecord},
    storage::Storage,
};
use crate::store::{Batch, Key, Store, StoreError, Versioned};

/// The number of sessions that are listed at once.
const SESSIONS_AT_ONCE: usize = 256;

/// The current time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, in seconds since 1970. Shown to people.
    pub wall: u32,
    /// The realm's total running time, in seconds. Used for lifetimes, whatever the clock says.
    pub running: u32,
    /// The running time since the start, in microseconds. Used for events that happen many times a
    /// second.
    pub micros: u64,
}

impl Moment {
    /// Returns the time since the start.
    pub const fn since_start(&self) -> Duration {
        Duration::from_micros(self.micros)
    }
}

/// The total running time of the realm, as it is recorded.
#[derive(Debug)]
pub(crate) struct RunningTime<S> {
    storage: Arc<Storage<S>>,
}

impl<S: Store> RunningTime<S> {
    /// Returns the service over the store.
    pub(super) const fn new(storage: Arc<Storage<S>>) -> Self {
        Self { storage }
    }

    /// Returns the recorded total running time, in seconds. It is recorded in two places, one of
    /// which is enough.
    ///
    /// # Errors
    /// Neither can be read. That does not mean 0: continuing from 0 would make all records look
    /// newer than they are.
    pub async fn read(&self) -> Result<u32, StoreError> {
        let first = self
            .storage
            .read_record::<RunningRecord>(&records::running())
            .await;
        let first = match first {
            Ok(Some((record, _))) => return Ok(record.seconds),
            // A store of an earlier release has no second record.
            Ok(None) => Ok(0),
            Err(error) => Err(error),
        };
        let again = self
            .storage
            .read_record::<RunningRecord>(&records::running_again())
            .await;
        let found = match (again, first) {
            (Ok(Some((record, _))), first) => {
                if first.is_err() {
                    tracing::warn!(
                        record.seconds,
                        "running time could not be read in one place; the realm goes on from the other"
                    );
                }
                Ok(record.seconds)
            }
            (Ok(None), first) => first,
            (Err(error), _) => Err(error),
        };
        found.inspect_err(|error| self.storage.log_failure("running", &error.clone().into()))
    }

    /// Returns a lower bound of the total running time, in seconds, for when its records are
    /// damaged: the latest use of a session, which is known to about an hour (SES-4). Unreadable
    /// sessions are left out, because others were used too.
    ///
    /// # Errors
    /// No session can be read either.
    pub async fn at_least(&self) -> Result<u32, StoreError> {
        let (mut seconds, mut unread) = (None, None);
        let found = |_: &Key, session: Versioned| match SessionRecord::from_value(&session.value) {
            Ok(session) => seconds = seconds.max(Some(session.last)),
            Err(error) => unread = Some(error),
        };
        let prefix = records::sessions();
        let damage = self
            .storage
            .list_readable(&prefix, SESSIONS_AT_ONCE, found)
            .await;
        match (seconds, damage.or(unread)) {
            (seconds, None) => Ok(seconds.unwrap_or(0)),
            (Some(seconds), Some(error)) if error.is_of_one_record() => {
                tracing::warn!(%error, "some sessions could not be read; when they were last used is unknown");
                Ok(seconds)
            }
            (_, Some(error)) => Err(error),
        }
    }

    /// Records the total running time. This works on a full disk, because it overwrites two
    /// records.
    pub async fn note(&self, seconds: u32) {
        let written = async {
            let record = RunningRecord { seconds }.to_value()?;
            let mut batch = Batch::tidying();
            batch.put(records::running(), record.clone());
            batch.put(records::running_again(), record);
            self.storage.commit(batch).await
        };
        match written.await {
            Ok(_) => {}
            Err(Failure::Refused(refusal)) => tracing::warn!(
                seconds,
                code = %refusal.code,
                "running time was not recorded: the disk has no room left. If this process ends before there is room, \
                 the realm goes on from the time that was recorded last, and sessions and messages are kept for so much longer; make room"
            ),
            Err(failure) => self.storage.log_failure("running", &failure),
        }
    }
}
