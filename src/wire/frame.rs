//! Frames: the contents of packets (`spec/wire.md`, "Frames").
//!
//! ```text
//! 0x00       PADDING         this byte alone
//! 0x01       PING            this byte alone; asks for an acknowledgement at once
//! 0x04|0x05  REQUEST         number varint, [length varint], command
//! 0x06|0x07  REPLY           number varint, [length varint], answer
//! 0x08|0x09  EVENT           number varint, [length varint], mailbox, entry
//! 0x0a|0x0b  FRAGMENT        of 1, number varint, total varint, offset varint, [length varint], bytes
//! 0x0c       PATH_CHALLENGE  8 bytes
//! 0x0d       PATH_RESPONSE   8 bytes
//! 0x0e       CLOSE           reason varint
//! 0x10–0x18  ACK             largest varint, delay varint (ms), bitmap of 0–8 bytes
//! 0x20       OPEN            see `opening.rs`
//! 0x21       WELCOME         see `opening.rs`
//! 0x22       UPDATE          see `opening.rs`
//! ```
//!
//! The odd kind of a pair carries a length; the even one runs to the packet's end (WIRE-8).

use bytes::BufMut;
use nom::{
    Parser,
    bytes::complete::take,
    combinator::{map_opt, rest},
    multi::length_data,
    number::complete::be_u8,
};

use super::{
    EventId, Malformed, MessageId, Open, PacketNumber, Parsed, RequestId, Update, Welcome, array,
    emit_varint, parse_varint,
};

/// The kind byte of a PADDING frame, and its whole contents.
pub(crate) const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const REQUEST: u8 = 0x04;
const REPLY: u8 = 0x06;
const EVENT: u8 = 0x08;
const FRAGMENT: u8 = 0x0a;
const PATH_CHALLENGE: u8 = 0x0c;
const PATH_RESPONSE: u8 = 0x0d;
const CLOSE: u8 = 0x0e;
const ACK: u8 = 0x10;
const ACK_LAST: u8 = 0x18;
const OPEN: u8 = 0x20;
const WELCOME: u8 = 0x21;
const UPDATE: u8 = 0x22;
/// The bit that is set in a frame kind if the frame carries its length.
const WITH_LENGTH: u8 = 0x01;

/// One frame, borrowing from its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Fills space.
    Padding,
    /// Asks for an acknowledgement at once.
    Ping,
    /// Acknowledges packets.
    Ack(AckFrame),
    /// A command.
    Request {
        /// The request's number, increasing per direction.
        number: RequestId,
        /// The command's bytes.
        command: &'a [u8],
    },
    /// The answer to a request.
    Reply {
        /// The request's number.
        number: RequestId,
        /// The answer's bytes.
        answer: &'a [u8],
    },
    /// A pushed mailbox entry.
    Event {
        /// The event's number, increasing per direction.
        number: EventId,
        /// The mailbox and the entry.
        event: &'a [u8],
    },
    /// A fragment of a message that is larger than a datagram.
    Fragment {
        /// The message's id.
        message: MessageId,
        /// The length of the whole message, in bytes.
        total: u64,
        /// The fragment's offset in the message, in bytes.
        offset: u64,
        /// The fragment's bytes.
        bytes: &'a [u8],
    },
    /// Path validation: asks the other side of a new path to return these bytes.
    PathChallenge([u8; 8]),
    /// The response to a path challenge.
    PathResponse([u8; 8]),
    /// Ends the link.
    Close(CloseReason),
    /// The initiator's first frame.
    Open(Open),
    /// The responder's answer to [`Frame::Open`].
    Welcome(Welcome),
    /// The responder's news for the initiator of a resumed link.
    Update(Update),
}

/// The packets that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckFrame {
    /// The largest number that has arrived.
    pub largest: PacketNumber,
    /// The time between the arrival of the largest one and this acknowledgement, in milliseconds.
    pub delay_ms: u64,
    /// Bit `i` is set if `largest − 1 − i` has arrived, for `i` from 0 to 63.
    pub bitmap: u64,
}

impl AckFrame {
    /// True if the frame acknowledges `number`.
    pub const fn covers(&self, number: PacketNumber) -> bool {
        match self.largest.0.checked_sub(number.0) {
            Some(0) => true,
            Some(distance @ 1..=64) => self.bitmap >> (distance - 1) & 1 == 1,
            _ => false,
        }
    }
}

/// The reason why a link ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The side has nothing more to send.
    Done,
    /// The other side violated the protocol.
    Violation,
    /// The realm is shutting down; the client should reconnect.
    Shutdown,
    /// A fresh link has replaced this one.
    Replaced,
    /// A reason that this version does not know.
    Other(u64),
}

impl CloseReason {
    /// Returns its name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Violation => "violation",
            Self::Shutdown => "shutdown",
            Self::Replaced => "replaced",
            Self::Other(_) => "other",
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Done => 0,
            Self::Violation => 1,
            Self::Shutdown => 2,
            Self::Replaced => 3,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::Violation,
            2 => Self::Shutdown,
            3 => Self::Replaced,
            number => Self::Other(number),
        }
    }
}

impl<'a> Frame<'a> {
    /// Reads one frame.
    pub(crate) fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, kind) = be_u8(input)?;
        let with_length = kind & WITH_LENGTH != 0;
        match kind {
            PADDING => Ok((input, Self::Padding)),
            PING => Ok((input, Self::Ping)),
            ACK..=ACK_LAST => AckFrame::parse(usize::from(kind - ACK), input)
                .map(|(rest, ack)| (rest, Self::Ack(ack))),
            REQUEST | 0x05 => {
                let (input, (number, command)) = (parse_varint, body(with_length)).parse(input)?;
                let number = RequestId(number);
                Ok((input, Self::Request { number, command }))
            }
            REPLY | 0x07 => {
                let (input, (number, answer)) = (parse_varint, body(with_length)).parse(input)?;
                let number = RequestId(number);
                Ok((input, Self::Reply { number, answer }))
            }
            EVENT | 0x09 => {
                let (input, (number, event)) = (parse_varint, body(with_length)).parse(input)?;
                let number = EventId(number);
                Ok((input, Self::Event { number, event }))
            }
            FRAGMENT | 0x0b => parse_fragment(with_length, input),
            PATH_CHALLENGE => array(input).map(|(rest, data)| (rest, Self::PathChallenge(data))),
            PATH_RESPONSE => array(input).map(|(rest, data)| (rest, Self::PathResponse(data))),
            CLOSE => parse_varint(input)
                .map(|(rest, number)| (rest, Self::Close(CloseReason::from_number(number)))),
            OPEN => Open::parse(input).map(|(rest, open)| (rest, Self::Open(open))),
            WELCOME => Welcome::parse(input).map(|(rest, welcome)| (rest, Self::Welcome(welcome))),
            UPDATE => Update::parse(input).map(|(rest, update)| (rest, Self::Update(update))),
            _ => Malformed::error("frame kind"),
        }
    }

    /// Writes the frame with its length, so that others can follow it.
    pub fn emit_inner(&self, out: &mut impl BufMut) {
        self.emit(false, out);
    }

    /// Writes the frame as the last one of its packet, which needs no length.
    pub fn emit_last(&self, out: &mut impl BufMut) {
        self.emit(true, out);
    }

    /// Writes the frame. `last` is true for the packet's last frame, which needs no length.
    pub(crate) fn emit(&self, last: bool, out: &mut impl BufMut) {
        match *self {
            Self::Padding => out.put_u8(PADDING),
            Self::Ping => out.put_u8(PING),
            Self::Ack(ack) => ack.emit(out),
            Self::Request { number, command } => {
                emit_numbered(REQUEST, number.0, command, last, out);
            }
            Self::Reply { number, answer } => emit_numbered(REPLY, number.0, answer, last, out),
            Self::Event { number, event } => emit_numbered(EVENT, number.0, event, last, out),
            Self::Fragment {
                message,
                total,
                offset,
                bytes,
            } => {
                let (kind, number) = message.to_wire();
                out.put_u8(FRAGMENT | if last { 0 } else { WITH_LENGTH });
                out.put_u8(kind);
                emit_varint(number, out);
                emit_varint(total, out);
                emit_varint(offset, out);
                emit_body(bytes, last, out);
            }
            Self::PathChallenge(data) => {
                out.put_u8(PATH_CHALLENGE);
                out.put_slice(&data);
            }
            Self::PathResponse(data) => {
                out.put_u8(PATH_RESPONSE);
                out.put_slice(&data);
            }
            Self::Close(reason) => {
                out.put_u8(CLOSE);
                emit_varint(reason.number(), out);
            }
            Self::Open(open) => {
                out.put_u8(OPEN);
                open.emit(out);
            }
            Self::Welcome(welcome) => {
                out.put_u8(WELCOME);
                welcome.emit(out);
            }
            Self::Update(update) => {
                out.put_u8(UPDATE);
                update.emit(out);
            }
        }
    }
}

fn body<'a>(with_length: bool) -> impl Fn(&'a [u8]) -> Parsed<'a, &'a [u8]> {
    move |input| {
        if with_length {
            length_data(parse_varint).parse(input)
        } else {
            rest(input)
        }
    }
}

fn emit_body(body: &[u8], last: bool, out: &mut impl BufMut) {
    if !last {
        emit_varint(body.len() as u64, out);
    }
    out.put_slice(body);
}

fn emit_numbered(kind: u8, number: u64, body: &[u8], last: bool, out: &mut impl BufMut) {
    out.put_u8(kind | if last { 0 } else { WITH_LENGTH });
    emit_varint(number, out);
    emit_body(body, last, out);
}

fn parse_fragment(with_length: bool, input: &[u8]) -> Parsed<'_, Frame<'_>> {
    let (input, message) = map_opt((be_u8, parse_varint), |(kind, number)| {
        MessageId::from_wire(kind, number)
    })
    .parse(input)?;
    let (input, (total, offset)) = (parse_varint, parse_varint).parse(input)?;
    let (input, bytes) = body(with_length)(input)?;
    if offset
        .checked_add(bytes.len() as u64)
        .is_none_or(|end| end > total)
    {
        return Malformed::error("fragment: it reaches beyond its message");
    }
    Ok((
        input,
        Frame::Fragment {
            message,
            total,
            offset,
            bytes,
        },
    ))
}

impl AckFrame {
    fn parse(bitmap_len: usize, input: &[u8]) -> Parsed<'_, Self> {
        let (input, (largest, delay_ms, bytes)) =
            (parse_varint, parse_varint, take(bitmap_len)).parse(input)?;
        // The first byte is for the eight numbers just below the largest, lowest bit first.
        let bitmap = bytes
            .iter()
            .rev()
            .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        Ok((
            input,
            Self {
                largest: PacketNumber(largest),
                delay_ms,
                bitmap,
            },
        ))
    }

    fn emit(&self, out: &mut impl BufMut) {
        // The bytes up to the last one that is not zero.
        let (mut len, mut left) = (0, self.bitmap);
        while left != 0 {
            (len, left) = (len + 1, left >> 8);
        }
        out.put_u8(ACK + len);
        emit_varint(self.largest.0, out);
        emit_varint(self.delay_ms, out);
        out.put_uint_le(self.bitmap, len.into());
    }
}

/// An iterator over a packet's frames. After a malformed one it yields the error and ends.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    left: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Returns the frames of `payload`, parsed one by one.
    pub const fn of(payload: &'a [u8]) -> Self {
        Self { left: payload }
    }

    /// Returns the frames of `payload`, after all of them were parsed once.
    ///
    /// # Errors
    /// If any of them is malformed: then none of the packet may take effect (WIRE-9).
    pub fn checked(
        payload: &'a [u8],
    ) -> Result<impl Iterator<Item = Frame<'a>> + Clone, Malformed> {
        let frames = Self::of(payload);
        for frame in frames.clone() {
            frame?;
        }
        Ok(frames.filter_map(Result::ok))
    }

    /// Writes all frames of a packet.
    pub fn emit(frames: &[Frame<'_>], out: &mut impl BufMut) {
        if let Some((last, inner)) = frames.split_last() {
            for frame in inner {
                frame.emit_inner(out);
            }
            last.emit_last(out);
        }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        match Frame::parse(self.left) {
            Ok((left, frame)) => {
                self.left = left;
                Some(Ok(frame))
            }
            Err(error) => {
                self.left = &[];
                Some(Err(error.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::wire::{ConnectionId, Life, LinkName, OperationNumber};

    #[test]
    fn frame_ack_takes_three_to_twelve_bytes() {
        let mut out = Vec::new();
        AckFrame {
            largest: PacketNumber(9),
            delay_ms: 3,
            bitmap: 0,
        }
        .emit(&mut out);
        assert_eq!(out, [0x10, 9, 3]);
        out.clear();
        AckFrame {
            largest: PacketNumber(99),
            delay_ms: 3,
            bitmap: u64::MAX,
        }
        .emit(&mut out);
        assert_eq!(out.len(), 12);
    }

    #[test]
    fn fragment_beyond_its_message_is_refused() {
        assert!(Frame::parse(&[0x0a, 0, 1, 3, 2, b'x', b'y']).is_err());
        assert!(Frame::parse(&[0x0a, 0, 1, 3, 2, b'x']).is_ok());
        let huge = [
            0x0a, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        assert!(Frame::parse(&[&huge[..], &[0xff; 7], b"xx"].concat()).is_err());
    }

    fn frames() -> impl Strategy<Value = (u8, u64, u64, u64, [u8; 16], Vec<u8>)> {
        (
            0u8..14,
            0..=super::super::VARINT_MAX,
            0u64..1 << 30,
            any::<u64>(),
            any::<[u8; 16]>(),
            any::<Vec<u8>>(),
        )
    }

    fn build(
        (kind, a, b, bits, token, bytes): &(u8, u64, u64, u64, [u8; 16], Vec<u8>),
    ) -> Frame<'_> {
        let half: [u8; 8] = token[..8].try_into().unwrap();
        match kind {
            0 => Frame::Padding,
            1 => Frame::Ping,
            2 => Frame::Ack(AckFrame {
                largest: PacketNumber(*a),
                delay_ms: *b,
                bitmap: *bits,
            }),
            3 => Frame::Request {
                number: RequestId(*a),
                command: bytes,
            },
            4 => Frame::Reply {
                number: RequestId(*a),
                answer: bytes,
            },
            5 => Frame::Event {
                number: EventId(*a),
                event: bytes,
            },
            6 => Frame::Fragment {
                message: MessageId::Reply(RequestId(*a)),
                total: b + bytes.len() as u64,
                offset: *b,
                bytes,
            },
            7 => Frame::PathChallenge(half),
            8 => Frame::PathResponse(half),
            9 => Frame::Close(CloseReason::from_number(*a)),
            10 => Frame::Open(Open {
                max_datagram: *a,
                name: None,
                resumes: bits % 2 == 0,
            }),
            11 => Frame::Open(Open {
                max_datagram: *a,
                name: Some(LinkName {
                    connection: ConnectionId(7),
                    token: *token,
                }),
                resumes: bits % 2 == 0,
            }),
            12 => Frame::Update(Update {
                standing: (bits % 2 == 0).then_some((*token, OperationNumber(*b))),
                life: (bits % 3 == 0).then_some(Life([7; 4])),
            }),
            _ => Frame::Welcome(Welcome {
                token: *token,
                max_datagram: *a,
                known: bits % 2 == 0,
                highest: OperationNumber(*b),
                successor: (bits % 3 == 0).then_some([9; 32]),
                life: (bits % 5 == 0).then_some(Life([7; 4])),
                is_life_unknown: bits % 7 == 0,
                is_final: bits % 11 == 0,
            }),
        }
    }

    proptest! {
        /// WIRE-8, WIRE-9
        #[test]
        fn frame_emitted_then_parsed_is_identical(drawn in prop::collection::vec(frames(), 1..6)) {
            let wanted: Vec<_> = drawn.iter().map(build).collect();
            let mut out = vec![];
            for (at, frame) in wanted.iter().enumerate() {
                frame.emit(at + 1 == wanted.len(), &mut out);
            }
            let got: Vec<_> = Frames::checked(&out).unwrap().collect();
            prop_assert_eq!(got, wanted);
        }

        #[test]
        fn frame_parse_of_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = Frames::checked(&bytes).map(Iterator::count);
        }
    }
}
