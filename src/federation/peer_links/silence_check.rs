//! The check after a silence: a peer is dialled once to show it that this works without traffic,
//! too (PEER-24).

use std::time::Duration;

/// After so long a silence, a peer is dialled once to show it that this works without one either.
const CHECK_AFTER: Duration = Duration::from_mins(6);
/// The realm with the larger key waits for so much longer. Two checks at the same time would show
/// neither realm anything.
const CHECK_LATER: Duration = Duration::from_mins(3);
/// How long such a check is worth: an introduction from the peer within this time asks for no
/// other one.
const CHECK_AGAIN: Duration = Duration::from_mins(10);

/// Which of two realms has the larger key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargerKey {
    /// This realm.
    This,
    /// The peer.
    Peer,
}

/// The check of one peer. Times count from the start of the table.
#[derive(Debug)]
pub struct SilenceCheck {
    is_wanted: bool,
    /// How long the silence has to be.
    after: Duration,
    /// When the peer was last dialled after a silence.
    last: Option<Duration>,
}

impl SilenceCheck {
    /// Creates a check that is wanted.
    pub fn new(larger_key: LargerKey) -> Self {
        let after = match larger_key {
            LargerKey::This => CHECK_AFTER + CHECK_LATER,
            LargerKey::Peer => CHECK_AFTER,
        };
        Self {
            is_wanted: true,
            after,
            last: None,
        }
    }

    /// Requests a check, unless there was one lately.
    pub fn request(&mut self, now: Duration) {
        self.is_wanted |= self.last.is_none_or(|at| now >= at + CHECK_AGAIN);
    }

    /// Returns the silence after which the peer is dialled, if that is wanted.
    pub fn after(&self) -> Option<Duration> {
        self.is_wanted.then_some(self.after)
    }

    /// Records that the peer is dialled after a silence.
    pub const fn done(&mut self, now: Duration) {
        self.is_wanted = false;
        self.last = Some(now);
    }
}
