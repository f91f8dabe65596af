//! Encoding and decoding of packets, frames, commands, answers and entries.
//!
//! Pure functions: no keys, no clock, no sockets. Every parser borrows from the received bytes,
//! never panics, and never allocates by a length that it has not checked. Each parser's emitter is
//! next to it, and has the same order. Integers are big-endian. Normative text: `spec/wire.md`.
//!
//! Enums of what is on the wire ([`Command`], [`Answer`], [`ErrorCode`], [`Frame`], [`Packet`]) are
//! exhaustive. Whoever parses them has to handle every case, and a wildcard would hide a command
//! that was forgotten when it was added: in the program and in the fuzzer, which are crates of
//! their own. A new case breaks their build, as it should (`RELEASING.md`). Errors of parsers and
//! refusals are `non_exhaustive`: nobody has to handle each of them apart.

mod answer;
mod code;
pub mod command;
mod detail;
mod entry;
mod error;
mod field;
mod form;
mod frame;
mod from_answer;
mod id;
mod init;
mod mailbox;
mod name;
mod number;
mod opening;
mod option;
mod packet;
pub mod peer;
mod varint;

pub use answer::{Account, Answer, DeviceSession, Member, Peer, Sent, Unread};
pub use code::RegistrationCode;
pub use command::{Answered, COMMANDS, CURSORS_MAX, Command, Cursors, Request};
pub use detail::{PeerDetail, PeerDetails, PeeringState};
pub use entry::{
    CONTENT_GONE, CONTENT_HIDDEN, CONTENT_NOTICE, CONTENT_TEXT, Entry, Event, Fragment, Page,
    Sender, is_of_realm,
};
pub use error::{ErrorCode, Refusal};
pub use field::{
    Body, Field, Offset, Operation, OperationNumber, PASSWORD_MAX, PASSWORD_MIN, Password, Port,
    Position, Role, SessionId, SessionRef, Text,
};
pub use form::{PeerAddition, PeerListing, PeerRemoval, UnknownForm};
pub(crate) use frame::PADDING;
pub use frame::{AckFrame, CloseReason, Frame, Frames};
pub use from_answer::{
    Delivered, FromAnswer, JoinedGroup, List, Numbered, PeerList, Peered, Withdrawal,
};
pub use id::{EventId, MessageId, RequestId};
pub use init::{Cookie, HandshakeId, Init, PROTOCOL_VERSION};
pub use mailbox::Mailbox;
pub use name::{GroupName, Handle, InvalidName, RealmId, Username};
pub use number::PacketNumber;
pub use opening::{Life, LinkName, Open, Update, Welcome};
pub use option::Options;
pub use packet::{
    ACCEPT_HEADER, ANSWER_BYTES_MAX, ConnectionId, Hello, HelloReply, INIT_OVERHEAD, LinkPacket,
    Packet, Protection, RESET_LEN, RESUME_HEADER, RESUMED_HEADER, RETRY_LEN, ResetToken, Resume,
    ResumeNonce, TicketCheck, append_crc, crc_holds, link_header,
};
pub use peer::{AnswerError, AnsweredByPeer, PeerRequest, PeeringNumbers};
pub use varint::{VARINT_MAX, emit_varint, parse_varint, varint_len};

/// A decoding error: the item at which the bytes ended or were invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
#[non_exhaustive]
pub struct Malformed {
    /// The item that was being read.
    pub what: &'static str,
}

impl Malformed {
    /// Returns the error for `what`, for a parser to return.
    pub(crate) const fn error<T>(what: &'static str) -> Result<T, nom::Err<Self>> {
        Err(nom::Err::Error(Self { what }))
    }
}

impl<'a> nom::error::ParseError<&'a [u8]> for Malformed {
    fn from_error_kind(_: &'a [u8], _: nom::error::ErrorKind) -> Self {
        Self {
            what: "bytes: they end too early",
        }
    }

    fn append(_: &'a [u8], _: nom::error::ErrorKind, other: Self) -> Self {
        other
    }
}

impl From<nom::Err<Malformed>> for Malformed {
    fn from(error: nom::Err<Malformed>) -> Self {
        match error {
            nom::Err::Error(malformed) | nom::Err::Failure(malformed) => malformed,
            nom::Err::Incomplete(_) => Self {
                what: "bytes: they end too early",
            },
        }
    }
}

/// The result of a parser: the rest of the input and the value.
pub(crate) type Parsed<'a, T> = nom::IResult<&'a [u8], T, Malformed>;

/// Reads exactly `N` bytes.
pub(crate) fn array<const N: usize>(input: &[u8]) -> Parsed<'_, [u8; N]> {
    match input.split_first_chunk() {
        Some((bytes, rest)) => Ok((rest, *bytes)),
        None => Malformed::error("bytes: they end too early"),
    }
}

/// Reads as many values as the input holds.
pub(crate) fn all<'a, T>(
    mut parse: impl FnMut(&'a [u8]) -> Parsed<'a, T>,
) -> impl FnMut(&'a [u8]) -> Parsed<'a, alloc::vec::Vec<T>> {
    move |mut input| {
        let mut values = alloc::vec::Vec::new();
        while !input.is_empty() {
            let (rest, value) = parse(input)?;
            input = rest;
            values.push(value);
        }
        Ok((input, values))
    }
}
