//! The steps of a peer's task, and functions that begin them.

use std::{sync::Arc, time::Duration};

use super::{
    RealmIdentity, Step,
    backoff::Until,
    queue::{AfterOutcome, Purpose},
    reader::Reader,
};
use crate::{
    crypto::show_possession,
    realm::{NextOutgoing, Outgoing, Peer, ReplicaState, Settling},
    wire::{GroupName, PeerRequest, peer},
};

/// The step of a peer's task that is under way, with what its result needs.
#[derive(Debug)]
pub enum PendingStep {
    ListReplicas,
    Look,
    /// Tells the peer this realm's new key.
    RotateKey(Arc<Peer>),
    Introduce(Arc<Peer>, Numbering),
    StoreIntroduction,
    /// Hints to the peer that a group here has grown.
    SendHint(GroupName),
    LookAtReplica(Arc<Peer>, GroupName),
    ReadGroup(Arc<Peer>, Box<(Reader, ReplicaState)>),
    StoreEntries {
        peer: Arc<Peer>,
        group: GroupName,
        /// The group has more.
        more: bool,
    },
    AskAboutMessage {
        peer: Arc<Peer>,
        outgoing: Box<Outgoing>,
        purpose: Purpose,
    },
    StoreOutcome(AfterOutcome),
}

/// Whether an introduction carries peering numbers (PEER-27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// It does.
    Numbered,
    /// It does not: the peer runs a release without them.
    Plain,
}

impl PendingStep {
    /// True if a request to the peer is under way.
    pub const fn is_request(&self) -> bool {
        match self {
            Self::RotateKey(_)
            | Self::Introduce(..)
            | Self::SendHint(_)
            | Self::ReadGroup(..)
            | Self::AskAboutMessage { .. } => true,
            Self::ListReplicas
            | Self::Look
            | Self::StoreIntroduction
            | Self::LookAtReplica(..)
            | Self::StoreEntries { .. }
            | Self::StoreOutcome(_) => false,
        }
    }
}

/// The decision of a peer's task.
#[derive(Debug)]
pub enum Decision {
    /// Begin a step.
    Begin(Box<(Step, PendingStep)>),
    /// Wait, as the backoff says.
    Wait(Until),
    /// Wait for an event, or until this moment in time since the start.
    Idle(Option<Duration>),
    /// The realm is no longer a peer.
    Remove,
}

impl Decision {
    pub fn begin(step: Step, pending: PendingStep) -> Self {
        Self::Begin(Box::new((step, pending)))
    }
}

/// Introduces this realm. A peer that knows a former key first receives the new one, over a link of
/// the key that it knows.
pub fn introduce(own: &RealmIdentity, peer: &Peer) -> Decision {
    let peer = Arc::new(peer.clone());
    let (old, new) = (peer.knows(), own.secret.public());
    if old != new {
        let Some(proof) = show_possession(&own.secret, &old, &peer.key()) else {
            return Decision::Wait(Until::Heard);
        };
        let bytes = PeerRequest::Rotate(peer::Rotate { key: new.0, proof }).to_bytes();
        let pending = PendingStep::RotateKey(peer.clone());
        return Decision::begin(Step::Ask { peer, bytes }, pending);
    }
    introduce_as(own, &peer, Numbering::Numbered)
}

pub fn introduce_as(own: &RealmIdentity, peer: &Peer, numbering: Numbering) -> Decision {
    let bytes = own.introduction(peer, numbering == Numbering::Numbered);
    let peer = Arc::new(peer.clone());
    let pending = PendingStep::Introduce(peer.clone(), numbering);
    Decision::begin(Step::Ask { peer, bytes }, pending)
}

pub fn look_at_replica(peer: Arc<Peer>, group: GroupName) -> Decision {
    let step = Step::LookAtReplica(peer.clone(), group);
    Decision::begin(step, PendingStep::LookAtReplica(peer, group))
}

/// Stores the outcome of a message without a request to the peer.
pub fn store_outcome(peer: Arc<Peer>, next: NextOutgoing, outcome: Settling) -> Decision {
    let step = Step::StoreOutcome(peer, Box::new(next.outgoing), outcome);
    Decision::begin(step, PendingStep::StoreOutcome(AfterOutcome::GoOn))
}
