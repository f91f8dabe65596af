//! The mark: a small file beside the store that notes how far the store had come. If files of the
//! engine are missing, the engine continues with the others, or with an empty store if all are
//! missing. So the number of files must be noted elsewhere.
//!
//! The mark is written at each start, at each stop and every ten seconds, so it may be behind, and
//! is never ahead. Magic 8, token 8, sequence number 8, version 8, journal 8, CRC-32 of these 4,
//! big-endian.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::{super::Version, journal::Record};

const FILE: &str = "store.mark";
/// The mark while it is written.
const FILE_NEW: &str = "store.mark.new";
const MAGIC: &[u8; 8] = b"MPMARK1\n";
const BYTES: usize = 44;

/// A state that the store has certainly reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The token in the seals of its groups.
    pub token: [u8; 8],
    /// The engine's sequence number of the first commit that may have such a seal.
    pub sealed_from: u64,
    /// A version that was durable.
    pub version: Version,
    /// The number of its newest journal.
    pub journal: u64,
}

/// The result of reading a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredMark {
    Mark(Mark),
    /// No mark: the store is new, or an earlier release has written it.
    Nothing,
    /// The mark is invalid.
    Unreadable,
}

impl Mark {
    /// Reads the mark in a data directory.
    pub fn read(directory: &Path) -> io::Result<StoredMark> {
        match fs::read(directory.join(FILE)) {
            Ok(bytes) => Ok(Self::parse(&bytes).map_or(StoredMark::Unreadable, StoredMark::Mark)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(StoredMark::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Writes the mark. After a crash either this one or the one before exists.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        let (place, fresh) = (directory.join(FILE), directory.join(FILE_NEW));
        let mut file = File::create(&fresh)?;
        file.write_all(&self.to_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, &place)?;
        sync_directory(directory)
    }

    /// True if this store wrote a record, and not a user whose data looks like one.
    pub fn is_own(&self, record: &Record) -> bool {
        record.sequence < self.sealed_from
            || record.seal.is_some_and(|seal| seal.token == self.token)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (said, checksum) = bytes.split_last_chunk()?;
        if crc32fast::hash(said) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let rest = said.strip_prefix(MAGIC)?;
        let (token, rest) = rest.split_first_chunk()?;
        let (sealed_from, rest) = rest.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let journal = rest.try_into().ok()?;
        Some(Self {
            token: *token,
            sealed_from: u64::from_be_bytes(*sealed_from),
            version: Version(u64::from_be_bytes(*version)),
            journal: u64::from_be_bytes(journal),
        })
    }

    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.token);
        for number in [self.sealed_from, self.version.0, self.journal] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

/// Makes the last renames in a directory durable.
#[cfg(unix)]
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}
