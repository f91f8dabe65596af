//! Checks for events that silently stop a watch: this machine was asleep, or has changed networks.
//! In either case the realm is sent a probe at once, and so learns this side's address. The next
//! keepalive may be two minutes away.

use std::time::Duration;

use tokio::time::Instant;

use super::Driver;
use crate::endpoint::LinkStatus;

/// The interval between checks while there is a watch. A check costs no datagram.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// If the time of day advances this much further than the machine's clock, the machine was asleep
/// or its clock was set.
const ASLEEP: Duration = Duration::from_secs(5);

/// The time of the last check, and the time of day then.
#[derive(Debug, Default)]
pub struct Probing(Option<(Instant, Duration)>);

impl Probing {
    /// Returns when to check next.
    pub fn timeout(&self) -> Option<Instant> {
        self.0.map(|(at, _)| at + LOOK_EVERY)
    }

    /// Checks the clocks: true if they disagree about how much time has passed.
    fn has_jumped(&mut self, now: Instant, of_day: Duration) -> bool {
        let before = self.0.replace((now, of_day));
        before.is_some_and(|(at, then)| of_day.saturating_sub(then) > (now - at) + ASLEEP)
    }
}

impl Driver {
    /// Checks whether a watch may have stopped silently, if it is time.
    pub(super) async fn look_around(&mut self) {
        let link = self
            .link
            .filter(|link| self.endpoint.link(*link).is_some_and(LinkStatus::is_open));
        let Some(link) = link.filter(|_| self.watcher.is_some()) else {
            self.probing = Probing::default();
            return;
        };
        let now = Instant::now();
        if self.probing.timeout().is_some_and(|due| due > now) {
            return;
        }
        let is_first = self.probing.0.is_none();
        let has_jumped = self.probing.has_jumped(now, self.route.time_of_day());
        // Both are checked: a new socket sends from this machine's current address.
        let has_moved = !is_first && self.route.has_moved().await;
        if has_jumped || has_moved {
            let now = self.now();
            self.endpoint.probe(now, link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LINK-17: a jump of the time of day ahead is detected. A clock that was set back is not.
    #[test]
    fn clock_jump_ahead_is_detected_but_set_back_is_not() {
        let (mut probing, began) = (Probing::default(), Instant::now());
        let at = |seconds| Duration::from_secs(seconds);
        assert!(!probing.has_jumped(began, at(1000)));
        assert_eq!(probing.timeout(), Some(began + LOOK_EVERY));
        assert!(!probing.has_jumped(began + at(5), at(1007)));
        // Asleep for a minute.
        assert!(probing.has_jumped(began + at(10), at(1072)));
        assert!(!probing.has_jumped(began + at(15), at(1077)));
        // The clock was set back.
        assert!(!probing.has_jumped(began + at(20), at(7)));
        assert!(!probing.has_jumped(began + at(25), at(12)));
    }
}
