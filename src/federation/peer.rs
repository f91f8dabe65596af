//! The state machine of one peer: runs one step after the other.

mod groups;
mod introducing;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use groups::{GroupFailed, Groups};
use rand::Rng;

use super::{
    AGAIN, Done, News, RealmIdentity, Step, StepId,
    backoff::{BackOff, Until, Wait},
    queue::{self, Asked, Refusals, Turn, Verdict},
    reader::Reader,
    side_tasks::Aside,
    steps::{After, Doing, Next, introduce, look_at_copy, settle},
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    realm::{
        Glance, GroupWork, Moment, NextOutgoing, Outgoing, Peer, ReplicaLook, Settling, Written,
    },
    wire::{ErrorCode, PeerRequest, RealmId},
};

/// A peer that has not answered for this time is shown as silent.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// How often this realm retries at once when a peer does not know its peering numbers.
const NUMBERS_TOLD: u32 = 3;
/// The first wait before the claimed address of a silent peer is tried again. The wait doubles each
/// time.
const CLAIM_AGAIN: Duration = Duration::from_hours(1);
/// The longest such wait.
const CLAIM_AGAIN_MAX: Duration = Duration::from_hours(24);

/// The current state.
#[derive(Debug)]
enum Stage {
    /// No work is left.
    Idle {
        /// When to look for work again anyway, in time since the start.
        again: Option<Duration>,
    },
    /// A step is under way.
    Doing(StepId, Doing),
    /// The peer or this realm cannot take anything now.
    Waiting(Wait),
}

/// The task of one peer.
#[derive(Debug)]
pub struct PeerTask {
    id: RealmId,
    /// The identity of the peer. Another realm may use the same name later.
    who: (PublicKey, u64),
    /// True if this realm has introduced itself since it started, or if the peer was added since.
    is_introduced: bool,
    are_copies_listed: bool,
    groups: Groups,
    /// Work for a group has just failed. The queue has its turn before the next group.
    group_failed: Option<GroupFailed>,
    /// Another introduction was requested since the last one began.
    is_lost: bool,
    /// The peer did not know this realm although it had accepted the peering.
    was_unknown: bool,
    /// How often the peer was told of numbers that it did not know (PEER-27).
    told: u32,
    /// The queue has grown since it was last read.
    has_grown: bool,
    refused: Refusals,
    backoff: BackOff,
    stage: Stage,
    /// When the peer is shown as silent.
    silent_at: Option<Duration>,
    /// The peer has sent a request since the last request to it.
    is_heard: bool,
    news: VecDeque<News>,
    aside: Aside,
    /// When the claimed address may be tried because the peer is silent at its stored address, in
    /// time since the start, and the wait after that.
    claim_again: (Duration, Duration),
    /// A step that runs in parallel to the current stage.
    step_aside: Option<Step>,
}

impl PeerTask {
    pub fn new(peer: &Peer, is_introduced: bool) -> Self {
        Self {
            id: peer.realm,
            who: peer.identity(),
            is_introduced,
            are_copies_listed: false,
            groups: Groups::default(),
            group_failed: None,
            is_lost: false,
            was_unknown: false,
            told: 0,
            has_grown: false,
            refused: Refusals::default(),
            backoff: BackOff::default(),
            stage: Stage::Idle { again: None },
            silent_at: None,
            is_heard: false,
            news: VecDeque::new(),
            aside: Aside::new(peer.realm),
            claim_again: (Duration::ZERO, CLAIM_AGAIN),
            step_aside: None,
        }
    }

    /// True if this is the same peer, and not another one with the same name.
    pub fn is_of(&self, peer: &Peer) -> bool {
        self.who == peer.identity()
    }

    pub fn take_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Returns the next step to run in parallel to the current stage, if there is one.
    pub fn take_aside(&mut self, now: Moment) -> Option<Step> {
        let step = self.step_aside.take();
        step.or_else(|| self.aside.begin(now, self.is_introduced))
    }

    /// Records the id of the side step that has begun.
    pub fn began_aside(&mut self, step: StepId) {
        self.aside.began(step);
    }

    /// Returns when the next timer is due, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        let of_stage = match &self.stage {
            Stage::Idle { again } => *again,
            Stage::Doing(..) => self.silent_at,
            Stage::Waiting(wait) => Some(wait.at),
        };
        [of_stage, self.aside.timeout()].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Moment) -> Option<Next> {
        let now = now.since_start();
        match &self.stage {
            Stage::Idle { again } if again.is_some_and(|at| at <= now) => Some(self.begin()),
            Stage::Waiting(wait) if wait.at <= now => Some(self.begin()),
            Stage::Doing(..) if self.silent_at.is_some_and(|at| at <= now) => {
                self.silent_at = None;
                self.news.push_back(News::Silent);
                None
            }
            Stage::Idle { .. } | Stage::Doing(..) | Stage::Waiting(_) => None,
        }
    }

    /// Handles a new message in the queue.
    pub fn grown(&mut self) -> Option<Next> {
        self.has_grown = true;
        self.wake()
    }

    /// Adds work for a group, or keeps work that is not finished.
    pub fn add_work(&mut self, work: GroupWork) -> Option<Next> {
        self.groups.add(work);
        self.wake()
    }

    /// Handles that the peer cannot reach this realm until this realm introduces itself again.
    pub fn lost(&mut self) -> Option<Next> {
        self.is_introduced = false;
        self.is_lost = true;
        self.wake()
    }

    /// Handles that the peer claims another address.
    pub fn claimed(&mut self) -> Option<Next> {
        self.aside.try_claim();
        None
    }

    /// Requests that this realm opens a link back to the peer.
    pub fn call_back(&mut self) -> Option<Next> {
        self.aside.call_back();
        None
    }

    fn wake(&mut self) -> Option<Next> {
        match self.stage {
            Stage::Idle { .. } => Some(self.begin()),
            Stage::Doing(..) | Stage::Waiting(_) => None,
        }
    }

    /// Handles that the peer has sent a request or answered one outside this task.
    pub fn heard(&mut self, now: Moment) -> Option<Next> {
        self.is_heard = true;
        self.is_there(now);
        let Stage::Waiting(wait) = &mut self.stage else {
            return None;
        };
        let is_over = self.backoff.heard(wait, now.since_start());
        is_over.then(|| self.begin())
    }

    /// The peer has been heard: its name is tried as often as at the beginning of a silence.
    fn is_there(&mut self, now: Moment) {
        let due = self.claim_again.0.min(now.since_start() + CLAIM_AGAIN);
        self.claim_again = (due, CLAIM_AGAIN);
    }

    /// Records that a step is under way.
    pub fn does(&mut self, now: Moment, step: StepId, doing: Doing) {
        self.is_heard &= !doing.is_asking();
        self.is_lost &= !matches!(doing, Doing::Introducing(..));
        self.silent_at = doing.is_asking().then(|| now.since_start() + SILENT_AFTER);
        self.stage = Stage::Doing(step, doing);
    }

    /// Records that no work is left.
    pub fn rests(&mut self, again: Option<Duration>) {
        self.stage = Stage::Idle { again };
    }

    /// Starts a wait. Returns how long it is.
    pub fn waits(&mut self, now: Moment, until: Until, rng: &mut impl Rng) -> Duration {
        self.silent_at = None;
        let is_silent = until == Until::Heard && !is_planted(Fault::BelieveForever);
        let (due, wait) = self.claim_again;
        if is_silent && due <= now.since_start() {
            // The peer's hostname may resolve to another address now.
            self.claim_again = (now.since_start() + wait, (wait * 2).min(CLAIM_AGAIN_MAX));
            self.aside.try_claim();
        }
        let mut wait = self.backoff.begin(now.since_start(), until, rng);
        if is_planted(Fault::GiveUpPeer) {
            wait = Wait::for_ever();
        }
        let left = wait.at.saturating_sub(now.since_start());
        tracing::debug!(peer = %self.id, wait = ?left, "a peer does not take what waits for it");
        self.stage = Stage::Waiting(wait);
        left
    }

    /// Starts the next work.
    pub fn begin(&mut self) -> Next {
        if self.are_copies_listed {
            self.look()
        } else {
            Next::act(Step::ListCopies(self.id), Doing::Listing)
        }
    }

    fn look(&mut self) -> Next {
        self.has_grown = false;
        let step = Step::Look {
            peer: self.id,
            more: self.refused.are_any(),
        };
        Next::act(step, Doing::Looking)
    }

    /// The waiting work succeeded.
    fn go_on(&mut self) -> Next {
        self.backoff.reset();
        self.begin()
    }

    /// Handles the result of a step.
    pub(super) fn done(
        &mut self,
        own: &RealmIdentity,
        now: Moment,
        id: StepId,
        done: Done,
    ) -> Option<Next> {
        if self.aside.is_doing(id) {
            self.step_aside = self.aside.done(own, now, done);
            return self.aside.take_apart().then(|| self.lost())?;
        }
        let idle = Stage::Idle { again: None };
        let doing = match std::mem::replace(&mut self.stage, idle) {
            Stage::Doing(current, doing) if current == id => doing,
            // The result of a step that this task no longer waits for.
            stage => {
                self.stage = stage;
                return None;
            }
        };
        self.silent_at = None;
        if matches!(done, Done::Answered(Some(_))) {
            self.is_there(now);
        }
        Some(match (doing, done) {
            (Doing::Listing, Done::Copies(groups)) => {
                self.are_copies_listed = groups.is_some();
                for group in groups.into_iter().flatten() {
                    self.groups.add(GroupWork::Read(group));
                }
                self.look()
            }
            (Doing::Looking, Done::Looked(looked)) => match looked {
                Ok(Some(glance)) => self.decide(own, now, *glance),
                Ok(None) => Next::End,
                Err(_) => Next::Wait(Until::Over),
            },
            (Doing::TellingKey(peer), Done::Answered(answer)) => {
                self.told_key(own, &peer, answer.as_deref())
            }
            (Doing::Introducing(peer, is_numbered), Done::Answered(answer)) => {
                self.introduced(own, (&peer, is_numbered), answer.as_deref())
            }
            (Doing::Noting, Done::Written(Written::Durable)) => {
                // If the link that carried the answer is lost, the introduction has to be repeated.
                self.is_introduced = !self.is_lost;
                self.told = 0;
                if std::mem::take(&mut self.was_unknown) {
                    // Without the backoff, a peer that accepts the peering and then takes nothing
                    // would be asked without pause.
                    self.begin()
                } else {
                    self.go_on()
                }
            }
            // This realm tells its current numbers again at once, but only a few times.
            (Doing::Noting, Done::Written(Written::Conflict)) if self.told < NUMBERS_TOLD => {
                self.told += 1;
                self.begin()
            }
            (Doing::Noting, Done::Written(_)) => {
                self.told = 0;
                Next::Wait(Until::Over)
            }
            (Doing::Telling(group), Done::Answered(answer)) => {
                self.told(now, group, answer.as_deref())
            }
            (Doing::LookingAtCopy(peer, group), Done::Copy(look)) => match *look {
                ReplicaLook::At(state) => {
                    let reader = Reader::new(group, state.epoch(), state.position(), peer.life());
                    let bytes = reader.request();
                    let doing = Doing::Reading(peer.clone(), Box::new((reader, state)));
                    Next::act(Step::Ask { peer, bytes }, doing)
                }
                ReplicaLook::Gone => self.group_done(GroupWork::Read(group)),
                ReplicaLook::NotNow => self.later(now, GroupWork::Read(group), GroupFailed::Alone),
            },
            (Doing::Reading(peer, reading), Done::Answered(answer)) => {
                self.read(now, peer, (reading, answer.as_deref()))
            }
            (Doing::Keeping(peer, group, more), Done::Written(written)) => match written {
                Written::Durable => {
                    if more {
                        // An endless group must not hold up the queue.
                        self.groups.put_off(GroupWork::Read(group));
                    }
                    self.group_done(GroupWork::Read(group))
                }
                // No other task reads this group. If it was joined anew in the meantime, it is read
                // anew.
                Written::Conflict => look_at_copy(peer, group),
                Written::Failed => self.later(now, GroupWork::Read(group), GroupFailed::Alone),
            },
            (Doing::Asking(peer, outgoing, asked), Done::Answered(answer)) => {
                self.answered(peer, outgoing, (asked, answer.as_deref()))
            }
            (Doing::Settling(after), Done::Written(written)) => self.settled(after, written),
            // A step never returns the result of another step.
            (doing, done) => {
                debug_assert!(false, "{doing:?} came back as {done:?}");
                Next::Wait(Until::Over)
            }
        })
    }

    /// Decides the next work: introductions first, then groups, then the queue.
    fn decide(&mut self, own: &RealmIdentity, now: Moment, glance: Glance) -> Next {
        let (peer, next) = (Arc::new(glance.peer), glance.next);
        if !self.is_introduced {
            // Expired messages are given up even when the peer has not accepted the peering.
            return match next {
                Ok(Some(next)) => match queue::without_peer(&next, now) {
                    Some(settling) => settle(peer, next, settling),
                    None => introduce(own, &peer),
                },
                Ok(None) | Err(_) => introduce(own, &peer),
            };
        }
        let failed = self.group_failed.take();
        if failed.is_none()
            && let Some(work) = self.groups.next(now.since_start())
        {
            return match work {
                GroupWork::Tell(group) => {
                    let bytes = PeerRequest::Grown { group }.to_bytes();
                    Next::act(Step::Ask { peer, bytes }, Doing::Telling(group))
                }
                GroupWork::Read(group) => look_at_copy(peer, group),
            };
        }
        let is_put_off = self.groups.queue_has_turn();
        match next {
            Err(_) => Next::Wait(Until::Over),
            Ok(Some(next)) => self.turn(peer, next, now),
            Ok(None) if failed == Some(GroupFailed::Busy) => Next::Wait(Until::Over),
            Ok(None) if is_put_off || failed.is_some() || self.has_grown => self.look(),
            Ok(None) => {
                let list = (!self.are_copies_listed).then(|| now.since_start() + AGAIN);
                self.backoff.reset();
                Next::Nothing([list, self.groups.timeout()].into_iter().flatten().min())
            }
        }
    }

    /// Handles the message at the head of the queue.
    fn turn(&mut self, peer: Arc<Peer>, next: NextOutgoing, now: Moment) -> Next {
        self.refused.turn_to(next.outgoing.position());
        match queue::turn(&peer, &next, &self.refused, now) {
            Turn::Settle(settling) => settle(peer, next, settling),
            Turn::Nothing => self.not_taken(),
            Turn::Ask(asked, bytes) => {
                self.refused.asks(asked);
                let outgoing = Box::new(next.outgoing);
                let step = Step::Ask {
                    peer: Arc::new(outgoing.asks(&peer)),
                    bytes,
                };
                Next::act(step, Doing::Asking(peer, outgoing, asked))
            }
        }
    }

    /// Handles that the peer no longer knows this realm, for example after a restore from a backup.
    /// The queue waits for the next introduction.
    fn is_unknown(&mut self) -> Next {
        self.is_introduced = false;
        self.was_unknown = true;
        self.news.push_back(News::Refuses(ErrorCode::PeerRefused));
        Next::Wait(Until::Over)
    }

    /// Handles the peer's answer about the message at the head of the queue.
    fn answered(
        &mut self,
        peer: Arc<Peer>,
        outgoing: Box<Outgoing>,
        (asked, answer): (Asked, Option<&[u8]>),
    ) -> Next {
        let verdict = queue::verdict((asked, outgoing.is_word()), answer);
        if answer.is_some() {
            self.news.push_back(News::Answers);
        }
        match verdict {
            Verdict::Silent => self.is_silent(),
            Verdict::Busy => Next::Wait(Until::Over),
            Verdict::Refused => self.not_taken(),
            Verdict::Unknown => self.is_unknown(),
            Verdict::Settle(settling) => {
                // A peer that always reports a used number would otherwise make this realm ask
                // without pause.
                let is_again = settling == Settling::Anew && outgoing.has_own_epoch();
                let after = match settling {
                    _ if is_again && !is_planted(Fault::AskUsedAtOnce) => After::Wait,
                    Settling::Aside if !is_planted(Fault::MakeWayAtOnce) => After::MadeWay,
                    Settling::Told(_)
                    | Settling::Aside
                    | Settling::Back
                    | Settling::Anew
                    | Settling::Returned => After::GoOn,
                };
                let step = Step::Settle(peer, outgoing, settling);
                Next::act(step, Doing::Settling(after))
            }
        }
    }

    fn settled(&mut self, after: After, written: Written) -> Next {
        match (written, after) {
            (Written::Durable, After::GoOn) => self.go_on(),
            // The backoff is kept here. Otherwise two messages that make way for each other would
            // be asked about without pause.
            (Written::Durable, After::MadeWay) => self.begin(),
            (Written::Durable, After::Wait) | (Written::Conflict, _) => self.not_taken(),
            (Written::Failed, _) => Next::Wait(Until::Over),
        }
    }

    /// Records that the peer has not taken the message at the head of the queue.
    const fn not_taken(&mut self) -> Next {
        self.refused.add();
        Next::Wait(Until::Over)
    }

    fn is_silent(&mut self) -> Next {
        if self.is_heard {
            // The peer is online now. The request was lost and is repeated soon.
            self.backoff.reset();
            return Next::Wait(Until::HeardLater);
        }
        self.news.push_back(News::Silent);
        Next::Wait(Until::Heard)
    }

    /// Returns the buffered size of an incomplete entry, in bytes.
    pub fn held(&self) -> usize {
        match &self.stage {
            Stage::Doing(_, Doing::Reading(_, reading)) => reading.0.held(),
            Stage::Doing(..) | Stage::Idle { .. } | Stage::Waiting(_) => 0,
        }
    }
}
