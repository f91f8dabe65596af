//! A dormant link: nothing is in flight, and no state machine has work. The compact state needs a
//! fraction of a link's memory and continues as if the link had never been dormant. A realm holds
//! many links that are silent most of the time.
//!
//! Dropped are: kept replies (a request that is repeated so late is executed again, which its
//! number makes harmless), which messages were fragmented, the pace of long messages, and which
//! packets arrived more than 128 before the latest: those count as seen.
//!
//! Numbers are stored compactly: a link that has counted beyond 2^32 does not hibernate.

use alloc::boxed::Box;
use core::num::NonZeroU64;

use super::{
    Config, Keys, Link, Opening, Redundancy, State,
    backoff::Jitter,
    events::{Next, Pushed},
    mtu::PathSize,
    received_packets::{self, ReceivedPackets},
    replies::Replies,
    requests::Requests,
    rtt::{self, Rtt},
    trace::TraceId,
};
use crate::{
    crypto::{ResumptionSecret, SessionKeys},
    wire::{ConnectionId, PacketNumber, Welcome},
};

/// The compact state of a dormant link.
#[derive(Clone, Debug)]
pub struct DormantLink {
    protection: Protection,
    numbers: Numbers,
    rate: Option<NonZeroU64>,
    redundancy: Redundancy,
    remote: Option<ConnectionId>,
    received: received_packets::DormantLink,
    rtt: rtt::DormantLink,
    trusted: bool,
    is_holding: bool,
    jitter: Jitter,
    trace_id: TraceId,
}

/// The counters and limits of a dormant link.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    next: u32,
    acknowledged: Option<u32>,
    requests: u32,
    /// All requests of the other side from this number on are new.
    replies_next: u32,
    event_ids: [u32; 2],
    pushed: [u32; 2],
    max_message: u32,
    max_datagram: u16,
    peer_max_datagram: u16,
    path: u16,
}

/// The packet protection of a dormant link.
#[derive(Clone, Debug)]
enum Protection {
    Sealed(SessionKeys),
    /// The WELCOME that answered the other side's OPEN, which may arrive again; a handshake cannot.
    /// `None` on a link that this side opened.
    Plain(Option<Box<Welcome>>),
}

impl Link {
    /// True if the link has no work and waits for nothing.
    pub fn may_rest(&self) -> bool {
        self.is_open()
            && matches!(self.opening, Opening::Given(_) | Opening::Welcomed)
            && self.is_idle()
            && self.is_proven()
            && !self.has_moved
            && !self.is_closing()
            && self.keepalive.is_none()
            && self.paced_due.is_none()
            && self.held_back.is_none()
            && self.work_due.is_none()
            && self.events.is_empty()
            && self.assemblies.is_empty()
            && self.pushed.is_in_order()
            && self.queue.is_empty()
            && self.received.may_rest()
            && self.sent.may_rest()
            && !self.controls.has_queued()
            && self.numbers().is_some()
    }

    /// Returns its counters, if they are small enough.
    fn numbers(&self) -> Option<Numbers> {
        let acknowledged = self.sent.acknowledged().map(|number| number.0.try_into());
        Some(Numbers {
            next: self.next_number.try_into().ok()?,
            acknowledged: acknowledged.transpose().ok()?,
            requests: self.requests.rest()?,
            replies_next: self.replies.next().try_into().ok()?,
            event_ids: self.event_ids.rest()?,
            pushed: self.pushed.next_in_order().rest()?,
            max_message: self.config.max_message.try_into().ok()?,
            max_datagram: self.config.max_datagram.try_into().ok()?,
            // A limit above this side's own has no effect.
            peer_max_datagram: self.datagram_max().try_into().ok()?,
            path: self.path.size(usize::from(u16::MAX)).try_into().ok()?,
        })
    }

    /// Returns the compact state of the link, or `None` if it may not hibernate.
    pub fn rest(&self) -> Option<DormantLink> {
        let protection = match &self.state {
            _ if !self.may_rest() => return None,
            State::Open(Keys::Sealed(keys)) => Protection::Sealed(keys.clone()),
            State::Open(Keys::Plain) => Protection::Plain(match self.opening {
                Opening::Given(welcome) => Some(Box::new(welcome)),
                _ => None,
            }),
            _ => return None,
        };
        Some(DormantLink {
            protection,
            numbers: self.numbers()?,
            rate: self.config.rate.and_then(NonZeroU64::new),
            redundancy: self.config.redundancy,
            remote: self.remote,
            received: self.received.rest()?,
            rtt: self.rtt.rest(),
            trusted: self.trusted,
            is_holding: self.is_holding,
            jitter: self.jitter.clone(),
            trace_id: self.trace_id,
        })
    }
}

impl DormantLink {
    /// Returns the initiator's resumption secret, computed as the responder, and the initiator's
    /// limit on datagrams.
    pub fn responders_ticket(&self) -> Option<(ResumptionSecret, usize)> {
        match &self.protection {
            Protection::Sealed(keys) => Some((
                ResumptionSecret::of_responder(keys),
                self.numbers.peer_max_datagram.into(),
            )),
            Protection::Plain(_) => None,
        }
    }

    /// Restores the link from its dormant state.
    pub fn wake(&self) -> Link {
        let rate = self.rate.map(NonZeroU64::get);
        let numbers = self.numbers;
        let acknowledged = numbers.acknowledged.map(u64::from);
        let mut link = Link::new(Config {
            max_datagram: numbers.max_datagram.into(),
            max_message: usize::try_from(numbers.max_message).unwrap_or(usize::MAX),
            rate,
            redundancy: self.redundancy,
            rtt: None,
            seed: 0,
        });
        let (keys, opening) = match &self.protection {
            Protection::Sealed(keys) => (Keys::Sealed(keys.clone()), Opening::Welcomed),
            Protection::Plain(given) => {
                let given = given.as_deref().copied();
                (Keys::Plain, given.map_or(Opening::Welcomed, Opening::Given))
            }
        };
        link.state = State::Open(keys);
        link.opening = opening;
        link.peer_max_datagram = numbers.peer_max_datagram.into();
        link.remote = self.remote;
        link.next_number = numbers.next.into();
        link.received = ReceivedPackets::woken(self.received);
        link.sent.set_acknowledged(acknowledged.map(PacketNumber));
        link.rtt = Rtt::woken(self.rtt, rate);
        link.requests = Requests::woken(numbers.requests);
        link.replies = Replies::woken(numbers.replies_next.into());
        link.event_ids = Next::woken(numbers.event_ids);
        link.pushed = Pushed::woken(Next::woken(numbers.pushed));
        link.path = PathSize::woken(numbers.path.into());
        link.trusted = self.trusted;
        link.is_holding = self.is_holding;
        link.jitter = self.jitter.clone();
        link.trace_id = self.trace_id;
        link
    }
}
