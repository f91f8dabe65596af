//! Reads the engine's journal files record by record, and checks each checksum.
//!
//! A journal is a file of records without gaps, and zeros behind the last: the engine makes it
//! 64 MiB long before it writes. Each commit is one record. Numbers are little-endian.
//!
//! ```text
//! 01  items 4, sequence number 8
//! 02  kind 1, compression 1, keyspace 8, key length 2, value length 4, stored length 4, key, stored value
//! 04  keyspace 8                       (all of it was deleted)
//! 03  checksum 8, "FJL" 03             (XXH3 of all items; of the first line nothing is under it)
//! ```
//!
//! The engine itself treats unreadable data as the end of the journal and cuts it off without a
//! message, with everything behind it. If only a checksum is wrong, the engine does not open. So
//! this module checks the journal first.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::Xxh3;

use super::layout;

/// The size of a record's start, in bytes.
const START_BYTES: usize = 13;
/// The size of an item before its key, in bytes.
const ITEM_BYTES: usize = 21;
/// The size of an item that clears a keyspace, in bytes.
const CLEAR_BYTES: usize = 9;
/// The size of a record's end, in bytes.
const END_BYTES: usize = 13;
/// The last bytes of a record.
const MAGIC: &[u8] = b"FJL\x03";
/// The limit of sequence numbers. The engine stops at twice as many.
const SEQUENCE_MAX: u64 = 1 << 62;
/// The maximum number of items examined in the search for a record. Data of users can look like the
/// start of many records.
const STEPS_MAX: u64 = 20_000_000;
/// The number of bytes read at once.
const WINDOW: usize = 128 << 10;

/// A record with a valid checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The offset of its first byte.
    pub at: u64,
    /// The offset behind its last byte.
    pub end: u64,
    /// The engine's sequence number of the commit. The next commit has a higher one.
    pub sequence: u64,
    /// The seal of the store, if there is one.
    pub seal: Option<layout::Seal>,
}

/// The contents at an offset of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// A record.
    Record(Record),
    /// The end: no data from here on.
    End,
    /// Invalid data.
    Bad,
}

/// A journal file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    len: u64,
    /// The bytes that were read last, and their offset.
    window: Vec<u8>,
    start: u64,
}

impl Journal {
    /// Opens the journal at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len,
            window: Vec::new(),
            start: 0,
        })
    }

    /// Returns `len` bytes at `at`. None if the file ends before.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<Option<&[u8]>> {
        let Some(end) = at.checked_add(len as u64).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        if at < self.start || end > self.start + self.window.len() as u64 {
            let take = (self.len - at).min(WINDOW.max(len) as u64);
            self.window.clear();
            self.start = at;
            self.file.seek(SeekFrom::Start(at))?;
            (&mut self.file).take(take).read_to_end(&mut self.window)?;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        Ok(self.window.get(from..).and_then(|rest| rest.get(..len)))
    }

    /// Returns the offset of the first byte at or behind `at` that is not zero.
    pub fn next_written(&mut self, at: u64) -> io::Result<Option<u64>> {
        let mut at = at;
        while at < self.len {
            at = match self.next_data(at)? {
                Some(at) => at,
                None => return Ok(None),
            };
            let take = window(self.len - at);
            let Some(bytes) = self.bytes(at, take)? else {
                return Ok(None);
            };
            if let Some(found) = bytes.iter().position(|byte| *byte != 0) {
                return Ok(Some(at + found as u64));
            }
            at += take as u64;
        }
        Ok(None)
    }

    /// Returns the offset behind the last byte that is not zero, from `at` on.
    pub fn written_end(&mut self, at: u64) -> io::Result<u64> {
        let (mut at, mut end) = (at, at);
        while let Some(found) = self.next_written(at)? {
            let take = window(self.len - found);
            let Some(bytes) = self.bytes(found, take)? else {
                break;
            };
            let last = bytes.iter().rposition(|byte| *byte != 0);
            end = found + last.map_or(0, |last| last as u64) + 1;
            at = found + take as u64;
        }
        Ok(end)
    }

    /// Skips the holes of a sparse file, which are most of a new journal.
    #[cfg(target_os = "linux")]
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        use rustix::{fs::SeekFrom, io::Errno};

        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            // Not every file system supports this.
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        Ok(Some(at))
    }

    /// Returns the contents at `at`.
    pub fn at(&mut self, at: u64) -> io::Result<Contents> {
        match self.record(at)? {
            Some(record) => Ok(Contents::Record(record)),
            None if self.next_written(at)?.is_none() => Ok(Contents::End),
            None => Ok(Contents::Bad),
        }
    }

    /// Returns the first record at or behind `at` for which `counts` holds. None if there is none,
    /// or if so much data looks like the start of a record that the search takes too long.
    pub fn next_record(
        &mut self,
        at: u64,
        counts: impl Fn(&Record) -> bool,
    ) -> io::Result<Option<Record>> {
        let (mut at, mut budget) = (at, STEPS_MAX);
        while let Some(found) = self.next_written(at)? {
            let outline = self.outline(found, &mut budget)?;
            if let Some((record, checksum)) = outline.filter(|(record, _)| counts(record))
                && self.is_sound(&record, checksum)?
            {
                return Ok(Some(record));
            }
            at = found + 1;
        }
        Ok(None)
    }

    /// Returns the record at `at`, if there is one with a valid checksum.
    fn record(&mut self, at: u64) -> io::Result<Option<Record>> {
        match self.outline(at, &mut { u64::MAX })? {
            Some((record, checksum)) if self.is_sound(&record, checksum)? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// Returns a record that parses at `at`, and its checksum, which is not yet checked.
    fn outline(&mut self, at: u64, budget: &mut u64) -> io::Result<Option<(Record, u64)>> {
        let Some((items, sequence)) = self.bytes(at, START_BYTES)?.and_then(parse_start) else {
            return Ok(None);
        };
        let (mut next, mut seal) = (at + START_BYTES as u64, None);
        for _ in 0..items {
            let Some(left) = budget.checked_sub(1) else {
                return Ok(None);
            };
            *budget = left;
            let tag = self.bytes(next, 1)?.and_then(<[u8]>::first).copied();
            next += match tag {
                Some(2) => {
                    let Some(item) = self.bytes(next, ITEM_BYTES)?.and_then(parse_item) else {
                        return Ok(None);
                    };
                    if item.may_be_seal() {
                        let place = next + ITEM_BYTES as u64;
                        let len = layout::SEAL_KEY.len() + layout::SEAL_BYTES;
                        seal = self.bytes(place, len)?.and_then(parse_seal).or(seal);
                    }
                    item.len()
                }
                Some(4) => CLEAR_BYTES as u64,
                _ => return Ok(None),
            };
        }
        let checksum = self.bytes(next, END_BYTES)?.and_then(parse_end);
        Ok(checksum.map(|checksum| {
            let end = next + END_BYTES as u64;
            let record = Record {
                at,
                end,
                sequence,
                seal,
            };
            (record, checksum)
        }))
    }

    /// Returns the offset where the record that starts at `at` ends by its own lengths, as far as
    /// they can be read: the data up to there belongs to that record.
    pub fn claimed_end(&mut self, at: u64) -> io::Result<u64> {
        let Some((items, _)) = self.bytes(at, START_BYTES)?.and_then(parse_start) else {
            return Ok(at);
        };
        let mut next = at + START_BYTES as u64;
        for _ in 0..items {
            let tag = self.bytes(next, 1)?.and_then(<[u8]>::first).copied();
            next += match tag {
                Some(2) => match self.bytes(next, ITEM_BYTES)?.and_then(parse_item) {
                    Some(item) => item.len(),
                    None => break,
                },
                Some(4) => CLEAR_BYTES as u64,
                _ => break,
            };
        }
        Ok(next)
    }

    /// True if the checksum matches the record's items.
    fn is_sound(&mut self, record: &Record, checksum: u64) -> io::Result<bool> {
        let mut hash = Xxh3::new();
        let (mut at, end) = (
            record.at + START_BYTES as u64,
            record.end - END_BYTES as u64,
        );
        while at < end {
            let take = window(end - at);
            let Some(bytes) = self.bytes(at, take)? else {
                return Ok(false);
            };
            hash.update(bytes);
            at += take as u64;
        }
        Ok(hash.digest() == checksum)
    }
}

/// Parses the number of items of a record, and its sequence number.
fn parse_start(bytes: &[u8]) -> Option<(u32, u64)> {
    let rest = bytes.strip_prefix(&[1])?;
    let (items, rest) = rest.split_first_chunk()?;
    let (sequence, _) = rest.split_first_chunk()?;
    let (items, sequence) = (u32::from_le_bytes(*items), u64::from_le_bytes(*sequence));
    (items > 0 && sequence < SEQUENCE_MAX).then_some((items, sequence))
}

/// The start of an item.
struct Item {
    key: u16,
    value: u32,
    is_plain: bool,
}

impl Item {
    fn may_be_seal(&self) -> bool {
        self.is_plain
            && usize::from(self.key) == layout::SEAL_KEY.len()
            && self.value as usize == layout::SEAL_BYTES
    }

    fn len(&self) -> u64 {
        ITEM_BYTES as u64 + u64::from(self.key) + u64::from(self.value)
    }
}

fn parse_item(bytes: &[u8]) -> Option<Item> {
    let ([_, kind, compression], rest) = bytes.split_first_chunk()?;
    let (_keyspace, rest) = rest.split_first_chunk::<8>()?;
    let (key, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_first_chunk()?;
    let (stored, _) = rest.split_first_chunk()?;
    let (value, stored) = (u32::from_le_bytes(*value), u32::from_le_bytes(*stored));
    let is_sound = *kind <= 2 && *compression <= 1 && (*compression == 1 || value == stored);
    is_sound.then_some(Item {
        key: u16::from_le_bytes(*key),
        value: stored,
        is_plain: *kind == 0 && *compression == 0,
    })
}

/// Returns how many of `left` bytes are read at once.
fn window(left: u64) -> usize {
    usize::try_from(left).map_or(WINDOW, |left| left.min(WINDOW))
}

/// Parses the checksum of a record.
fn parse_end(bytes: &[u8]) -> Option<u64> {
    let rest = bytes.strip_prefix(&[3])?;
    let (checksum, rest) = rest.split_first_chunk()?;
    (rest == MAGIC).then_some(u64::from_le_bytes(*checksum))
}

fn parse_seal(bytes: &[u8]) -> Option<layout::Seal> {
    layout::Seal::parse(bytes.strip_prefix(layout::SEAL_KEY)?)
}
