//! Reads the engine's journal files record by record, each against its checksum, as they stand on the disk.
//!
//! A journal is a file of records with nothing between them, and zeros behind the last: the engine makes it 64 MiB long
//! before it writes. Each commit is one record. Numbers are little-endian.
//!
//! ```text
//! 01  items 4, sequence number 8
//! 02  kind 1, compression 1, keyspace 8, key length 2, value length 4, stored length 4, key, stored value
//! 04  keyspace 8                       (all of it was deleted)
//! 03  checksum 8, "FJL" 03             (XXH3 of all items; of the first line nothing is under it)
//! ```
//!
//! The engine itself takes whatever it cannot read for the end of the journal and cuts it off without a word, with all
//! that stands behind it; where only the checksum is wrong it does not open. So it is not asked before this has looked.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use xxhash_rust::xxh3::Xxh3;

use super::layout;

/// What a start of a record takes.
const START_BYTES: usize = 13;
/// What stands before an item's key.
const ITEM_BYTES: usize = 21;
/// What a cleared keyspace takes.
const CLEAR_BYTES: usize = 9;
/// What an end of a record takes.
const END_BYTES: usize = 13;
/// What an end ends with.
const MAGIC: &[u8] = b"FJL\x03";
/// Sequence numbers stay below this; the engine stops at twice as many.
const SEQUENCE_MAX: u64 = 1 << 62;
/// Items that are looked at in the search for a record. What users write can look like the beginnings of many.
const STEPS_MAX: u64 = 20_000_000;
/// What is read at once, in bytes.
const WINDOW: usize = 128 << 10;

/// A record whose checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub at: u64,
    /// The first byte behind it.
    pub end: u64,
    /// The engine's number of the commit: the next one's is higher.
    pub sequence: u64,
    /// What the store has marked it with, if it did.
    pub seal: Option<layout::Seal>,
}

/// What stands at some place of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Record),
    /// Nothing, and nothing behind it.
    End,
    /// Something that is no record.
    Bad,
}

/// A journal file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    len: u64,
    /// What was read last, and where it begins.
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

    /// So many bytes at `at`; None where the file ends before.
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

    /// The first byte at or behind `at` that is not zero.
    pub fn next_written(&mut self, at: u64) -> io::Result<Option<u64>> {
        let mut at = at;
        while at < self.len {
            at = match self.next_data(at)? {
                Some(at) => at,
                None => return Ok(None),
            };
            let take = usize::try_from(self.len - at).unwrap_or(WINDOW).min(WINDOW);
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

    /// The byte behind the last one that is not zero, from `at` on.
    pub fn written_end(&mut self, at: u64) -> io::Result<u64> {
        let (mut at, mut end) = (at, at);
        while let Some(found) = self.next_written(at)? {
            let take = usize::try_from(self.len - found)
                .unwrap_or(WINDOW)
                .min(WINDOW);
            let Some(bytes) = self.bytes(found, take)? else {
                break;
            };
            let last = bytes.iter().rposition(|byte| *byte != 0);
            end = found + last.map_or(0, |last| last as u64) + 1;
            at = found + take as u64;
        }
        Ok(end)
    }

    /// Leaves out what the file system knows to be nothing: most of a new journal.
    #[cfg(target_os = "linux")]
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        use rustix::{fs::SeekFrom, io::Errno};

        match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            // Not every file system knows.
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        Ok(Some(at))
    }

    /// What stands at `at`.
    pub fn at(&mut self, at: u64) -> io::Result<Found> {
        match self.record(at)? {
            Some(record) => Ok(Found::Record(record)),
            None if self.next_written(at)?.is_none() => Ok(Found::End),
            None => Ok(Found::Bad),
        }
    }

    /// The first record at or behind `at` for which `counts` holds; None when there is none, or when so much looks like
    /// the beginning of one that it takes too long to tell.
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

    /// The record at `at`, if there is one whose checksum holds.
    fn record(&mut self, at: u64) -> io::Result<Option<Record>> {
        match self.outline(at, &mut { u64::MAX })? {
            Some((record, checksum)) if self.is_sound(&record, checksum)? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// What has the shape of a record at `at`, and the checksum that it names.
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

    /// Where what begins at `at` ends by its own account, as far as there is one: up to there stands what somebody has written.
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

    /// True when the checksum is that of the record's items.
    fn is_sound(&mut self, record: &Record, checksum: u64) -> io::Result<bool> {
        let mut hash = Xxh3::new();
        let (mut at, end) = (
            record.at + START_BYTES as u64,
            record.end - END_BYTES as u64,
        );
        while at < end {
            let take = usize::try_from(end - at).unwrap_or(WINDOW).min(WINDOW);
            let Some(bytes) = self.bytes(at, take)? else {
                return Ok(false);
            };
            hash.update(bytes);
            at += take as u64;
        }
        Ok(hash.digest() == checksum)
    }
}

/// The items that a record has, and its sequence number.
fn parse_start(bytes: &[u8]) -> Option<(u32, u64)> {
    let rest = bytes.strip_prefix(&[1])?;
    let (items, rest) = rest.split_first_chunk()?;
    let (sequence, _) = rest.split_first_chunk()?;
    let (items, sequence) = (u32::from_le_bytes(*items), u64::from_le_bytes(*sequence));
    (items > 0 && sequence < SEQUENCE_MAX).then_some((items, sequence))
}

/// How an item begins.
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

/// The checksum of a record.
fn parse_end(bytes: &[u8]) -> Option<u64> {
    let rest = bytes.strip_prefix(&[3])?;
    let (checksum, rest) = rest.split_first_chunk()?;
    (rest == MAGIC).then_some(u64::from_le_bytes(*checksum))
}

fn parse_seal(bytes: &[u8]) -> Option<layout::Seal> {
    layout::Seal::parse(bytes.strip_prefix(layout::SEAL_KEY)?)
}
