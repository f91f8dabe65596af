//! The state of an endpoint's links.

use std::{net::SocketAddr, time::Duration};

use super::{AccountId, Endpoint, LinkId, Path};
use crate::{crypto::PublicKey, link::PathMemory};

impl Endpoint {
    /// True if long messages may travel on `link`.
    pub fn is_trusted(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| slot.link.opening().is_trusted() && slot.link.is_proven())
    }

    /// True if a device has opened `link` and no sealed packet has arrived on it yet. Until then
    /// the answer to its handshake is all that it gets (HS-5).
    pub fn is_unproven(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| slot.waits_for_proof(false))
    }

    /// Returns the account of the user logged in over `link`, or of its peer, if known.
    pub fn account(&self, link: LinkId) -> Option<AccountId> {
        self.slots.get(&link)?.account
    }

    /// Returns the largest answer that fits one datagram of `link`, in bytes. A longer one is
    /// fragmented.
    pub fn message_max(&self, link: LinkId) -> usize {
        self.slots
            .get(&link)
            .map_or(0, |slot| slot.link.message_max())
    }

    /// Returns the address that `link`'s other side last proved, or else the source address of its
    /// handshake. The cost of its requests counts for that address (LINK-18).
    pub fn proven_address(&self, link: LinkId) -> Option<SocketAddr> {
        let slot = self.slots.get(&link)?;
        Some(slot.proven_address().unwrap_or(slot.path.remote))
    }

    /// Returns the key of `link`'s other side; `None` on a plain link.
    pub fn peer(&self, link: LinkId) -> Option<PublicKey> {
        self.slots.get(&link)?.peer
    }

    /// Returns this side's key of `link`; `None` on a plain link.
    pub fn own(&self, link: LinkId) -> Option<PublicKey> {
        let slot = self.slots.get(&link)?;
        slot.peer?;
        self.keys.get(usize::from(slot.own)).map(|key| key.public)
    }

    /// Returns the round-trip time of `link`, once there is an estimate.
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.slots.get(&link)?.link.rtt()
    }

    /// Returns the path memory of `link`.
    pub fn path_memory(&self, link: LinkId) -> Option<PathMemory> {
        let slot = self.slots.get(&link)?;
        Some(slot.link.path_memory())
    }

    /// Returns the path of `link`, if the other side's address is proven.
    pub fn path(&self, link: LinkId) -> Option<Path> {
        let slot = self.slots.get(&link)?;
        let is_there = slot.link.is_proven() && !slot.link.has_moved();
        is_there.then_some(slot.path)
    }
}
