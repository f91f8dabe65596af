//! A link at rest: nothing of it is on its way, and none of its machines has anything to do. What it takes to go on as
//! if it had never rested is a third of a link; a realm holds many that are silent most of the time.
//!
//! Forgotten are: replies that were kept in case they are asked for again (whoever asks after so long has the command
//! worked on again, which its number makes harmless), which messages came in parts, how fast long ones may leave, and
//! which packets came more than 128 before the latest: those count as seen.

use super::{
    Config, Keys, Link, Opening, State,
    backoff::Jitter,
    path::PathSize,
    pushes::{self, Pushed, Pushes},
    received::{self, Received},
    replies::Replies,
    requests::{self, Requests},
    rtt::Rtt,
};
use crate::wire::{ConnectionId, PacketNumber};

/// What remains of a link at rest.
#[derive(Clone, Debug)]
pub struct Resting {
    keys: Keys,
    config: Config,
    peer_max_datagram: usize,
    remote: Option<ConnectionId>,
    next_number: u64,
    received: received::Resting,
    acknowledged: Option<PacketNumber>,
    rtt: Rtt,
    requests: requests::Resting,
    /// All requests of the other side from this number on are new.
    replies_next: u64,
    pushes: pushes::Next,
    pushed: pushes::Next,
    path: usize,
    trusted: bool,
    is_holding: bool,
    opening: Opening,
    jitter: Jitter,
}

impl Link {
    /// True when the link has nothing to do and waits for nothing.
    pub fn may_rest(&self) -> bool {
        self.is_open()
            && self.is_idle()
            && self.is_proven()
            && !self.has_moved
            && !self.is_closing()
            && self.keepalive.is_none()
            && self.bulk_due.is_none()
            && self.held_back.is_none()
            && self.work_due.is_none()
            && self.events.is_empty()
            && self.assemblies.is_empty()
            && self.parts.is_empty()
            && self.pushed.is_in_order()
            && self.replies.may_rest()
            && self.received.may_rest()
            && self.sent.may_rest()
            && !self.controls.has_queued()
    }

    /// What remains of the link while it rests. None if it may not.
    pub fn rest(&self) -> Option<Resting> {
        let State::Open(keys) = &self.state else {
            return None;
        };
        self.may_rest().then(|| Resting {
            keys: keys.clone(),
            config: self.config,
            peer_max_datagram: self.peer_max_datagram,
            remote: self.remote,
            next_number: self.next_number,
            received: self.received.rest(),
            acknowledged: self.sent.acknowledged(),
            rtt: self.rtt.clone(),
            requests: self.requests.rest(),
            replies_next: self.replies.next(),
            pushes: self.pushes.next(),
            pushed: self.pushed.next_in_order(),
            path: self.path.size(usize::MAX),
            trusted: self.trusted,
            is_holding: self.is_holding,
            opening: self.opening,
            jitter: self.jitter.clone(),
        })
    }
}

impl Resting {
    /// The link, awake.
    pub fn wake(&self) -> Link {
        let mut link = Link::new(self.config);
        link.state = State::Open(self.keys.clone());
        link.peer_max_datagram = self.peer_max_datagram;
        link.remote = self.remote;
        link.next_number = self.next_number;
        link.received = Received::woken(self.received);
        link.sent.set_acknowledged(self.acknowledged);
        link.rtt = self.rtt.clone();
        link.requests = Requests::woken(self.requests);
        link.replies = Replies::woken(self.replies_next);
        link.pushes = Pushes::woken(self.pushes);
        link.pushed = Pushed::woken(self.pushed);
        link.path = PathSize::woken(self.path);
        link.trusted = self.trusted;
        link.is_holding = self.is_holding;
        link.opening = self.opening;
        link.jitter = self.jitter.clone();
        link
    }
}
