//! Names of mailboxes in commands, answers and events (`spec/wire.md`, "Entries").
//!
//! ```text
//! mailbox   kind 1 (0 private, 1 realm, 2 group, 3 realm's group), [realm], [group]
//! ```

use core::fmt;

use bytes::BufMut;
use nom::{Parser, number::complete::be_u8};

use super::{Field, GroupName, InvalidName, Malformed, Parsed, RealmId};

/// A mailbox of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mailbox {
    /// The user's private messages.
    Private,
    /// The user's private messages from one realm.
    Realm(RealmId),
    /// A group's messages.
    Group(GroupName),
    /// The replica of a group whose home is another realm.
    RealmGroup(RealmId, GroupName),
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str("private"),
            Self::Realm(realm) => write!(f, "private @{realm}"),
            Self::Group(group) => write!(f, "group {group}"),
            Self::RealmGroup(realm, group) => write!(f, "group {group}@{realm}"),
        }
    }
}

impl core::str::FromStr for Mailbox {
    type Err = InvalidName;

    /// Reads the displayed form.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(realm) = text.strip_prefix("private @") {
            return Ok(Self::Realm(realm.parse()?));
        }
        let Some(group) = text.strip_prefix("group ") else {
            return match text {
                "private" => Ok(Self::Private),
                _ => Err(InvalidName::Empty),
            };
        };
        Ok(match group.split_once('@') {
            Some((group, realm)) => Self::RealmGroup(realm.parse()?, group.parse()?),
            None => Self::Group(group.parse()?),
        })
    }
}

impl Mailbox {
    /// Reads the fields behind the kind.
    pub(super) fn parse_kind(kind: u8, input: &[u8]) -> Parsed<'_, Self> {
        match kind {
            0 => Ok((input, Self::Private)),
            1 => RealmId::parse(input).map(|(rest, realm)| (rest, Self::Realm(realm))),
            2 => GroupName::parse(input).map(|(rest, group)| (rest, Self::Group(group))),
            3 => {
                let (input, (realm, group)) = (RealmId::parse, GroupName::parse).parse(input)?;
                Ok((input, Self::RealmGroup(realm, group)))
            }
            _ => Malformed::error("mailbox kind"),
        }
    }

    /// Writes the mailbox, with `flag` set in its kind.
    pub(super) fn emit_flagged(&self, flag: u8, out: &mut impl BufMut) {
        match self {
            Self::Private => out.put_u8(flag),
            Self::Realm(realm) => {
                out.put_u8(1 | flag);
                realm.emit(out);
            }
            Self::Group(group) => {
                out.put_u8(2 | flag);
                group.emit(out);
            }
            Self::RealmGroup(realm, group) => {
                out.put_u8(3 | flag);
                realm.emit(out);
                group.emit(out);
            }
        }
    }
}

impl<'a> Field<'a> for Mailbox {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, kind) = be_u8(input)?;
        Self::parse_kind(kind, input)
    }

    fn emit(&self, out: &mut impl BufMut) {
        self.emit_flagged(0, out);
    }
}
