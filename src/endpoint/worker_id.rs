//! Several endpoints behind one address, each with links of its own: which of them a datagram belongs to.
//!
//! The network decides which of them a datagram comes to, by where it came from; and so a link's packets come to the
//! endpoint that let it in, until its client moves. The id of a link names its endpoint, and the first one does most
//! that concerns other realms: it dials them, and keeps the links that they open. One that a realm has opened before it was known stays where it is.

use std::net::SocketAddr;

use super::{Endpoint, LinkId};
use crate::{
    crypto::PublicKey,
    wire::{ConnectionId, LinkPacket, Packet, Protection, Resume},
};

/// Which of several endpoints behind one address this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId {
    own: u32,
    of: u32,
}

impl WorkerId {
    /// It is alone.
    pub const ALONE: Self = Self { own: 0, of: 1 };

    /// Number `own`, from 0 on, of so many. None if there is no such number.
    pub fn new(own: u32, of: u32) -> Option<Self> {
        (own < of).then_some(Self { own, of })
    }

    /// Its number, from 0 on.
    pub const fn own(self) -> u32 {
        self.own
    }

    /// How many there are.
    pub(super) fn count(self) -> usize {
        usize::try_from(self.of).unwrap_or(usize::MAX).max(1)
    }

    /// The number of the one whose links have ids such as this.
    const fn of_id(self, id: u32) -> u32 {
        match id.checked_rem(self.of) {
            Some(number) => number,
            None => 0,
        }
    }

    /// True when a link of its own may have this id.
    pub(super) const fn may_give(self, id: LinkId) -> bool {
        self.of_id(id.0) == self.own
    }
}

impl Endpoint {
    /// From now on handshakes with these keys, those of other realms, belong to the first endpoint; and that they have opened a link is
    /// told ([`super::Event::Proven`]).
    pub fn leave_to_first(&mut self, realms: impl IntoIterator<Item = PublicKey>) {
        self.realms = realms.into_iter().collect();
    }

    /// True for the first of those behind its address.
    pub const fn is_first(&self) -> bool {
        self.config.place.own() == 0
    }

    /// True when a Reset may mean a link of this endpoint.
    fn is_named(&self, from: SocketAddr, connection: ConnectionId) -> bool {
        self.by_name.contains_key(&(from, connection)) || self.opened_to(from).next().is_some()
    }

    /// The number of the endpoint that a packet belongs to, if it is not this one.
    pub(super) fn elsewhere(&self, from: SocketAddr, packet: &Packet<'_>) -> Option<u32> {
        let place = self.config.place;
        let owner = match packet {
            // Ids on plain links are their initiators' choice.
            Packet::Link(LinkPacket {
                protection: Protection::Sealed,
                connection: Some(ConnectionId(id)),
                ..
            }) => place.of_id(*id),
            // What answers the first one, which is the only one that asks. A link that another realm has opened before
            // it was known is wherever it came to.
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
