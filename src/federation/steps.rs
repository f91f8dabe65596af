//! The steps of a peer's task, and functions that begin them.

use std::{sync::Arc, time::Duration};

use super::{RealmIdentity, Step, backoff::Until, queue::Asked, reader::Reader};
use crate::{
    crypto::show_possession,
    realm::{NextOutgoing, Outgoing, Peer, ReplicaState, Settling},
    wire::{GroupName, PeerRequest},
};

/// The step that is under way.
#[derive(Debug)]
pub enum Doing {
    Listing,
    Looking,
    TellingKey(Arc<Peer>),
    /// True if the introduction carries peering numbers.
    Introducing(Arc<Peer>, bool),
    /// Stores that the peer has accepted the peering.
    Noting,
    Telling(GroupName),
    LookingAtCopy(Arc<Peer>, GroupName),
    Reading(Arc<Peer>, Box<(Reader, ReplicaState)>),
    /// Stores the entries that were read. True if the group has more.
    Keeping(Arc<Peer>, GroupName, bool),
    Asking(Arc<Peer>, Box<Outgoing>, Asked),
    Settling(After),
}

impl Next {
    pub fn act(step: Step, doing: Doing) -> Self {
        Self::Do(Box::new((step, doing)))
    }
}

impl Doing {
    pub const fn is_asking(&self) -> bool {
        match self {
            Self::TellingKey(_)
            | Self::Introducing(..)
            | Self::Telling(_)
            | Self::Reading(..)
            | Self::Asking(..) => true,
            Self::Listing
            | Self::Looking
            | Self::Noting
            | Self::LookingAtCopy(..)
            | Self::Keeping(..)
            | Self::Settling(_) => false,
        }
    }
}

/// What follows after the outcome of a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The message was taken or given up: the next message has its turn.
    GoOn,
    /// The message made way for the next one, which may fail, too.
    MadeWay,
    /// The peer has not taken the message: it is retried after a wait.
    Wait,
}

/// The decision of a peer's task.
#[derive(Debug)]
pub enum Next {
    Do(Box<(Step, Doing)>),
    Wait(Until),
    /// Wait for an event, or until this moment in time since the start.
    Nothing(Option<Duration>),
    /// The realm is no longer a peer.
    End,
}

/// Introduces this realm. A peer that knows a former key first receives the new one, over a link of
/// the key that it knows.
pub fn introduce(own: &RealmIdentity, peer: &Peer) -> Next {
    let peer = Arc::new(peer.clone());
    let (old, new) = (peer.knows(), own.secret.public());
    if old != new {
        let Some(proof) = show_possession(&own.secret, &old, &peer.key()) else {
            return Next::Wait(Until::Heard);
        };
        let bytes = PeerRequest::Rotate { key: new.0, proof }.to_bytes();
        let doing = Doing::TellingKey(peer.clone());
        return Next::act(Step::Ask { peer, bytes }, doing);
    }
    introduce_as(own, &peer, true)
}

pub fn introduce_as(own: &RealmIdentity, peer: &Peer, is_numbered: bool) -> Next {
    let bytes = own.introduction(peer, is_numbered);
    let peer = Arc::new(peer.clone());
    let doing = Doing::Introducing(peer.clone(), is_numbered);
    Next::act(Step::Ask { peer, bytes }, doing)
}

pub fn look_at_copy(peer: Arc<Peer>, group: GroupName) -> Next {
    let step = Step::LookAtCopy(peer.clone(), group);
    Next::act(step, Doing::LookingAtCopy(peer, group))
}

/// Stores the outcome of a message without a request to the peer.
pub fn settle(peer: Arc<Peer>, next: NextOutgoing, settling: Settling) -> Next {
    let step = Step::Settle(peer, Box::new(next.outgoing), settling);
    Next::act(step, Doing::Settling(After::GoOn))
}
