//! How long a peer is left alone that does not take what waits for it: longer each time (PEER-5).

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// The wait after the first failure; each further one is twice as long.
pub const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_mins(15);
/// The longest wait for a peer that does answer, or for this realm's own store: nothing ends it early.
pub const BUSY_MAX: Duration = Duration::from_mins(2);

/// What ends a wait before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The peer is heard: it was silent.
    Heard,
    /// The same, but not sooner than after the shortest wait: it may have been told meanwhile that it is to accept.
    HeardLater,
    /// Nothing. The peer has been heard, or what is wrong is wrong here: two realms with full disks would else wake each other.
    Over,
}

/// A wait.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    until: Until,
    /// When it is over.
    pub at: Duration,
    /// Before this being heard does not end it.
    not_before: Duration,
}

impl Wait {
    /// One that does not end.
    pub const fn for_ever() -> Self {
        Self {
            until: Until::Over,
            at: Duration::MAX,
            not_before: Duration::MAX,
        }
    }
}

/// How long the next wait is.
#[derive(Debug)]
pub struct BackOff(Duration);

impl Default for BackOff {
    fn default() -> Self {
        Self(BACKOFF_MIN)
    }
}

impl BackOff {
    /// What waited has been taken.
    pub const fn reset(&mut self) {
        self.0 = BACKOFF_MIN;
    }

    /// A wait that begins now. The spread keeps realms from asking in step.
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

    /// The peer is heard while a wait lasts. True when that ends it at once.
    pub fn heard(&mut self, wait: &mut Wait, now: Duration) -> bool {
        if wait.until == Until::Over {
            return false;
        }
        self.reset();
        wait.at = wait.at.min(wait.not_before.max(now));
        wait.at <= now
    }
}
