//! The steps that are taken with a peer, and how they begin.

use std::{sync::Arc, time::Duration};

use super::{RealmIdentity, Step, backoff::Until, queue::Asked, reader::Reader};
use crate::{
    crypto::show_possession,
    realm::{NextOutgoing, Outgoing, Peer, ReplicaState, Settling},
    wire::{GroupName, PeerRequest},
};

/// Which step.
#[derive(Debug)]
pub enum Doing {
    Listing,
    Looking,
    TellingKey(Arc<Peer>),
    /// With numbers, or without.
    Introducing(Arc<Peer>, bool),
    /// That the peer has accepted is written down.
    Noting,
    Telling(GroupName),
    LookingAtCopy(Arc<Peer>, GroupName),
    Reading(Arc<Peer>, Box<(Reader, ReplicaState)>),
    /// What was read is written down; whether there is more.
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

/// What follows once it is written down what becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It has been taken, or is given up: the next message has its turn.
    GoOn,
    /// It has made way for the next, which may not be taken either.
    MadeWay,
    /// The peer has not taken it: it is left alone for a while.
    Wait,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Next {
    Do(Box<(Step, Doing)>),
    Wait(Until),
    /// Nothing, before something happens or that moment, in time since the start.
    Nothing(Option<Duration>),
    /// It is no peer any more.
    End,
}

/// Introduces this realm; to a peer that knows it by a former key it first says the new one, over a link of the key that it knows.
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

/// Writes down what becomes of a message that its peer was not asked about.
pub fn settle(peer: Arc<Peer>, next: NextOutgoing, settling: Settling) -> Next {
    let step = Step::Settle(peer, Box::new(next.outgoing), settling);
    Next::act(step, Doing::Settling(After::GoOn))
}
