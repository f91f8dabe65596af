//! Where things stand in the one keyspace of the embedded engine: the first byte says what a record is.
//!
//! ```text
//! f                                format number 4
//! v                                the last version given out, 8
//! k key                            version 8, value
//! l name length 1, name, position 8     entry
//! t name length 1, name            position 8: the log's entries below it are gone
//! ```
//!
//! Keys are emitted in one order only, so a prefix of the keyspace is a kind, a log, a range of keys.

use super::super::{Key, Log, Position, Prefix, Version, Versioned};

/// The layout this release writes. A newer one is refused, an older one is read.
pub const FORMAT: u32 = 1;

pub const FORMAT_KEY: &[u8] = b"f";
pub const VERSION_KEY: &[u8] = b"v";

pub fn key(key: &Key) -> Vec<u8> {
    [b"k", key.0.as_slice()].concat()
}

pub fn prefix(prefix: &Prefix) -> Vec<u8> {
    [b"k", prefix.0.as_slice()].concat()
}

/// The key that a keyspace key stands for.
pub fn parse_key(stored: &[u8]) -> Key {
    Key(stored.get(1..).unwrap_or_default().to_vec())
}

pub fn value(version: Version, value: &[u8]) -> Vec<u8> {
    [&version.0.to_be_bytes(), value].concat()
}

pub fn parse_value(stored: &[u8]) -> Option<Versioned> {
    let (version, value) = stored.split_first_chunk()?;
    Some(Versioned {
        version: Version(u64::from_be_bytes(*version)),
        value: value.to_vec(),
    })
}

fn named(kind: u8, log: &Log) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + log.0.len() + 8);
    out.push(kind);
    out.push(u8::try_from(log.0.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(&log.0);
    out
}

/// What all entries of `log` begin with.
pub fn log(log: &Log) -> Vec<u8> {
    named(b'l', log)
}

pub fn entry(log: &Log, position: Position) -> Vec<u8> {
    let mut out = named(b'l', log);
    out.extend_from_slice(&position.0.to_be_bytes());
    out
}

/// The position in an entry's keyspace key.
pub fn parse_entry_position(stored: &[u8]) -> Position {
    let position = stored.last_chunk().copied().unwrap_or_default();
    Position(u64::from_be_bytes(position))
}

pub fn trimmed(log: &Log) -> Vec<u8> {
    named(b't', log)
}

pub fn number(stored: &[u8]) -> u64 {
    u64::from_be_bytes(stored.first_chunk().copied().unwrap_or_default())
}
