//! When this realm introduces itself to one peer again, because of the links between the two
//! (PEER-24).

use std::time::Duration;

use super::dial_backs::BACK_AGAIN;

/// The first wait before this realm introduces itself again to a peer that has opened no link. The
/// wait doubles each time. The peer may have been unable to open one, or its link was lost.
const ASK_AGAIN: Duration = Duration::from_mins(10);
/// The longest wait between two such introductions.
const ASK_AGAIN_MAX: Duration = Duration::from_hours(24);

/// The introductions to one peer. Times count from the start of the table.
#[derive(Debug)]
pub struct Reintroductions {
    /// How many were due so far.
    count: u64,
    /// When the last link to the peer was lost, and when that has an effect if it was just before.
    lost_at: Option<Duration>,
    lost_due: Option<Duration>,
    /// Since when a link to the peer is kept open, or when the last introduction for that was made.
    kept_since: Option<Duration>,
    /// The wait after that before the next introduction.
    kept_wait: Duration,
}

impl Default for Reintroductions {
    fn default() -> Self {
        Self {
            count: 0,
            lost_at: None,
            lost_due: None,
            kept_since: None,
            kept_wait: ASK_AGAIN,
        }
    }
}

impl Reintroductions {
    /// Returns how many introductions were due so far.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Counts one that is due at once.
    pub const fn add(&mut self) {
        self.count += 1;
    }

    /// Handles that this realm's last link to the peer is lost. A peer that closes each link must
    /// not make this realm send without a pause.
    pub fn link_lost(&mut self, now: Duration) {
        let earliest = self.lost_at.map_or(now, |at| now.max(at + BACK_AGAIN));
        self.lost_due = Some(earliest);
    }

    /// Returns when the next one is due.
    pub const fn timeout(&self) -> Option<Duration> {
        self.lost_due
    }

    /// Handles the timer.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.lost_due.take_if(|due| *due <= now).is_some() {
            self.lost_at = Some(now);
            self.count += 1;
        }
    }

    /// Records that no link to the peer is kept open.
    pub const fn nothing_kept(&mut self) {
        self.kept_since = None;
        self.kept_wait = ASK_AGAIN;
    }

    /// Records that a link to the peer is kept open. Returns true if an introduction is due because
    /// that is so for long.
    pub fn is_link_kept_long(&mut self, now: Duration) -> bool {
        // The time counts on when the link is renewed.
        let since = *self.kept_since.get_or_insert(now);
        let is_due = now >= since + self.kept_wait;
        if is_due {
            self.kept_wait = (self.kept_wait * 2).min(ASK_AGAIN_MAX);
            self.kept_since = Some(now);
            self.count += 1;
        }
        is_due
    }
}
