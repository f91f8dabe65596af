//! Bytes to values and back: packets, frames, commands, answers, entries.
//!
//! Pure functions: no keys, no clock, no sockets. Every parser borrows from what was received,
//! never panics, and never allocates by a length it has not checked; beside each stands its
//! emitter, in the same order. Integers are big-endian. Normative text: `spec/wire.md`.

mod answer;
mod code;
mod command;
mod detail;
mod entry;
mod error;
mod field;
mod frame;
mod id;
mod mailbox;
mod name;
mod number;
mod opening;
mod option;
mod packet;
mod peer;
mod varint;

pub use answer::{Account, Answer, DeviceSession, Member, Peer, Sent, Unread};
pub use code::RegistrationCode;
pub use command::{COMMANDS, CURSORS_MAX, Command, Cursors, Request};
pub use detail::{PeerDetail, PeerDetails, Standing};
pub use entry::{
    CONTENT_GONE, CONTENT_NOTICE, CONTENT_TEXT, Entry, Event, Fragment, Page, Sender, is_of_realm,
};
pub use error::{ErrorCode, Refusal};
pub use field::{
    Body, Field, Operation, OperationNumber, PASSWORD_MAX, PASSWORD_MIN, Password, Port, Position,
    Role, SessionId, SessionRef, Text,
};
pub(crate) use frame::PADDING;
pub use frame::{AckFrame, CloseReason, Frame, Frames};
pub use id::{EventId, MessageId, RequestId};
pub use mailbox::Mailbox;
pub use name::{GroupName, Handle, InvalidName, NAME_MAX, RealmId, Username};
pub use number::PacketNumber;
pub use opening::{Life, LinkName, Open, Update, Welcome};
pub use option::{FORM_DETAILS, FORM_DROP, FORM_MOVE, FORM_PENDING, Options};
pub use packet::{
    ACCEPT_HEADER, ANSWER_BYTES_MAX, ConnectionId, Cookie, HandshakeId, Hello, HelloReply,
    INIT_OVERHEAD, Init, LinkPacket, MAC1_LEN, PROTOCOL_VERSION, Packet, Protection, RESET_LEN,
    RESUME_HEADER, RESUMED_HEADER, RETRY_LEN, ResetToken, Resume, ResumeNonce, TicketCheck,
    append_crc, crc_holds, link_header,
};
pub use peer::PeerRequest;
pub use varint::{VARINT_MAX, emit_varint, parse_varint, varint_len};

/// Why bytes could not be understood: what was being read when they ran out or made no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
pub struct Malformed {
    /// The thing that was being read.
    pub what: &'static str,
}

impl Malformed {
    /// A refusal of `what`, ready for a parser to return.
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

/// What a parser returns: the rest of the input and the value.
pub(crate) type Parsed<'a, T> = nom::IResult<&'a [u8], T, Malformed>;

/// Exactly `N` bytes.
pub(crate) fn array<const N: usize>(input: &[u8]) -> Parsed<'_, [u8; N]> {
    match input.split_first_chunk() {
        Some((bytes, rest)) => Ok((rest, *bytes)),
        None => Malformed::error("bytes: they end too early"),
    }
}

/// As many values as the input holds.
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
