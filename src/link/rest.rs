//! A link at rest: nothing of it is on its way, and none of its machines has anything to do. What it takes to go on as
//! if it had never rested is a fraction of a link; a realm holds many that are silent most of the time.
//!
//! Forgotten are: replies that were kept in case they are asked for again (whoever asks after so long has the command
//! worked on again, which its number makes harmless), which messages came in parts, how fast long ones may leave, and
//! which packets came more than 128 before the latest: those count as seen.

use alloc::boxed::Box;

use super::{
    Config, Keys, Link, Opening, Redundancy, State,
    backoff::Jitter,
    path::PathSize,
    pushes::{self, Pushed, Pushes},
    received::{self, Received},
    replies::Replies,
    requests::{self, Requests},
    rtt::{self, Rtt},
};
use crate::wire::{ConnectionId, PacketNumber, Welcome};

/// What remains of a link at rest.
#[derive(Clone, Debug)]
pub struct Resting {
    keys: Keys,
    max_datagram: usize,
    max_message: usize,
    rate: Option<u64>,
    redundancy: Redundancy,
    peer_max_datagram: usize,
    remote: Option<ConnectionId>,
    next_number: u64,
    received: received::Resting,
    acknowledged: Option<PacketNumber>,
    rtt: rtt::Resting,
    requests: requests::Resting,
    /// All requests of the other side from this number on are new.
    replies_next: u64,
    pushes: pushes::Next,
    pushed: pushes::Next,
    path: usize,
    trusted: bool,
    is_holding: bool,
    /// What was answered to the other side's opening; none on a link that this side opened.
    given: Option<Box<Welcome>>,
    jitter: Jitter,
}

impl Link {
    /// True when the link has nothing to do and waits for nothing.
    pub fn may_rest(&self) -> bool {
        self.is_open()
            && matches!(self.opening, Opening::Given(_) | Opening::Welcomed)
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
            max_datagram: self.config.max_datagram,
            max_message: self.config.max_message,
            rate: self.config.rate,
            redundancy: self.config.redundancy,
            peer_max_datagram: self.peer_max_datagram,
            remote: self.remote,
            next_number: self.next_number,
            received: self.received.rest(),
            acknowledged: self.sent.acknowledged(),
            rtt: self.rtt.rest(),
            requests: self.requests.rest(),
            replies_next: self.replies.next(),
            pushes: self.pushes.next(),
            pushed: self.pushed.next_in_order(),
            path: self.path.size(usize::MAX),
            trusted: self.trusted,
            is_holding: self.is_holding,
            given: match self.opening {
                // A handshake's opening cannot come again; a plain link's may.
                Opening::Given(welcome) if matches!(keys, Keys::Plain) => Some(Box::new(welcome)),
                _ => None,
            },
            jitter: self.jitter.clone(),
        })
    }
}

impl Resting {
    /// The link, awake.
    pub fn wake(&self) -> Link {
        let mut link = Link::new(Config {
            max_datagram: self.max_datagram,
            max_message: self.max_message,
            rate: self.rate,
            redundancy: self.redundancy,
            rtt: None,
            seed: 0,
        });
        link.state = State::Open(self.keys.clone());
        link.peer_max_datagram = self.peer_max_datagram;
        link.remote = self.remote;
        link.next_number = self.next_number;
        link.received = Received::woken(self.received);
        link.sent.set_acknowledged(self.acknowledged);
        link.rtt = Rtt::woken(self.rtt, self.rate);
        link.requests = Requests::woken(self.requests);
        link.replies = Replies::woken(self.replies_next);
        link.pushes = Pushes::woken(self.pushes);
        link.pushed = Pushed::woken(self.pushed);
        link.path = PathSize::woken(self.path);
        link.trusted = self.trusted;
        link.is_holding = self.is_holding;
        link.opening = match &self.given {
            Some(welcome) => Opening::Given(**welcome),
            None => Opening::Welcomed,
        };
        link.jitter = self.jitter.clone();
        link
    }
}
