//! Keepalive for a side that waits for events (LINK-17): a PING after a silence. The silence grows
//! while the path, for example an address translator, is seen to outlast it.

use core::time::Duration;

use super::time::Time;

/// The link counts as dead after this many consecutive unanswered PINGs.
pub const UNANSWERED_MAX: u32 = 6;
/// How long the answer to a PING is awaited on an unmeasured path: it may take a minute.
const UNMEASURED_PATIENCE: Duration = Duration::from_secs(75);

/// The bounds of the silence before a PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The initial and shortest silence.
    pub first: Duration,
    /// The longest silence.
    pub longest: Duration,
}

impl Silence {
    /// Returns bounds with a fixed silence.
    pub const fn fixed(silence: Duration) -> Self {
        Self {
            first: silence,
            longest: silence,
        }
    }
}

/// The keepalive state of a link.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    bounds: Silence,
    /// The current silence.
    silence: Duration,
    /// The longest silence that the path is known to survive.
    held: Duration,
    /// When the next PING is due; while one is unanswered, the end of its wait.
    due: Option<Time>,
    /// A PING is unanswered.
    is_asking: bool,
    /// The answer has not arrived in time.
    is_dead: bool,
}

impl Keepalive {
    /// Creates the state with the shortest silence.
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

    /// Returns the state for a new link on the same path; what is known of the path is kept.
    pub const fn again(self) -> Self {
        Self {
            due: None,
            is_asking: false,
            is_dead: false,
            ..self
        }
    }

    /// Starts the silence, if it has not started.
    pub fn begin(&mut self, now: Time) {
        if !self.is_asking {
            self.due.get_or_insert(now + self.silence);
        }
    }

    /// Handles the end of the silence. True if a PING is to be sent from now on; else the wait for
    /// an answer has ended.
    pub fn ask(&mut self, now: Time) -> bool {
        if core::mem::replace(&mut self.is_asking, true) {
            self.is_dead = true;
            self.due = None;
            return false;
        }
        self.due = Some(now + UNMEASURED_PATIENCE);
        true
    }

    /// True if the answer to `pings` PINGs in a row has not arrived for so long that none will.
    /// Before the first round-trip sample (`is_measured`), the answers may be in flight: then only
    /// the time counts.
    pub const fn is_dead(&self, pings: u32, is_measured: bool) -> bool {
        if is_measured {
            pings > UNANSWERED_MAX
        } else {
            self.is_dead
        }
    }

    /// Notes that the other side was heard after `asked` PINGs. An answer to the first one shows
    /// that the path has survived the whole silence.
    pub fn heard(&mut self, now: Time, asked: u32) {
        if core::mem::take(&mut self.is_asking) && asked == 1 {
            self.held = self.held.max(self.silence);
            self.silence = (self.silence * 3 / 2).min(self.bounds.longest.max(self.bounds.first));
        }
        self.is_dead = false;
        self.due = Some(now + self.silence);
    }

    /// Notes a path challenge of the other side: this side's address has changed, so the path did
    /// not survive. Called before the packet with the challenge counts as heard.
    pub fn moved(&mut self) {
        self.silence = self.held.min(self.silence * 2 / 3).max(self.bounds.first);
        self.bounds.longest = self.silence;
        self.is_asking = false;
    }

    /// When the next PING is due.
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

    /// Lets `count` answered silences pass, and returns their lengths.
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

    /// LINK-17: silences grow while the path survives them.
    #[test]
    fn keepalive_silence_grows_while_path_survives() {
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

    /// LINK-17: a path that did not survive a silence is kept open with shorter ones.
    #[test]
    fn keepalive_silence_is_shorter_after_path_did_not_survive() {
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
        // An address that changes even at the shortest silence has other causes.
        let mut restless = Keepalive::new(Silence::fixed(s(30)));
        restless.moved();
        assert_eq!(silences(&mut restless, &mut now, 2), [30, 30]);
    }

    /// LINK-17: the silence does not grow if the first PING is lost. A path that needed several
    /// PINGs may have been closed meanwhile.
    #[test]
    fn keepalive_silence_does_not_grow_when_first_ping_is_lost() {
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
    /// LINK-17: a PING is awaited for long on an unmeasured path. Its round trip may take a minute.
    #[test]
    fn keepalive_ping_is_awaited_long_on_unmeasured_path() {
        let mut keepalive = Keepalive::new(Silence::fixed(s(30)));
        assert!(keepalive.ask(Time(0)));
        assert!(!keepalive.is_dead(1, false));
        let due = keepalive.due().unwrap();
        assert_eq!(due, Time(0) + s(75));
        assert!(!keepalive.ask(due) && keepalive.is_dead(1, false));
        assert_eq!(keepalive.due(), None);
        // Found by the simulator: a link that had been reopened was dead at once, again and again.
        assert!(!keepalive.again().is_dead(1, false));
    }
}
