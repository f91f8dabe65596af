//! What is to be done with one peer, one step after the other.

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

/// A peer that has not answered for so long is shown as one that does not.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// How often a peer is told at once of numbers that it does not know.
const NUMBERS_TOLD: u32 = 3;
/// Between two tries of the address that a silent peer says of itself.
const CLAIM_AGAIN: Duration = Duration::from_hours(1);

/// What is done now.
#[derive(Debug)]
enum Stage {
    /// There is nothing to be done.
    Idle {
        /// When that is looked at again all the same, in time since the start.
        again: Option<Duration>,
    },
    /// A step is under way.
    Doing(StepId, Doing),
    /// The peer, or this realm, takes nothing now.
    Waiting(Wait),
}

/// One peer.
#[derive(Debug)]
pub struct PeerTask {
    id: RealmId,
    /// Which peer it is: another may have the name later.
    who: (PublicKey, u64),
    /// It has been introduced to since this realm has started, or has become a peer since.
    is_introduced: bool,
    are_copies_listed: bool,
    groups: Groups,
    /// Something has just failed for a group: the queue has its turn before the next.
    group_failed: Option<GroupFailed>,
    /// It is to be introduced to again since it was introduced to last.
    is_lost: bool,
    /// It did not know this realm although it had accepted the peering.
    was_unknown: bool,
    /// How often it has been told of numbers that it did not know (PEER-27).
    told: u32,
    /// The queue has grown since it was looked at.
    has_grown: bool,
    refused: Refusals,
    backoff: BackOff,
    stage: Stage,
    /// When it is shown as silent.
    silent_at: Option<Duration>,
    /// It has asked something since it was asked.
    is_heard: bool,
    news: VecDeque<News>,
    aside: Aside,
    /// When the address that it says of itself was tried because it was silent at the one that is believed, in time since the start.
    claim_tried: Option<Duration>,
    /// What is to be done beside all else.
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
            claim_tried: None,
            step_aside: None,
        }
    }

    /// True when it is that peer, and no other that has its name.
    pub fn is_of(&self, peer: &Peer) -> bool {
        self.who == peer.identity()
    }

    pub fn take_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// What is to be done beside all else, if anything is.
    pub fn take_aside(&mut self, now: Moment) -> Option<Step> {
        let step = self.step_aside.take();
        step.or_else(|| self.aside.begin(now, self.is_introduced))
    }

    /// That has this number.
    pub fn began_aside(&mut self, step: StepId) {
        self.aside.began(step);
    }

    /// The next moment of interest, in time since the start.
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

    /// More waits in the queue.
    pub fn grown(&mut self) -> Option<Next> {
        self.has_grown = true;
        self.wake()
    }

    /// Something is to be done for a group, or still is.
    pub fn add_work(&mut self, work: GroupWork) -> Option<Next> {
        self.groups.add(work);
        self.wake()
    }

    /// It hears of this realm only when that introduces itself again.
    pub fn lost(&mut self) -> Option<Next> {
        self.is_introduced = false;
        self.is_lost = true;
        self.wake()
    }

    /// It says of itself that it is somewhere else.
    pub fn claimed(&mut self) -> Option<Next> {
        self.aside.try_claim();
        None
    }

    /// It is to be called back.
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

    /// The peer has asked something, or has answered somebody.
    pub fn heard(&mut self, now: Moment) -> Option<Next> {
        self.is_heard = true;
        let Stage::Waiting(wait) = &mut self.stage else {
            return None;
        };
        let is_over = self.backoff.heard(wait, now.since_start());
        is_over.then(|| self.begin())
    }

    /// A step is under way.
    pub fn does(&mut self, now: Moment, step: StepId, doing: Doing) {
        self.is_heard &= !doing.is_asking();
        self.is_lost &= !matches!(doing, Doing::Introducing(..));
        self.silent_at = doing.is_asking().then(|| now.since_start() + SILENT_AFTER);
        self.stage = Stage::Doing(step, doing);
    }

    /// There is nothing to be done.
    pub fn rests(&mut self, again: Option<Duration>) {
        self.stage = Stage::Idle { again };
    }

    /// Nothing is done for a while.
    pub fn waits(&mut self, now: Moment, until: Until, rng: &mut impl Rng) -> Duration {
        self.silent_at = None;
        let silent_since_try = |at| at + CLAIM_AGAIN <= now.since_start();
        let is_silent = until == Until::Heard && !is_planted(Fault::BelieveForever);
        if is_silent && self.claim_tried.is_none_or(silent_since_try) {
            // The name that it goes by may lead elsewhere by now.
            self.claim_tried = Some(now.since_start());
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

    /// Begins with whatever is first.
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

    /// What waited has been taken.
    fn go_on(&mut self) -> Next {
        self.backoff.reset();
        self.begin()
    }

    /// A step is done.
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
            // Of one that nobody waits for.
            stage => {
                self.stage = stage;
                return None;
            }
        };
        self.silent_at = None;
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
                // Unless the link is lost on which that was answered.
                self.is_introduced = !self.is_lost;
                self.told = 0;
                if std::mem::take(&mut self.was_unknown) {
                    // One that accepts the peering and then takes nothing would else be asked as often as is ever done.
                    self.begin()
                } else {
                    self.go_on()
                }
            }
            // It is told again at once, with the numbers that there are now, but a few times at most.
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
                        // A group without end is no reason to keep what waits.
                        self.groups.put_off(GroupWork::Read(group));
                    }
                    self.group_done(GroupWork::Read(group))
                }
                // Nobody else reads this group; should it have been joined anew meanwhile, it is read anew.
                Written::Conflict => look_at_copy(peer, group),
                Written::Failed => self.later(now, GroupWork::Read(group), GroupFailed::Alone),
            },
            (Doing::Asking(peer, outgoing, asked), Done::Answered(answer)) => {
                self.answered(peer, outgoing, (asked, answer.as_deref()))
            }
            (Doing::Settling(after), Done::Written(written)) => self.settled(after, written),
            // No step comes back as another.
            (doing, done) => {
                debug_assert!(false, "{doing:?} came back as {done:?}");
                Next::Wait(Until::Over)
            }
        })
    }

    /// What is first: introductions, then groups, then the queue.
    fn decide(&mut self, own: &RealmIdentity, now: Moment, glance: Glance) -> Next {
        let (peer, next) = (Arc::new(glance.peer), glance.next);
        if !self.is_introduced {
            // What is too old is given up also where the peer has not accepted.
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

    /// It is the turn of a message.
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

    /// The peer does not know this realm any more, as when it was restored from a copy: what waits for it waits until it is introduced to.
    fn is_unknown(&mut self) -> Next {
        self.is_introduced = false;
        self.was_unknown = true;
        self.news.push_back(News::Refuses(ErrorCode::PeerRefused));
        Next::Wait(Until::Over)
    }

    /// The peer has been asked about the message whose turn it is.
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
                // One that always says that a number is used would make this realm ask as fast as it can.
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
            // Each that makes way for the other would else be asked about as often as is ever done.
            (Written::Durable, After::MadeWay) => self.begin(),
            (Written::Durable, After::Wait) | (Written::Conflict, _) => self.not_taken(),
            (Written::Failed, _) => Next::Wait(Until::Over),
        }
    }

    /// The peer has not taken the message whose turn it is.
    const fn not_taken(&mut self) -> Next {
        self.refused.add();
        Next::Wait(Until::Over)
    }

    fn is_silent(&mut self) -> Next {
        if self.is_heard {
            // It is there by now: what was lost is asked again soon.
            self.backoff.reset();
            return Next::Wait(Until::HeardLater);
        }
        self.news.push_back(News::Silent);
        Next::Wait(Until::Heard)
    }

    /// How much of an entry that is not whole yet is held, in bytes.
    pub fn held(&self) -> usize {
        match &self.stage {
            Stage::Doing(_, Doing::Reading(_, reading)) => reading.0.held(),
            Stage::Doing(..) | Stage::Idle { .. } | Stage::Waiting(_) => 0,
        }
    }
}
