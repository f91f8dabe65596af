//! The dial-backs to one peer: when this realm opens a link to a peer that has opened one, to find
//! out or to show that it can (PEER-24).

use std::time::Duration;

use crate::faults::{Fault, is_planted};

/// The shortest time between two dial-backs to a peer that has opened a link.
pub const BACK_AGAIN: Duration = Duration::from_mins(1);
/// After a late dial-back the peer may dial back at once. An introduction from it within this time
/// causes no further dial-back.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// The dial-backs to one peer. Times count from the start of the table.
#[derive(Debug, Default)]
pub struct DialBacks {
    /// How many were due so far.
    count: u64,
    /// When the last one was due.
    last: Option<Duration>,
    /// When this realm last opened a link to the peer.
    reached: Option<Duration>,
    next: Option<DialBack>,
    /// The last one was late, and a link may have to be opened for it.
    is_late: bool,
    /// Until when the peer may dial back for a late one. Such a dial-back causes no further one.
    answers_until: Option<Duration>,
}

/// A dial-back.
#[derive(Debug)]
struct DialBack {
    due: Duration,
    /// It was postponed.
    is_late: bool,
}

impl DialBacks {
    /// Returns how many dial-backs were due so far.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// True if this realm has opened a link to the peer.
    pub const fn is_reached(&self) -> bool {
        self.reached.is_some()
    }

    /// True if this realm has opened a link to the peer lately, or was to open one.
    pub fn is_recent(&self, now: Duration) -> bool {
        let lately = self.reached.max(self.last);
        lately.is_some_and(|lately| now < lately + BACK_AGAIN)
    }

    /// Requests one: at once, or [`BACK_AGAIN`] after the last one. It is postponed, not skipped: a
    /// peer that has restarted since does not know that it could be dialled before.
    pub fn request(&mut self, now: Duration) {
        let lately = self.reached.max(self.last);
        let due = lately.map_or(now, |lately| now.max(lately + BACK_AGAIN));
        let is_late = due > now;
        if is_late && is_planted(Fault::LeaveOutCallBack) {
            return;
        }
        self.next.get_or_insert(DialBack { due, is_late });
    }

    /// Counts one that is due at once.
    pub const fn add(&mut self, now: Duration) {
        self.count += 1;
        self.last = Some(now);
    }

    /// Handles a link to the peer that is open.
    pub fn reached(&mut self, now: Duration) {
        self.reached = Some(now);
        self.next = None;
        self.answers_until = std::mem::take(&mut self.is_late).then_some(now + ANSWERS_WITHIN);
    }

    /// Handles that the peer introduces itself over a link that it has opened since. Returns true
    /// if that is its dial-back for a late one.
    pub fn is_answered(&mut self, now: Duration) -> bool {
        self.answers_until.take().is_some_and(|until| until > now)
    }

    /// Returns when the next one is due.
    pub fn timeout(&self) -> Option<Duration> {
        self.next.as_ref().map(|next| next.due)
    }

    /// Handles the timer.
    pub fn handle_timeout(&mut self, now: Duration) {
        if let Some(next) = self.next.take_if(|next| next.due <= now) {
            self.add(now);
            self.is_late = next.is_late;
        }
    }
}
