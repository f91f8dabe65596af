//! The state of an endpoint's links.

use std::{net::SocketAddr, time::Duration};

use super::{
    AccountId, Endpoint, LinkId, Path, Ticket,
    link_table::{LinkEntry, Stage},
};
use crate::{
    crypto::PublicKey,
    link::{LinkStats, PathMemory, Time},
    wire::OperationNumber,
};

impl Endpoint {
    /// True if long messages may travel on `link`.
    pub fn is_trusted(&self, link: LinkId) -> bool {
        let entry = self.links.get(link);
        entry.is_some_and(|entry| entry.link.is_trusted() && entry.link.is_proven())
    }

    /// True if a device has opened `link` and no sealed packet has arrived on it yet. Until then
    /// the answer to its handshake is all that it gets (HS-5).
    pub fn is_unproven(&self, link: LinkId) -> bool {
        let entry = self.links.get(link);
        entry.is_some_and(|entry| entry.waits_for_proof(false))
    }

    /// Returns the account of the user logged in over `link`, or of its peer, if known.
    pub fn account(&self, link: LinkId) -> Option<AccountId> {
        self.links.get(link)?.account
    }

    /// Returns the largest answer that fits one datagram of `link`, in bytes. A longer one is
    /// fragmented.
    pub fn message_max(&self, link: LinkId) -> usize {
        let entry = self.links.get(link);
        entry.map_or(0, |entry| entry.link.message_max())
    }

    /// Returns the address that `link`'s other side last proved, or else the source address of its
    /// handshake. The cost of its requests counts for that address (LINK-18).
    pub fn proven_address(&self, link: LinkId) -> Option<SocketAddr> {
        let entry = self.links.get(link)?;
        Some(entry.proven_address().unwrap_or(entry.path().remote))
    }

    /// Returns the key of `link`'s other side; `None` on a plain link.
    pub fn peer(&self, link: LinkId) -> Option<PublicKey> {
        self.links.get(link)?.peer()
    }

    /// Returns this side's key of `link`; `None` on a plain link.
    pub fn own(&self, link: LinkId) -> Option<PublicKey> {
        let entry = self.links.get(link)?;
        entry.peer()?;
        self.keys.get(entry.own).map(|key| key.public)
    }

    /// Returns the round-trip time of `link`, once there is an estimate.
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.links.get(link)?.link.rtt()
    }

    /// Returns the path memory of `link`.
    pub fn path_memory(&self, link: LinkId) -> Option<PathMemory> {
        let entry = self.links.get(link)?;
        Some(entry.link.path_memory())
    }

    /// Returns the path of `link`, if the other side's address is proven.
    pub fn path(&self, link: LinkId) -> Option<Path> {
        let entry = self.links.get(link)?;
        let is_there = entry.link.is_proven() && !entry.link.has_moved();
        is_there.then_some(entry.path())
    }

    /// True while this side waits for the other to accept the link.
    pub fn is_dialing(&self, link: LinkId) -> bool {
        let entry = self.links.get(link);
        entry.is_some_and(LinkEntry::is_dialing)
    }

    /// True if the path of `link` is kept alive.
    pub fn is_kept_alive(&self, link: LinkId) -> bool {
        let entry = self.links.get(link);
        entry.is_some_and(|entry| entry.link.is_kept_alive())
    }

    /// True while `link` exists.
    pub fn has(&self, link: LinkId) -> bool {
        self.links.contains(link)
    }

    /// Returns when a packet last arrived on `link`.
    pub fn heard(&self, link: LinkId) -> Option<Time> {
        self.links.get(link)?.heard
    }

    /// True if the other side has accepted this side and packets can be exchanged.
    pub fn is_open(&self, link: LinkId) -> bool {
        let entry = self.links.get(link);
        entry.is_some_and(|entry| matches!(entry.stage, Stage::Open) && entry.link.is_welcomed())
    }

    /// True while a keepalive on `link` is unanswered.
    pub fn awaits_sign(&self, link: LinkId) -> bool {
        let entry = self.links.get(link);
        entry.is_some_and(|entry| entry.link.awaits_sign())
    }

    /// True if the other side of `link` claimed a life that is unknown here, as set with
    /// [`Endpoint::tell_life`].
    pub fn is_life_unknown(&self, link: LinkId) -> bool {
        self.links
            .get(link)
            .is_some_and(|entry| entry.is_life_unknown)
    }

    /// Returns the ticket for the other side of `link`; `None` if there is none, or if it was
    /// refused.
    pub fn ticket(&self, link: LinkId) -> Option<&Ticket> {
        self.links.get(link)?.ticket()
    }

    /// True if `link` was resumed or is about to be: its contents have no forward secrecy (HS-19).
    pub fn is_resumed(&self, link: LinkId) -> bool {
        let entry = self.links.get(link);
        entry.is_some_and(LinkEntry::is_resumed)
    }

    /// True if `link` is being accepted and its device is known to have used no number as high as
    /// `operation`. Then the Init is not a replayed recording.
    pub fn is_fresh(&self, link: LinkId, operation: OperationNumber) -> bool {
        let entry = self.links.get(link);
        entry.is_some_and(|entry| entry.is_fresh(operation))
    }

    /// Returns the counters of `link`, and the measurements of its path.
    pub fn link_stats(&self, link: LinkId) -> Option<LinkStats> {
        Some(self.links.get(link)?.link.stats())
    }
}
