//! The state machine of one peer: runs one step after the other.

mod contact;
mod groups;
mod introduction;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use contact::Contact;
use groups::{GroupFailed, Groups, HintAnswer, judge_hint};
use introduction::{
    AfterIntroduction, Introduction, IntroductionAnswer, KeyAnswer, judge_introduction,
    judge_key_answer,
};
use rand::Rng;

use super::{
    PeerStatus, RealmIdentity, Step, StepId, StepResult,
    backoff::{BackOff, Until, Wait},
    queue::{self, AfterOutcome, Content, Purpose, Refusals, Turn, Verdict},
    reader::{Reader, Reading},
    side_tasks::SideTasks,
    steps::{
        Decision, Numbering, PendingStep, introduce, introduce_as, look_at_replica, store_outcome,
    },
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    realm::{
        Glance, GroupWork, Kept, Moment, NextOutgoing, Outgoing, Peer, ReplicaLook, ReplicaState,
        Written,
    },
    wire::{ErrorCode, GroupName, PeerRequest, RealmId, Refusal, peer},
};

/// The current state.
#[derive(Debug)]
enum Stage {
    /// No work is left.
    Idle {
        /// When to look for work again anyway, in time since the start.
        again: Option<Duration>,
    },
    /// A step is under way.
    Busy(StepId, PendingStep),
    /// The peer or this realm cannot take anything now.
    Waiting(Wait),
}

/// The task of one peer.
#[derive(Debug)]
pub struct PeerTask {
    id: RealmId,
    /// The identity of the peer. Another realm may use the same name later.
    identity: (PublicKey, u64),
    stage: Stage,
    backoff: BackOff,
    contact: Contact,
    introduction: Introduction,
    groups: Groups,
    /// The queue has grown since it was last read.
    has_grown: bool,
    refusals: Refusals,
    /// What runs in parallel to the current stage.
    side_tasks: SideTasks,
    statuses: VecDeque<PeerStatus>,
}

impl PeerTask {
    pub fn new(peer: &Peer, is_introduced: bool) -> Self {
        Self {
            id: peer.realm,
            identity: peer.identity(),
            stage: Stage::Idle { again: None },
            backoff: BackOff::default(),
            contact: Contact::default(),
            introduction: Introduction::new(is_introduced),
            groups: Groups::default(),
            has_grown: false,
            refusals: Refusals::default(),
            side_tasks: SideTasks::new(peer.realm),
            statuses: VecDeque::new(),
        }
    }

    /// True if this is the same peer, and not another one with the same name.
    pub fn is_of(&self, peer: &Peer) -> bool {
        self.identity == peer.identity()
    }

    pub fn take_status(&mut self) -> Option<PeerStatus> {
        self.statuses.pop_front()
    }

    /// Returns the next step to run in parallel to the current stage, if there is one.
    pub fn take_side_step(&mut self, now: Moment) -> Option<Step> {
        self.side_tasks.next(now, self.introduction.is_done())
    }

    /// Records the id of the side step that has begun.
    pub fn began_side_step(&mut self, step: StepId) {
        self.side_tasks.began(step);
    }

    /// Returns when the next timer is due, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        let of_stage = match &self.stage {
            Stage::Idle { again } => *again,
            Stage::Busy(..) => self.contact.timeout(),
            Stage::Waiting(wait) => Some(wait.at),
        };
        let of_side_tasks = self.side_tasks.timeout();
        [of_stage, of_side_tasks].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Moment) -> Option<Decision> {
        let now = now.since_start();
        match &self.stage {
            Stage::Idle { again } if again.is_some_and(|at| at <= now) => Some(self.begin()),
            Stage::Waiting(wait) if wait.at <= now => Some(self.begin()),
            Stage::Busy(..) => {
                if self.contact.is_silence_due(now) {
                    self.statuses.push_back(PeerStatus::Silent);
                }
                None
            }
            Stage::Idle { .. } | Stage::Waiting(_) => None,
        }
    }

    /// Handles a new message in the queue.
    pub fn grown(&mut self) -> Option<Decision> {
        self.has_grown = true;
        self.wake()
    }

    /// Adds work for a group, or keeps work that is not finished.
    pub fn add_work(&mut self, work: GroupWork) -> Option<Decision> {
        self.groups.add(work);
        self.wake()
    }

    /// Handles that the peer cannot reach this realm until this realm introduces itself again.
    pub fn reintroduce(&mut self) -> Option<Decision> {
        self.introduction.request();
        self.wake()
    }

    /// Handles that the peer claims another address.
    pub fn claimed(&mut self) -> Option<Decision> {
        self.side_tasks.try_claim();
        None
    }

    /// Requests that this realm opens a link back to the peer.
    pub fn dial_back(&mut self) -> Option<Decision> {
        self.side_tasks.dial_back();
        None
    }

    fn wake(&mut self) -> Option<Decision> {
        match self.stage {
            Stage::Idle { .. } => Some(self.begin()),
            Stage::Busy(..) | Stage::Waiting(_) => None,
        }
    }

    /// Handles that the peer has sent a request or answered one outside this task.
    pub fn heard(&mut self, now: Moment) -> Option<Decision> {
        self.contact.heard(now.since_start());
        let Stage::Waiting(wait) = &mut self.stage else {
            return None;
        };
        let is_over = self.backoff.heard(wait, now.since_start());
        is_over.then(|| self.begin())
    }

    /// Records that a step is under way.
    pub fn begun(&mut self, now: Moment, step: StepId, pending: PendingStep) {
        if pending.is_request() {
            self.contact.request_begun(now.since_start());
        } else {
            self.contact.request_ended();
        }
        if let PendingStep::Introduce(..) = pending {
            self.introduction.begun();
        }
        self.stage = Stage::Busy(step, pending);
    }

    /// Records that no work is left.
    pub fn idle(&mut self, again: Option<Duration>) {
        self.stage = Stage::Idle { again };
    }

    /// Starts a wait. Returns how long it is.
    pub fn wait(&mut self, now: Moment, until: Until, rng: &mut impl Rng) -> Duration {
        self.contact.request_ended();
        let is_silent = until == Until::Heard && !is_planted(Fault::BelieveForever);
        if is_silent && self.contact.is_claim_due(now.since_start()) {
            self.side_tasks.try_claim();
        }
        let mut wait = self.backoff.begin(now.since_start(), until, rng);
        if is_planted(Fault::GiveUpPeer) {
            wait = Wait::for_ever();
        }
        let left = wait.at.saturating_sub(now.since_start());
        tracing::debug!(peer = %self.id, backoff = ?left, "work for peer was put off");
        self.stage = Stage::Waiting(wait);
        left
    }

    /// Starts the next work.
    pub fn begin(&mut self) -> Decision {
        if self.groups.are_replicas_listed() {
            self.look()
        } else {
            Decision::begin(Step::ListReplicas(self.id), PendingStep::ListReplicas)
        }
    }

    fn look(&mut self) -> Decision {
        self.has_grown = false;
        let step = Step::Look {
            peer: self.id,
            more: self.refusals.are_any(),
        };
        Decision::begin(step, PendingStep::Look)
    }

    /// The waiting work succeeded.
    fn go_on(&mut self) -> Decision {
        self.backoff.reset();
        self.begin()
    }

    /// Handles the result of a step.
    pub(super) fn done(
        &mut self,
        own: &RealmIdentity,
        now: Moment,
        id: StepId,
        result: StepResult,
    ) -> Option<Decision> {
        if self.side_tasks.is_doing(id) {
            self.side_tasks.done(own, now, result);
            return self
                .side_tasks
                .take_conflict()
                .then(|| self.reintroduce())?;
        }
        let idle = Stage::Idle { again: None };
        let pending = match std::mem::replace(&mut self.stage, idle) {
            Stage::Busy(current, pending) if current == id => pending,
            // The result of a step that this task no longer waits for.
            stage => {
                self.stage = stage;
                return None;
            }
        };
        self.contact.request_ended();
        if matches!(result, StepResult::Answered(Some(_))) {
            self.contact.answered(now.since_start());
        }
        Some(match (pending, result) {
            (PendingStep::ListReplicas, StepResult::Replicas(groups)) => {
                self.groups.replicas_listed(groups);
                self.look()
            }
            (PendingStep::Look, StepResult::Looked(looked)) => match looked {
                Ok(Some(glance)) => self.decide(own, now, *glance),
                Ok(None) => Decision::Remove,
                Err(_) => Decision::Wait(Until::Over),
            },
            (PendingStep::RotateKey(peer), StepResult::Answered(answer)) => {
                self.key_answered(own, &peer, judge_key_answer(answer.as_deref()))
            }
            (PendingStep::Introduce(peer, numbering), StepResult::Answered(answer)) => {
                let answer = judge_introduction(numbering, answer.as_deref());
                self.introduced(own, &peer, answer)
            }
            (PendingStep::StoreIntroduction, StepResult::Written(written)) => {
                match self.introduction.stored(written) {
                    AfterIntroduction::Begin => self.begin(),
                    AfterIntroduction::GoOn => self.go_on(),
                    AfterIntroduction::Wait => Decision::Wait(Until::Over),
                }
            }
            (PendingStep::SendHint(group), StepResult::Answered(answer)) => {
                self.hint_answered(now, group, judge_hint(answer.as_deref()))
            }
            (PendingStep::LookAtReplica(peer, group), StepResult::Replica(look)) => match *look {
                ReplicaLook::At(state) => {
                    let reader = Reader::new(group, state.epoch(), state.position(), peer.life());
                    let bytes = reader.request();
                    let pending = PendingStep::ReadGroup(peer.clone(), Box::new((reader, state)));
                    Decision::begin(Step::Ask { peer, bytes }, pending)
                }
                ReplicaLook::Gone => self.group_done(GroupWork::Read(group)),
                ReplicaLook::NotNow => self.later(now, GroupWork::Read(group), GroupFailed::Alone),
            },
            (PendingStep::ReadGroup(peer, reading), StepResult::Answered(answer)) => {
                self.group_read(now, peer, reading, answer.as_deref())
            }
            (PendingStep::StoreEntries { peer, group, more }, StepResult::Written(written)) => {
                match written {
                    Written::Durable => {
                        if more {
                            // An endless group must not hold up the queue.
                            self.groups.put_off(GroupWork::Read(group));
                        }
                        self.group_done(GroupWork::Read(group))
                    }
                    // No other task reads this group. If it was joined anew in the meantime, it is
                    // read anew.
                    Written::Conflict => look_at_replica(peer, group),
                    Written::Failed => self.later(now, GroupWork::Read(group), GroupFailed::Alone),
                }
            }
            (
                PendingStep::AskAboutMessage {
                    peer,
                    outgoing,
                    purpose,
                },
                StepResult::Answered(answer),
            ) => self.message_answered(peer, outgoing, purpose, answer.as_deref()),
            (PendingStep::StoreOutcome(after), StepResult::Written(written)) => {
                self.outcome_stored(after, written)
            }
            // A step never returns the result of another step.
            (pending, result) => {
                debug_assert!(false, "{pending:?} came back as {result:?}");
                Decision::Wait(Until::Over)
            }
        })
    }

    /// Decides the next work: introductions first, then groups, then the queue.
    fn decide(&mut self, own: &RealmIdentity, now: Moment, glance: Glance) -> Decision {
        let (peer, next) = (Arc::new(glance.peer), glance.next);
        if !self.introduction.is_done() {
            // Expired messages are given up even when the peer has not accepted the peering.
            return match next {
                Ok(Some(next)) => match queue::without_peer(&next, now) {
                    Some(outcome) => store_outcome(peer, next, outcome),
                    None => introduce(own, &peer),
                },
                Ok(None) | Err(_) => introduce(own, &peer),
            };
        }
        let failed = self.groups.take_failure();
        if failed.is_none()
            && let Some(work) = self.groups.next(now.since_start())
        {
            return match work {
                GroupWork::Tell(group) => {
                    let bytes = PeerRequest::Grown(peer::Grown { group }).to_bytes();
                    Decision::begin(Step::Ask { peer, bytes }, PendingStep::SendHint(group))
                }
                GroupWork::Read(group) => look_at_replica(peer, group),
            };
        }
        let is_put_off = self.groups.queue_has_turn();
        match next {
            Err(_) => Decision::Wait(Until::Over),
            Ok(Some(next)) => self.turn(peer, next, now),
            Ok(None) if failed == Some(GroupFailed::Busy) => Decision::Wait(Until::Over),
            Ok(None) if is_put_off || failed.is_some() || self.has_grown => self.look(),
            Ok(None) => {
                self.backoff.reset();
                Decision::Idle(self.groups.timeout(now.since_start()))
            }
        }
    }

    /// Handles the peer's answer to this realm's new key. A peer that does not know the old key may
    /// know the new one.
    fn key_answered(&mut self, own: &RealmIdentity, peer: &Peer, answer: KeyAnswer) -> Decision {
        match answer {
            KeyAnswer::Silent => return self.is_silent(),
            KeyAnswer::Followed => tracing::info!(peer = %self.id, "peer followed to the new key"),
            KeyAnswer::NotFollowed(code) => {
                tracing::debug!(peer = %self.id, %code, "peer did not follow to the new key");
            }
            KeyAnswer::NotNow(refusal) => {
                self.statuses.push_back(PeerStatus::Answering);
                self.not_now(refusal);
                return Decision::Wait(Until::Over);
            }
        }
        introduce(own, &peer.known_by(own.secret.public()))
    }

    /// Handles the peer's answer to an introduction.
    fn introduced(
        &mut self,
        own: &RealmIdentity,
        peer: &Peer,
        answer: IntroductionAnswer,
    ) -> Decision {
        if !matches!(answer, IntroductionAnswer::Silent) {
            self.statuses.push_back(PeerStatus::Answering);
        }
        match answer {
            IntroductionAnswer::Silent => self.is_silent(),
            IntroductionAnswer::Accepted(numbered) => {
                let peer = Arc::new(peer.known_by(own.secret.public()));
                let step = Step::StoreIntroduction(peer, numbered);
                Decision::begin(step, PendingStep::StoreIntroduction)
            }
            IntroductionAnswer::Unnumbered => introduce_as(own, peer, Numbering::Plain),
            IntroductionAnswer::NotNow(refusal) => {
                let code = refusal.code;
                tracing::debug!(peer = %self.id, %code, "peer put the introduction off");
                self.not_now(Some(refusal));
                Decision::Wait(Until::Over)
            }
            IntroductionAnswer::Refused(code) => {
                tracing::warn!(peer = %self.id, %code, "peer refused the peering");
                self.statuses.push_back(PeerStatus::Refusing(code));
                // The peer's operator may have accepted the peering in the meantime.
                Decision::Wait(Until::HeardLater)
            }
            IntroductionAnswer::Unexpected => Decision::Wait(Until::HeardLater),
        }
    }

    /// Shows a peer as refusing, unless its refusal is transient.
    fn not_now(&mut self, refusal: Option<Refusal>) {
        if let Some(refusal) = refusal.filter(|refusal| !refusal.is_transient()) {
            self.statuses.push_back(PeerStatus::Refusing(refusal.code));
        }
    }

    /// Handles the peer's answer to the hint that a group has grown.
    fn hint_answered(&mut self, now: Moment, group: GroupName, answer: HintAnswer) -> Decision {
        let work = GroupWork::Tell(group);
        if answer != HintAnswer::Silent {
            self.statuses.push_back(PeerStatus::Answering);
        }
        if matches!(answer, HintAnswer::Silent | HintAnswer::Unknown) {
            self.groups.put_off(work);
        }
        match answer {
            HintAnswer::Silent => self.is_silent(),
            HintAnswer::Unknown => self.is_unknown(),
            HintAnswer::Done => self.group_done(work),
            HintAnswer::Failed(failed) => self.later(now, work, failed),
        }
    }

    fn group_done(&mut self, work: GroupWork) -> Decision {
        self.groups.done(work);
        self.go_on()
    }

    /// Handles the peer's answer to the read of a group.
    fn group_read(
        &mut self,
        now: Moment,
        peer: Arc<Peer>,
        mut reading: Box<(Reader, ReplicaState)>,
        answer: Option<&[u8]>,
    ) -> Decision {
        if answer.is_some() {
            self.statuses.push_back(PeerStatus::Answering);
        }
        let group = reading.0.group();
        let work = GroupWork::Read(group);
        let read = reading.0.take(answer);
        if matches!(read, Reading::Silent | Reading::Unknown) {
            self.groups.put_off(work);
        }
        let (kept, more) = match read {
            Reading::Ask(bytes) => {
                let pending = PendingStep::ReadGroup(peer.clone(), reading);
                return Decision::begin(Step::Ask { peer, bytes }, pending);
            }
            Reading::Silent => return self.is_silent(),
            Reading::Unknown => return self.is_unknown(),
            Reading::Busy => return self.later(now, work, GroupFailed::Busy),
            Reading::Unread => return self.later(now, work, GroupFailed::Alone),
            Reading::Entries(entries, _) if entries.is_empty() => return self.group_done(work),
            Reading::Entries(entries, more) => (Kept::Entries(entries), more),
            // This holds even if the notice about the end was lost.
            Reading::Gone => (Kept::Gone, false),
        };
        let step = Step::StoreEntries(peer.clone(), group, Box::new((reading.1, kept)));
        Decision::begin(step, PendingStep::StoreEntries { peer, group, more })
    }

    /// Handles that there is no buffer space to continue reading a long entry.
    pub fn lacks_room(&mut self, now: Moment, group: GroupName) -> Decision {
        self.later(now, GroupWork::Read(group), GroupFailed::Alone)
    }

    /// Schedules a retry of failed work for a group.
    fn later(&mut self, now: Moment, work: GroupWork, failed: GroupFailed) -> Decision {
        self.groups.failed(now.since_start(), work, failed);
        self.begin()
    }

    /// Handles the message at the head of the queue.
    fn turn(&mut self, peer: Arc<Peer>, next: NextOutgoing, now: Moment) -> Decision {
        self.refusals.turn_to(next.outgoing.position());
        match queue::turn(&peer, &next, &self.refusals, now) {
            Turn::Settle(outcome) => store_outcome(peer, next, outcome),
            Turn::Nothing => self.not_taken(),
            Turn::Ask(purpose, bytes) => {
                self.refusals.asks(purpose);
                let outgoing = Box::new(next.outgoing);
                let step = Step::Ask {
                    peer: Arc::new(outgoing.asks(&peer)),
                    bytes,
                };
                let pending = PendingStep::AskAboutMessage {
                    peer,
                    outgoing,
                    purpose,
                };
                Decision::begin(step, pending)
            }
        }
    }

    /// Handles that the peer no longer knows this realm, for example after a restore from a backup.
    /// The queue waits for the next introduction.
    fn is_unknown(&mut self) -> Decision {
        self.introduction.forgotten();
        self.statuses
            .push_back(PeerStatus::Refusing(ErrorCode::PeerRefused));
        Decision::Wait(Until::Over)
    }

    /// Handles the peer's answer about the message at the head of the queue.
    fn message_answered(
        &mut self,
        peer: Arc<Peer>,
        outgoing: Box<Outgoing>,
        purpose: Purpose,
        answer: Option<&[u8]>,
    ) -> Decision {
        if answer.is_some() {
            self.statuses.push_back(PeerStatus::Answering);
        }
        match queue::verdict(purpose, Content::of(&outgoing), answer) {
            Verdict::Silent => self.is_silent(),
            Verdict::Busy => Decision::Wait(Until::Over),
            Verdict::Refused => self.not_taken(),
            Verdict::Unknown => self.is_unknown(),
            Verdict::Settle(outcome) => {
                let after = AfterOutcome::of(&outcome, &outgoing);
                let step = Step::StoreOutcome(peer, outgoing, outcome);
                Decision::begin(step, PendingStep::StoreOutcome(after))
            }
        }
    }

    fn outcome_stored(&mut self, after: AfterOutcome, written: Written) -> Decision {
        match (written, after) {
            (Written::Durable, AfterOutcome::GoOn) => self.go_on(),
            // The backoff is kept here. Otherwise two messages that make way for each other would
            // be asked about without pause.
            (Written::Durable, AfterOutcome::MadeWay) => self.begin(),
            (Written::Durable, AfterOutcome::Wait) | (Written::Conflict, _) => self.not_taken(),
            (Written::Failed, _) => Decision::Wait(Until::Over),
        }
    }

    /// Records that the peer has not taken the message at the head of the queue.
    const fn not_taken(&mut self) -> Decision {
        self.refusals.add();
        Decision::Wait(Until::Over)
    }

    fn is_silent(&mut self) -> Decision {
        if self.contact.is_heard() {
            // The peer is online now. The request was lost and is repeated soon.
            self.backoff.reset();
            return Decision::Wait(Until::HeardLater);
        }
        self.statuses.push_back(PeerStatus::Silent);
        Decision::Wait(Until::Heard)
    }

    /// Returns the buffered size of an incomplete entry, in bytes.
    pub fn held(&self) -> usize {
        match &self.stage {
            Stage::Busy(_, PendingStep::ReadGroup(_, reading)) => reading.0.held(),
            Stage::Busy(..) | Stage::Idle { .. } | Stage::Waiting(_) => 0,
        }
    }
}
