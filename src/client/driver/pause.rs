//! How long a driver waits before it reopens a link to a realm that treats this side's packets as a
//! violation, or sends invalid ones itself (LINK-22, WIRE-9). Without a pause both would repeat
//! this until the deadline.

use std::time::Duration;

use tokio::time::Instant;

use crate::link::{REMEMBERED_MIN, RTO_INITIAL};

/// The maximum number of doublings of the pause.
const DOUBLED_MAX: u32 = 8;
/// The longest pause. On a plain link anybody can claim that this side has broken the protocol.
const LONGEST: Duration = Duration::from_mins(1);

/// The pause before the next link, if there is one.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// How many links in a row ended in a violation.
    in_a_row: u32,
    until: Option<Instant>,
}

impl Pause {
    /// Starts the pause after another such link, on a path with this round-trip time.
    pub(super) fn begin(&mut self, now: Instant, rtt: Option<Duration>) {
        let timeout = rtt.map_or(RTO_INITIAL, |rtt| (rtt * 3).max(REMEMBERED_MIN));
        let wait = timeout * (1 << self.in_a_row.min(DOUBLED_MAX));
        self.until = Some(now + wait.min(LONGEST));
        self.in_a_row += 1;
    }

    /// Returns until when no link is opened.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// True if the pause ends now.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// Resets the count: the realm has answered or pushed something.
    pub(super) const fn reset(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LINK-22: the pause is one timeout at first, and doubles each time until something is
    /// answered.
    #[test]
    fn backoff_pause_doubles_until_answer() {
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
