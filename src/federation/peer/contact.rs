//! When a peer was last heard, and what follows from its silence: when it is shown as silent, and
//! when its claimed address is tried (PEER-23).

use std::time::Duration;

/// A peer that has not answered for this time is shown as silent.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// The first wait before the claimed address of a silent peer is tried again. The wait doubles each
/// time.
const CLAIM_AGAIN: Duration = Duration::from_hours(1);
/// The longest such wait.
const CLAIM_AGAIN_MAX: Duration = Duration::from_hours(24);

/// The contact with a peer. Times are since the start.
#[derive(Debug)]
pub struct Contact {
    /// When the peer is shown as silent, while a request to it is under way.
    silent_at: Option<Duration>,
    /// The peer has sent a request since the last request to it.
    is_heard: bool,
    /// When the claimed address may be tried because the peer is silent at its stored address.
    claim_due: Duration,
    /// The wait after that.
    claim_wait: Duration,
}

impl Default for Contact {
    fn default() -> Self {
        Self {
            silent_at: None,
            is_heard: false,
            claim_due: Duration::ZERO,
            claim_wait: CLAIM_AGAIN,
        }
    }
}

impl Contact {
    /// Returns when the peer is shown as silent.
    pub const fn timeout(&self) -> Option<Duration> {
        self.silent_at
    }

    /// Returns true once the peer is to be shown as silent.
    pub fn is_silence_due(&mut self, now: Duration) -> bool {
        self.silent_at.take_if(|at| *at <= now).is_some()
    }

    /// Handles the begin of a request to the peer.
    pub fn request_begun(&mut self, now: Duration) {
        self.is_heard = false;
        self.silent_at = Some(now + SILENT_AFTER);
    }

    /// Handles that no request to the peer is under way any more.
    pub const fn request_ended(&mut self) {
        self.silent_at = None;
    }

    /// Handles an answer of the peer: its claimed address is tried as often as at the beginning of
    /// a silence.
    pub fn answered(&mut self, now: Duration) {
        self.claim_due = self.claim_due.min(now + CLAIM_AGAIN);
        self.claim_wait = CLAIM_AGAIN;
    }

    /// Handles a request of the peer, or an answer outside its task.
    pub fn heard(&mut self, now: Duration) {
        self.is_heard = true;
        self.answered(now);
    }

    /// True if the peer has sent a request since the last request to it.
    pub const fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// Returns true if the claimed address of the silent peer is to be tried now: its hostname may
    /// resolve to another address.
    pub fn is_claim_due(&mut self, now: Duration) -> bool {
        let is_due = self.claim_due <= now;
        if is_due {
            self.claim_due = now + self.claim_wait;
            self.claim_wait = (self.claim_wait * 2).min(CLAIM_AGAIN_MAX);
        }
        is_due
    }
}
