//! The steps of the machine: those that the driver is yet to take, those whose results are awaited,
//! and those that are cancelled.

use std::collections::{BTreeMap, VecDeque};

use super::{Step, StepId};
use crate::wire::RealmId;

/// The owner of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Listing,
    Maintenance,
    Peer(RealmId),
}

/// The steps of the machine.
#[derive(Debug, Default)]
pub struct StepQueue {
    steps: VecDeque<(StepId, Step)>,
    /// The steps whose results are awaited.
    pending: BTreeMap<StepId, Owner>,
    cancelled: VecDeque<StepId>,
    last: u64,
}

impl StepQueue {
    /// Adds a step.
    pub fn push(&mut self, owner: Owner, step: Step) -> StepId {
        self.last += 1;
        let id = StepId(self.last);
        self.pending.insert(id, owner);
        self.steps.push_back((id, step));
        id
    }

    /// Returns the next step.
    pub fn pop(&mut self) -> Option<(StepId, Step)> {
        self.steps.pop_front()
    }

    /// Returns the next cancelled step.
    pub fn pop_cancelled(&mut self) -> Option<StepId> {
        self.cancelled.pop_front()
    }

    /// Handles the result of a step. Returns the step's owner, or None if it was cancelled.
    pub fn ended(&mut self, step: StepId) -> Option<Owner> {
        self.pending.remove(&step)
    }

    /// Cancels the steps of peers that are none any more.
    pub fn cancel_unless(&mut self, is_peer: impl Fn(&RealmId) -> bool) {
        let cancelled = &mut self.cancelled;
        self.pending.retain(|id, owner| {
            let is_wanted = !matches!(owner, Owner::Peer(realm) if !is_peer(realm));
            if !is_wanted {
                cancelled.push_back(*id);
            }
            is_wanted
        });
    }
}
