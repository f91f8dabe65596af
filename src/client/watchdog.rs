//! Detects silence: when to resolve the realm's name again, and when to tell a watcher that the
//! realm is unreachable.

use std::time::Duration;

use tokio::time::Instant;

/// After this long without the answer that is due, the realm may have moved.
const LOOK_UP_AFTER: Duration = Duration::from_secs(10);
/// The longest delay between two name look-ups during one silence.
const LOOK_UP_MAX: Duration = Duration::from_mins(1);
/// A watcher is told of an unanswered keepalive after this time.
const UNANSWERED: Duration = Duration::from_secs(10);
/// A watcher is told of a link that does not open after this time.
const UNOPENED: Duration = Duration::from_secs(5);

/// What is due from the realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// An answer to a request.
    Answer,
    /// An answer to a watch's keepalive.
    Keepalive,
    /// The link of a watch must be opened.
    Opening,
}

/// Measures how long the realm has been silent.
#[derive(Debug, Default)]
pub struct Watchdog {
    /// When to look up the name, and the delay before the next time.
    look_up: Option<(Instant, Duration)>,
    /// When to tell the watcher, unless it has been told.
    tell: Option<Instant>,
    is_silent: bool,
}

impl Watchdog {
    /// Sets what is due now. True if a watch that was told of silence has recovered.
    pub fn observe(&mut self, now: Instant, due: Due) -> bool {
        if due == Due::Nothing {
            self.look_up = None;
        } else {
            self.look_up
                .get_or_insert((now + LOOK_UP_AFTER, LOOK_UP_AFTER * 2));
        }
        let limit = match due {
            Due::Nothing | Due::Answer => {
                self.tell = None;
                return std::mem::take(&mut self.is_silent);
            }
            Due::Keepalive => UNANSWERED,
            Due::Opening => UNOPENED,
        };
        if !self.is_silent {
            let at = now + limit;
            self.tell = Some(self.tell.map_or(at, |known| known.min(at)));
        }
        false
    }

    /// Restarts the silence: the realm was heard.
    pub const fn heard(&mut self) {
        self.look_up = None;
    }

    /// Returns the next timeout.
    pub fn timeout(&self) -> Option<Instant> {
        let look_up = self.look_up.map(|(at, _)| at);
        look_up.into_iter().chain(self.tell).min()
    }

    /// True if the name must be looked up.
    pub fn take_look_up(&mut self, now: Instant) -> bool {
        let Some((at, wait)) = self.look_up else {
            return false;
        };
        if at <= now {
            self.look_up = Some((now + wait, (wait * 2).min(LOOK_UP_MAX)));
        }
        at <= now
    }

    /// True if the watcher must be told of the silence.
    pub fn take_silence(&mut self, now: Instant) -> bool {
        let is_due = self.tell.is_some_and(|at| at <= now);
        if is_due {
            self.tell = None;
            self.is_silent = true;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn watchdog_silence_repeats_lookup_ever_less_often() {
        let (mut watchdog, begun) = (Watchdog::default(), Instant::now());
        watchdog.observe(begun, Due::Answer);
        let mut found = vec![];
        for second in 0..200 {
            let now = begun + s(second);
            watchdog.observe(now, Due::Answer);
            if watchdog.take_look_up(now) {
                found.push(second);
            }
        }
        assert_eq!(found, [10, 30, 70, 130, 190]);
        watchdog.heard();
        watchdog.observe(begun + s(200), Due::Answer);
        assert_eq!(watchdog.timeout(), Some(begun + s(210)));
        watchdog.observe(begun + s(201), Due::Nothing);
        assert_eq!(watchdog.timeout(), None);
    }

    #[test]
    fn watchdog_unanswered_keepalive_is_reported_once_and_withdrawn() {
        let (mut watchdog, begun) = (Watchdog::default(), Instant::now());
        watchdog.observe(begun, Due::Keepalive);
        assert!(!watchdog.take_silence(begun + s(9)));
        assert!(watchdog.take_silence(begun + s(10)));
        assert!(!watchdog.observe(begun + s(11), Due::Opening));
        assert!(!watchdog.take_silence(begun + s(60)));
        assert!(watchdog.observe(begun + s(61), Due::Nothing));
        assert!(!watchdog.observe(begun + s(62), Due::Nothing));
    }

    #[test]
    fn watchdog_link_reopened_in_time_is_not_reported() {
        let (mut watchdog, begun) = (Watchdog::default(), Instant::now());
        watchdog.observe(begun, Due::Opening);
        assert!(!watchdog.take_silence(begun + s(4)));
        assert!(!watchdog.observe(begun + s(4), Due::Nothing));
        assert!(!watchdog.take_silence(begun + s(6)));
    }
}
