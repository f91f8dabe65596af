//! The time that a realm is told, and for how long it has been running in all (SES-7).

use super::{
    Realm,
    records::{self, Record as _, RunningRecord},
};
use crate::store::{Batch, Store};

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
    pub async fn running(&self) -> u32 {
        let found = self.record::<RunningRecord>(&records::running()).await;
        match found {
            Ok(found) => found.map_or(0, |(record, _)| record.seconds),
            Err(failure) => {
                self.note("running", &failure);
                0
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
