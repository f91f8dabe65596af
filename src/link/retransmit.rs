//! When one thing leaves: for the first time, again because nothing says that it has arrived, and as a copy of what has
//! just left.

use super::time::{Time, earliest};

/// What is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    /// The thing itself, for the first time or again.
    Original,
    /// A copy of what has just left (LINK-19).
    Copy,
}

/// The transmissions of one thing.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    queued: Option<Queued>,
    /// How often it has left, copies aside.
    count: u32,
    /// When it is to leave again.
    again: Option<Time>,
    /// When a copy of it is to leave.
    copy: Option<Time>,
}

impl Attempts {
    /// It leaves with the next packet.
    pub const fn queued() -> Self {
        Self {
            queued: Some(Queued::Original),
            count: 0,
            again: None,
            copy: None,
        }
    }

    /// It has left so often and does not leave again by itself.
    pub const fn made(count: u32) -> Self {
        Self {
            queued: None,
            count,
            again: None,
            copy: None,
        }
    }

    /// How often it has left, copies aside.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// True when it should leave with the next packet.
    pub const fn is_queued(&self) -> bool {
        self.queued.is_some()
    }

    /// True when what should leave is no copy, and has left before.
    pub const fn is_repeat(&self) -> bool {
        matches!(self.queued, Some(Queued::Original)) && self.count > 0
    }

    /// True when nothing leaves and no timer runs.
    pub const fn is_idle(&self) -> bool {
        self.queued.is_none() && self.again.is_none() && self.copy.is_none()
    }

    /// It should leave (again).
    pub const fn queue(&mut self) {
        self.queued = Some(Queued::Original);
    }

    /// It neither leaves nor is due to.
    pub const fn stop(&mut self) {
        *self = Self::made(self.count);
    }

    /// It has left as part of something else.
    pub const fn count_one(&mut self) {
        self.count = self.count.saturating_add(1);
    }

    /// What is known of earlier transmissions says nothing any more.
    pub const fn forget(&mut self) {
        self.count = 0;
    }

    /// It has left. True unless that was a copy, which changes no timer: then [`Attempts::schedule`] follows.
    pub const fn sent(&mut self) -> bool {
        let is_original = !matches!(self.queued.take(), Some(Queued::Copy));
        if is_original {
            self.count_one();
        }
        is_original
    }

    /// Sets when it leaves again, and when a copy does.
    pub const fn schedule(&mut self, again: Option<Time>, copy: Option<Time>) {
        (self.again, self.copy) = (again, copy);
    }

    /// When it leaves again, copies aside.
    pub const fn again(&self) -> Option<Time> {
        self.again
    }

    /// When [`Attempts::expire`] wants to be called.
    pub fn timeout(&self) -> Option<Time> {
        match self.queued {
            Some(_) => None,
            None => earliest(self.again, self.copy),
        }
    }

    /// Lets time pass: queues a copy that is due. True when the thing itself is, which is not queued by this.
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
