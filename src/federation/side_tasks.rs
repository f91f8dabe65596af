//! Side tasks of a peer, which run in parallel to its queue and do not delay it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{AGAIN, AGAIN_MAX, RealmIdentity, Step, StepId, StepResult};
use crate::{
    realm::{Moment, Peer, Written},
    wire::{AnsweredByPeer as _, Numbered, RealmId, peer::Introduce},
};

/// Tries the claimed address of a peer (PEER-23). Opens a link back to a peer that has opened one,
/// so that the peer sees that it need not keep its own link open (PEER-24).
#[derive(Debug)]
pub struct SideTasks {
    peer: RealmId,
    /// The claimed address is to be tried once.
    is_claim_due: bool,
    /// A link back is to be opened once.
    is_dial_back_due: bool,
    /// The peer answered at its claimed address, but the store failed to record it.
    found: Option<(Arc<Peer>, IpAddr)>,
    /// The store has failed and is retried at this time, in time since the start.
    again: Option<Duration>,
    /// The wait after the next failure.
    wait: Duration,
    /// The peer disagrees about the peering.
    has_conflict: bool,
    /// The step that is under way (with its id) or about to begin.
    pending: Option<(Option<StepId>, SideStep)>,
    /// The step that is about to begin.
    next: Option<Step>,
}

/// The current step.
#[derive(Debug)]
enum SideStep {
    /// Reads the stored state of the peer, to try its claim or to open a link back.
    Look {
        is_claim: bool,
    },
    TryClaim(Arc<Peer>),
    DialBack(Arc<Peer>),
    /// Stores the peer's answer about the peering. If `tried` is set, stores the verified claim
    /// next.
    StoreIntroduction {
        tried: Option<(Arc<Peer>, IpAddr)>,
    },
    /// Stores that the peer answered at its claimed address.
    StoreClaim(Arc<Peer>, IpAddr),
}

impl SideTasks {
    /// Creates the side tasks of the peer with that name.
    pub const fn new(peer: RealmId) -> Self {
        Self {
            peer,
            is_claim_due: false,
            is_dial_back_due: false,
            found: None,
            again: None,
            wait: AGAIN,
            has_conflict: false,
            pending: None,
            next: None,
        }
    }

    /// Requests a try of the claimed address.
    pub const fn try_claim(&mut self) {
        self.is_claim_due = true;
    }

    /// Requests a link back to the peer.
    pub const fn dial_back(&mut self) {
        self.is_dial_back_due = true;
    }

    /// Returns true once after the peer turned out to disagree about the peering.
    pub const fn take_conflict(&mut self) -> bool {
        core::mem::replace(&mut self.has_conflict, false)
    }

    /// True if that step belongs to the side tasks.
    pub fn is_doing(&self, step: StepId) -> bool {
        let pending = self.pending.as_ref();
        pending.is_some_and(|(current, _)| *current == Some(step))
    }

    /// Returns when the failed store is retried, in time since the start.
    pub fn timeout(&self) -> Option<Duration> {
        self.again.filter(|_| self.pending.is_none())
    }

    /// Returns the next step if one is needed and none is under way. A peer that still needs an
    /// introduction gets no separate link back: the introduction opens one.
    pub fn next(&mut self, now: Moment, is_introduced: bool) -> Option<Step> {
        if let Some(step) = self.next.take() {
            return Some(step);
        }
        if self.pending.is_some() || self.again.is_some_and(|at| at > now.since_start()) {
            return None;
        }
        self.again = None;
        if let Some((peer, at)) = self.found.take() {
            self.pending = Some((None, SideStep::StoreClaim(Arc::clone(&peer), at)));
            return Some(Step::StoreClaim(peer, at));
        }
        let is_claim = core::mem::take(&mut self.is_claim_due);
        if !is_claim {
            (self.is_dial_back_due && is_introduced).then_some(())?;
            self.is_dial_back_due = false;
        }
        self.pending = Some((None, SideStep::Look { is_claim }));
        Some(Step::Look {
            peer: self.peer,
            more: false,
        })
    }

    /// Records the id of the step that [`SideTasks::next`] returned.
    pub const fn began(&mut self, step: StepId) {
        if let Some((current, _)) = &mut self.pending {
            *current = Some(step);
        }
    }

    /// Schedules a retry after a store failure.
    fn leave_store(&mut self, now: Moment) {
        self.again = Some(now.since_start() + self.wait);
        self.wait = (self.wait * 2).min(AGAIN_MAX);
    }

    /// Handles the result of a step. After no answer, the try is repeated when the peer repeats its
    /// claim or opens another link. After a store failure, it is repeated soon.
    pub fn done(&mut self, own: &RealmIdentity, now: Moment, result: StepResult) {
        self.next = self.follow(own, now, result);
    }

    /// Returns the step that follows on the result of the last one.
    fn follow(&mut self, own: &RealmIdentity, now: Moment, result: StepResult) -> Option<Step> {
        let (_, pending) = self.pending.take()?;
        let (step, pending) = match (pending, result) {
            (SideStep::Look { is_claim: true }, StepResult::Looked(Ok(Some(glance)))) => {
                let peer = Arc::new(glance.peer.at_claim()?);
                let bytes = own.introduction(&peer, true);
                let step = Step::TryClaim {
                    peer: Arc::clone(&peer),
                    bytes,
                };
                (step, SideStep::TryClaim(peer))
            }
            (SideStep::Look { is_claim: false }, StepResult::Looked(Ok(Some(glance)))) => {
                let peer = Arc::new(glance.peer);
                let bytes = own.introduction(&peer, true);
                let step = Step::Ask {
                    peer: Arc::clone(&peer),
                    bytes,
                };
                (step, SideStep::DialBack(peer))
            }
            (SideStep::TryClaim(peer), StepResult::Tried(Some((answer, at)))) => {
                match accepted(&answer) {
                    Some(Accepted(said)) => {
                        let tried = Some((Arc::clone(&peer), at));
                        (
                            Step::StoreIntroduction(peer, said),
                            SideStep::StoreIntroduction { tried },
                        )
                    }
                    // Any other answer also shows that the peer is there.
                    None => (
                        Step::StoreClaim(Arc::clone(&peer), at),
                        SideStep::StoreClaim(peer, at),
                    ),
                }
            }
            (SideStep::TryClaim(peer), StepResult::Tried(None)) => {
                let (host, port) = peer.address();
                tracing::info!(peer = %self.peer, host, port, "peer was not found at the address that it claims; it is tried again when the peer introduces itself, and while it is silent");
                return None;
            }
            (SideStep::DialBack(peer), StepResult::Answered(Some(answer))) => {
                let Accepted(said) = accepted(&answer)?;
                (
                    Step::StoreIntroduction(peer, said),
                    SideStep::StoreIntroduction { tried: None },
                )
            }
            (SideStep::StoreIntroduction { tried }, StepResult::Written(written)) => {
                // The two disagree about the peering: the introduction is repeated.
                self.has_conflict |= written == Written::Conflict;
                let (peer, at) = tried?;
                (
                    Step::StoreClaim(Arc::clone(&peer), at),
                    SideStep::StoreClaim(peer, at),
                )
            }
            (SideStep::Look { is_claim }, StepResult::Looked(Err(_))) => {
                self.is_claim_due |= is_claim;
                self.is_dial_back_due |= !is_claim;
                self.leave_store(now);
                return None;
            }
            (SideStep::StoreClaim(peer, at), StepResult::Written(Written::Failed)) => {
                // The peer need not repeat its claim: the try succeeded, and only the write is
                // retried.
                self.found = Some((peer, at));
                self.leave_store(now);
                return None;
            }
            (SideStep::StoreClaim(..), StepResult::Written(_)) => {
                self.wait = AGAIN;
                return None;
            }
            // The realm is no longer a peer, or does not answer.
            (SideStep::Look { .. }, StepResult::Looked(Ok(None)))
            | (SideStep::DialBack(_), StepResult::Answered(None)) => return None,
            // A step never returns the result of another step.
            (pending, result) => {
                debug_assert!(false, "{pending:?} came back as {result:?}");
                return None;
            }
        };
        self.pending = Some((None, pending));
        Some(step)
    }
}

/// An accepted peering, with its number if the peer gave one.
struct Accepted(Option<Numbered>);

/// Parses the answer to an introduction. None if the peer has not accepted the peering.
fn accepted(answer: &[u8]) -> Option<Accepted> {
    let numbered = Introduce::read_answer(answer).ok()?.ok()?;
    Some(Accepted(numbered))
}
