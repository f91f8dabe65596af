//! The Init, with which a device opens a link that it cannot resume.

use alloc::vec::Vec;

use bytes::BufMut;
use nom::number::complete::{be_u8, be_u32};

use super::{Malformed, Parsed};

pub(super) const INIT: u8 = 0x03;
pub(super) const INIT_WITH_COOKIE: u8 = 0x13;
/// The length of the first MAC of an Init, in bytes.
pub(super) const MAC1_LEN: usize = 8;
/// The only protocol version.
pub const PROTOCOL_VERSION: u8 = 1;
/// The id of one handshake. To its responder it claims a life of the store; to everybody else it is
/// random (HS-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandshakeId(pub u32);
/// A cookie that a responder under load sends, and expects back.
pub type Cookie = [u8; 16];

/// The first packet of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init<'a> {
    /// The version that the initiator speaks.
    pub version: u8,
    /// The handshake's id.
    pub handshake: HandshakeId,
    /// Noise message 1.
    pub noise: &'a [u8],
    /// Shows that the sender knows the realm's public key.
    pub mac1: [u8; MAC1_LEN],
    /// The cookie of a Retry.
    pub cookie: Option<Cookie>,
    /// The bytes that mac1 covers: all before it.
    pub covered: &'a [u8],
}

impl<'a> Init<'a> {
    pub(super) fn parse(datagram: &'a [u8], input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, version) = be_u8(input)?;
        let (input, handshake) = be_u32(input)?;
        let (input, cookie) = if datagram.first() == Some(&INIT_WITH_COOKIE) {
            match input.split_last_chunk() {
                Some((before, cookie)) => (before, Some(*cookie)),
                None => return Malformed::error("init"),
            }
        } else {
            (input, None)
        };
        let Some((noise, mac1)) = input.split_last_chunk() else {
            return Malformed::error("init");
        };
        // Kind, version and handshake id come before the Noise message.
        let Some(covered) = datagram.get(..6 + noise.len()) else {
            return Malformed::error("init");
        };
        Ok((
            &[],
            Self {
                version,
                handshake: HandshakeId(handshake),
                noise,
                mac1: *mac1,
                cookie,
                covered,
            },
        ))
    }

    /// Writes an Init without a cookie up to its mac1, which the caller appends.
    pub fn emit_without_cookie(handshake: HandshakeId, noise: &[u8], out: &mut Vec<u8>) {
        Self::emit_covered(handshake, false, noise, out);
    }

    /// Writes an Init up to its mac1. The caller appends mac1 and the cookie.
    pub fn emit_with_cookie(handshake: HandshakeId, noise: &[u8], out: &mut Vec<u8>) {
        Self::emit_covered(handshake, true, noise, out);
    }

    /// Writes the bytes that mac1 covers. The caller appends mac1, and the cookie if there is one.
    pub(crate) fn emit_covered(
        handshake: HandshakeId,
        with_cookie: bool,
        noise: &[u8],
        out: &mut Vec<u8>,
    ) {
        out.put_u8(if with_cookie { INIT_WITH_COOKIE } else { INIT });
        out.put_u8(PROTOCOL_VERSION);
        out.put_u32(handshake.0);
        out.put_slice(noise);
    }
}
