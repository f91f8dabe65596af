//! Keeping the way to a side open that waits for events (LINK-17): a sign of life after a silence, which grows
//! while what keeps the way, such as an address translator, is seen to outlast it.

use core::time::Duration;

use super::time::Time;

/// So many signs of life in a row not answered, and the link counts as dead.
const UNANSWERED_MAX: u32 = 4;

/// How long to be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// At first, and at least.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Silence {
    /// Silences that are always as long as this.
    pub const fn fixed(silence: Duration) -> Self {
        Self {
            first: silence,
            longest: silence,
        }
    }
}

/// Keeps one link's way open.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    bounds: Silence,
    /// How long to be silent now.
    silence: Duration,
    /// How long the way is known to have held.
    held: Duration,
    /// When the next sign of life is due.
    due: Option<Time>,
    /// How many in a row were not answered.
    unanswered: u32,
}

impl Keepalive {
    /// Begins with the shortest silence.
    pub const fn new(bounds: Silence) -> Self {
        Self {
            bounds,
            silence: bounds.first,
            held: bounds.first,
            due: None,
            unanswered: 0,
        }
    }

    /// Begins anew on a fresh link, with what is known of the way.
    pub const fn again(self) -> Self {
        Self {
            due: None,
            unanswered: 0,
            ..self
        }
    }

    /// The other side was heard. If that answers the first sign of life, the way has held for the whole silence.
    pub fn heard(&mut self, now: Time) {
        if self.unanswered == 1 {
            self.held = self.held.max(self.silence);
            self.silence = (self.silence * 3 / 2).min(self.bounds.longest.max(self.bounds.first));
        }
        self.unanswered = 0;
        self.due = Some(now + self.silence);
    }

    /// The other side asks whether this one is at a new address: the way has not held. To be told before the
    /// packet that asks counts as heard.
    pub fn moved(&mut self) {
        self.silence = self.held.min(self.silence * 2 / 3).max(self.bounds.first);
        self.bounds.longest = self.silence;
        self.unanswered = 0;
    }

    /// True when the other side has given no sign of life for so long that the link is of no use any more.
    pub const fn is_dead(&self) -> bool {
        self.unanswered >= UNANSWERED_MAX
    }

    /// True while a sign of life is unanswered.
    pub const fn awaits(&self) -> bool {
        self.unanswered > 0
    }

    /// True when a sign of life is due; `timeout` is how long its answer may take.
    pub fn expire(&mut self, now: Time, timeout: Duration) -> bool {
        let due = *self.due.get_or_insert(now + self.silence);
        if due > now || self.is_dead() {
            return false;
        }
        self.unanswered += 1;
        // The first repeats come soon: a way that was closed is to be opened again.
        self.due = Some(now + timeout * (1 << self.unanswered.min(4)));
        true
    }

    /// When the next sign of life is due.
    pub const fn due(&self) -> Option<Time> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Lets silences pass, each answered; gives how long they were.
    fn silences(keepalive: &mut Keepalive, now: &mut Time, count: usize) -> Vec<u64> {
        let mut all = Vec::new();
        for _ in 0..count {
            assert!(!keepalive.expire(*now, s(1)));
            let due = keepalive.due().unwrap();
            all.push((due - *now).as_secs());
            assert!(keepalive.expire(due, s(1)));
            *now = due;
            keepalive.heard(*now);
        }
        all
    }

    /// LINK-17
    #[test]
    fn silences_grow_while_the_way_holds() {
        let bounds = Silence {
            first: s(30),
            longest: s(120),
        };
        let (mut keepalive, mut now) = (Keepalive::new(bounds), Time(0));
        let grown = silences(&mut keepalive, &mut now, 6);
        assert_eq!(grown, [30, 45, 67, 101, 120, 120]);
        let mut fixed = Keepalive::new(Silence::fixed(s(10)));
        assert_eq!(silences(&mut fixed, &mut now, 3), [10, 10, 10]);
    }

    /// LINK-17
    #[test]
    fn a_way_that_did_not_hold_is_kept_open_from_then_on() {
        let bounds = Silence {
            first: s(30),
            longest: s(120),
        };
        let (mut keepalive, mut now) = (Keepalive::new(bounds), Time(0));
        assert_eq!(silences(&mut keepalive, &mut now, 2), [30, 45]);
        let due = keepalive.due().unwrap();
        assert!(keepalive.expire(due, s(1)));
        keepalive.moved();
        keepalive.heard(due);
        now = due;
        assert_eq!(silences(&mut keepalive, &mut now, 3), [45, 45, 45]);
        // One that moves at the shortest silence too has other reasons.
        let mut restless = Keepalive::new(Silence::fixed(s(30)));
        restless.moved();
        assert_eq!(silences(&mut restless, &mut now, 2), [30, 30]);
    }

    #[test]
    fn who_does_not_answer_is_dead_in_the_end() {
        let mut keepalive = Keepalive::new(Silence::fixed(s(30)));
        assert!(!keepalive.expire(Time(0), s(1)));
        let mut now = Time(0);
        for _ in 0..UNANSWERED_MAX {
            assert!(!keepalive.is_dead());
            now = keepalive.due().unwrap();
            assert!(keepalive.expire(now, s(1)));
        }
        assert!(keepalive.is_dead());
        assert_eq!(now, Time(30_000_000 + 14_000_000));
        assert!(!keepalive.expire(keepalive.due().unwrap(), s(1)));
        // Found by the simulator: a link that had been opened anew was dead at once, again and again.
        assert!(!keepalive.again().is_dead());
        assert_eq!(keepalive.again().due(), None);
    }
}
