//! Looking for what makes a watch deaf without a word: this machine was asleep, or is in another network. Then the realm is
//! asked for a sign of life at once, and hears by that where this side is; the next keepalive may be two minutes away.

use std::time::Duration;

use tokio::time::Instant;

use super::Driver;

/// While somebody watches, it is looked so often. It costs no datagram.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So much more has passed by the time of day than by the time that the machine ran: it was asleep, or its clock was set.
const ASLEEP: Duration = Duration::from_secs(5);

/// When it was looked last, and what the time of day was then.
#[derive(Debug, Default)]
pub struct Probing(Option<(Instant, Duration)>);

impl Probing {
    /// When to look next.
    pub fn timeout(&self) -> Option<Instant> {
        self.0.map(|(at, _)| at + LOOK_EVERY)
    }

    /// Looks at the clocks: true when they do not agree about how much time has passed.
    fn has_jumped(&mut self, now: Instant, of_day: Duration) -> bool {
        let before = self.0.replace((now, of_day));
        before.is_some_and(|(at, then)| of_day.saturating_sub(then) > (now - at) + ASLEEP)
    }
}

impl Driver {
    /// Looks whether a watch may have become deaf, if it is time.
    pub(super) async fn look_around(&mut self) {
        let link = self.link.filter(|link| self.endpoint.is_open(*link));
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
        // Both are looked at: another socket sends from where this machine is now.
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

    /// LINK-17
    #[test]
    fn clock_that_jumps_is_noticed_and_one_that_is_corrected_is_not() {
        let (mut probing, began) = (Probing::default(), Instant::now());
        let at = |seconds| Duration::from_secs(seconds);
        assert!(!probing.has_jumped(began, at(1000)));
        assert_eq!(probing.timeout(), Some(began + LOOK_EVERY));
        assert!(!probing.has_jumped(began + at(5), at(1007)));
        // Asleep for a minute.
        assert!(probing.has_jumped(began + at(10), at(1072)));
        assert!(!probing.has_jumped(began + at(15), at(1077)));
        // Set back.
        assert!(!probing.has_jumped(began + at(20), at(7)));
        assert!(!probing.has_jumped(began + at(25), at(12)));
    }
}
