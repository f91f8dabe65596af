//! Several endpoints behind one address, each with its own links: finds the endpoint of a datagram.
//!
//! The network chooses the endpoint for a datagram by the source address. So a link's packets reach
//! the endpoint that accepted it, until its client moves. The id of a link names its endpoint. The
//! first endpoint does most work with other realms: it dials them, and keeps the links that they
//! open. A link that a realm opened before it was known stays at its endpoint.

use std::net::SocketAddr;

use super::{Endpoint, LinkId};
use crate::{
    crypto::PublicKey,
    wire::{ConnectionId, LinkPacket, Packet, Protection, Resume},
};

/// This endpoint's number among several behind one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId {
    own: u32,
    of: u32,
}

impl WorkerId {
    /// A single endpoint.
    pub const ALONE: Self = Self { own: 0, of: 1 };

    /// Returns number `own`, from 0 on, of `of` endpoints. `None` if there is no such number.
    pub fn new(own: u32, of: u32) -> Option<Self> {
        (own < of).then_some(Self { own, of })
    }

    /// Returns its number, from 0 on.
    pub const fn own(self) -> u32 {
        self.own
    }

    /// Returns the number of endpoints.
    pub(super) fn count(self) -> usize {
        usize::try_from(self.of).unwrap_or(usize::MAX).max(1)
    }

    /// Returns the number of the endpoint that owns a link id.
    const fn of_id(self, id: u32) -> u32 {
        match id.checked_rem(self.of) {
            Some(number) => number,
            None => 0,
        }
    }

    /// True if this endpoint may assign this id to a link.
    pub(super) const fn may_give(self, id: LinkId) -> bool {
        self.of_id(id.0) == self.own
    }
}

impl Endpoint {
    /// Sets the keys of other realms. Handshakes with them belong to the first endpoint from now
    /// on, and links that they open are reported ([`super::Event::Proven`]).
    pub fn leave_to_first(&mut self, realms: impl IntoIterator<Item = PublicKey>) {
        self.realms = realms.into_iter().collect();
    }

    /// True for the first endpoint behind its address.
    pub const fn is_first(&self) -> bool {
        self.config.place.own() == 0
    }

    /// True if a Reset may belong to a link of this endpoint.
    fn is_named(&self, from: SocketAddr, connection: ConnectionId) -> bool {
        self.by_name.contains_key(&(from, connection)) || self.opened_to(from).next().is_some()
    }

    /// Returns the number of the endpoint that a packet belongs to, if that is not this one.
    pub(super) fn elsewhere(&self, from: SocketAddr, packet: &Packet<'_>) -> Option<u32> {
        let place = self.config.place;
        let owner = match packet {
            // On plain links the initiator chooses the id.
            Packet::Link(LinkPacket {
                protection: Protection::Sealed,
                connection: Some(ConnectionId(id)),
                ..
            }) => place.of_id(*id),
            // Answers go to the first endpoint, the only one that dials and sends Hellos. A link
            // that another realm opened before it was known stays at the endpoint that it reached.
            Packet::Accept { .. }
            | Packet::Resumed { .. }
            | Packet::Retry { .. }
            | Packet::HelloReply(_) => 0,
            Packet::Resume(Resume { ticket, .. }) => place.of_id(ticket.0),
            Packet::Reset { connection, .. } if !self.is_named(from, *connection) => 0,
            Packet::Link(LinkPacket {
                connection: None, ..
            }) if self.opened_to(from).next().is_none() => 0,
            _ => place.own,
        };
        (owner != place.own).then_some(owner)
    }
}
