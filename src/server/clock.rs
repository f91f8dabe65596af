//! What time it is for a realm (SES-7): the time of day for people, and how long it has been running in
//! all for lifetimes, because a machine without a clock of its own may start in 1970 and be set later.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    host::Host,
    realm::{Failure, Moment, Pass, Realm},
    store::Store,
};

/// What nobody has asked for for twice as long is not kept in memory.
const AGES_EVERY: Duration = Duration::from_secs(90);
/// Between two steps of a pass over the store.
const STEP_EVERY: Duration = Duration::from_millis(20);
/// How often the running time is written down; a crash makes the realm younger by so much at most, unless the disk takes nothing.
const WRITE_EVERY: Duration = Duration::from_mins(10);
/// How long a stop waits until that is written.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// So much may the time of day have gone on otherwise than the realm has run, before its machine counts as having been asleep, or its
/// clock as set. Less than what a ticket is good for after it is shown no more.
const JUMP: Duration = Duration::from_mins(5);
/// How often, and after how long, it is read again at a start when it cannot be read.
const READ_AGAIN: u32 = 3;
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A realm's clock.
#[derive(Clone, Debug)]
pub struct Clock {
    host: Host,
    /// The seconds it had been running before it started this time.
    before: u32,
    started: Instant,
    drift: Drift,
}

/// By how many seconds the time of day was ahead of the time of the process, when that was last noted.
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
    /// The clock of a realm that starts now. `accepts_damage`: if what says for how long the realm has been running is damaged, the
    /// clock goes on from when a session was used last.
    ///
    /// # Errors
    /// It cannot be read. A realm does not serve without it: what it would write then, with a time from long ago, would be too old
    /// at once when the record can be read again, and if the clock wrote its own time over the record, nothing would age for as long
    /// as the realm had been running.
    pub async fn start<S: Store>(
        host: Host,
        realm: &Realm<S>,
        accepts_damage: bool,
    ) -> Result<Self, Failure> {
        let is_damaged = |read: &Result<u32, Failure>| matches!(read, Err(Failure::Store(error)) if error.is_of_one_record());
        let mut before = realm.running().await;
        for _ in 0..READ_AGAIN {
            if !is_damaged(&before) {
                break;
            }
            // A disk may fail to read once.
            tokio::time::sleep(READ_AGAIN_AFTER).await;
            before = realm.running().await;
        }
        if accepts_damage && is_damaged(&before) {
            before = realm.running_at_least().await;
            tracing::warn!(
                seconds = before.as_ref().ok(),
                "for how long the realm has been running is damaged: as was asked for, it goes on from when a session was used last"
            );
            if let Ok(seconds) = before {
                // It was asked for at this start alone, and the store may have to be opened again soon.
                realm.note_running(seconds).await;
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

    /// The same, which goes on from `running` seconds at least, as a former clock of this process had them in the end: the store may
    /// not have taken them.
    pub fn not_before(mut self, running: u32) -> Self {
        self.before = self.before.max(running);
        self
    }

    /// True when the time of day has gone on otherwise than the realm has run since this was so last: its machine was asleep, or its clock
    /// has been set.
    pub fn has_jumped(&mut self) -> bool {
        let of_day = self.host.time_of_day();
        self.drift.has_jumped(of_day, self.started.elapsed())
    }

    /// What time it is.
    pub fn now(&self) -> Moment {
        let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
        let elapsed = self.started.elapsed();
        Moment {
            wall: seconds(self.host.time_of_day()),
            running: self.before.saturating_add(seconds(elapsed)),
            micros: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// Has what has outlived its use leave the store, pass after pass. Others have their turn between two steps of one.
    pub async fn tidy<S: Store>(self, realm: &Realm<S>) {
        loop {
            tokio::time::sleep(realm.retention().pass_every()).await;
            let mut next = Some(Pass::BEGIN);
            while let Some(pass) = next {
                next = realm.tidy(pass, &|| self.now()).await;
                tokio::time::sleep(STEP_EVERY).await;
            }
        }
    }

    /// Writes down for how long the realm has been running, as it stops in order: else one that never runs for long would never age. A
    /// disk that does not answer does not hold the stop up.
    pub async fn stop<S: Store>(&self, realm: &Realm<S>) {
        let noting = realm.note_running(self.now().running);
        if tokio::time::timeout(STOP_PATIENCE, noting).await.is_err() {
            tracing::warn!(
                patience = ?STOP_PATIENCE,
                "the store has not written down for how long the realm has been running: it is younger at the next start"
            );
        }
    }

    /// Lets the realm know that time passes: it forgets what nobody asks for, and writes down how long it has been
    /// running. Soon after a start it does that more often, so that a realm that never runs for long ages too, however it ends.
    pub async fn tick<S: Store>(self, realm: &Realm<S>) {
        let mut written = Instant::now();
        loop {
            tokio::time::sleep(AGES_EVERY).await;
            realm.age();
            let every = (self.started.elapsed() / 2).clamp(AGES_EVERY, WRITE_EVERY);
            if written.elapsed() + AGES_EVERY > every {
                written = Instant::now();
                realm.note_running(self.now().running).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HS-20
    #[test]
    fn machine_that_slept_is_noticed_once() {
        let at = Duration::from_secs;
        let mut drift = Drift::of(at(10_000), at(0));
        assert!(!drift.has_jumped(at(10_300), at(0)), "five minutes");
        assert!(drift.has_jumped(at(10_301), at(0)));
        assert!(!drift.has_jumped(at(10_401), at(100)));
        // It was set back.
        assert!(drift.has_jumped(at(7), at(101)));
        assert!(!drift.has_jumped(at(8), at(102)));
    }
}
