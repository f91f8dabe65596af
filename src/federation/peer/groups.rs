//! Schedules the work for groups that this realm shares with a peer. A failing group waits alone:
//! it delays neither the other groups nor the queue.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{
        News, Step,
        backoff::{BACKOFF_MIN, BUSY_MAX},
        reader::{Reader, Reading},
        steps::{Doing, Next},
    },
    PeerTask,
};
use crate::{
    realm::{GroupWork, Kept, Moment, Peer, ReplicaState},
    wire::{Answer, ErrorCode, GroupName},
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
    due: BTreeSet<GroupWork>,
    /// The rest of work that was begun. The queue has its turn first.
    put_off: BTreeSet<GroupWork>,
    failing: BTreeMap<GroupWork, Failing>,
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

    /// Returns when failed work is retried, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        let again = self.failing.values().filter_map(|failing| failing.again);
        again.min()
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
    pub fn failed(&mut self, now: Duration, work: GroupWork) {
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

impl PeerTask {
    /// Handles the peer's answer to the report that a group has grown.
    pub(super) fn told(&mut self, now: Moment, group: GroupName, answer: Option<&[u8]>) -> Next {
        let work = GroupWork::Tell(group);
        let Some(answer) = answer else {
            self.groups.put_off(work);
            return self.is_silent();
        };
        self.news.push_back(News::Answers);
        match Answer::parse(answer) {
            Ok(Answer::Refused(refusal)) if refusal.code == ErrorCode::PeerRefused => {
                self.groups.put_off(work);
                self.is_unknown()
            }
            Ok(Answer::Done) => self.group_done(work),
            Ok(Answer::Refused(refusal)) if refusal.is_final() => self.group_done(work),
            Ok(Answer::Refused(refusal)) if refusal.is_transient() => {
                self.later(now, work, GroupFailed::Busy)
            }
            _ => self.later(now, work, GroupFailed::Alone),
        }
    }

    pub(super) fn group_done(&mut self, work: GroupWork) -> Next {
        self.groups.done(work);
        self.go_on()
    }

    pub(super) fn read(
        &mut self,
        now: Moment,
        peer: Arc<Peer>,
        (mut reading, answer): (Box<(Reader, ReplicaState)>, Option<&[u8]>),
    ) -> Next {
        if answer.is_some() {
            self.news.push_back(News::Answers);
        }
        let group = reading.0.group();
        let work = GroupWork::Read(group);
        let (kept, more) = match reading.0.take(answer) {
            Reading::Ask(bytes) => {
                let doing = Doing::Reading(peer.clone(), reading);
                return Next::act(Step::Ask { peer, bytes }, doing);
            }
            Reading::Silent => {
                self.groups.put_off(work);
                return self.is_silent();
            }
            Reading::Unknown => {
                self.groups.put_off(work);
                return self.is_unknown();
            }
            Reading::Busy => return self.later(now, work, GroupFailed::Busy),
            Reading::Unread => return self.later(now, work, GroupFailed::Alone),
            Reading::Entries(entries, _) if entries.is_empty() => return self.group_done(work),
            Reading::Entries(entries, more) => (Kept::Entries(entries), more),
            // This holds even if the notice about the end was lost.
            Reading::Gone => (Kept::Gone, false),
        };
        let step = Step::Keep(peer.clone(), group, Box::new((reading.1, kept)));
        Next::act(step, Doing::Keeping(peer, group, more))
    }

    /// Handles that there is no buffer space to continue reading a long entry.
    pub fn lacks_room(&mut self, now: Moment, group: GroupName) -> Next {
        self.later(now, GroupWork::Read(group), GroupFailed::Alone)
    }

    /// Schedules a retry of failed work for a group.
    pub(super) fn later(&mut self, now: Moment, work: GroupWork, failed: GroupFailed) -> Next {
        self.groups.failed(now.since_start(), work);
        self.group_failed = Some(failed);
        self.begin()
    }
}
