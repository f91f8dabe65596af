//! The clock of a realm (SES-7). Times for users come from the time of day. Lifetimes are measured
//! in the total running time of the realm, because a machine without a hardware clock may start in
//! 1970 and be set later.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    host::Host,
    realm::{Moment, Pass, Realm},
    store::{Store, StoreError},
};

/// Data that nobody has requested for twice this time is dropped from memory.
const AGES_EVERY: Duration = Duration::from_secs(90);
/// The pause between two steps of a pass over the store.
const STEP_EVERY: Duration = Duration::from_millis(20);
/// How often the running time is stored. After a crash the realm is at most this much younger,
/// unless the disk rejects writes.
const WRITE_EVERY: Duration = Duration::from_mins(10);
/// How long a stop waits for that write.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// The largest difference between elapsed time of day and running time that does not count as a
/// suspended machine or a set clock. Less than the time for which a ticket stays valid after
/// clients stop presenting it.
const JUMP: Duration = Duration::from_mins(5);
/// How often, and after how long, a failed read of the running time is retried at a start.
const READ_AGAIN: u32 = 3;
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The clock of a realm.
#[derive(Clone, Debug)]
pub struct Clock {
    host: Host,
    /// The running time before this start, in seconds.
    before: u32,
    started: Instant,
    drift: Drift,
}

/// The difference between the time of day and the time of the process when last recorded, in
/// seconds.
#[derive(Clone, Debug)]
struct Drift(i64);

impl Drift {
    fn of(of_day: Duration, running: Duration) -> Self {
        let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
        Self(seconds(of_day).saturating_sub(seconds(running)))
    }

    fn has_jumped(&mut self, of_day: Duration, running: Duration) -> bool {
        let now = Self::of(of_day, running);
        let has_jumped = now.0.abs_diff(self.0) > JUMP.as_secs();
        if has_jumped {
            *self = now;
        }
        has_jumped
    }
}

impl Clock {
    /// Creates the clock of a realm that starts now. With `accepts_damage`, if the record of the
    /// running time is damaged, the clock continues from the last use of a session.
    ///
    /// # Errors
    /// Fails if the running time cannot be read. A realm does not serve without it. Records written
    /// with a time from long ago would expire at once when the running time becomes readable again.
    /// If the clock overwrote the record, nothing would age for as long as the realm had been
    /// running.
    pub async fn start<S: Store>(
        host: Host,
        realm: &Realm<S>,
        accepts_damage: bool,
    ) -> Result<Self, StoreError> {
        let is_damaged =
            |read: &Result<u32, StoreError>| read.as_ref().is_err_and(StoreError::is_of_one_record);
        let mut before = realm.running.read().await;
        for _ in 0..READ_AGAIN {
            if !is_damaged(&before) {
                break;
            }
            // A disk may fail to read once.
            tokio::time::sleep(READ_AGAIN_AFTER).await;
            before = realm.running.read().await;
        }
        if accepts_damage && is_damaged(&before) {
            before = realm.running.at_least().await;
            if let Ok(seconds) = before {
                tracing::warn!(
                    seconds,
                    "running time was damaged and was replaced by the last use of a session (--accept-damage)"
                );
                // The fallback was requested for this start only, and the store may have to be
                // reopened soon.
                realm.running.note(seconds).await;
            }
        }
        let drift = Drift::of(host.time_of_day(), Duration::ZERO);
        Ok(Self {
            host,
            before: before?,
            started: Instant::now(),
            drift,
        })
    }

    /// Returns the clock with at least `running` seconds, the last value of an earlier clock of
    /// this process. The store may have failed to record that value.
    pub fn not_before(mut self, running: u32) -> Self {
        self.before = self.before.max(running);
        self
    }

    /// True if the time of day and the running time have diverged since the last call that returned
    /// true: the machine was suspended, or its clock was set.
    pub fn has_jumped(&mut self) -> bool {
        let of_day = self.host.time_of_day();
        self.drift.has_jumped(of_day, self.started.elapsed())
    }

    /// Returns the current time.
    pub fn now(&self) -> Moment {
        let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
        let elapsed = self.started.elapsed();
        Moment {
            wall: seconds(self.host.time_of_day()),
            running: self.before.saturating_add(seconds(elapsed)),
            micros: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Removes expired data from the store, pass after pass. Other work can run between two steps
    /// of a pass.
    pub async fn tidy<S: Store>(self, realm: &Realm<S>) {
        loop {
            tokio::time::sleep(realm.policy().retention().pass_every()).await;
            let mut next = Some(Pass::BEGIN);
            while let Some(pass) = next {
                next = realm.tidy(pass, &|| self.now()).await;
                tokio::time::sleep(STEP_EVERY).await;
            }
        }
    }

    /// Stores the running time at an orderly stop. Otherwise a realm that never runs for long would
    /// never age. A disk that does not respond does not delay the stop.
    pub async fn stop<S: Store>(&self, realm: &Realm<S>) {
        let noting = realm.running.note(self.now().running);
        if tokio::time::timeout(STOP_PATIENCE, noting).await.is_err() {
            tracing::warn!(
                waited = ?STOP_PATIENCE,
                "running time was not stored in time: the realm is younger at the next start"
            );
        }
    }

    /// Tells the realm that time passes: it drops unused data from memory and stores its running
    /// time. Soon after a start it does so more often, so that a realm that never runs for long
    /// ages, however it ends.
    pub async fn tick<S: Store>(self, realm: &Realm<S>) {
        let mut written = Instant::now();
        loop {
            tokio::time::sleep(AGES_EVERY).await;
            realm.age();
            let every = (self.started.elapsed() / 2).clamp(AGES_EVERY, WRITE_EVERY);
            if written.elapsed() + AGES_EVERY > every {
                written = Instant::now();
                realm.running.note(self.now().running).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HS-20: a suspended machine is noticed once.
    #[test]
    fn clock_jump_of_suspended_machine_is_noticed_once() {
        let at = Duration::from_secs;
        let mut drift = Drift::of(at(10_000), at(0));
        assert!(!drift.has_jumped(at(10_300), at(0)), "five minutes");
        assert!(drift.has_jumped(at(10_301), at(0)));
        assert!(!drift.has_jumped(at(10_401), at(100)));
        // The clock was set back.
        assert!(drift.has_jumped(at(7), at(101)));
        assert!(!drift.has_jumped(at(8), at(102)));
    }
}
