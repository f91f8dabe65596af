//! Several workers at one address, each with an endpoint and links of its own: finds the worker of
//! a datagram.
//!
//! The network chooses the worker for a datagram by the source address. So a link's packets reach
//! the worker that accepted it, until its client moves. The id of a link names its worker. The
//! primary worker does most work with other realms: it dials them, and keeps the links that they
//! open. A link that a realm opened before it was known stays at its worker.

use std::num::NonZeroU32;

use super::ids::LinkId;

/// The number of a worker, among several at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId {
    own: u32,
    of: NonZeroU32,
}

impl WorkerId {
    /// The only worker at its address.
    pub const ALONE: Self = Self {
        own: 0,
        of: NonZeroU32::MIN,
    };

    /// Returns number `own`, from 0 on, of `of` workers. `None` if there is no such number.
    pub fn new(own: u32, of: NonZeroU32) -> Option<Self> {
        (own < of.get()).then_some(Self { own, of })
    }

    /// Returns its number, from 0 on.
    pub const fn own(self) -> u32 {
        self.own
    }

    /// Returns the number of workers.
    pub(super) fn count(self) -> usize {
        usize::try_from(self.of.get()).unwrap_or(usize::MAX)
    }

    /// Returns the number of the worker that owns a link id.
    pub(super) fn of_id(self, id: u32) -> u32 {
        id % self.of
    }

    /// True for the primary worker, which has the links with other realms.
    pub(super) const fn is_primary(self) -> bool {
        self.own == 0
    }

    /// True if this worker may assign this id to a link.
    pub(super) fn may_give(self, id: LinkId) -> bool {
        self.of_id(id.0) == self.own
    }
}
