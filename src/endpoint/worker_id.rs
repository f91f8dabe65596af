//! Several endpoints behind one address, each with its own links: finds the endpoint of a datagram.
//!
//! The network chooses the endpoint for a datagram by the source address. So a link's packets reach
//! the endpoint that accepted it, until its client moves. The id of a link names its endpoint. The
//! first endpoint does most work with other realms: it dials them, and keeps the links that they
//! open. A link that a realm opened before it was known stays at its endpoint.

use std::num::NonZeroU32;

use super::ids::LinkId;

/// This endpoint's number among several behind one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId {
    own: u32,
    of: NonZeroU32,
}

impl WorkerId {
    /// A single endpoint.
    pub const ALONE: Self = Self {
        own: 0,
        of: NonZeroU32::MIN,
    };

    /// Returns number `own`, from 0 on, of `of` endpoints. `None` if there is no such number.
    pub fn new(own: u32, of: NonZeroU32) -> Option<Self> {
        (own < of.get()).then_some(Self { own, of })
    }

    /// Returns its number, from 0 on.
    pub const fn own(self) -> u32 {
        self.own
    }

    /// Returns the number of endpoints.
    pub(super) fn count(self) -> usize {
        usize::try_from(self.of.get()).unwrap_or(usize::MAX)
    }

    /// Returns the number of the endpoint that owns a link id.
    pub(super) fn of_id(self, id: u32) -> u32 {
        id % self.of
    }

    /// True if this endpoint may assign this id to a link.
    pub(super) fn may_give(self, id: LinkId) -> bool {
        self.of_id(id.0) == self.own
    }
}
