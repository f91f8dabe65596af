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
    Config, Link,
    ack_tracker::AckTracker,
    backoff::Jitter,
    incoming_messages::IncomingMessages,
    opening::Opening,
    path_validation::PathValidation,
    profile::Redundancy,
    protection::{Keys, PacketProtection},
    queue::Queue,
    received_packets::DormantPackets,
    recovery::Recovery,
    rtt::{DormantRtt, Rtt},
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
    received: DormantPackets,
    rtt: DormantRtt,
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
    pub fn may_hibernate(&self) -> bool {
        self.is_open()
            && self.opening.is_complete()
            && self.is_idle()
            && self.is_proven()
            && !self.has_moved()
            && !self.is_closing()
            && self.keepalive.is_none()
            && self.recovery.may_hibernate()
            && self.acks.may_hibernate()
            && self.incoming.may_hibernate()
            && self.events.is_empty()
            && self.queue.is_empty()
            && !self.has_control_queued()
            && self.numbers().is_some()
    }

    /// Returns its counters, if they are small enough.
    fn numbers(&self) -> Option<Numbers> {
        let acknowledged = self.recovery.acknowledged();
        let acknowledged = acknowledged.map(|number| number.0.try_into());
        Some(Numbers {
            next: self.protection.next_number().try_into().ok()?,
            acknowledged: acknowledged.transpose().ok()?,
            requests: self.queue.dormant_requests()?,
            replies_next: self.incoming.next_request().try_into().ok()?,
            event_ids: self.queue.dormant_events()?,
            pushed: self.incoming.dormant_pushed()?,
            max_message: self.incoming.max_message().try_into().ok()?,
            max_datagram: self.opening.max_datagram().try_into().ok()?,
            // A limit above this side's own has no effect.
            peer_max_datagram: self.opening.datagram_max().try_into().ok()?,
            path: self
                .recovery
                .path_size(usize::from(u16::MAX))
                .try_into()
                .ok()?,
        })
    }

    /// Returns the compact state of the link, or `None` if it may not hibernate.
    pub fn hibernate(&self) -> Option<DormantLink> {
        if !self.may_hibernate() {
            return None;
        }
        let protection = match self.protection.keys()? {
            Keys::Sealed(keys) => Protection::Sealed(keys.clone()),
            Keys::Plain => Protection::Plain(self.opening.sent_welcome().map(Box::new)),
        };
        Some(DormantLink {
            protection,
            numbers: self.numbers()?,
            rate: self.recovery.rtt().rate().and_then(NonZeroU64::new),
            redundancy: self.recovery.redundancy(),
            remote: self.protection.remote(),
            received: self.acks.hibernate()?,
            rtt: self.recovery.rtt().hibernate(),
            trusted: self.opening.is_trusted(),
            is_holding: self.incoming.is_holding(),
            jitter: self.recovery.jitter().clone(),
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
        let max_message = usize::try_from(numbers.max_message).unwrap_or(usize::MAX);
        let config = Config {
            max_datagram: numbers.max_datagram.into(),
            max_message,
            rate,
            redundancy: self.redundancy,
            rtt: None,
            seed: 0,
        };
        let (keys, sent_welcome) = match &self.protection {
            Protection::Sealed(keys) => (Keys::Sealed(keys.clone()), None),
            Protection::Plain(sent) => (Keys::Plain, sent.as_deref().copied()),
        };
        let opening = Opening::from_dormant(
            sent_welcome,
            config.max_datagram,
            numbers.peer_max_datagram.into(),
            self.trusted,
        );
        let mut incoming = IncomingMessages::from_dormant(
            max_message,
            numbers.replies_next.into(),
            numbers.pushed,
        );
        incoming.hold(self.is_holding);
        Link {
            protection: PacketProtection::from_dormant(keys, self.remote, numbers.next.into()),
            recovery: Recovery::from_dormant(
                &config,
                acknowledged.map(PacketNumber),
                Rtt::from_dormant(self.rtt, rate),
                numbers.path.into(),
                self.jitter.clone(),
            ),
            acks: AckTracker::from_dormant(self.received),
            queue: Queue::from_dormant(numbers.requests, numbers.event_ids),
            incoming,
            trace_id: self.trace_id,
            ..Link::new(&config, opening, PathValidation::proven())
        }
    }
}
