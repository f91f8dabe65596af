//! Names of users, groups and realms: 1–32 bytes of `a-z 0-9 . _ -` that begin with a letter or a
//! digit (WIRE-3). A value of these types is always valid. The types are small and copied freely.

use alloc::{format, string::String};
use core::{fmt, str::FromStr};

use bytes::BufMut;
use nom::{Parser, multi::length_data, number::complete::be_u8};

use super::{Field, Malformed, Parsed};

/// The longest name, in bytes.
const NAME_MAX: usize = 32;

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// The text is empty.
    #[error("a name may not be empty: give 1 to {NAME_MAX} of a-z 0-9 . _ -")]
    Empty,
    /// More than 32 bytes; the number of bytes.
    #[error("a name has at most {NAME_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// A character that is not allowed in names.
    #[error(
        "a name is made of a-z 0-9 . _ - and begins with a letter or a digit: {} is not allowed there",
        Self::describe(*.0)
    )]
    Character(char),
}

impl InvalidName {
    /// Describes a character for a message: an invisible one, or one that controls a terminal, by
    /// its name and number.
    pub fn describe(character: char) -> String {
        let number = u32::from(character);
        match character {
            ' ' => "a space".into(),
            '\n' => format!("a line end (U+{number:04X})"),
            '\t' => format!("a tab (U+{number:04X})"),
            '\0' => format!("NUL (U+{number:04X})"),
            '\u{1b}' => format!("ESC (U+{number:04X})"),
            _ if character.is_ascii_graphic() => format!("{character:?}"),
            _ if character.is_alphabetic() => format!("{character:?} (U+{number:04X})"),
            _ => format!("U+{number:04X}"),
        }
    }
}

/// The bytes of a name, inline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name {
    bytes: [u8; NAME_MAX],
    len: u8,
}

impl Name {
    /// Reads a name as people type it: capital letters are folded to small ones.
    fn fold(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        Self::fold_bytes(text.as_bytes()).map_err(|at| {
            // All characters before it are single bytes.
            match text.chars().nth(at) {
                Some(character) if at < NAME_MAX => InvalidName::Character(character),
                _ => InvalidName::TooLong(text.len()),
            }
        })
    }

    /// As [`Name::fold`], for bytes. The error is the offset of the first invalid byte; an empty
    /// name is an error, too.
    fn fold_bytes(text: &[u8]) -> Result<Self, usize> {
        let mut bytes = [0; NAME_MAX];
        let mut places = bytes.iter_mut();
        let mut len = 0;
        for (at, byte) in text.iter().enumerate() {
            let folded = byte.to_ascii_lowercase();
            let fits = matches!(folded, b'a'..=b'z' | b'0'..=b'9')
                || (at > 0 && matches!(folded, b'.' | b'_' | b'-'));
            match places.next() {
                Some(place) if fits => *place = folded,
                Some(_) | None => return Err(at),
            }
            len += 1;
        }
        Ok(Self { bytes, len })
    }

    /// No default is ever taken here or in [`Name::as_str`]: `fold_bytes` and `Handle::of_session`
    /// make all names, and they are at most `NAME_MAX` bytes of ASCII.
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn parse(input: &[u8]) -> Parsed<'_, Self> {
        let (rest, bytes) = length_data(be_u8).parse(input)?;
        Ok((rest, Self::exact(bytes)?))
    }

    /// Reads a name from the wire, where capital letters are refused and not folded.
    fn exact(bytes: &[u8]) -> Result<Self, nom::Err<Malformed>> {
        match Self::fold_bytes(bytes) {
            Ok(name) if !bytes.is_empty() && name.as_bytes() == bytes => Ok(name),
            _ => Malformed::error("name"),
        }
    }

    fn emit(&self, out: &mut impl BufMut) {
        out.put_u8(self.len);
        out.put_slice(self.as_bytes());
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $Type:ident)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $Type(Name);

        impl $Type {
            /// Returns the name's text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// Returns the bytes of its text.
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl FromStr for $Type {
            type Err = InvalidName;

            /// Reads a name as people type it; capital letters are folded to small ones.
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Name::fold(text).map(Self)
            }
        }

        impl<'a> Field<'a> for $Type {
            fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
                Name::parse(input).map(|(rest, name)| (rest, Self(name)))
            }

            fn emit(&self, out: &mut impl BufMut) {
                self.0.emit(out);
            }

            fn parse_last(input: &'a [u8]) -> Parsed<'a, Self> {
                Ok((&[], Self(Name::exact(input)?)))
            }

            fn emit_last(&self, out: &mut impl BufMut) {
                out.put_slice(self.as_bytes());
            }
        }

        impl fmt::Display for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($Type), "({})"), self.as_str())
            }
        }
    )* };
}

names! {
    /// The name of a user within a realm.
    Username
    /// The name of a group within a realm.
    GroupName
    /// The name under which a realm knows a peer, or introduces itself.
    RealmId
    /// The short public name of a session, by which its owner can revoke it.
    Handle
}

impl Username {
    /// Returns the number of bytes of its text: at most 32.
    pub(super) const fn len(&self) -> u8 {
        self.0.len
    }
}

impl RealmId {
    /// Returns the number of bytes of its text: at most 32.
    pub(super) const fn len(&self) -> u8 {
        self.0.len
    }
}

impl Handle {
    /// Returns the handle of the session with this hash: the first 30 bits of it, in base 32.
    pub fn of_session(hash: &[u8; 16]) -> Self {
        const DIGITS: u8 = 6;
        let [a, b, c, d, ..] = *hash;
        let mut left = u32::from_be_bytes([a, b, c, d]);
        let mut bytes = [0; NAME_MAX];
        for byte in bytes.iter_mut().take(usize::from(DIGITS)) {
            let [first, ..] = left.to_be_bytes();
            *byte = match first >> 3 {
                digit @ 0..26 => b'a' + digit,
                digit => b'2' + (digit - 26),
            };
            left <<= 5;
        }
        let len = DIGITS;
        Self(Name { bytes, len })
    }
}

/// A group's name is also valid as a user's name: the group is the author if nobody else is.
impl From<GroupName> for Username {
    fn from(group: GroupName) -> Self {
        Self(group.0)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn name_typed_with_capitals_is_folded() {
        assert_eq!(
            "Bob.Smith-2".parse::<Username>().unwrap().as_str(),
            "bob.smith-2"
        );
    }

    /// WIRE-3
    #[test]
    fn name_invalid_is_refused_with_reason() {
        assert_eq!("".parse::<Username>(), Err(InvalidName::Empty));
        assert_eq!("-x".parse::<Username>(), Err(InvalidName::Character('-')));
        assert_eq!("a b".parse::<Username>(), Err(InvalidName::Character(' ')));
        assert_eq!("é".parse::<Username>(), Err(InvalidName::Character('é')));
        assert_eq!(
            "a".repeat(33).parse::<Username>(),
            Err(InvalidName::TooLong(33))
        );
        assert!("a".repeat(32).parse::<Username>().is_ok());
        let said = |text: &str| format!("{}", text.parse::<Username>().unwrap_err());
        assert!(said("a\u{1b}b").contains("ESC (U+001B) is not allowed"));
        assert!(said("a\nb").contains("a line end (U+000A)"));
        assert!(said("a\u{202e}b").contains(": U+202E"));
    }

    /// SES-5: a handle is the beginning of the hash in the base 32 that people read.
    #[test]
    fn handle_of_session_is_beginning_of_hash() {
        let mut hash = [0; 16];
        for seed in 0..=u8::MAX {
            for (at, byte) in (1..).zip(&mut hash) {
                *byte = seed
                    .wrapping_mul(31)
                    .wrapping_add(seed.wrapping_mul(at) ^ at);
            }
            let text = data_encoding::BASE32_NOPAD.encode(&hash).to_lowercase();
            assert_eq!(Handle::of_session(&hash), text[..6].parse().unwrap());
        }
        assert_eq!(Handle::of_session(&[0xff; 16]).as_str(), "777777");
    }

    /// WIRE-3: a name has only one spelling; a second one could be mistaken for a second account.
    #[test]
    fn name_with_capitals_on_wire_is_refused() {
        assert!(Username::parse(b"\x03Bob").is_err());
        assert!(Username::parse_last(b"Bob").is_err());
        let mut out = Vec::new();
        "bob".parse::<Username>().unwrap().emit(&mut out);
        assert_eq!(out, b"\x03bob");
    }
}
