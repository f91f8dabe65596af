//! Resumption (HS-18 … HS-21): a returning device opens a link in one round trip. The initiator
//! resumes with a [`Ticket`](super::Ticket). The responder accepts it with a
//! [`IssuedTicket`](super::IssuedTicket), found at the link that the ticket's handshake opened, or
//! else in the caller's records ([`Event::UnknownTicket`](super::Event::UnknownTicket)).

mod initiator;
mod responder;

use crate::{crypto::TAG_LEN, wire::RESUMED_HEADER};

/// Length of the connection id at the start of a Resumed's payload, in bytes.
const CONNECTION_LEN: usize = 4;

/// Bytes of a Resumed besides its frames.
pub(super) const RESUMED_AROUND: usize = RESUMED_HEADER + CONNECTION_LEN + TAG_LEN;
