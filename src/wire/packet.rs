//! Datagrams: the clear layouts around frames (`spec/wire.md`, "Packets").
//!
//! ```text
//! Hello       0x01, version 1, nonce 8, padding, crc 4            at least ANSWER_BYTES_MAX
//! HelloReply  0x02, nonce 8, count 1, versions, id length 1, realm id, realm key 32, crc 4
//! Init        0x03 (0x13 with cookie), version 1, handshake id 4, Noise message 1, mac1 8, [cookie 16]
//! Accept      0x04, handshake id 4, Noise message 2
//! Retry       0x05, handshake id 4, cookie 16, crc 4
//! Reset       0x06, connection id 4, token 16
//! Resume      0x07 (0x17 with cookie), ticket 4, check 4, nonce 8, [cookie 16], sealed frames with tag 16
//! Resumed     0x08, nonce 8, sealed connection id 4 and frames with tag 16
//! Sealed      1 1 c nn 000, [connection id 4], number 1/2/4, sealed frames with tag 16
//! Plain       1 0 c nn 000, [connection id 4], number 1/2/4, frames, crc 4
//! ```

use alloc::vec::Vec;

use bytes::BufMut;
use nom::{
    Parser,
    bytes::complete::take,
    combinator::{cond, rest},
    multi::length_data,
    number::complete::{be_u8, be_u32},
};

use super::{
    Field, Malformed, PacketNumber, Parsed, RealmId, array,
    init::{Cookie, HandshakeId, INIT, INIT_WITH_COOKIE, Init, MAC1_LEN, PROTOCOL_VERSION},
    number::NumberLen,
};

/// The longest `HelloReply`, in bytes. A Hello is at least as long, so that it causes no
/// amplification (WIRE-11).
pub const ANSWER_BYTES_MAX: usize = 84;
/// The bytes that an Init adds to its Noise message, without a cookie.
pub const INIT_OVERHEAD: usize = 6 + MAC1_LEN;
/// The bytes of an Accept before its Noise message.
pub const ACCEPT_HEADER: usize = 5;
/// The bytes of a Resume before the sealed part, without a cookie.
pub const RESUME_HEADER: usize = 17;
/// The shortest sealed part of a Resume, in bytes: two of frames, and the tag (HS-19).
const RESUME_SEALED_MIN: usize = 2 + 16;
/// The bytes of a Resumed before the sealed part.
pub const RESUMED_HEADER: usize = 9;
/// The length of a Retry, in bytes.
pub const RETRY_LEN: usize = 25;
/// The length of a Reset, in bytes.
pub const RESET_LEN: usize = 21;
const CRC_LEN: usize = 4;

const HELLO: u8 = 0x01;
const HELLO_REPLY: u8 = 0x02;
const ACCEPT: u8 = 0x04;
const RETRY: u8 = 0x05;
const RESET: u8 = 0x06;
const RESUME: u8 = 0x07;
const RESUME_WITH_COOKIE: u8 = 0x17;
const RESUMED: u8 = 0x08;

const LINK_FORM: u8 = 0x80;
const SEALED: u8 = 0x40;
const HAS_CONNECTION: u8 = 0x20;
const NUMBER_SHIFT: u8 = 3;
const NUMBER_MASK: u8 = 0x18;
const RESERVED: u8 = 0x07;

/// A connection id: identifies a link to the side that chose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// The proof that a Reset comes from the realm: sent inside the handshake, and in clear after a
/// restart.
pub type ResetToken = [u8; 16];

/// A random nonce from each side that makes the keys of one resumption unique (HS-19).
pub type ResumeNonce = [u8; 8];

/// Shows that the sender of a ticket knows its Reset token (HS-18).
pub type TicketCheck = [u8; 4];

/// A datagram, parsed as far as possible without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Asks for the realm's identity.
    Hello(Hello),
    /// Returns the realm's identity.
    HelloReply(HelloReply),
    /// Opens a handshake.
    Init(Init<'a>),
    /// Completes a handshake.
    Accept {
        /// The Init's handshake id.
        handshake: HandshakeId,
        /// Noise message 2.
        noise: &'a [u8],
    },
    /// Asks to send the Init again with a cookie.
    Retry {
        /// The Init's handshake id.
        handshake: HandshakeId,
        /// The cookie for the next Init.
        cookie: Cookie,
    },
    /// Says that a connection id is not known (any more).
    Reset {
        /// The id in the packet that was not understood.
        connection: ConnectionId,
        /// The proof that the realm itself sent the Reset.
        token: ResetToken,
    },
    /// Takes the place of an Init in a resumption.
    Resume(Resume<'a>),
    /// Takes the place of an Accept in a resumption.
    Resumed {
        /// The responder's nonce.
        nonce: ResumeNonce,
        /// The bytes before the sealed part.
        header: &'a [u8],
        /// The sealed connection id and frames.
        sealed: &'a [u8],
    },
    /// A packet of an open link.
    Link(LinkPacket<'a>),
}

/// The first packet of a resumption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The ticket's name: the connection id of the link whose handshake issued it.
    pub ticket: ConnectionId,
    /// Shows that the sender has the ticket.
    pub check: TicketCheck,
    /// The sender's nonce.
    pub nonce: ResumeNonce,
    /// The cookie of a Retry.
    pub cookie: Option<Cookie>,
    /// The sealed frames.
    pub sealed: &'a [u8],
}

/// Asks for the realm's identity; see [`HelloReply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// A nonce that the answer repeats.
    pub nonce: [u8; 8],
}

/// The realm's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The Hello's nonce.
    pub nonce: [u8; 8],
    /// The protocol versions that the realm speaks; at most five.
    pub versions: Vec<u8>,
    /// The realm's name for itself.
    pub realm: RealmId,
    /// The realm's public key.
    pub key: [u8; 32],
}

impl HelloReply {
    /// The maximum number of versions: as many as fit beside the longest realm id.
    const VERSIONS_MAX: usize = 5;
}

/// How a link's packets are protected. A listener uses one protection for all links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Authenticated encryption; the packet ends with the tag.
    Sealed,
    /// No encryption; the packet ends with a CRC-32.
    Plain,
}

/// A packet of an open link: its clear header, and the unparsed rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkPacket<'a> {
    /// The protection of the packet.
    pub protection: Protection,
    /// The receiver's connection id; absent in packets to clients, which know the link by the
    /// address.
    pub connection: Option<ConnectionId>,
    /// The low bytes of the packet number; see [`LinkPacket::number`].
    truncated: u32,
    /// How much of the packet number was sent.
    number_len: NumberLen,
    /// The clear header, which the seal authenticates.
    pub header: &'a [u8],
    /// Everything after the header.
    pub body: &'a [u8],
}

impl LinkPacket<'_> {
    /// Returns the full packet number, given the largest received so far.
    pub const fn number(&self, largest: Option<PacketNumber>) -> PacketNumber {
        PacketNumber::expand(self.truncated, self.number_len, largest)
    }
}

impl<'a> Packet<'a> {
    /// Parses a datagram and checks its CRC if it has one. A plain link's packet is checked by
    /// [`crc_holds`] once its link is known.
    ///
    /// # Errors
    /// If the bytes are not a packet.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (input, kind) = be_u8::<_, Malformed>(datagram)?;
        let (left, packet) = match kind {
            HELLO => Hello::parse(datagram, input).map(|(rest, hello)| (rest, Self::Hello(hello))),
            HELLO_REPLY => HelloReply::parse(datagram, input)
                .map(|(rest, reply)| (rest, Self::HelloReply(reply))),
            INIT | INIT_WITH_COOKIE => {
                Init::parse(datagram, input).map(|(rest, init)| (rest, Self::Init(init)))
            }
            ACCEPT => parse_accept(input),
            RETRY => parse_retry(datagram, input),
            RESET => parse_reset(input),
            RESUME | RESUME_WITH_COOKIE => Resume::parse(kind == RESUME_WITH_COOKIE, input)
                .map(|(rest, resume)| (rest, Self::Resume(resume))),
            RESUMED => parse_resumed(datagram, input),
            _ if kind & LINK_FORM != 0 => parse_link(datagram, kind, input),
            _ => Malformed::error("packet kind"),
        }?;
        if left.is_empty() {
            Ok(packet)
        } else {
            Err(Malformed {
                what: "packet: bytes are left over",
            })
        }
    }
}

/// True if the last four bytes are the CRC-32 of those before (WIRE-6).
pub fn crc_holds(datagram: &[u8]) -> bool {
    datagram
        .split_last_chunk::<CRC_LEN>()
        .is_some_and(|(covered, crc)| crc32fast::hash(covered) == u32::from_be_bytes(*crc))
}

/// Appends the CRC-32 of everything in `packet`.
pub fn append_crc(packet: &mut Vec<u8>) {
    let crc = crc32fast::hash(packet);
    packet.put_u32(crc);
}

fn checked<'a>(datagram: &'a [u8], input: &'a [u8]) -> Parsed<'a, ()> {
    match input.split_last_chunk::<CRC_LEN>() {
        Some((before, _)) if crc_holds(datagram) => Ok((before, ())),
        _ => Malformed::error("packet: its CRC-32 does not fit"),
    }
}

impl Hello {
    fn parse<'a>(datagram: &'a [u8], input: &'a [u8]) -> Parsed<'a, Self> {
        if datagram.len() < ANSWER_BYTES_MAX {
            return Malformed::error("hello: it is shorter than its answer");
        }
        let (input, ()) = checked(datagram, input)?;
        // Any version is accepted: the answer lists the versions that the realm speaks.
        let (input, _version) = be_u8(input)?;
        let (_padding, nonce) = array(input)?;
        Ok((&[], Self { nonce }))
    }

    /// Writes the packet, padded to [`ANSWER_BYTES_MAX`].
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.put_u8(HELLO);
        out.put_u8(PROTOCOL_VERSION);
        out.put_slice(&self.nonce);
        out.resize(ANSWER_BYTES_MAX - CRC_LEN, 0);
        append_crc(out);
    }
}

impl HelloReply {
    fn parse<'a>(datagram: &'a [u8], input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, ()) = checked(datagram, input)?;
        let (input, nonce) = array(input)?;
        let (input, versions) = length_data(be_u8).parse(input)?;
        let (input, realm) = RealmId::parse(input)?;
        let (input, key) = array(input)?;
        if versions.len() > Self::VERSIONS_MAX {
            return Malformed::error("hello reply: too many versions");
        }
        Ok((
            input,
            Self {
                nonce,
                versions: versions.to_vec(),
                realm,
                key,
            },
        ))
    }

    /// Writes the packet: at most [`ANSWER_BYTES_MAX`] bytes.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let versions = self
            .versions
            .get(..Self::VERSIONS_MAX)
            .unwrap_or(&self.versions);
        out.put_u8(HELLO_REPLY);
        out.put_slice(&self.nonce);
        out.put_u8(versions.iter().fold(0, |count, _| count + 1));
        out.put_slice(versions);
        self.realm.emit(out);
        out.put_slice(&self.key);
        append_crc(out);
    }
}

impl<'a> Resume<'a> {
    fn parse(has_cookie: bool, input: &'a [u8]) -> Parsed<'a, Self> {
        let (sealed, (ticket, check, nonce, cookie)) =
            (be_u32, array, array, cond(has_cookie, array)).parse(input)?;
        let resume = Self {
            ticket: ConnectionId(ticket),
            check,
            nonce,
            cookie,
            sealed,
        };
        if sealed.len() < RESUME_SEALED_MIN {
            // The Reset or Retry in answer would be longer than this packet.
            return Malformed::error("a Resume shorter than its answers");
        }
        Ok((&[], resume))
    }

    /// Returns the bytes that the seal authenticates beside the frames: the packet up to them, as
    /// if it had no cookie.
    pub fn header(&self) -> [u8; RESUME_HEADER] {
        let mut header = [0; RESUME_HEADER];
        let mut left = header.as_mut_slice();
        Self::emit_header(self.ticket, &self.check, &self.nonce, None, &mut left);
        debug_assert!(left.is_empty(), "a header shorter than RESUME_HEADER");
        header
    }

    /// Writes all bytes before the sealed part.
    pub fn emit_header(
        ticket: ConnectionId,
        check: &TicketCheck,
        nonce: &ResumeNonce,
        cookie: Option<&Cookie>,
        out: &mut impl BufMut,
    ) {
        out.put_u8(if cookie.is_some() {
            RESUME_WITH_COOKIE
        } else {
            RESUME
        });
        out.put_u32(ticket.0);
        out.put_slice(check);
        out.put_slice(nonce);
        if let Some(cookie) = cookie {
            out.put_slice(cookie);
        }
    }

    /// Returns the first bytes of the nonce, which identify the attempt in a Retry (HS-20).
    pub fn handshake(nonce: &ResumeNonce) -> HandshakeId {
        let [a, b, c, d, ..] = *nonce;
        HandshakeId(u32::from_be_bytes([a, b, c, d]))
    }
}

fn parse_resumed<'a>(datagram: &'a [u8], input: &'a [u8]) -> Parsed<'a, Packet<'a>> {
    let (sealed, nonce) = array(input)?;
    let Some(header) = datagram.get(..RESUMED_HEADER) else {
        return Malformed::error("a Resumed shorter than its header");
    };
    let resumed = Packet::Resumed {
        nonce,
        header,
        sealed,
    };
    Ok((&[], resumed))
}

fn parse_accept(input: &[u8]) -> Parsed<'_, Packet<'_>> {
    let (input, (handshake, noise)) = (be_u32, rest).parse(input)?;
    Ok((
        input,
        Packet::Accept {
            handshake: HandshakeId(handshake),
            noise,
        },
    ))
}

fn parse_retry<'a>(datagram: &'a [u8], input: &'a [u8]) -> Parsed<'a, Packet<'a>> {
    let (input, ()) = checked(datagram, input)?;
    let (input, handshake) = be_u32(input)?;
    let (input, cookie) = array(input)?;
    Ok((
        input,
        Packet::Retry {
            handshake: HandshakeId(handshake),
            cookie,
        },
    ))
}

fn parse_reset(input: &[u8]) -> Parsed<'_, Packet<'_>> {
    let (input, connection) = be_u32(input)?;
    let (input, token) = array(input)?;
    Ok((
        input,
        Packet::Reset {
            connection: ConnectionId(connection),
            token,
        },
    ))
}

impl Packet<'_> {
    /// Writes an Accept.
    pub fn emit_accept(handshake: HandshakeId, noise: &[u8], out: &mut Vec<u8>) {
        out.put_u8(ACCEPT);
        out.put_u32(handshake.0);
        out.put_slice(noise);
    }

    /// Writes a Retry.
    pub fn emit_retry(handshake: HandshakeId, cookie: &Cookie, out: &mut Vec<u8>) {
        out.put_u8(RETRY);
        out.put_u32(handshake.0);
        out.put_slice(cookie);
        append_crc(out);
    }

    /// Writes the bytes of a Resumed before the sealed part.
    pub fn emit_resumed_header(nonce: &ResumeNonce, out: &mut Vec<u8>) {
        out.put_u8(RESUMED);
        out.put_slice(nonce);
    }

    /// Writes a Reset.
    pub fn emit_reset(connection: ConnectionId, token: &ResetToken, out: &mut Vec<u8>) {
        out.put_u8(RESET);
        out.put_u32(connection.0);
        out.put_slice(token);
    }
}

fn parse_link<'a>(datagram: &'a [u8], kind: u8, input: &'a [u8]) -> Parsed<'a, Packet<'a>> {
    if kind & RESERVED != 0 {
        return Malformed::error("packet: its reserved bits are not zero");
    }
    let (input, connection) = if kind & HAS_CONNECTION == 0 {
        (input, None)
    } else {
        be_u32(input).map(|(rest, id)| (rest, Some(ConnectionId(id))))?
    };
    let Some(number_len) = NumberLen::from_code((kind & NUMBER_MASK) >> NUMBER_SHIFT) else {
        return Malformed::error("packet number length");
    };
    let (body, number) = take(number_len.bytes())(input)?;
    let truncated = number.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
    let (_, header) = take(datagram.len() - body.len())(datagram)?;
    let protection = if kind & SEALED == 0 {
        Protection::Plain
    } else {
        Protection::Sealed
    };
    let packet = LinkPacket {
        protection,
        connection,
        truncated,
        number_len,
        header,
        body,
    };
    Ok((&[], Packet::Link(packet)))
}

/// Writes the clear header of a link's packet: the first byte, the receiver's connection id if it
/// wants one, and as many bytes of the number as the receiver needs.
#[expect(
    clippy::cast_possible_truncation,
    reason = "only the low bytes of a packet number travel"
)]
pub fn link_header(
    protection: Protection,
    connection: Option<ConnectionId>,
    number: PacketNumber,
    acknowledged: Option<PacketNumber>,
    out: &mut Vec<u8>,
) {
    let number_len = number.wire_len(acknowledged);
    let sealed = if protection == Protection::Sealed {
        SEALED
    } else {
        0
    };
    let has_connection = if connection.is_some() {
        HAS_CONNECTION
    } else {
        0
    };
    let len_code = number_len.code();
    out.put_u8(LINK_FORM | sealed | has_connection | len_code << NUMBER_SHIFT);
    if let Some(connection) = connection {
        out.put_u32(connection.0);
    }
    match number_len {
        NumberLen::One => out.put_u8(number.0 as u8),
        NumberLen::Two => out.put_u16(number.0 as u16),
        NumberLen::Four => out.put_u32(number.0 as u32),
    }
}
