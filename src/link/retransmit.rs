//! The transmission state of one item: when it is first sent, when it is retransmitted for lack of
//! an acknowledgement, and when its redundant copy is sent.

use super::time::{Time, earliest};

/// The kind of transmission that is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    /// The item itself, for the first time or as a retransmission.
    Original,
    /// A redundant copy of the last transmission (LINK-19).
    Copy,
}

/// The transmissions of one item.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    queued: Option<Queued>,
    /// The number of transmissions, without redundant copies.
    count: u32,
    /// When it is retransmitted.
    again: Option<Time>,
    /// When its redundant copy is sent.
    copy: Option<Time>,
}

impl Attempts {
    /// Creates the state of an item that is sent with the next packet.
    pub const fn queued() -> Self {
        Self {
            queued: Some(Queued::Original),
            count: 0,
            again: None,
            copy: None,
        }
    }

    /// Creates the state of an item that was sent `count` times and has no timer.
    pub const fn made(count: u32) -> Self {
        Self {
            queued: None,
            count,
            again: None,
            copy: None,
        }
    }

    /// The number of transmissions, without redundant copies.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// True if it is queued for the next packet.
    pub const fn is_queued(&self) -> bool {
        self.queued.is_some()
    }

    /// True if a retransmission is queued, and not a redundant copy.
    pub const fn is_repeat(&self) -> bool {
        matches!(self.queued, Some(Queued::Original)) && self.count > 0
    }

    /// True if nothing is queued and no timer runs.
    pub const fn is_idle(&self) -> bool {
        self.queued.is_none() && self.again.is_none() && self.copy.is_none()
    }

    /// Queues the item for (re)transmission.
    pub const fn queue(&mut self) {
        self.queued = Some(Queued::Original);
    }

    /// Removes it from the queue and stops its timers.
    pub const fn stop(&mut self) {
        *self = Self::made(self.count);
    }

    /// Counts a transmission as part of another item.
    pub const fn count_one(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// Resets the count of transmissions.
    pub const fn forget(&mut self) {
        self.count = 0;
    }

    /// Notes a transmission. True unless it was a redundant copy, which changes no timer. If true,
    /// the caller calls [`Attempts::schedule`] next.
    pub const fn sent(&mut self) -> bool {
        let is_original = !matches!(self.queued.take(), Some(Queued::Copy));
        if is_original {
            self.count_one();
        }
        is_original
    }

    /// Sets when it is retransmitted, and when its redundant copy is sent.
    pub const fn schedule(&mut self, again: Option<Time>, copy: Option<Time>) {
        (self.again, self.copy) = (again, copy);
    }

    /// When it is retransmitted, without redundant copies.
    pub const fn again(&self) -> Option<Time> {
        self.again
    }

    /// Returns when [`Attempts::expire`] must be called.
    pub fn timeout(&self) -> Option<Time> {
        match self.queued {
            Some(_) => None,
            None => earliest(self.again, self.copy),
        }
    }

    /// Advances time: queues a redundant copy that is due. True if a retransmission is due, which
    /// the caller queues.
    pub fn expire(&mut self, now: Time) -> bool {
        if self.queued.is_some() {
            return false;
        }
        if self.copy.is_some_and(|copy| copy <= now) {
            self.copy = None;
            self.queued = Some(Queued::Copy);
        }
        self.again.is_some_and(|again| again <= now)
    }
}
