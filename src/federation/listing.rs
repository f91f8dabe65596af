//! When the list of peers is read, and what waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{AGAIN, AGAIN_MAX};
use crate::{realm::GroupWork, wire::RealmId};

/// The state of reading the list of peers. Times are since the start.
#[derive(Debug)]
pub struct Listing {
    is_under_way: bool,
    /// The list has changed since this read began.
    is_outdated: bool,
    /// When the list is read again, because a part of it could not be read.
    again: Option<Duration>,
    /// The wait after the next such read.
    wait: Duration,
    /// True until all peers are listed: each peer that is listed now is told that this realm has
    /// started.
    is_start: bool,
    /// Group work for peers that are not listed yet.
    early: BTreeMap<RealmId, BTreeSet<GroupWork>>,
}

impl Listing {
    /// Creates the state at the start of a realm.
    pub const fn new() -> Self {
        Self {
            is_under_way: false,
            is_outdated: false,
            again: None,
            wait: AGAIN,
            is_start: true,
            early: BTreeMap::new(),
        }
    }

    /// Requests a read. Returns true if it begins now; otherwise it follows the one that is under
    /// way.
    pub const fn begin(&mut self) -> bool {
        if self.is_under_way {
            self.is_outdated = true;
            return false;
        }
        self.is_under_way = true;
        self.again = None;
        true
    }

    /// Returns when the list is read again.
    pub const fn timeout(&self) -> Option<Duration> {
        self.again
    }

    /// Keeps group work for a peer that is not listed yet, if a list is coming.
    pub fn add_early(&mut self, realm: RealmId, work: GroupWork) {
        if self.is_under_way {
            self.early.entry(realm).or_default().insert(work);
        }
    }

    /// Handles the end of a read, before the peers are handled.
    pub const fn ended(&mut self) {
        self.is_under_way = false;
    }

    /// Returns the group work that has waited for a peer to be listed.
    pub fn take_early(&mut self, realm: &RealmId) -> BTreeSet<GroupWork> {
        self.early.remove(realm).unwrap_or_default()
    }

    /// True until all peers were listed once since the start.
    pub const fn is_start(&self) -> bool {
        self.is_start
    }

    /// Handles that the listed peers were handled. Returns true if the list is to be read again
    /// now.
    pub fn handled(&mut self, now: Duration, are_all: bool) -> bool {
        // A peer that can only be read later is told of the start then.
        self.is_start &= !are_all;
        if are_all {
            self.early.clear();
            self.wait = AGAIN;
        } else {
            self.again = Some(now + self.wait);
            self.wait = (self.wait * 2).min(AGAIN_MAX);
        }
        std::mem::take(&mut self.is_outdated)
    }
}
