//! Keeping the way to a side open that waits for events (LINK-17): a sign of life after a silence, which grows
//! while what keeps the way, such as an address translator, is seen to outlast it.

use core::time::Duration;

use super::time::Time;

/// So many signs of life in a row not answered, and the link counts as dead.
pub const UNANSWERED_MAX: u32 = 6;
/// How long the answer to a sign of life is waited for where the round trip has not been measured: it may take a minute.
const UNMEASURED_PATIENCE: Duration = Duration::from_secs(75);

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
    /// When the next sign of life is due; while one is asked for, until when it is waited for at most.
    due: Option<Time>,
    /// One is asked for.
    is_asking: bool,
    /// It has not come.
    is_dead: bool,
}

impl Keepalive {
    /// Begins with the shortest silence.
    pub const fn new(bounds: Silence) -> Self {
        Self {
            bounds,
            silence: bounds.first,
            held: bounds.first,
            due: None,
            is_asking: false,
            is_dead: false,
        }
    }

    /// Begins anew on a fresh link, with what is known of the way.
    pub const fn again(self) -> Self {
        Self {
            due: None,
            is_asking: false,
            is_dead: false,
            ..self
        }
    }

    /// The silence begins, if it has not begun.
    pub fn begin(&mut self, now: Time) {
        if !self.is_asking {
            self.due.get_or_insert(now + self.silence);
        }
    }

    /// The silence has lasted for long enough. True when a sign of life is to be asked for from now on; else it has been waited for for
    /// long enough.
    pub fn ask(&mut self, now: Time) -> bool {
        if core::mem::replace(&mut self.is_asking, true) {
            self.is_dead = true;
            self.due = None;
            return false;
        }
        self.due = Some(now + UNMEASURED_PATIENCE);
        true
    }

    /// True when no sign of life has come for so long that none will.
    pub const fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// The other side was heard, after it was asked for a sign of life so often. If that answers the first, the way has
    /// held for the whole silence.
    pub fn heard(&mut self, now: Time, asked: u32) {
        if core::mem::take(&mut self.is_asking) && asked == 1 {
            self.held = self.held.max(self.silence);
            self.silence = (self.silence * 3 / 2).min(self.bounds.longest.max(self.bounds.first));
        }
        self.is_dead = false;
        self.due = Some(now + self.silence);
    }

    /// The other side asks whether this one is at a new address: the way has not held. To be told before the
    /// packet that asks counts as heard.
    pub fn moved(&mut self) {
        self.silence = self.held.min(self.silence * 2 / 3).max(self.bounds.first);
        self.bounds.longest = self.silence;
        self.is_asking = false;
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
            keepalive.begin(*now);
            let due = keepalive.due().unwrap();
            all.push((due - *now).as_secs());
            assert!(keepalive.ask(due));
            *now = due;
            keepalive.heard(*now, 1);
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
        assert!(keepalive.ask(due));
        keepalive.moved();
        keepalive.heard(due, 1);
        now = due;
        assert_eq!(silences(&mut keepalive, &mut now, 3), [45, 45, 45]);
        // One that moves at the shortest silence too has other reasons.
        let mut restless = Keepalive::new(Silence::fixed(s(30)));
        restless.moved();
        assert_eq!(silences(&mut restless, &mut now, 2), [30, 30]);
    }

    /// LINK-17: one that took more than one sign of life to be answered may have been closed meanwhile.
    #[test]
    fn silence_does_not_grow_when_the_first_sign_of_life_is_lost() {
        let bounds = Silence {
            first: s(30),
            longest: s(120),
        };
        let mut keepalive = Keepalive::new(bounds);
        keepalive.begin(Time(0));
        assert!(keepalive.ask(Time(0)));
        keepalive.heard(Time(0), 2);
        assert_eq!(keepalive.due(), Some(Time(0) + s(30)));
    }
    /// LINK-17: a round trip that nobody has measured may take a minute.
    #[test]
    fn sign_of_life_is_waited_for_long_where_nothing_is_measured() {
        let mut keepalive = Keepalive::new(Silence::fixed(s(30)));
        assert!(keepalive.ask(Time(0)));
        assert!(!keepalive.is_dead());
        let due = keepalive.due().unwrap();
        assert_eq!(due, Time(0) + s(75));
        assert!(!keepalive.ask(due) && keepalive.is_dead());
        assert_eq!(keepalive.due(), None);
        // Found by the simulator: a link that had been opened anew was dead at once, again and again.
        assert!(!keepalive.again().is_dead());
    }
}
