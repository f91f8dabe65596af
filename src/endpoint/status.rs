//! What an endpoint tells of one of its links.

use std::{net::SocketAddr, time::Duration};

use super::{AccountId, Endpoint, LinkId, Path, Ticket, identity::OwnKeys, link_table::LinkEntry};
use crate::{
    crypto::PublicKey,
    link::{LinkStats, PathMemory, Time},
    wire::OperationNumber,
};

/// A link of an endpoint, to read.
#[derive(Clone, Copy, Debug)]
pub struct LinkStatus<'a> {
    entry: &'a LinkEntry,
    keys: &'a OwnKeys,
}

impl Endpoint {
    /// Returns a link, if it exists.
    pub fn link(&self, link: LinkId) -> Option<LinkStatus<'_>> {
        let entry = self.links.get(link)?;
        Some(LinkStatus {
            entry,
            keys: &self.keys,
        })
    }
}

impl<'a> LinkStatus<'a> {
    /// True if the other side has accepted this side and packets can be exchanged.
    pub fn is_open(self) -> bool {
        self.entry.stage().is_open() && self.entry.link.opening().is_welcomed()
    }

    /// True while this side waits for the other to accept the link.
    pub fn is_dialing(self) -> bool {
        self.entry.is_dialing()
    }

    /// True if long messages may travel on the link.
    pub fn is_trusted(self) -> bool {
        self.entry.link.opening().is_trusted() && self.entry.link.is_proven()
    }

    /// True if a device has opened the link and no sealed packet has arrived on it yet. Until then
    /// the answer to its handshake is all that it gets (HS-5).
    pub fn is_unproven(self) -> bool {
        self.entry.waits_for_proof(false)
    }

    /// True if the link was resumed or is about to be: its contents have no forward secrecy
    /// (HS-19).
    pub fn is_resumed(self) -> bool {
        self.entry.is_resumed()
    }

    /// True if the link is being accepted and its device is known to have used no number as high as
    /// `operation`. Then the Init is not a replayed recording.
    pub fn is_fresh(self, operation: OperationNumber) -> bool {
        self.entry.stage().is_fresh(operation)
    }

    /// True if the other side claimed a life that is unknown here, as set with
    /// [`Endpoint::tell_life`].
    pub const fn is_life_unknown(self) -> bool {
        self.entry.life().is_claim_unknown()
    }

    /// True if the path is kept alive.
    pub fn is_kept_alive(self) -> bool {
        self.entry.link.is_kept_alive()
    }

    /// True while a keepalive is unanswered.
    pub fn awaits_keepalive(self) -> bool {
        self.entry.link.awaits_keepalive()
    }

    /// Returns when a packet last arrived.
    pub const fn heard(self) -> Option<Time> {
        self.entry.heard()
    }

    /// Returns the account of the user logged in over the link, or of its peer, if known.
    pub const fn account(self) -> Option<AccountId> {
        self.entry.holding().account()
    }

    /// Returns the key of the other side; `None` on a plain link.
    pub const fn peer(self) -> Option<PublicKey> {
        self.entry.peer()
    }

    /// Returns this side's key; `None` on a plain link.
    pub fn own(self) -> Option<PublicKey> {
        self.entry.peer()?;
        self.keys.get(self.entry.own()).map(|key| key.public)
    }

    /// Returns the ticket for the other side; `None` if there is none, or if it was refused.
    pub fn ticket(self) -> Option<&'a Ticket> {
        self.entry.resumption().ticket()
    }

    /// Returns the largest answer that fits one datagram, in bytes. A longer one is fragmented.
    pub fn message_max(self) -> usize {
        self.entry.link.message_max()
    }

    /// Returns the address that the other side last proved, or else the source address of its
    /// handshake. The cost of its requests counts for that address (LINK-18).
    pub fn proven_address(self) -> SocketAddr {
        let proven = self.entry.proven_address();
        proven.unwrap_or(self.entry.path().remote)
    }

    /// Returns the path, if the other side's address is proven.
    pub fn path(self) -> Option<Path> {
        let is_there = self.entry.link.is_proven() && !self.entry.link.has_moved();
        is_there.then_some(self.entry.path())
    }

    /// Returns the round-trip time, once there is an estimate.
    pub fn rtt(self) -> Option<Duration> {
        self.entry.link.rtt()
    }

    /// Returns the path memory.
    pub fn path_memory(self) -> PathMemory {
        self.entry.link.path_memory()
    }

    /// Returns the counters, and the measurements of the path.
    pub fn stats(self) -> LinkStats {
        self.entry.link.stats()
    }
}
