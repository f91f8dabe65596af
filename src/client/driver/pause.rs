//! How long a driver waits before it opens a link again to a realm that takes what this side says for a violation, or says
//! what makes no sense itself (LINK-22, WIRE-9): else both would go round and round until the deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::link::{REMEMBERED_MIN, RTO_INITIAL};

/// Each wait is twice as long as the one before, so often.
const DOUBLED_MAX: u32 = 8;
/// The longest wait: on a plain link anybody can say that this side has broken the protocol.
const LONGEST: Duration = Duration::from_mins(1);

/// The wait before the next link, if there is one.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// How many links have ended so in a row.
    in_a_row: u32,
    until: Option<Instant>,
}

impl Pause {
    /// Another link has ended so, on a path with that round trip.
    pub(super) fn begin(&mut self, now: Instant, rtt: Option<Duration>) {
        let timeout = rtt.map_or(RTO_INITIAL, |rtt| (rtt * 3).max(REMEMBERED_MIN));
        let wait = timeout * (1 << self.in_a_row.min(DOUBLED_MAX));
        self.until = Some(now + wait.min(LONGEST));
        self.in_a_row += 1;
    }

    /// Until when no link is opened.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// True when the wait is over now.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// The two sides get on: something was answered, or pushed.
    pub(super) const fn reset(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LINK-22: a timeout at first, and twice as long each time until something is answered.
    #[test]
    fn pause_doubles_until_something_is_answered() {
        let (mut pause, now) = (Pause::default(), Instant::now());
        let mut wait = |is_answered: bool, rtt: Option<u64>| {
            if is_answered {
                pause.reset();
            }
            pause.begin(now, rtt.map(Duration::from_millis));
            let until = pause.until().unwrap();
            assert!(!pause.expire(until - Duration::from_millis(1)));
            assert!(pause.expire(until) && pause.until().is_none());
            (until - now).as_millis()
        };
        assert_eq!([(); 3].map(|()| wait(false, None)), [2000, 4000, 8000]);
        assert_eq!([(); 2].map(|()| wait(true, Some(400))), [1200, 1200]);
        assert_eq!(wait(false, Some(20)), 500);
        let longest = (0..40).map(|_| wait(false, None)).max();
        assert_eq!(longest, Some(60_000));
    }
}
