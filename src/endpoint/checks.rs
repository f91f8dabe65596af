//! Invariants of an endpoint's tables between any two calls, whatever has arrived. Checked in the
//! library's tests, in fuzzing and in simulation.

use super::{
    Endpoint, LinkId,
    link_entry::{LinkEntry, Role},
};
use crate::faults::{Fault, is_planted};

/// No checks with more links than this: they would dominate the run time of such a build.
const CHECKED_MAX: usize = 32;

impl Endpoint {
    /// Asserts all invariants of an endpoint.
    pub(super) fn check(&self) {
        let is_looked_at = cfg!(any(test, fuzzing)) && cfg!(debug_assertions);
        if !is_looked_at || self.slots.len() > CHECKED_MAX {
            return;
        }
        self.check_names();
        let mut held = 0;
        for (id, slot) in &self.slots {
            self.check_slot(*id, slot);
            if !slot.link.is_resting() {
                held += slot.link.assembling();
            }
        }
        debug_assert!(
            held <= self.assembling.total(),
            "bytes of messages in parts are not counted"
        );
    }

    /// Asserts that each entry of a lookup table leads to an existing link.
    fn check_names(&self) {
        let slot = |id: &LinkId| self.slots.get(id).map(Box::as_ref);
        for (address, id) in &self.by_address {
            let is_there = slot(id).is_some_and(|slot| slot.path.remote == *address);
            debug_assert!(
                is_there || is_planted(Fault::KeepAddress),
                "an address leads to no link"
            );
        }
        for ((address, name), id) in self.by_name.iter().chain(&self.by_plain) {
            let is_it =
                |slot: &LinkEntry| slot.path.remote == *address && slot.remote == Some(*name);
            debug_assert!(slot(id).is_some_and(is_it), "a name leads to no link");
        }
        for (peer, ids) in &self.by_peer {
            let is_theirs = |id| slot(id).is_some_and(|slot| slot.peer == Some(*peer));
            debug_assert!(
                !ids.is_empty() && ids.iter().all(is_theirs),
                "a key leads to no link of its own"
            );
        }
        for (peer, id) in &self.dialed {
            let is_dialed = |slot: &LinkEntry| slot.is_shared && slot.peer == Some(*peer);
            debug_assert!(slot(id).is_some_and(is_dialed), "a realm's link is none");
        }
    }

    /// Asserts that each link's timer is set no later than the link requires.
    fn check_slot(&self, id: LinkId, slot: &LinkEntry) {
        debug_assert!(
            slot.role == Role::Responder || self.by_address.contains(&(slot.path.remote, id)),
            "a link cannot be found by its address"
        );
        if self.schedule.is_ready(id) {
            return;
        }
        let wanted = slot.timeout(&self.config);
        let set = self.schedule.of(id);
        debug_assert!(
            wanted.is_none_or(|wanted| set.is_some_and(|set| set <= wanted)),
            "a link wants to be looked at by {wanted:?}, and will be at {set:?}"
        );
    }
}
