//! The field types of commands and answers. A field in the middle carries its length if that
//! varies. The last field of a message runs to the message's end and carries none (WIRE-4).

use core::fmt;

use bytes::BufMut;
use nom::{
    Parser,
    multi::length_data,
    number::complete::{be_u8, be_u16, be_u64},
};

use super::{Malformed, Parsed, array, emit_varint, parse_varint};

/// The shortest password of a user, in bytes (ACC-2).
pub const PASSWORD_MIN: usize = 8;
/// The longest password, in bytes (ACC-2).
pub const PASSWORD_MAX: usize = 128;

/// A field of a message.
pub trait Field<'a>: Sized {
    /// Reads the field if others follow.
    ///
    /// # Errors
    /// If the input ends too early or is not such a field.
    fn parse(input: &'a [u8]) -> Parsed<'a, Self>;

    /// Writes the field if others follow.
    fn emit(&self, out: &mut impl BufMut);

    /// Reads the field if it is the last; it must use up the input.
    ///
    /// # Errors
    /// As [`Field::parse`], and if bytes are left over.
    fn parse_last(input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, field) = Self::parse(input)?;
        if rest.is_empty() {
            Ok((rest, field))
        } else {
            Malformed::error("message: bytes are left over")
        }
    }

    /// Writes the field if it is the last.
    fn emit_last(&self, out: &mut impl BufMut) {
        self.emit(out);
    }

    /// True if the field is a secret.
    const IS_SECRET: bool = false;

    /// Returns the field if it is the operation of its command.
    fn operation_mut(&mut self) -> Option<&mut Operation> {
        None
    }

    /// Returns the field if it is the session of its command.
    fn session(&self) -> Option<SessionRef> {
        None
    }

    /// Returns the field if it is the session of its command.
    fn session_mut(&mut self) -> Option<&mut SessionRef> {
        None
    }

    /// Returns the field if it is a password.
    fn password_mut(&mut self) -> Option<&mut Password<'a>> {
        None
    }
}

/// An operation number: a device's number for a command that changes something (EXACT-1). 0 means
/// "not numbered".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationNumber(pub u64);

/// An entry's position in a mailbox. The first entry has position 1 or higher, and positions
/// increase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// An offset in a body, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

macro_rules! varint_fields {
    ($($Type:ident)*) => { $(
        impl<'a> Field<'a> for $Type {
            fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
                parse_varint(input).map(|(rest, n)| (rest, Self(n)))
            }

            fn emit(&self, out: &mut impl BufMut) {
                emit_varint(self.0, out);
            }
        }

        impl fmt::Display for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )* };
}

varint_fields! { Offset OperationNumber Position }

/// One byte.
impl<'a> Field<'a> for u8 {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        be_u8(input)
    }

    fn emit(&self, out: &mut impl BufMut) {
        out.put_u8(*self);
    }
}

/// Eight bytes, for numbers that are drawn at random: a varint would take more.
impl<'a> Field<'a> for u64 {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        be_u64(input)
    }

    fn emit(&self, out: &mut impl BufMut) {
        out.put_u64(*self);
    }
}

/// Keys and proofs, which have a fixed length.
impl<'a, const N: usize> Field<'a> for [u8; N] {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        array(input)
    }

    fn emit(&self, out: &mut impl BufMut) {
        out.put_slice(self);
    }
}

/// The operation of a command that changes something: its number, and a salt (EXACT-10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Operation {
    /// The device's operation number for the command.
    pub number: OperationNumber,
    /// Two random bytes, generated once for each attempt of a client and sent again with each
    /// repeat. The realm compares them, too, so two copies of one device never mean the same
    /// operation.
    pub salt: [u8; 2],
}

impl Operation {
    /// The operation of a command that has no number yet, or never gets one.
    pub const UNNUMBERED: Self = Self::new(0, [0; 2]);

    /// Returns an operation with this number and salt.
    pub const fn new(number: u64, salt: [u8; 2]) -> Self {
        Self {
            number: OperationNumber(number),
            salt,
        }
    }
}

impl<'a> Field<'a> for Operation {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, (number, salt)) = (OperationNumber::parse, array).parse(input)?;
        Ok((rest, Self { number, salt }))
    }

    fn emit(&self, out: &mut impl BufMut) {
        self.number.emit(out);
        out.put_slice(&self.salt);
    }

    fn operation_mut(&mut self) -> Option<&mut Operation> {
        Some(self)
    }
}

/// A UDP port; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);

impl<'a> Field<'a> for Port {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        be_u16(input).map(|(rest, n)| (rest, Self(n)))
    }

    fn emit(&self, out: &mut impl BufMut) {
        out.put_u16(self.0);
    }
}

/// A session id of 128 bits. On a plain link, the holder of the id controls the session. It is
/// shown only to its user and never logged, so `Debug` hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    /// Writes the displayed form: 26 characters of base 32.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            &data_encoding::BASE32_NOPAD
                .encode(&self.0)
                .to_ascii_lowercase(),
        )
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

impl core::str::FromStr for SessionId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        data_encoding::BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(Malformed {
                what: "session id: it is 26 letters and digits, as `auth` printed it",
            })
    }
}

impl<'a> Field<'a> for SessionId {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        array(input).map(|(rest, bytes)| (rest, Self(bytes)))
    }

    fn emit(&self, out: &mut impl BufMut) {
        out.put_slice(&self.0);
    }
}

/// The session that a command is for: one byte 0 for the session bound to this link, else the
/// length 16 and the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRef {
    /// The session bound to the link's device key.
    Bound,
    /// A session given by its id.
    Named(SessionId),
}

impl<'a> Field<'a> for SessionRef {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        match be_u8(input)? {
            (rest, 0) => Ok((rest, Self::Bound)),
            (rest, 16) => SessionId::parse(rest).map(|(rest, id)| (rest, Self::Named(id))),
            _ => Malformed::error("session"),
        }
    }

    fn emit(&self, out: &mut impl BufMut) {
        match self {
            Self::Bound => out.put_u8(0),
            Self::Named(id) => {
                out.put_u8(16);
                id.emit(out);
            }
        }
    }

    fn session(&self) -> Option<SessionRef> {
        Some(*self)
    }

    fn session_mut(&mut self) -> Option<&mut SessionRef> {
        Some(self)
    }
}

/// A member's role in a group: 0 member, 1 moderator, 2 owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// May read and write.
    Member,
    /// May also remove members.
    Moderator,
    /// May do everything; each group has one owner.
    Owner,
}

impl Role {
    const ALL: [Self; 3] = [Self::Member, Self::Moderator, Self::Owner];

    /// Returns the role's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Moderator => "moderator",
            Self::Owner => "owner",
        }
    }
}

impl core::str::FromStr for Role {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut all = Self::ALL.into_iter();
        all.find(|role| role.name() == text).ok_or(Malformed {
            what: "role: write member, moderator or owner",
        })
    }
}

impl<'a> Field<'a> for Role {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, number) = be_u8(input)?;
        match Self::ALL.get(usize::from(number)) {
            Some(role) => Ok((rest, *role)),
            None => Malformed::error("role"),
        }
    }

    fn emit(&self, out: &mut impl BufMut) {
        out.put_u8(*self as u8);
    }
}

/// UTF-8 text without control characters: a person's name, a country, a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(pub &'a str);

impl<'a> Text<'a> {
    fn checked(bytes: &'a [u8]) -> Result<Self, nom::Err<Malformed>> {
        match core::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => Ok(Self(text)),
            _ => Malformed::error("text"),
        }
    }
}

impl<'a> Field<'a> for Text<'a> {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (rest, bytes) = length_data(parse_varint).parse(input)?;
        Ok((rest, Self::checked(bytes)?))
    }

    fn emit(&self, out: &mut impl BufMut) {
        emit_varint(self.0.len() as u64, out);
        out.put_slice(self.0.as_bytes());
    }

    fn parse_last(input: &'a [u8]) -> Parsed<'a, Self> {
        Ok((&[], Self::checked(input)?))
    }

    fn emit_last(&self, out: &mut impl BufMut) {
        out.put_slice(self.0.as_bytes());
    }
}

macro_rules! byte_fields {
    ($($(#[$doc:meta])* $Type:ident { $($also:tt)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $Type<'a>(pub &'a [u8]);

        impl<'a> Field<'a> for $Type<'a> {
            fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
                length_data(parse_varint).parse(input).map(|(rest, bytes)| (rest, Self(bytes)))
            }

            fn emit(&self, out: &mut impl BufMut) {
                emit_varint(self.0.len() as u64, out);
                out.put_slice(self.0);
            }

            fn parse_last(input: &'a [u8]) -> Parsed<'a, Self> {
                Ok((&[], Self(input)))
            }

            fn emit_last(&self, out: &mut impl BufMut) {
                out.put_slice(self.0);
            }

            $($also)*
        }

        impl fmt::Debug for $Type<'_> {
            /// Writes only the length: messages and passwords must not get into logs.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($Type), "({} bytes)"), self.0.len())
            }
        }
    )* };
}

byte_fields! {
    /// A message's content.
    Body {}
    /// A password, or another secret that a person knows.
    Password {
        const IS_SECRET: bool = true;

        fn password_mut(&mut self) -> Option<&mut Password<'a>> {
            Some(self)
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString};

    use super::*;

    #[test]
    fn session_id_parses_as_shown() {
        let id = SessionId([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().len(), 26);
        assert!("short".parse::<SessionId>().is_err());
    }

    #[test]
    fn secrets_are_hidden_in_debug_output() {
        assert_eq!(
            format!("{:?} {:?}", Password(b"hunter22"), SessionId([7; 16])),
            "Password(8 bytes) SessionId(…)"
        );
    }

    /// WIRE-4
    #[test]
    fn field_last_uses_whole_message() {
        assert!(Port::parse_last(&[1, 2, 3]).is_err());
        assert_eq!(Text::parse_last(b"abc").unwrap().1, Text("abc"));
        assert!(Text::parse_last(b"a\x07c").is_err());
    }
}
