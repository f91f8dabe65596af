//! Schedules the work for groups that this realm shares with a peer. A failing group waits alone:
//! it delays neither the other groups nor the queue.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::super::{
    AGAIN,
    backoff::{BACKOFF_MIN, BUSY_MAX},
};
use crate::{
    realm::GroupWork,
    wire::{AnsweredByPeer as _, ErrorCode, GroupName, peer::Grown},
};

/// Work that has failed: the wait after the next failure, and when it is retried. None while the
/// retry is under way.
#[derive(Debug)]
struct Failing {
    wait: Duration,
    again: Option<Duration>,
}

/// All pending work for groups.
#[derive(Debug, Default)]
pub struct Groups {
    /// The groups that have a replica here were read.
    are_replicas_listed: bool,
    due: BTreeSet<GroupWork>,
    /// The rest of work that was begun. The queue has its turn first.
    put_off: BTreeSet<GroupWork>,
    failing: BTreeMap<GroupWork, Failing>,
    /// Work has just failed. The queue has its turn before the next group.
    failed: Option<GroupFailed>,
}

impl Groups {
    /// Adds work. Failed work keeps waiting: otherwise a peer could make this realm ask without
    /// limit.
    pub fn add(&mut self, work: GroupWork) {
        let waits = self.failing.get(&work);
        if waits.is_none_or(|failing| failing.again.is_none()) {
            self.due.insert(work);
        }
    }

    /// Returns the next work.
    pub fn next(&mut self, now: Duration) -> Option<GroupWork> {
        for (work, failing) in &mut self.failing {
            if failing.again.is_some_and(|again| again <= now) {
                failing.again = None;
                self.due.insert(*work);
            }
        }
        self.due.pop_first()
    }

    /// True if the groups that have a replica here were read.
    pub const fn are_replicas_listed(&self) -> bool {
        self.are_replicas_listed
    }

    /// Handles the list of the groups that have a replica here. None if not all of them could be
    /// read.
    pub fn replicas_listed(&mut self, groups: Option<Vec<GroupName>>) {
        self.are_replicas_listed = groups.is_some();
        for group in groups.into_iter().flatten() {
            self.add(GroupWork::Read(group));
        }
    }

    /// Returns when there is something to do again if nothing is due now: failed work, or the list
    /// of replicas. In time since the start.
    pub fn timeout(&self, now: Duration) -> Option<Duration> {
        let again = self.failing.values().filter_map(|failing| failing.again);
        let list = (!self.are_replicas_listed).then(|| now + AGAIN);
        again.chain(list).min()
    }

    /// Returns the failure since the last call, if there was one.
    pub const fn take_failure(&mut self) -> Option<GroupFailed> {
        self.failed.take()
    }

    /// Gives the queue its turn; work that was put off follows. Returns true if there was any.
    pub fn queue_has_turn(&mut self) -> bool {
        let is_put_off = !self.put_off.is_empty();
        self.due.append(&mut self.put_off);
        is_put_off
    }

    /// Puts work off until the queue has had its turn.
    pub fn put_off(&mut self, work: GroupWork) {
        self.put_off.insert(work);
    }

    /// Records that the work is done.
    pub fn done(&mut self, work: GroupWork) {
        self.failing.remove(&work);
    }

    /// Records a failure. The work is retried after a wait that doubles each time.
    pub fn failed(&mut self, now: Duration, work: GroupWork, failed: GroupFailed) {
        self.failed = Some(failed);
        let failing = self.failing.entry(work).or_insert(Failing {
            wait: BACKOFF_MIN,
            again: None,
        });
        failing.again = Some(now + failing.wait);
        // Work that was added during the attempt waits, too.
        self.due.remove(&work);
        failing.wait = (failing.wait * 2).min(BUSY_MAX);
    }
}

/// The reason why work for a group failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupFailed {
    /// The peer cannot take anything now.
    Busy,
    /// The fault concerns this group only.
    Alone,
}

/// What a peer's answer to the hint that a group has grown means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintAnswer {
    /// The peer does not answer.
    Silent,
    /// The peer does not know this realm.
    Unknown,
    /// The peer knows now, or needs not to know.
    Done,
    /// The hint has to be repeated.
    Failed(GroupFailed),
}

/// Evaluates a peer's answer to the hint that a group has grown.
pub fn judge_hint(answer: Option<&[u8]>) -> HintAnswer {
    let Some(answer) = answer else {
        return HintAnswer::Silent;
    };
    match Grown::read_answer(answer) {
        Ok(Ok(())) => HintAnswer::Done,
        Ok(Err(refusal)) if refusal.code == ErrorCode::PeerRefused => HintAnswer::Unknown,
        Ok(Err(refusal)) if refusal.is_final() => HintAnswer::Done,
        Ok(Err(refusal)) if refusal.is_transient() => HintAnswer::Failed(GroupFailed::Busy),
        Ok(Err(_)) | Err(_) => HintAnswer::Failed(GroupFailed::Alone),
    }
}
