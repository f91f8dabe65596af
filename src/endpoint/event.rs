//! The events of an endpoint.

use std::net::{IpAddr, SocketAddr};

use super::{ids::LinkId, path::Path, ticket::IssuedTicket};
use crate::{
    crypto::{LifeClaim, PublicKey},
    link::Time,
    wire::{CloseReason, ConnectionId, EventId, HelloReply, OperationNumber, RequestId, Welcome},
};

/// A request of the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncomingRequest {
    /// The number to name in the reply.
    pub number: RequestId,
    /// The command.
    pub bytes: Vec<u8>,
}

/// An event for the endpoint's driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another side opens a link; answer with [`super::Endpoint::welcome`].
    Incoming {
        /// The link.
        link: LinkId,
        /// The device's key; `None` on a plain link.
        peer: Option<PublicKey>,
        /// The source address.
        address: SocketAddr,
        /// The life of this side's store that it claims to know; `None` on plain links and on links
        /// of realms. Pass the verdict on it to [`super::Endpoint::tell_life`].
        claim: Option<LifeClaim>,
    },
    /// A realm from [`super::Endpoint::set_realms`] has opened a link and has proven its
    /// address.
    Proven {
        /// The link.
        link: LinkId,
        /// The realm's key.
        peer: PublicKey,
    },
    /// The other side of a link that it opened has proven its address: the first time, or after a
    /// migration.
    PathProven {
        /// The link.
        link: LinkId,
    },
    /// A link that this side opened is open. Comes again after the other side has restarted.
    Opened {
        /// The link.
        link: LinkId,
        /// The other side's WELCOME. On a resumed link it says only whether the store's life has
        /// changed.
        welcome: Welcome,
        /// True if the link was resumed.
        is_resumed: bool,
    },
    /// The other side of a resumed link has told the highest operation number that it has seen from
    /// this side's key.
    HighestOperation {
        /// The link.
        link: LinkId,
        /// The number.
        highest: OperationNumber,
    },
    /// A device resumes with a ticket that this endpoint does not know; answer with
    /// [`super::Endpoint::ticket_found`].
    UnknownTicket {
        /// The ticket's name.
        ticket: ConnectionId,
        /// The path that the Resume arrived over.
        path: Path,
        /// The Resume.
        datagram: Vec<u8>,
    },
    /// The realm has refused the ticket that this side used on `link`, or its answer was malformed.
    /// The ticket must not be used again (HS-20).
    TicketRefused {
        /// The link, which goes on with a handshake.
        link: LinkId,
    },
    /// A device that wants to resume later has shown that its handshake is genuine: its record may
    /// be stored.
    TicketDue {
        /// The ticket's name.
        ticket: ConnectionId,
        /// When its handshake began.
        opened: Time,
        /// The record to store.
        issued: IssuedTicket,
    },
    /// A device that resumed with a ticket without a known address has proven its address.
    TicketAddress {
        /// The ticket's name.
        ticket: ConnectionId,
        /// The device's address.
        address: IpAddr,
    },
    /// The other side sent a request; answer with [`super::Endpoint::reply`].
    Request {
        /// The link.
        link: LinkId,
        /// The number to name in the reply.
        number: RequestId,
        /// The command.
        bytes: Vec<u8>,
        /// True if it came in the first packet of a handshake, and may be a recording replayed by
        /// anyone.
        early: bool,
    },
    /// The other side answered a request.
    Reply {
        /// The link.
        link: LinkId,
        /// The request's number.
        number: RequestId,
        /// The answer.
        bytes: Vec<u8>,
    },
    /// The other side has pushed an entry.
    Pushed {
        /// The link.
        link: LinkId,
        /// The entry.
        bytes: Vec<u8>,
    },
    /// A pushed entry has arrived.
    Delivered {
        /// The link.
        link: LinkId,
        /// The number from [`super::Endpoint::push`].
        number: EventId,
    },
    /// The deadline of a request has passed.
    Expired {
        /// The link.
        link: LinkId,
        /// The request's number.
        number: RequestId,
        /// True if anything has arrived from the other side.
        heard: bool,
    },
    /// The other side sent a request that is too long; answer with [`super::Endpoint::reply`].
    Oversized {
        /// The link.
        link: LinkId,
        /// The number to name in the reply.
        number: RequestId,
        /// The longest request accepted, in bytes.
        limit: usize,
    },
    /// A request has moved to another link, because only one of two links with a realm stays.
    Moved {
        /// The former link.
        link: LinkId,
        /// The request's number there.
        number: RequestId,
        /// The link that it moved to.
        to: LinkId,
        /// The request's number there.
        as_number: RequestId,
    },
    /// A link has ended, with all requests on it.
    Closed {
        /// The link.
        link: LinkId,
        /// The reason, if the other side gave one. A violation is reported too if this side
        /// detected it, or got a malformed Accept.
        reason: Option<CloseReason>,
    },
    /// A realm has answered a Hello.
    Hello {
        /// The address asked.
        address: SocketAddr,
        /// The answer.
        reply: HelloReply,
    },
}
