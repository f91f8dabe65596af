//! What is done with a peer beside all else: what waits for it need not wait for that.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{AGAIN, AGAIN_MAX, Done, RealmIdentity, Step, StepId};
use crate::{
    realm::{Moment, Numbered, Peer, Written},
    wire::{Answer, RealmId},
};

/// Tries the address that a peer says of itself (PEER-23), and calls a peer back that has opened a link: so it sees that it need not keep
/// that open (PEER-24).
#[derive(Debug)]
pub struct Aside {
    peer: RealmId,
    /// It is to be tried at the address that it says of itself, once.
    is_claim_due: bool,
    /// It is to be called back, once.
    is_call_due: bool,
    /// It was found there, which could not be written down yet.
    found: Option<(Arc<Peer>, IpAddr)>,
    /// The store has failed: it is left alone until then, in time since the start.
    again: Option<Duration>,
    /// And for how long when it fails next.
    wait: Duration,
    /// It does not agree about the peering.
    is_apart: bool,
    /// The step that is under way, or is to begin.
    doing: Option<(Option<StepId>, Doing)>,
}

/// Which step.
#[derive(Debug)]
enum Doing {
    /// What is kept of the peer is looked at, to try its claim or else to call it back.
    Looking {
        is_claim: bool,
    },
    Trying(Arc<Peer>),
    CallingBack(Arc<Peer>),
    /// What it has said of the peering is written down; and then that it is there, if it was tried.
    Noting {
        tried: Option<(Arc<Peer>, IpAddr)>,
    },
    /// That it was found there is written down.
    Believing(Arc<Peer>, IpAddr),
}

impl Aside {
    /// For a peer that has that name.
    pub const fn new(peer: RealmId) -> Self {
        Self {
            peer,
            is_claim_due: false,
            is_call_due: false,
            found: None,
            again: None,
            wait: AGAIN,
            is_apart: false,
            doing: None,
        }
    }

    /// The peer is to be tried at the address that it says of itself.
    pub const fn try_claim(&mut self) {
        self.is_claim_due = true;
    }

    /// The peer is to be called back.
    pub const fn call_back(&mut self) {
        self.is_call_due = true;
    }

    /// Whether it has been found that the peer does not agree about the peering. That is said once.
    pub const fn take_apart(&mut self) -> bool {
        core::mem::replace(&mut self.is_apart, false)
    }

    /// True when that step is this one's.
    pub fn is_doing(&self, step: StepId) -> bool {
        let doing = self.doing.as_ref();
        doing.is_some_and(|(current, _)| *current == Some(step))
    }

    /// When what the store did not do is to be done, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        self.again.filter(|_| self.doing.is_none())
    }

    /// What is to be done first, if anything is and nothing is yet. Whoever this realm has still to introduce itself to is called by that first.
    pub fn begin(&mut self, now: Moment, is_introduced: bool) -> Option<Step> {
        if self.doing.is_some() || self.again.is_some_and(|at| at > now.since_start()) {
            return None;
        }
        self.again = None;
        if let Some((peer, at)) = self.found.take() {
            self.doing = Some((None, Doing::Believing(Arc::clone(&peer), at)));
            return Some(Step::Claimed(peer, at));
        }
        let is_claim = core::mem::take(&mut self.is_claim_due);
        if !is_claim {
            (self.is_call_due && is_introduced).then_some(())?;
            self.is_call_due = false;
        }
        self.doing = Some((None, Doing::Looking { is_claim }));
        Some(Step::Look {
            peer: self.peer,
            more: false,
        })
    }

    /// The step that was handed out has that number.
    pub const fn began(&mut self, step: StepId) {
        if let Some((current, _)) = &mut self.doing {
            *current = Some(step);
        }
    }

    /// The store has failed.
    fn leave_store(&mut self, now: Moment) {
        self.again = Some(now.since_start() + self.wait);
        self.wait = (self.wait * 2).min(AGAIN_MAX);
    }

    /// A step is done: what is to be done next. What the peer does not answer is done once more when it says so again, or opens another link; what the
    /// store does not do, soon.
    pub fn done(&mut self, own: &RealmIdentity, now: Moment, done: Done) -> Option<Step> {
        let (_, doing) = self.doing.take()?;
        let (step, doing) = match (doing, done) {
            (Doing::Looking { is_claim: true }, Done::Looked(Ok(Some(glance)))) => {
                let peer = Arc::new(glance.peer.at_claim()?);
                let bytes = own.introduction(&peer, true);
                let step = Step::Try {
                    peer: Arc::clone(&peer),
                    bytes,
                };
                (step, Doing::Trying(peer))
            }
            (Doing::Looking { is_claim: false }, Done::Looked(Ok(Some(glance)))) => {
                let peer = Arc::new(glance.peer);
                let bytes = own.introduction(&peer, true);
                let step = Step::Ask {
                    peer: Arc::clone(&peer),
                    bytes,
                };
                (step, Doing::CallingBack(peer))
            }
            (Doing::Trying(peer), Done::Tried(Some((answer, at)))) => {
                match accepted(&answer) {
                    Some(Accepted(said)) => {
                        let tried = Some((Arc::clone(&peer), at));
                        (Step::Introduced(peer, said), Doing::Noting { tried })
                    }
                    // Whatever it answers: it is there.
                    None => (
                        Step::Claimed(Arc::clone(&peer), at),
                        Doing::Believing(peer, at),
                    ),
                }
            }
            (Doing::Trying(peer), Done::Tried(None)) => {
                let (host, port) = peer.address();
                tracing::info!(peer = %self.peer, host, port, "a peer was not found at the address that it gives; it is not tried again before the peer introduces itself");
                return None;
            }
            (Doing::CallingBack(peer), Done::Answered(Some(answer))) => {
                let Accepted(said) = accepted(&answer)?;
                (Step::Introduced(peer, said), Doing::Noting { tried: None })
            }
            (Doing::Noting { tried }, Done::Written(written)) => {
                // The two do not agree about the peering: it is told again.
                self.is_apart |= written == Written::Conflict;
                let (peer, at) = tried?;
                (
                    Step::Claimed(Arc::clone(&peer), at),
                    Doing::Believing(peer, at),
                )
            }
            (Doing::Looking { is_claim }, Done::Looked(Err(_))) => {
                self.is_claim_due |= is_claim;
                self.is_call_due |= !is_claim;
                self.leave_store(now);
                return None;
            }
            (Doing::Believing(peer, at), Done::Written(Written::Failed)) => {
                // It need not say so again: it has been tried there, and knows that this realm is there.
                self.found = Some((peer, at));
                self.leave_store(now);
                return None;
            }
            (Doing::Believing(..), Done::Written(_)) => {
                self.wait = AGAIN;
                return None;
            }
            (
                Doing::Looking { .. }
                | Doing::Trying(_)
                | Doing::CallingBack(_)
                | Doing::Noting { .. }
                | Doing::Believing(..),
                _,
            ) => return None,
        };
        self.doing = Some((None, doing));
        Some(step)
    }
}

/// What a peer that accepts the peering says of it, if it says anything.
struct Accepted(Option<Numbered>);

/// Nothing where it does not accept it.
fn accepted(answer: &[u8]) -> Option<Accepted> {
    let answer = Answer::parse(answer).ok()?;
    let said = Numbered::of(&answer);
    (said.is_some() || answer == Answer::Done).then_some(Accepted(said))
}
