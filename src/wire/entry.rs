//! Entries of mailboxes, as answers and events carry them (`spec/wire.md`, "Entries").
//!
//! ```text
//! entry     position varint, time 4 (seconds since 1970), content type 1 (high bit: fragment),
//!           [offset varint, total varint], sender, body
//! sender    flags and length 1 (high bit: a realm follows), user, [realm]
//! page      flags 1 (bit 0: more follows, bit 1: "read up to" follows), [read up to varint],
//!           entries, each with the length of its body
//! event     mailbox (high bit of its kind: read on another device), entry
//! ```

use alloc::{string::ToString as _, vec::Vec};
use core::fmt;

use bytes::BufMut;
use nom::{
    Parser,
    bytes::complete::take,
    combinator::cond,
    multi::length_data,
    number::complete::{be_u8, be_u32},
};

use super::{
    Field, InvalidName, Mailbox, Malformed, Parsed, Position, RealmId, Username, all, emit_varint,
    parse_varint, varint_len,
};

/// The content type of UTF-8 text.
pub const CONTENT_TEXT: u8 = 0;
/// The content type of a notice: UTF-8 text from a realm to a user about one of the user's
/// messages.
pub const CONTENT_NOTICE: u8 = 1;

/// The content type of a realm's message about entries that it no longer keeps (READ-11): their
/// number, a varint.
pub const CONTENT_GONE: u8 = 2;

/// The content type of a realm's message about entries that the reader is not shown because the
/// reader has blocked their authors (BLK-4): their number, a varint.
pub const CONTENT_HIDDEN: u8 = 3;

/// True for the content types 1 to 15, which only a realm gives to entries of its users: no user
/// and no other realm may use them (ACC-8).
pub const fn is_of_realm(content: u8) -> bool {
    matches!(content, 1..=15)
}

const FRAGMENT: u8 = 0x80;
const FROM_REALM: u8 = 0x80;
/// The flag in the kind of an event's mailbox: the entry has been read on another device.
const EVENT_READ: u8 = 0x80;
const PAGE_MORE: u8 = 0x01;
/// The flag of a page with the position up to which its entries have been read on another device.
const PAGE_READ_UP_TO: u8 = 0x02;

/// The author of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    /// The user.
    pub user: Username,
    /// The user's realm, if it is not this one.
    pub realm: Option<RealmId>,
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.realm {
            None => self.user.fmt(f),
            Some(realm) => write!(f, "{}@{realm}", self.user),
        }
    }
}

impl<'a> Field<'a> for Sender {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, first) = be_u8(input)?;
        let (input, user) = take(first & !FROM_REALM)(input)?;
        let (_, user) = Username::parse_last(user)?;
        if first & FROM_REALM == 0 {
            return Ok((input, Self { user, realm: None }));
        }
        let (input, realm) = RealmId::parse(input)?;
        Ok((
            input,
            Self {
                user,
                realm: Some(realm),
            },
        ))
    }

    fn emit(&self, out: &mut impl BufMut) {
        let len = self.user.len();
        out.put_u8(if self.realm.is_some() {
            len | FROM_REALM
        } else {
            len
        });
        out.put_slice(self.user.as_bytes());
        if let Some(realm) = &self.realm {
            realm.emit(out);
        }
    }

    fn parse_last(input: &'a [u8]) -> Parsed<'a, Self> {
        let text = core::str::from_utf8(input).ok();
        match text.and_then(|text| Some((text, text.parse::<Self>().ok()?))) {
            // Only one spelling is valid: typed capital letters are folded, so the wire has lower
            // case.
            Some((text, sender)) if sender.to_string() == text => Ok((&[], sender)),
            _ => Malformed::error("user: a name, or a name@realm"),
        }
    }

    fn emit_last(&self, out: &mut impl BufMut) {
        out.put_slice(self.to_string().as_bytes());
    }
}

impl core::str::FromStr for Sender {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, realm) = match text.split_once('@') {
            Some((user, realm)) => (user, Some(realm.parse()?)),
            None => (text, None),
        };
        let user = user.parse()?;
        Ok(Self { user, realm })
    }
}

/// Marks a body as a fragment of a longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The fragment's offset, in bytes.
    pub offset: u64,
    /// The length of the whole body, in bytes.
    pub total: u64,
}

/// One message in a mailbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub position: Position,
    /// When the accepting realm received it, in seconds since 1970.
    pub time: u32,
    /// The content type: [`CONTENT_TEXT`], [`CONTENT_NOTICE`], or a type that this version does not
    /// know. 0 to 127.
    pub content: u8,
    /// Set if `body` is only a fragment.
    pub fragment: Option<Fragment>,
    /// The author.
    pub from: Sender,
    /// True if another device of the reader has read it. In a page the read entries are the oldest
    /// ones.
    pub read: bool,
    /// The contents.
    pub body: Vec<u8>,
}

impl fmt::Debug for Entry {
    /// Omits the body, which must not get into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Entry({} from {}, {} bytes)",
            self.position,
            self.from,
            self.body.len()
        )
    }
}

impl Entry {
    fn parse_head(input: &[u8]) -> Parsed<'_, Self> {
        let (input, (position, time, first)) = (Position::parse, be_u32, be_u8).parse(input)?;
        let (input, fragment) = if first & FRAGMENT == 0 {
            (input, None)
        } else {
            let (input, (offset, total)) = (parse_varint, parse_varint).parse(input)?;
            (input, Some(Fragment { offset, total }))
        };
        let (input, from) = Sender::parse(input)?;
        Ok((
            input,
            Self {
                position,
                time,
                content: first & !FRAGMENT,
                fragment,
                from,
                read: false,
                body: Vec::new(),
            },
        ))
    }

    fn emit_head(&self, out: &mut impl BufMut) {
        self.position.emit(out);
        out.put_u32(self.time);
        match self.fragment {
            None => out.put_u8(self.content & !FRAGMENT),
            Some(Fragment { offset, total }) => {
                out.put_u8(self.content | FRAGMENT);
                emit_varint(offset, out);
                emit_varint(total, out);
            }
        }
        self.from.emit(out);
    }
}

impl<'a> Field<'a> for Entry {
    fn parse(input: &'a [u8]) -> Parsed<'a, Self> {
        let (input, head) = Self::parse_head(input)?;
        let (input, body) = length_data(parse_varint).parse(input)?;
        Ok((
            input,
            Self {
                body: body.to_vec(),
                ..head
            },
        ))
    }

    fn emit(&self, out: &mut impl BufMut) {
        self.emit_head(out);
        emit_varint(self.body.len() as u64, out);
        out.put_slice(&self.body);
    }

    fn parse_last(input: &'a [u8]) -> Parsed<'a, Self> {
        let (body, head) = Self::parse_head(input)?;
        Ok((
            &[],
            Self {
                body: body.to_vec(),
                ..head
            },
        ))
    }

    fn emit_last(&self, out: &mut impl BufMut) {
        self.emit_head(out);
        out.put_slice(&self.body);
    }
}

/// The contents of an EVENT frame: a new entry and its mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The mailbox.
    pub mailbox: Mailbox,
    /// The entry.
    pub entry: Entry,
}

impl Event {
    /// Reads an event.
    ///
    /// # Errors
    /// If the bytes are not an event.
    pub fn parse(input: &[u8]) -> Result<Self, Malformed> {
        let (input, kind) = be_u8::<_, Malformed>(input)?;
        let (input, mailbox) = Mailbox::parse_kind(kind & !EVENT_READ, input)?;
        let (_, mut entry) = Entry::parse_last(input)?;
        entry.read = kind & EVENT_READ != 0;
        Ok(Self { mailbox, entry })
    }

    /// Writes the event.
    pub fn emit(&self, out: &mut impl BufMut) {
        let flag = if self.entry.read { EVENT_READ } else { 0 };
        self.mailbox.emit_flagged(flag, out);
        self.entry.emit_last(out);
    }
}

/// A page of a mailbox, oldest entry first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// True if more entries follow, or more of the last one.
    pub more: bool,
    /// The entries. Only the first may begin in the middle of its body, and only the last may end
    /// there.
    pub entries: Vec<Entry>,
}

impl Page {
    /// The size of a page before its first entry, in bytes.
    const HEAD: usize = 1;

    /// Returns the size of a page with one entry that starts at `offset` in its body, in bytes.
    pub fn bytes_for(entry: &Entry, offset: u64) -> usize {
        let mut head = Vec::new();
        entry.emit_head(&mut head);
        let fragment = if offset > 0 { 2 * 4 } else { 0 };
        let body = (entry.body.len() as u64).saturating_sub(offset);
        let body_len = usize::try_from(body).unwrap_or(usize::MAX);
        Self::HEAD + read_up_to_len(entry) + head.len() + fragment + varint_len(body) + body_len
    }

    /// Returns the position up to which another device has read the entries.
    fn read_up_to(&self) -> Option<Position> {
        let read = self.entries.iter().rev().find(|entry| entry.read);
        read.map(|entry| entry.position)
    }

    /// Fills a page of at most `limit` entries and `bytes` bytes from `entries`, oldest first. The
    /// first entry starts at `offset` in its body. If the page's first entry does not fit, it is
    /// sent as a fragment; a later one is left out.
    pub fn fill(
        entries: impl IntoIterator<Item = Entry>,
        offset: u64,
        limit: usize,
        bytes: usize,
    ) -> Self {
        let mut page = Self::default();
        let mut room = bytes.saturating_sub(Self::HEAD);
        let mut read_up_to = 0;
        for (at, mut entry) in entries.into_iter().enumerate() {
            if at == limit {
                page.more = true;
                break;
            }
            if at == 0 && offset > 0 {
                entry.fragment_from(offset);
            }
            let mut head = Vec::new();
            entry.emit_head(&mut head);
            // The field "read up to" grows with the last read entry.
            let grown = read_up_to_len(&entry).saturating_sub(read_up_to);
            let needed =
                grown + head.len() + varint_len(entry.body.len() as u64) + entry.body.len();
            if needed <= room {
                room -= needed;
                read_up_to += grown;
                page.entries.push(entry);
                continue;
            }
            page.more = true;
            if at == 0 {
                // Reserves space for the longest possible fragment fields and body length.
                entry.fragment_to(room.saturating_sub(grown + head.len() + 3 * 4).max(1));
                page.entries.push(entry);
            }
            break;
        }
        page
    }

    pub(crate) fn parse(input: &[u8]) -> Parsed<'_, Self> {
        let (input, flags) = be_u8(input)?;
        if flags & !(PAGE_MORE | PAGE_READ_UP_TO) != 0 {
            return Malformed::error("page: flags this version does not know");
        }
        let has_read = flags & PAGE_READ_UP_TO != 0;
        let (input, read_up_to) = cond(has_read, Position::parse).parse(input)?;
        let (input, mut entries) = all(Entry::parse)(input)?;
        for entry in &mut entries {
            entry.read = read_up_to.is_some_and(|read_up_to| entry.position <= read_up_to);
        }
        let more = flags & PAGE_MORE != 0;
        Ok((input, Self { more, entries }))
    }

    pub(crate) fn emit(&self, out: &mut impl BufMut) {
        let more = if self.more { PAGE_MORE } else { 0 };
        match self.read_up_to() {
            None => out.put_u8(more),
            Some(read_up_to) => {
                out.put_u8(more | PAGE_READ_UP_TO);
                read_up_to.emit(out);
            }
        }
        for entry in &self.entries {
            entry.emit(out);
        }
    }
}

/// Returns the size of a page's field "read up to" if this is the last read entry, in bytes.
const fn read_up_to_len(entry: &Entry) -> usize {
    if entry.read {
        varint_len(entry.position.0)
    } else {
        0
    }
}

impl Entry {
    /// Makes the entry a fragment of itself: its body from `offset` on.
    fn fragment_from(&mut self, offset: u64) {
        let total = self.body.len();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(total);
        self.body.drain(..offset);
        self.fragment = Some(Fragment {
            offset: offset as u64,
            total: total as u64,
        });
    }

    /// Makes the entry a fragment of itself: the first `len` bytes of its body.
    pub(crate) fn fragment_to(&mut self, len: usize) {
        let Fragment { offset, total } = self.fragment.unwrap_or(Fragment {
            offset: 0,
            total: self.body.len() as u64,
        });
        self.body.truncate(len);
        self.fragment = Some(Fragment { offset, total });
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    fn entry(position: u64, len: usize) -> Entry {
        let from = Sender {
            user: "ann".parse().unwrap(),
            realm: None,
        };
        let body = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        Entry {
            position: Position(position),
            time: 1_800_000_000,
            content: CONTENT_TEXT,
            fragment: None,
            from,
            read: false,
            body,
        }
    }

    #[test]
    fn push_event_of_twenty_bytes_takes_thirty_one() {
        let mut out = vec![];
        Event {
            mailbox: Mailbox::Private,
            entry: entry(9, 20),
        }
        .emit(&mut out);
        assert_eq!(out.len(), 31);
        assert_eq!(Event::parse(&out).unwrap().entry, entry(9, 20));
    }

    /// READ-8: the mark that an entry has been read on another device takes no byte in a live
    /// event, and one position in a page.
    #[test]
    fn entry_read_on_other_device_is_marked() {
        let read = Entry {
            read: true,
            ..entry(9, 20)
        };
        for mailbox in [
            Mailbox::Private,
            Mailbox::RealmGroup("beta".parse().unwrap(), "cats".parse().unwrap()),
        ] {
            let (mut plain, mut marked) = (vec![], vec![]);
            let event = Event {
                mailbox,
                entry: entry(9, 20),
            };
            event.emit(&mut plain);
            let event = Event {
                mailbox,
                entry: read.clone(),
            };
            event.emit(&mut marked);
            assert_eq!(marked.len(), plain.len());
            assert_eq!(Event::parse(&marked), Ok(event));
        }
        let page = Page {
            more: false,
            entries: vec![read, entry(10, 3)],
        };
        let mut bytes = vec![];
        page.emit(&mut bytes);
        assert_eq!(bytes.first_chunk(), Some(&[PAGE_READ_UP_TO, 9]));
        assert_eq!(Page::parse(&bytes).unwrap().1, page);
        assert!(Page::parse(&[4]).is_err());
        assert!(Event::parse(&[0x84]).is_err());
    }

    proptest! {
        /// READ-4: consecutive pages of any size give every byte of every entry once.
        #[test]
        fn entry_pages_of_any_size_give_whole_mailbox_once(
            lens in prop::collection::vec(0usize..300, 0..8), bytes in 48usize..400, limit in 1usize..4,
            first in prop_oneof![Just(1u64), 60u64..70, Just(1 << 20)], read in 0u64..8,
        ) {
            let all: Vec<_> = lens
                .iter()
                .enumerate()
                .map(|(at, len)| Entry { read: (at as u64) < read, ..entry(at as u64 + first, *len) })
                .collect();
            let (mut after, mut offset, mut bodies) = (0, 0, vec![vec![]; lens.len()]);
            loop {
                let rest = all.iter().filter(|entry| entry.position.0 > after).cloned();
                let page = Page::fill(rest, offset, limit, bytes);
                let mut wire = vec![];
                page.emit(&mut wire);
                prop_assert!(wire.len() <= bytes, "{} bytes in a page of {}", wire.len(), bytes);
                prop_assert_eq!(&Page::parse(&wire).unwrap().1, &page);
                for entry in &page.entries {
                    bodies[usize::try_from(entry.position.0 - first).unwrap()].extend_from_slice(&entry.body);
                    offset = match entry.fragment {
                        Some(f) if f.offset + (entry.body.len() as u64) < f.total => f.offset + entry.body.len() as u64,
                        _ => { after = entry.position.0; 0 }
                    };
                }
                if !page.more { break }
                prop_assert!(!page.entries.is_empty());
            }
            for (body, entry) in bodies.iter().zip(&all) {
                prop_assert_eq!(body, &entry.body);
            }
        }

        #[test]
        fn entry_parse_of_any_bytes_never_panics(bytes: Vec<u8>) {
            let _ = Page::parse(&bytes);
            let _ = Event::parse(&bytes);
        }
    }
}
