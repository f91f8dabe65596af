//! Retention: how long messages are kept (READ-10), and what else in a realm's store is not needed
//! any more.
//!
//! Age is measured in the realm's running time, which no clock change moves. Each pass over the
//! logs notes the position that a log has reached; later the entries up to there are at least that
//! old. Nothing here is urgent: a pass is made in steps, and other tasks run in between.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    failure::Failure,
    records::{self, KeepingRecord, LivesRecord, Record as _},
    storage::Storage,
};
use crate::store::{Batch, Store};

/// How many samples of a log's age and size are taken within one bound. An entry may be kept a
/// sixteenth too long, but never too short.
pub(in crate::realm) const GRAINS: u32 = 16;
/// The shortest and the longest time between two passes over the logs.
const PASS_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// How long, and how much of, a mailbox is kept. `None` means no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// How long read messages are kept.
    pub age: Option<Duration>,
    /// How long messages are kept that no recipient has read, or that not all members of a group
    /// have read, if that is longer.
    pub unread_age: Option<Duration>,
    /// The most messages of one mailbox that are kept, read or not.
    pub entries: Option<u64>,
    /// The most bytes of one mailbox that are kept, read or not.
    pub bytes: Option<u64>,
}

impl Retention {
    /// The default of a new store: 90 days, a year for unread messages, and 64 MiB for a mailbox.
    pub const DEFAULT: Self = Self {
        age: Some(Duration::from_hours(90 * 24)),
        unread_age: Some(Duration::from_hours(365 * 24)),
        entries: None,
        bytes: Some(64 << 20),
    };
    /// Everything is kept for ever.
    pub const FOREVER: Self = Self {
        age: None,
        unread_age: None,
        entries: None,
        bytes: None,
    };

    /// Returns the time between two passes over the logs.
    pub fn pass_every(&self) -> Duration {
        let (least, most) = PASS_EVERY;
        let age = self.age.unwrap_or(most * GRAINS);
        (age / GRAINS).clamp(least, most)
    }
}

/// The origin of the retention bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// The configuration sets them.
    Configured,
    /// They are the default with which the store was created.
    Default,
    /// Messages are kept for ever: the store is older than the default bound, and none is
    /// configured.
    Forever,
}

/// The retention that was decided when the store was opened.
#[derive(Debug)]
pub(super) struct Decided {
    retention: Retention,
    /// The record of what the store was created with, if it could not be written.
    unwritten: Option<KeepingRecord>,
}

/// How long messages are kept, as it was decided when the store was opened.
#[derive(Debug)]
pub struct RetentionPolicy<S> {
    storage: Arc<Storage<S>>,
    decided: OnceLock<Decided>,
}

impl<S> RetentionPolicy<S> {
    /// Returns the policy before it is decided: everything is kept.
    pub(super) const fn new(storage: Arc<Storage<S>>) -> Self {
        Self {
            storage,
            decided: OnceLock::new(),
        }
    }
}

impl<S: Store> RetentionPolicy<S> {
    /// Decides how long messages are kept: as `configured`, or by what the store was created with.
    /// Called once for each opening of the store, before the store begins a life.
    pub async fn begin_keeping(&self, configured: Option<Retention>) -> (Keeping, Retention) {
        let mut unwritten = None;
        let decided = async {
            let found = self
                .storage
                .record::<KeepingRecord>(&records::keeping())
                .await?;
            let by_default = match found {
                Some((record, _)) => record.by_default,
                None => {
                    let lives = self
                        .storage
                        .record::<LivesRecord>(&records::lives())
                        .await?;
                    let has_no_users = self.storage.is_empty(&records::accounts()).await?;
                    let by_default = lives.is_none() && has_no_users;
                    let record = KeepingRecord { by_default };
                    let mut batch = Batch::new();
                    batch.put(records::keeping(), record.to_value()?);
                    // On a full disk it is written later, with the first record that would change
                    // this decision at the next start.
                    if let Err(failure) = self.storage.commit(batch).await {
                        self.storage.log_failure("retention", &failure);
                        unwritten = Some(record);
                    }
                    by_default
                }
            };
            Ok::<_, Failure>(by_default)
        };
        let by_default = decided.await.unwrap_or_else(|failure| {
            // If this cannot be read, messages are kept.
            self.storage.log_failure("retention", &failure);
            false
        });
        let decided = match configured {
            Some(configured) => (Keeping::Configured, configured),
            None if by_default => (Keeping::Default, Retention::DEFAULT),
            None => (Keeping::Forever, Retention::FOREVER),
        };
        let retention = decided.1;
        let _ = self.decided.set(Decided {
            retention,
            unwritten,
        });
        decided
    }

    /// Returns how long messages are kept.
    pub fn retention(&self) -> Retention {
        let decided = self.decided.get();
        decided.map_or(Retention::FOREVER, |decided| decided.retention)
    }

    /// Adds to `batch`, which makes an account or a life, the record of what the store was created
    /// with, if there was no room for it before. Otherwise the next start would take the store for
    /// an older one.
    pub(super) fn put_keeping(&self, batch: &mut Batch) -> Result<(), Failure> {
        let decided = self.decided.get();
        if let Some(record) = decided.and_then(|decided| decided.unwritten.as_ref()) {
            batch.put(records::keeping(), record.to_value()?);
        }
        Ok(())
    }
}
