//! What an endpoint tells.

use std::net::{IpAddr, SocketAddr};

use super::{Known, LinkId, Path};
use crate::{
    crypto::{LifeClaim, PublicKey},
    link::Time,
    wire::{CloseReason, ConnectionId, EventId, HelloReply, OperationNumber, RequestId, Welcome},
};

/// What an endpoint has to tell its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Someone opens a link; answer with [`super::Endpoint::welcome`].
    Incoming {
        /// The link.
        link: LinkId,
        /// The device's key; none on a plain link.
        peer: Option<PublicKey>,
        /// Where it comes from.
        address: SocketAddr,
        /// The life of this side's store that it claims to know; none on plain links and on links of realms. What is
        /// made of it is for [`super::Endpoint::tell_life`].
        claim: Option<LifeClaim>,
    },
    /// A realm of those given with [`super::Endpoint::leave_to_first`] has opened a link, and has shown that it is there.
    Proven {
        /// The link.
        link: LinkId,
        /// The realm's key.
        peer: PublicKey,
    },
    /// It is proven where the other side of a link is that it has opened: for the first time, or after it has moved.
    PathProven {
        /// The link.
        link: LinkId,
    },
    /// A link that this side opened is open; again after the other side has restarted.
    Opened {
        /// The link.
        link: LinkId,
        /// What the other side said. Of a link that was resumed it says only whether the store's life is another.
        welcome: Welcome,
        /// It was resumed.
        is_resumed: bool,
    },
    /// The other side of a link that was resumed has said which operation number is the highest that it has seen from this one's key.
    Standing {
        /// The link.
        link: LinkId,
        /// The number.
        highest: OperationNumber,
    },
    /// A device comes back whose ticket this endpoint does not know; say with [`super::Endpoint::ticket_found`] what is known of it.
    UnknownTicket {
        /// The ticket's name.
        ticket: ConnectionId,
        /// Where it came from,
        path: Path,
        /// and what came.
        datagram: Vec<u8>,
    },
    /// The realm has refused the ticket that this side came back by on `link`, or answered it with what makes no sense: it is
    /// not to be shown again (HS-20).
    TicketRefused {
        /// The link, which goes on with a handshake.
        link: LinkId,
    },
    /// A device that means to come back has shown that it is there: this may be kept of it.
    TicketDue {
        /// The ticket's name.
        ticket: ConnectionId,
        /// When its handshake began.
        opened: Time,
        /// By what the device is known.
        known: Known,
    },
    /// A device that has come back by a ticket of which no place was known has shown where it is.
    TicketPlace {
        /// The ticket's name.
        ticket: ConnectionId,
        /// Where.
        place: IpAddr,
    },
    /// The other side asks; answer with [`super::Endpoint::reply`].
    Request {
        /// The link.
        link: LinkId,
        /// To be named in the reply.
        number: RequestId,
        /// The command.
        bytes: Vec<u8>,
        /// It came in a handshake's first message, and might have been recorded and sent by anyone.
        early: bool,
    },
    /// The other side answers.
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
        /// The event.
        bytes: Vec<u8>,
    },
    /// What was pushed has arrived.
    Delivered {
        /// The link.
        link: LinkId,
        /// As [`super::Endpoint::push`] gave it.
        number: EventId,
    },
    /// A request's deadline is over.
    Expired {
        /// The link.
        link: LinkId,
        /// The request's number.
        number: RequestId,
        /// True when anything at all has come from the other side.
        heard: bool,
    },
    /// The other side asks with more bytes than are taken; answer with [`super::Endpoint::reply`].
    Oversized {
        /// The link.
        link: LinkId,
        /// To be named in the reply.
        number: RequestId,
        /// As many bytes as are taken.
        limit: usize,
    },
    /// A request waits for its reply on another link now: of two links with one realm one stays.
    Moved {
        /// Where it was asked.
        link: LinkId,
        /// Its number there.
        number: RequestId,
        /// Where it is asked now.
        to: LinkId,
        /// Its number there.
        as_number: RequestId,
    },
    /// A link has ended, and with it all that was asked on it.
    Closed {
        /// The link.
        link: LinkId,
        /// Why, if the other side said so; a violation also if this side said so, or had an Accept that makes no sense.
        reason: Option<CloseReason>,
    },
    /// A realm has said who it is.
    Hello {
        /// Where it was asked.
        address: SocketAddr,
        /// What it said.
        reply: HelloReply,
    },
}
