//! OPEN, WELCOME and UPDATE: the first frames of the two sides of a link (LINK-2).
//!
//! ```text
//! OPEN     max_datagram varint, flags 1, [connection id 4, token 16]
//! WELCOME  token 16, max_datagram varint, flags 1, highest operation varint, [successor 32], [life 4]
//! UPDATE   flags 1, [token 16, highest operation varint], [life 4]
//! ```

use bytes::BufMut;
use nom::{
    Parser,
    combinator::cond,
    number::complete::{be_u8, be_u32},
};

use super::{
    ConnectionId, Malformed, OperationNumber, Parsed, ResetToken, array, emit_varint, parse_varint,
};

const OPEN_HAS_NAME: u8 = 0x01;
const OPEN_RESUMES: u8 = 0x02;
const UPDATE_HAS_STANDING: u8 = 0x01;
const UPDATE_HAS_LIFE: u8 = 0x02;
const WELCOME_KNOWN: u8 = 0x01;
const WELCOME_HAS_SUCCESSOR: u8 = 0x02;
const WELCOME_LIFE_UNKNOWN: u8 = 0x04;
const WELCOME_HAS_LIFE: u8 = 0x08;
const WELCOME_FINAL: u8 = 0x10;
const WELCOME_FLAGS: u8 =
    WELCOME_KNOWN | WELCOME_HAS_SUCCESSOR | WELCOME_LIFE_UNKNOWN | WELCOME_HAS_LIFE | WELCOME_FINAL;

/// A life of a realm's store (HS-14): the time from one opening of the store to the next. It is
/// random, so that a store that is restored from a backup never reuses a life of the lost store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(pub [u8; 4]);

impl Life {
    /// The life that a client without a known life claims. No life has this value.
    pub const NONE: Self = Self([0; 4]);
}

/// The initiator's first frame, in its Init or in its first plain packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The largest datagram that it accepts, in bytes.
    pub max_datagram: u64,
    /// Its name for the link, if the realm's address alone is not enough: realms send it, clients
    /// do not.
    pub name: Option<LinkName>,
    /// True if it intends to resume the link later (HS-18).
    pub resumes: bool,
}

/// How a link's initiator tells it from its other links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkName {
    /// The connection id of packets to it.
    pub connection: ConnectionId,
    /// The token of its Reset of this link.
    pub token: ResetToken,
}

/// The responder's answer to [`Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The token of a Reset of this link.
    pub token: ResetToken,
    /// The largest datagram that it accepts, in bytes.
    pub max_datagram: u64,
    /// True if the initiator's key has a session here.
    pub known: bool,
    /// The highest operation number that the realm has seen from this key.
    pub highest: OperationNumber,
    /// The realm's new key, if the link was opened to a former one. The former key thereby vouches
    /// for it.
    pub successor: Option<[u8; 32]>,
    /// The store's current life, if the initiator did not claim it.
    pub life: Option<Life>,
    /// True if the store does not know the life that the initiator claimed: the initiator's cursors
    /// belong to a lost store.
    pub is_life_unknown: bool,
    /// True if links to the realm cannot be resumed (HS-18).
    pub is_final: bool,
}

impl Open {
    pub(super) fn parse(input: &[u8]) -> Parsed<'_, Self> {
        let (input, (max_datagram, flags)) = (parse_varint, be_u8).parse(input)?;
        if flags & !(OPEN_HAS_NAME | OPEN_RESUMES) != 0 {
            return Malformed::error("open: flags this version does not know");
        }
        let (input, name) = cond(flags & OPEN_HAS_NAME != 0, (be_u32, array)).parse(input)?;
        let name = name.map(|(id, token)| LinkName {
            connection: ConnectionId(id),
            token,
        });
        Ok((
            input,
            Self {
                max_datagram,
                name,
                resumes: flags & OPEN_RESUMES != 0,
            },
        ))
    }

    pub(super) fn emit(&self, out: &mut impl BufMut) {
        emit_varint(self.max_datagram, out);
        let flags = [
            (self.name.is_some(), OPEN_HAS_NAME),
            (self.resumes, OPEN_RESUMES),
        ];
        out.put_u8(set(&flags));
        if let Some(name) = self.name {
            out.put_u32(name.connection.0);
            out.put_slice(&name.token);
        }
    }
}

/// Returns the flags that are set, in one byte.
fn set(flags: &[(bool, u8)]) -> u8 {
    let set = flags.iter().filter(|(is_set, _)| *is_set);
    set.fold(0, |flags, (_, flag)| flags | flag)
}

/// The responder's news for the initiator of a resumed link, if there is any (HS-19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The token of a Reset of the link, and the highest operation number that the realm has seen
    /// from this key.
    pub standing: Option<(ResetToken, OperationNumber)>,
    /// The store's current life, if the initiator knows another.
    pub life: Option<Life>,
}

impl Update {
    pub(super) fn parse(input: &[u8]) -> Parsed<'_, Self> {
        let (input, flags) = be_u8(input)?;
        if flags & !(UPDATE_HAS_STANDING | UPDATE_HAS_LIFE) != 0 {
            return Malformed::error("update: flags this version does not know");
        }
        let (input, (standing, life)) = (
            cond(flags & UPDATE_HAS_STANDING != 0, (array, parse_varint)),
            cond(flags & UPDATE_HAS_LIFE != 0, array),
        )
            .parse(input)?;
        Ok((
            input,
            Self {
                standing: standing.map(|(token, highest)| (token, OperationNumber(highest))),
                life: life.map(Life),
            },
        ))
    }

    pub(super) fn emit(&self, out: &mut impl BufMut) {
        let flags = [
            (self.standing.is_some(), UPDATE_HAS_STANDING),
            (self.life.is_some(), UPDATE_HAS_LIFE),
        ];
        out.put_u8(set(&flags));
        if let Some((token, highest)) = &self.standing {
            out.put_slice(token);
            emit_varint(highest.0, out);
        }
        if let Some(Life(life)) = &self.life {
            out.put_slice(life);
        }
    }
}

impl Welcome {
    pub(super) fn parse(input: &[u8]) -> Parsed<'_, Self> {
        let (input, (token, max_datagram, flags, highest)) =
            (array, parse_varint, be_u8, parse_varint).parse(input)?;
        if flags & !WELCOME_FLAGS != 0 {
            return Malformed::error("welcome: flags this version does not know");
        }
        let known = flags & WELCOME_KNOWN != 0;
        let (input, (successor, life)) = (
            cond(flags & WELCOME_HAS_SUCCESSOR != 0, array),
            cond(flags & WELCOME_HAS_LIFE != 0, array),
        )
            .parse(input)?;
        Ok((
            input,
            Self {
                token,
                max_datagram,
                known,
                highest: OperationNumber(highest),
                successor,
                life: life.map(Life),
                is_life_unknown: flags & WELCOME_LIFE_UNKNOWN != 0,
                is_final: flags & WELCOME_FINAL != 0,
            },
        ))
    }

    pub(super) fn emit(&self, out: &mut impl BufMut) {
        out.put_slice(&self.token);
        emit_varint(self.max_datagram, out);
        let flags = [
            (self.known, WELCOME_KNOWN),
            (self.successor.is_some(), WELCOME_HAS_SUCCESSOR),
            (self.is_life_unknown, WELCOME_LIFE_UNKNOWN),
            (self.life.is_some(), WELCOME_HAS_LIFE),
            (self.is_final, WELCOME_FINAL),
        ];
        out.put_u8(set(&flags));
        emit_varint(self.highest.0, out);
        if let Some(successor) = &self.successor {
            out.put_slice(successor);
        }
        if let Some(Life(life)) = &self.life {
            out.put_slice(life);
        }
    }
}
