//! Side tasks of a peer, which run in parallel to its queue and do not delay it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{AGAIN, AGAIN_MAX, Done, RealmIdentity, Step, StepId};
use crate::{
    realm::{Moment, Numbered, Peer, Written},
    wire::{Answer, RealmId},
};

/// Tries the claimed address of a peer (PEER-23). Opens a link back to a peer that has opened one,
/// so that the peer sees that it need not keep its own link open (PEER-24).
#[derive(Debug)]
pub struct Aside {
    peer: RealmId,
    /// The claimed address is to be tried once.
    is_claim_due: bool,
    /// A link back is to be opened once.
    is_call_due: bool,
    /// The peer answered at its claimed address, but the store failed to record it.
    found: Option<(Arc<Peer>, IpAddr)>,
    /// The store has failed and is retried at this time, in time since the start.
    again: Option<Duration>,
    /// The wait after the next failure.
    wait: Duration,
    /// The peer disagrees about the peering.
    is_apart: bool,
    /// The step that is under way (with its id) or about to begin.
    doing: Option<(Option<StepId>, Doing)>,
}

/// The current step.
#[derive(Debug)]
enum Doing {
    /// Reads the stored state of the peer, to try its claim or to open a link back.
    Looking {
        is_claim: bool,
    },
    Trying(Arc<Peer>),
    CallingBack(Arc<Peer>),
    /// Stores the peer's answer about the peering. If `tried` is set, stores the verified claim
    /// next.
    Noting {
        tried: Option<(Arc<Peer>, IpAddr)>,
    },
    /// Stores that the peer answered at its claimed address.
    Believing(Arc<Peer>, IpAddr),
}

impl Aside {
    /// Creates the side tasks of the peer with that name.
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

    /// Requests a try of the claimed address.
    pub const fn try_claim(&mut self) {
        self.is_claim_due = true;
    }

    /// Requests a link back to the peer.
    pub const fn call_back(&mut self) {
        self.is_call_due = true;
    }

    /// Returns true once after the peer turned out to disagree about the peering.
    pub const fn take_apart(&mut self) -> bool {
        core::mem::replace(&mut self.is_apart, false)
    }

    /// True if that step belongs to the side tasks.
    pub fn is_doing(&self, step: StepId) -> bool {
        let doing = self.doing.as_ref();
        doing.is_some_and(|(current, _)| *current == Some(step))
    }

    /// Returns when the failed store is retried, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        self.again.filter(|_| self.doing.is_none())
    }

    /// Returns the next step if one is needed and none is under way. A peer that still needs an
    /// introduction gets no separate link back: the introduction opens one.
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

    /// Records the id of the step that [`Aside::begin`] or [`Aside::done`] returned.
    pub const fn began(&mut self, step: StepId) {
        if let Some((current, _)) = &mut self.doing {
            *current = Some(step);
        }
    }

    /// Schedules a retry after a store failure.
    fn leave_store(&mut self, now: Moment) {
        self.again = Some(now.since_start() + self.wait);
        self.wait = (self.wait * 2).min(AGAIN_MAX);
    }

    /// Handles the result of a step and returns the next one. After no answer, the try is repeated
    /// when the peer repeats its claim or opens another link. After a store failure, it is repeated
    /// soon.
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
                    // Any other answer also shows that the peer is there.
                    None => (
                        Step::Claimed(Arc::clone(&peer), at),
                        Doing::Believing(peer, at),
                    ),
                }
            }
            (Doing::Trying(peer), Done::Tried(None)) => {
                let (host, port) = peer.address();
                tracing::info!(peer = %self.peer, host, port, "a peer was not found at the address that it gives; it is tried again when the peer introduces itself, and while it is silent");
                return None;
            }
            (Doing::CallingBack(peer), Done::Answered(Some(answer))) => {
                let Accepted(said) = accepted(&answer)?;
                (Step::Introduced(peer, said), Doing::Noting { tried: None })
            }
            (Doing::Noting { tried }, Done::Written(written)) => {
                // The two disagree about the peering: the introduction is repeated.
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
                // The peer need not repeat its claim: the try succeeded, and only the write is
                // retried.
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

/// An accepted peering, with its number if the peer gave one.
struct Accepted(Option<Numbered>);

/// Parses the answer to an introduction. None if the peer has not accepted the peering.
fn accepted(answer: &[u8]) -> Option<Accepted> {
    let answer = Answer::parse(answer).ok()?;
    let said = Numbered::of(&answer);
    (said.is_some() || answer == Answer::Done).then_some(Accepted(said))
}
