//! The backoff for a peer that does not take what waits for it (PEER-5): each wait is longer.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// The wait after the first failure. It doubles after each further one.
pub const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_mins(15);
/// The longest wait for a peer that answers, or for this realm's own store. Nothing ends this wait
/// early.
pub const BUSY_MAX: Duration = Duration::from_mins(2);

/// The event that ends a wait early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The peer was silent: a packet from it ends the wait.
    Heard,
    /// As [`Until::Heard`], but not before the shortest wait. The peer's operator may have accepted
    /// the peering in the meantime.
    HeardLater,
    /// None. The peer has answered, or the fault is on this side. Otherwise two realms with full
    /// disks would wake each other.
    Over,
}

/// A wait.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    until: Until,
    /// When the wait ends.
    pub at: Duration,
    /// A packet from the peer does not end the wait before this time.
    not_before: Duration,
}

impl Wait {
    /// Returns a wait without end.
    pub const fn for_ever() -> Self {
        Self {
            until: Until::Over,
            at: Duration::MAX,
            not_before: Duration::MAX,
        }
    }
}

/// The length of the next wait.
#[derive(Debug)]
pub struct BackOff(Duration);

impl Default for BackOff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl BackOff {
    /// Resets the backoff after a success.
    pub const fn reset(&mut self) {
        self.0 = BACKOFF_MIN;
    }

    /// Starts a wait. The jitter keeps realms from asking at the same time.
    pub fn begin(&mut self, now: Duration, until: Until, rng: &mut impl Rng) -> Wait {
        let (min, max) = match until {
            Until::Heard => (Duration::ZERO, BACKOFF_MAX),
            Until::HeardLater => (BACKOFF_MIN, BACKOFF_MAX),
            Until::Over => (BACKOFF_MIN, BUSY_MAX),
        };
        let spread = self.0.min(max) * rng.random_range(80..=140) / 100;
        self.0 = (self.0 * 2).min(max);
        Wait {
            until,
            at: now + spread.max(min),
            not_before: now + min,
        }
    }

    /// Handles a packet from the peer during a wait. Returns true if the wait ends at once.
    pub fn heard(&mut self, wait: &mut Wait, now: Duration) -> bool {
        if wait.until == Until::Over {
            return false;
        }
        self.reset();
        wait.at = wait.at.min(wait.not_before.max(now));
        wait.at <= now
    }
}
