//! What is to be done for the groups that this realm and a peer share, and when. A group that fails waits by itself: neither the other groups
//! nor the queue wait for it.

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

/// What has failed: the wait after the next failure, and when it is tried again. None while it is being tried.
#[derive(Debug)]
struct Failing {
    wait: Duration,
    again: Option<Duration>,
}

/// All that is to be done for groups.
#[derive(Debug, Default)]
pub struct Groups {
    due: BTreeSet<GroupWork>,
    /// What is left of what was done: the queue has its turn first.
    put_off: BTreeSet<GroupWork>,
    failing: BTreeMap<GroupWork, Failing>,
}

impl Groups {
    /// Something is to be done. What has failed waits all the same: a peer could else make this realm ask as often as it likes.
    pub fn add(&mut self, work: GroupWork) {
        let waits = self.failing.get(&work);
        if waits.is_none_or(|failing| failing.again.is_none()) {
            self.due.insert(work);
        }
    }

    /// What is to be done first.
    pub fn next(&mut self, now: Duration) -> Option<GroupWork> {
        for (work, failing) in &mut self.failing {
            if failing.again.is_some_and(|again| again <= now) {
                failing.again = None;
                self.due.insert(*work);
            }
        }
        self.due.pop_first()
    }

    /// When something that has failed is tried again, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        let again = self.failing.values().filter_map(|failing| failing.again);
        again.min()
    }

    /// The queue has its turn now; what was put off follows that. True if anything was.
    pub fn queue_has_turn(&mut self) -> bool {
        let is_put_off = !self.put_off.is_empty();
        self.due.append(&mut self.put_off);
        is_put_off
    }

    /// It is to be done when the queue has had its turn.
    pub fn put_off(&mut self, work: GroupWork) {
        self.put_off.insert(work);
    }

    /// It is done.
    pub fn done(&mut self, work: GroupWork) {
        self.failing.remove(&work);
    }

    /// It has failed: it is tried again after a while, twice as long each time.
    pub fn failed(&mut self, now: Duration, work: GroupWork) {
        let failing = self.failing.entry(work).or_insert(Failing {
            wait: BACKOFF_MIN,
            again: None,
        });
        failing.again = Some(now + failing.wait);
        // Also what was added while it was tried waits for that.
        self.due.remove(&work);
        failing.wait = (failing.wait * 2).min(BUSY_MAX);
    }
}

/// Why something could not be done for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupFailed {
    /// The peer takes nothing now.
    Busy,
    /// It is about this group.
    Alone,
}

impl PeerTask {
    /// A peer has been told that a group has grown.
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
            // Whatever became of the word that it has ended.
            Reading::Gone => (Kept::Gone, false),
        };
        let step = Step::Keep(peer.clone(), group, Box::new((reading.1, kept)));
        Next::act(step, Doing::Keeping(peer, group, more))
    }

    /// There is no room now to read on what is long.
    pub fn lacks_room(&mut self, now: Moment, group: GroupName) -> Next {
        self.later(now, GroupWork::Read(group), GroupFailed::Alone)
    }

    /// What is to be done for a group has failed, and is tried again later.
    pub(super) fn later(&mut self, now: Moment, work: GroupWork, failed: GroupFailed) -> Next {
        self.groups.failed(now.since_start(), work);
        self.group_failed = Some(failed);
        self.begin()
    }
}
