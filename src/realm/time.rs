//! The time that a realm is told, and for how long it has been running in all (SES-7).

use super::{
    Failure, Realm,
    records::{self, Record as _, RunningRecord, SessionRecord},
};
use crate::store::{Batch, Store};

/// Sessions that are listed at once.
const SESSIONS_AT_ONCE: usize = 256;

/// What time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, in seconds since 1970: for people to see.
    pub wall: u32,
    /// For how many seconds the realm has been running in all: for lifetimes, whatever the clock says.
    pub running: u32,
    /// The same in microseconds, since it was started: for what happens many times a second.
    pub micros: u64,
}

impl<S: Store> Realm<S> {
    /// For how many seconds the realm has been running in all, as far as it is written down.
    ///
    /// # Errors
    /// It cannot be read. That is not 0: whoever went on from there would make all that is kept look newer than it is.
    pub async fn running(&self) -> Result<u32, Failure> {
        let found = self.record::<RunningRecord>(&records::running()).await;
        let found = found.inspect_err(|failure| self.note("running", failure))?;
        Ok(found.map_or(0, |(record, _)| record.seconds))
    }

    /// For how many seconds the realm has been running at least, where what says so is damaged: until a session was used last,
    /// which is known to about an hour (SES-4).
    ///
    /// # Errors
    /// Sessions cannot be read either.
    pub async fn running_at_least(&self) -> Result<u32, Failure> {
        let prefix = records::sessions();
        let (mut seconds, mut after) = (0, None);
        loop {
            let found = self.store.list(&prefix, after.as_ref(), SESSIONS_AT_ONCE);
            let found = found.await?;
            let Some((last, _)) = found.last() else {
                return Ok(seconds);
            };
            after = Some(last.clone());
            for (_, session) in &found {
                seconds = seconds.max(SessionRecord::from_value(&session.value)?.last);
            }
        }
    }

    /// Writes down for how many seconds the realm has been running in all.
    pub async fn note_running(&self, seconds: u32) {
        let written = async {
            let mut batch = Batch::new();
            batch.put(records::running(), RunningRecord { seconds }.to_value()?);
            self.commit(batch).await
        };
        if let Err(failure) = written.await {
            self.note("running", &failure);
        }
    }
}
