//! Reading: a mailbox is a log, and a device has a cursor in it (READ-1 … READ-5).

use std::iter;

use crate::realm::{
    AnswerLimits, Caller,
    current_session::Current,
    failure::Failure,
    limits::WATCH_READ_BYTES,
    mailboxes::{
        Mailboxes,
        blocks::{Blocked, HIDDEN_AT_ONCE, HIDDEN_BYTES_MAX, HIDDEN_MAX, NOBODY},
    },
    peer::Peer,
    records::{EntryRecord, MailboxLog, Record as _},
    storage::Unnoted,
};
use crate::{
    store::{PageLimit, Store, StoreError},
    wire::{
        Answer, CONTENT_GONE, CONTENT_HIDDEN, Entry, ErrorCode, GroupName, Options, Page, Position,
        Sender, emit_varint, is_of_realm,
    },
};

/// The number of entries on a page, unless the reader asks for fewer.
const PAGE_ENTRIES_MAX: usize = 100;
/// The number of entries on a page for another realm.
const PEER_PAGE_ENTRIES: usize = 100;
/// The smallest page in bytes, for a reader that asks for fewer: enough for the longest names and a
/// piece of text.
const PAGE_BYTES_MIN: usize = 126;
/// The number of bytes of an answer before its page.
const ANSWER_HEAD: usize = 1;

/// What depends on the reader of a mailbox.
#[derive(Clone, Copy)]
pub(in crate::realm) struct Reader<'a> {
    /// Entries up to this position are marked as read (READ-8).
    pub read_up_to: u64,
    /// The users whose entries are hidden (BLK-3).
    pub blocked: &'a Blocked,
    /// The number of entries that were hidden from it just before.
    pub hidden: usize,
}

impl Reader<'static> {
    /// Another realm, which keeps all entries for its users.
    pub const REALM: Self = Self {
        read_up_to: 0,
        blocked: &NOBODY,
        hidden: 0,
    };
}

/// An entry of a mailbox.
pub(in crate::realm) struct StoredEntry {
    pub entry: Entry,
    /// The user who wrote it, or is said to have. `None` if the realm itself did.
    pub author: Option<Sender>,
}

/// Entries that a reader is shown.
pub(in crate::realm) struct Shown {
    pub entries: Vec<Entry>,
    /// True if others may follow.
    pub more: bool,
    /// The position of the last entry that was looked at.
    pub passed: Position,
    /// The number of entries that were hidden.
    pub hidden: usize,
}

/// A page, and what was looked at for it.
pub(in crate::realm) struct ReadPage {
    pub page: Page,
    /// See [`Shown::hidden`].
    pub hidden: usize,
}

impl<S: Store> Mailboxes<S> {
    pub(in crate::realm) async fn read_page(
        &self,
        caller: &Caller,
        current: &Current,
        (place, blocked): (&MailboxLog, &Blocked),
        options: &Options,
    ) -> Result<Page, Failure> {
        let owner = current.owner();
        let believed = caller.believed(options.after);
        let after = match believed {
            // An offset means that the reader continues an entry. It does not confirm the entries
            // before (READ-3).
            Some(after) if options.offset.is_some() => after,
            Some(after) => {
                self.cursors.confirm(current, &owner, place, after).await?;
                after
            }
            None => self.cursors.confirmed(current.user, &owner, place).await?,
        };
        let bytes = options.bytes.map(|asked| {
            let asked = usize::try_from(asked).unwrap_or(usize::MAX);
            let least = PAGE_BYTES_MIN + ANSWER_HEAD;
            asked.max(least).min(caller.answer_limits.total)
        });
        // Without a limit, a reader gets as much as fits a datagram, or one message of any length.
        let limits = match bytes {
            Some(bytes) => AnswerLimits {
                inline: bytes,
                total: bytes,
            },
            None => caller.answer_limits,
        };
        let entries = page_limit(options.limit, PAGE_ENTRIES_MAX);
        let offset = options.offset.filter(|_| believed == options.after);
        let offset = offset.unwrap_or(0);
        let reader = Reader {
            read_up_to: self
                .cursors
                .read_elsewhere(current.user, &owner, place)
                .await?,
            blocked,
            hidden: 0,
        };
        let start = (Position(after), offset);
        let mut read = self.page(place, start, reader, entries, limits).await?;
        if read.page.entries.is_empty() && self.is_ahead(place, after).await? {
            let confirmed = self.cursors.confirmed(current.user, &owner, place).await?;
            let start = (Position(confirmed), 0);
            read = self.page(place, start, reader, entries, limits).await?;
        }
        self.limiter.charge(caller.now, &current.user, read.hidden);
        Ok(read.page)
    }

    /// Handles the request of a peer that has members in a group to read it.
    pub(in crate::realm) async fn host_read(
        &self,
        caller: &Caller,
        peer: &Peer,
        (name, group_epoch): (GroupName, u64),
        start: (Position, u64),
    ) -> Result<Answer, Failure> {
        let group = self.groups.group(&mut Unnoted, name).await?;
        if group.record.epoch != group_epoch {
            return Err(ErrorCode::NoSuchGroup.into());
        }
        if !group.realms().any(|realm| realm == peer.realm) {
            return Err(ErrorCode::NotAMember.into());
        }
        let read = self
            .page(
                &group.place(),
                start,
                Reader::REALM,
                PEER_PAGE_ENTRIES,
                caller.answer_limits,
            )
            .await?;
        Ok(Answer::Page(read.page))
    }

    /// True if a cursor is above every position that the mailbox has ever had (READ-6): it is from
    /// a later life of the realm, which has been restored from an older copy since.
    pub(in crate::realm) async fn is_ahead(
        &self,
        place: &MailboxLog,
        cursor: u64,
    ) -> Result<bool, Failure> {
        Ok(cursor > 0 && cursor > self.storage.last(&place.log).await?.0)
    }

    /// Returns at most `limit` entries after a position, in an answer within the inline limit, or
    /// one entry within the total limit. The first one begins at an offset.
    pub(in crate::realm) async fn page(
        &self,
        place: &MailboxLog,
        (after, offset): (Position, u64),
        reader: Reader<'_>,
        limit: usize,
        limits: AnswerLimits,
    ) -> Result<ReadPage, Failure> {
        let bytes = limits.inline.saturating_sub(ANSWER_HEAD);
        // Entries below the floor do not belong to the mailbox, so an offset into one is ignored
        // (READ-6).
        let (after, offset) = if after.0 < place.floor {
            (Position(place.floor), 0)
        } else {
            (after, offset)
        };
        // One more of each shows whether others follow.
        let wanted = PageLimit {
            entries: limit + 1,
            bytes: bytes + 1,
        };
        let Shown {
            entries,
            more,
            hidden,
            ..
        } = self.shown(place, after, reader, wanted).await?;
        // The entry that the offset is for is gone.
        let is_there = entries
            .first()
            .is_some_and(|first| first.position.0 == after.0 + 1 && !is_of_realm(first.content));
        let offset = if is_there { offset } else { 0 };
        let read_to_end = entries.len();
        let first = entries
            .first()
            .map_or(0, |first| Page::bytes_for(first, offset));
        let bytes = bytes.max(first.min(limits.total.saturating_sub(ANSWER_HEAD)));
        let mut page = Page::fill(entries, offset, limit, bytes);
        page.more |= more && page.entries.len() == read_to_end;
        Ok(ReadPage { page, hidden })
    }

    /// Returns the entries of a mailbox after a position that is not below its floor, as
    /// [`Mailboxes::entries`] does, without those that are hidden from the reader. If very many are
    /// hidden one after the other, the last entry says so, and the reader goes on behind it.
    pub(in crate::realm) async fn shown(
        &self,
        place: &MailboxLog,
        after: Position,
        reader: Reader<'_>,
        mut limit: PageLimit,
    ) -> Result<Shown, Failure> {
        let (mut passed, mut hidden, mut hidden_bytes) = (after, 0, 0);
        loop {
            let (found, more) = self
                .entries(place, passed, reader.read_up_to, limit)
                .await?;
            let mut time = 0;
            let mut entries = Vec::with_capacity(found.len());
            for StoredEntry { entry, author } in found {
                (passed, time) = (entry.position, entry.time);
                if author.is_some_and(|author| reader.blocked.hides(&author)) {
                    hidden += 1;
                    hidden_bytes += entry.body.len();
                } else {
                    entries.push(entry);
                }
            }
            let are_many = reader.hidden + hidden >= HIDDEN_MAX || hidden_bytes >= HIDDEN_BYTES_MAX;
            if entries.is_empty() && are_many {
                let mut body = Vec::new();
                emit_varint((reader.hidden + hidden) as u64, &mut body);
                entries.push(Entry {
                    read: passed.0 <= reader.read_up_to,
                    ..realm_entry(place, (passed, time), CONTENT_HIDDEN, body)
                });
            }
            if !more || !entries.is_empty() {
                return Ok(Shown {
                    entries,
                    more,
                    passed,
                    hidden,
                });
            }
            // The reader may have asked for little, but this is not what it gets.
            limit.entries = limit.entries.max(HIDDEN_AT_ONCE);
            limit.bytes = limit.bytes.max(WATCH_READ_BYTES);
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
    }

    /// Returns the position of the last of the entries behind `after` and up to `wanted` that are
    /// hidden from a reader, before the first one that is not. `after` if there are none.
    pub(super) async fn behind_hidden(
        &self,
        place: &MailboxLog,
        (mut after, wanted): (u64, u64),
        blocked: &Blocked,
    ) -> Result<u64, Failure> {
        while after < wanted && !blocked.is_empty() {
            let limit = PageLimit {
                entries: HIDDEN_AT_ONCE,
                bytes: WATCH_READ_BYTES,
            };
            let from = Position(after.max(place.floor));
            let (found, more) = self.entries(place, from, 0, limit).await?;
            for StoredEntry { entry, author } in found {
                if !author.is_some_and(|author| blocked.hides(&author)) {
                    return Ok(after);
                }
                after = entry.position.0;
            }
            if !more {
                break;
            }
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
        Ok(after)
    }

    /// Counts how many entries of a group behind the position `after` and up to `last` are hidden
    /// from the reader. Looks at no more than `left`, and lowers it.
    pub(in crate::realm) async fn count_hidden(
        &self,
        place: &MailboxLog,
        (after, last): (u64, u64),
        blocked: &Blocked,
        left: &mut usize,
    ) -> Result<u64, Failure> {
        let (mut after, mut count) = (Position(after), 0);
        while *left > 0 && !blocked.is_empty() {
            let limit = PageLimit {
                entries: HIDDEN_AT_ONCE.min(*left),
                bytes: WATCH_READ_BYTES,
            };
            let (found, more) = self.entries(place, after, 0, limit).await?;
            *left = left.saturating_sub(found.len());
            for StoredEntry { entry, author } in &found {
                let counts = entry.position.0 <= last;
                let is_hidden = author.is_some_and(|author| blocked.hides(&author));
                count += u64::from(counts && is_hidden);
                after = entry.position;
            }
            if !more || after.0 >= last {
                break;
            }
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
        Ok(count)
    }

    /// Returns the entries of a mailbox after a position that is not below its floor, and whether
    /// others follow. If some are not kept any more, the first entry says so, at the position of
    /// the last removed one (READ-11).
    pub(in crate::realm) async fn entries(
        &self,
        place: &MailboxLog,
        after: Position,
        read_up_to: u64,
        limit: PageLimit,
    ) -> Result<(Vec<StoredEntry>, bool), Failure> {
        let mut found = self.storage.read(&place.log, after, limit).await?;
        let mut before = 0;
        if found.entries.is_empty() {
            before = self.storage.last(&place.log).await?.0;
            if before > after.0 {
                // They are gone, unless they were added after the first read.
                found = self.storage.read(&place.log, after, limit).await?;
            }
        }
        let kept = found
            .entries
            .iter()
            .map(|(position, value)| entry(*position, value, read_up_to));
        let kept = kept.collect::<Result<Vec<_>, _>>()?;
        if let Some(StoredEntry { entry, .. }) = kept.first() {
            before = entry.position.0.saturating_sub(1);
        }
        if before <= after.0 {
            return Ok((kept, found.more));
        }
        let mut count = Vec::new();
        emit_varint(before - after.0, &mut count);
        let time = kept.first().map_or(0, |first| first.entry.time);
        let gone = StoredEntry {
            entry: Entry {
                read: before <= read_up_to,
                ..realm_entry(place, (Position(before), time), CONTENT_GONE, count)
            },
            author: None,
        };
        Ok((iter::once(gone).chain(kept).collect(), found.more))
    }
}

/// Returns how many items a page has at most, if the reader has asked for `limit`.
pub(in crate::realm) fn page_limit(limit: Option<u64>, most: usize) -> usize {
    let asked = limit.map_or(most, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    asked.clamp(1, most)
}

/// Returns what the realm says in a mailbox.
const fn realm_entry(
    place: &MailboxLog,
    (position, time): (Position, u32),
    content: u8,
    body: Vec<u8>,
) -> Entry {
    Entry {
        position,
        time,
        content,
        fragment: None,
        from: Sender {
            user: place.says,
            realm: None,
        },
        read: false,
        body,
    }
}

/// Returns a stored message as it is sent.
fn entry(position: Position, value: &[u8], read_up_to: u64) -> Result<StoredEntry, Failure> {
    let record = EntryRecord::from_value(value)?;
    let name = |_| StoreError::Damaged("a name in an entry of a mailbox".into());
    let from = Sender {
        user: record.user.parse().map_err(name)?,
        realm: record
            .realm
            .map(|realm| realm.parse())
            .transpose()
            .map_err(name)?,
    };
    let alleged = record.alleged.map(|alleged| alleged.parse());
    let author = alleged.transpose().map_err(name)?;
    Ok(StoredEntry {
        author: author.or_else(|| (!is_of_realm(record.content)).then_some(from)),
        entry: Entry {
            position,
            time: record.time,
            content: record.content,
            fragment: None,
            from,
            read: position.0 <= read_up_to,
            body: record.body,
        },
    })
}
