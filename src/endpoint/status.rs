//! What an endpoint says of its links.

use std::{net::SocketAddr, time::Duration};

use super::{AccountId, Endpoint, LinkId, Path};
use crate::{crypto::PublicKey, link::PathMemory};

impl Endpoint {
    /// True when long messages travel on `link`.
    pub fn is_trusted(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| slot.link.is_trusted() && slot.link.is_proven())
    }

    /// True when nothing sealed has come over `link` yet, which a device has opened: what answers its handshake is all that it gets (HS-5).
    pub fn is_unproven(&self, link: LinkId) -> bool {
        let slot = self.slots.get(&link);
        slot.is_some_and(|slot| slot.waits_for_proof(false))
    }

    /// Who is logged in over `link`, or which peer is on it, if that is known.
    pub fn account(&self, link: LinkId) -> Option<AccountId> {
        self.slots.get(&link)?.account
    }

    /// The largest answer that fits one datagram of `link`, in bytes. A longer one travels in parts.
    pub fn message_max(&self, link: LinkId) -> usize {
        self.slots
            .get(&link)
            .map_or(0, |slot| slot.link.message_max())
    }

    /// Where `link`'s other side was last proven to be, or else where the handshake that it began came from: what it asks for counts
    /// there (LINK-18).
    pub fn proven_address(&self, link: LinkId) -> Option<SocketAddr> {
        let slot = self.slots.get(&link)?;
        Some(slot.proven_address().unwrap_or(slot.path.remote))
    }

    /// The key of `link`'s other side; none on a plain link.
    pub fn peer(&self, link: LinkId) -> Option<PublicKey> {
        self.slots.get(&link)?.peer
    }

    /// Which of this side's keys `link` is with; none on a plain link.
    pub fn own(&self, link: LinkId) -> Option<PublicKey> {
        let slot = self.slots.get(&link)?;
        slot.peer?;
        self.keys.get(usize::from(slot.own)).map(|key| key.public)
    }

    /// The round-trip time of `link`, once there is an estimate.
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.slots.get(&link)?.link.rtt()
    }

    /// What `link` has found out of its path.
    pub fn path_memory(&self, link: LinkId) -> Option<PathMemory> {
        let slot = self.slots.get(&link)?;
        Some(slot.link.path_memory())
    }

    /// Between which addresses `link` is, if it is proven that its other side is there.
    pub fn path(&self, link: LinkId) -> Option<Path> {
        let slot = self.slots.get(&link)?;
        let is_there = slot.link.is_proven() && !slot.link.has_moved();
        is_there.then_some(slot.path)
    }
}
