//! The layout of the embedded engine's one keyspace: the first byte gives the kind of a record.
//!
//! ```text
//! f                                format number 4
//! v                                version 8: values put up to it are under their own keys
//! g place in the ring 2            the values of a group: key length 1, key, version 8, value length + 1 or 0 if it
//!                                  was deleted 4, value; and so on
//! k key                            version 8, value
//! l name length 1, name, position 8     entry
//! t name length 1, name            position 8: the log's entries below it are gone
//! s                                token 8, version 8: the seal of the last group
//! ```
//!
//! Each key has only one encoding, so a prefix of the keyspace is a kind, a log, or a range of
//! keys.

use bytes::Bytes;
use smallvec::SmallVec;

use super::super::{Key, Log, Position, Prefix, Version, Versioned, concat};

/// The layout version that this release writes. A newer one is refused, an older one is read.
pub const FORMAT: u32 = 2;

pub const FORMAT_KEY: &[u8] = b"f";
pub const VERSION_KEY: &[u8] = b"v";

/// Parses a format number, which a newer release may have followed by more. None if it is damaged.
pub fn parse_format(stored: &[u8]) -> Option<u32> {
    stored.first_chunk().copied().map(u32::from_be_bytes)
}

/// The latest state of a key: a value, or none if it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latest {
    pub version: Version,
    pub value: Option<Bytes>,
}

impl Latest {
    /// Returns the value and its version, if there is a value.
    pub fn versioned(&self) -> Option<Versioned> {
        self.value.as_ref().map(|value| Versioned {
            version: self.version,
            value: value.clone(),
        })
    }
}

/// The key of a record. Nearly all are stored inline.
pub type Place = SmallVec<[u8; 48]>;

pub fn key(key: &Key) -> Place {
    concat(&[b"k", &key.0])
}

pub fn prefix(prefix: &Prefix) -> Place {
    concat(&[b"k", &prefix.0])
}

/// Returns the first place behind all keys that begin with `prefix`, which must have a byte that is
/// not 255.
pub fn after_prefix(prefix: &[u8]) -> Place {
    let mut end: Place = prefix.into();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

/// Returns the first place behind that of `key`.
pub fn after(key: &Key) -> Place {
    concat(&[b"k", &key.0, &[0]])
}

/// Parses the key in a keyspace key. None if it is damaged.
pub fn parse_key(stored: &[u8]) -> Option<Key> {
    Some(Key(stored.strip_prefix(b"k")?.into()))
}

/// Appends the record of a value under its own key.
pub fn add_value(stored: &mut Vec<u8>, version: Version, value: &[u8]) {
    stored.extend_from_slice(&version.0.to_be_bytes());
    stored.extend_from_slice(value);
}

pub fn parse_value(stored: &[u8]) -> Option<Versioned> {
    let (version, value) = stored.split_first_chunk()?;
    Some(Versioned {
        version: Version(u64::from_be_bytes(*version)),
        value: Bytes::copy_from_slice(value),
    })
}

/// The prefix of the rows of all groups.
pub const ROW_PREFIX: &[u8] = b"g";

pub fn row_key(at: u16) -> Place {
    concat(&[ROW_PREFIX, &at.to_be_bytes()])
}

/// Appends the latest state of a key to the row of its group. None if the key or the value is too
/// long for that: the row could not be parsed.
pub fn add_to_row(row: &mut Vec<u8>, key: &Key, latest: &Latest) -> Option<()> {
    row.push(u8::try_from(key.0.len()).ok()?);
    row.extend_from_slice(&key.0);
    row.extend_from_slice(&latest.version.0.to_be_bytes());
    let (len, value) = match &latest.value {
        Some(value) => (u32::try_from(value.len()).ok()?.checked_add(1)?, &value[..]),
        None => (0, &[][..]),
    };
    row.extend_from_slice(&len.to_be_bytes());
    row.extend_from_slice(value);
    Some(())
}

/// Parses a row: its place in the ring, and its contents. None if it is damaged.
pub fn parse_row(key: &[u8], row: &[u8]) -> Option<(u16, Vec<(Key, Latest)>)> {
    let at = key.strip_prefix(ROW_PREFIX)?.try_into().ok()?;
    let mut values = Vec::new();
    let mut rest = row;
    while let Some((len, after)) = rest.split_first() {
        let (key, after) = after.split_at_checked((*len).into())?;
        let (version, after) = after.split_first_chunk()?;
        let (len, after) = after.split_first_chunk()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        let (value, after) = after.split_at_checked(len.saturating_sub(1))?;
        let latest = Latest {
            version: Version(u64::from_be_bytes(*version)),
            value: (len > 0).then(|| Bytes::copy_from_slice(value)),
        };
        values.push((Key(key.into()), latest));
        rest = after;
    }
    Some((u16::from_be_bytes(at), values))
}

/// The key of the seal. Each group overwrites the seal of the one before.
pub const SEAL_KEY: &[u8] = b"s";
pub const SEAL_BYTES: usize = 16;

/// The seal that marks a group's record in the engine's journal as written by this store. A search
/// for records behind an unreadable place also meets data of users, which may look just like a
/// record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// A random token that only the store knows.
    pub token: [u8; 8],
    /// The version of the store after this group.
    pub version: Version,
}

impl Seal {
    pub fn parse(stored: &[u8]) -> Option<Self> {
        let (token, version) = stored.split_first_chunk()?;
        let version = Version(u64::from_be_bytes(version.try_into().ok()?));
        let token = *token;
        Some(Self { token, version })
    }

    pub fn to_bytes(self) -> [u8; SEAL_BYTES] {
        let mut bytes = [0; SEAL_BYTES];
        let (token, version) = bytes.split_at_mut(self.token.len());
        token.copy_from_slice(&self.token);
        version.copy_from_slice(&self.version.0.to_be_bytes());
        bytes
    }
}

fn named(kind: u8, log: &Log) -> Place {
    // No commit takes a longer name, and the place of one begins that of no record.
    let len = u8::try_from(log.0.len()).unwrap_or(u8::MAX);
    concat(&[&[kind, len], &log.0])
}

/// The prefix of all entries of all logs.
pub const LOG_PREFIX: &[u8] = b"l";
/// The first place behind all entries.
pub const LOGS_END: &[u8] = b"m";

/// Returns the first place behind the entries of `log`.
pub fn after_log(log: &Log) -> Place {
    let mut out = entry(log, Position(u64::MAX));
    out.push(0);
    out
}

/// Parses the log in an entry's keyspace key.
pub fn parse_log(stored: &[u8]) -> Option<Log> {
    let (len, rest) = stored.strip_prefix(LOG_PREFIX)?.split_first()?;
    Some(Log(rest.get(..usize::from(*len))?.into()))
}

/// Returns the prefix of all entries of `log`.
pub fn log(log: &Log) -> Place {
    named(b'l', log)
}

pub fn entry(log: &Log, position: Position) -> Place {
    let mut out = named(b'l', log);
    out.extend_from_slice(&position.0.to_be_bytes());
    out
}

/// Parses the position in an entry's keyspace key. None if it is damaged.
pub fn parse_entry_position(stored: &[u8]) -> Option<Position> {
    let (len, rest) = stored.strip_prefix(LOG_PREFIX)?.split_first()?;
    let position = rest.get(usize::from(*len)..)?;
    number(position).map(Position)
}

pub fn trimmed(log: &Log) -> Place {
    named(b't', log)
}

/// Parses a record that is one number. None if it is damaged.
pub fn number(stored: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(stored.try_into().ok()?))
}
