//! Reading: a mailbox is a log, and a device has a cursor in it (READ-1 … READ-5).

use std::iter;

use super::{
    Caller, Failure, Realm,
    blocks::{Blocked, LEFT_OUT_MAX, NOBODY},
    records::{EntryRecord, MailboxLog, Record as _},
    sessions::Current,
    storage::Unnoted,
};
use crate::{
    store::{PageLimit, Store},
    wire::{
        Answer, CONTENT_GONE, CONTENT_HIDDEN, Entry, ErrorCode, GroupName, Options, Page, Position,
        RealmId, Sender, SessionRef, emit_varint,
    },
};

/// The number of entries on a page, unless the reader asks for fewer.
const PAGE_ENTRIES_MAX: u64 = 100;
/// The smallest page in bytes, for a reader that asks for fewer: enough for the longest names and a
/// piece of text.
const PAGE_BYTES_MIN: usize = 126;
/// The number of bytes of an answer before its page.
const ANSWER_HEAD: usize = 1;

/// What depends on the reader of a mailbox.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    /// Entries up to this position are marked as read (READ-8).
    pub read_up_to: u64,
    /// The users whose entries are left out (BLK-3).
    pub blocked: &'a Blocked,
}

impl Reader<'static> {
    /// Another realm, which keeps all entries for its users.
    pub const REALM: Self = Self {
        read_up_to: 0,
        blocked: &NOBODY,
    };
}

/// Entries that a reader is shown.
pub(super) struct Shown {
    pub entries: Vec<Entry>,
    /// True if others may follow.
    pub more: bool,
    /// The position of the last entry that was looked at.
    pub passed: Position,
}

impl<S: Store> Realm<S> {
    pub(super) async fn inbox(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let place = MailboxLog::private(current.user);
        self.read_page(caller, &current, (&place, &NOBODY), options)
            .await
    }

    pub(super) async fn inboxgroup(
        &self,
        caller: &Caller,
        session: SessionRef,
        group: GroupName,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let group = self.group(&mut Unnoted, group).await?;
        self.membership(&mut Unnoted, &group, current.user).await?;
        let blocked = self.blocked_by(current.user).await?;
        self.read_page(caller, &current, (&group.place(), &blocked), options)
            .await
    }

    pub(super) async fn inboxrealm(
        &self,
        caller: &Caller,
        session: SessionRef,
        realm: RealmId,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        self.peer(&mut Unnoted, realm).await?;
        let place = MailboxLog::from_realm(current.user, realm);
        self.read_page(caller, &current, (&place, &NOBODY), options)
            .await
    }

    pub(super) async fn read_page(
        &self,
        caller: &Caller,
        current: &Current,
        (place, blocked): (&MailboxLog, &Blocked),
        options: &Options,
    ) -> Result<Answer, Failure> {
        let owner = current.owner();
        let believed = caller.believed(options.after);
        let after = match believed {
            // An offset means that the reader continues an entry. It does not confirm the entries
            // before (READ-3).
            Some(after) if options.offset.is_some() => after,
            Some(after) => {
                self.confirm(current, &owner, place, after).await?;
                after
            }
            None => self.confirmed(current.user, &owner, place).await?,
        };
        let bytes = options.bytes.map(|asked| {
            let asked = usize::try_from(asked).unwrap_or(usize::MAX);
            let least = PAGE_BYTES_MIN + ANSWER_HEAD;
            asked.max(least).min(caller.longest)
        });
        // Without a limit, a reader gets as much as fits a datagram, or one message of any length.
        let room = match bytes {
            Some(bytes) => (bytes, bytes),
            None => (caller.room, caller.longest),
        };
        let limit = options
            .limit
            .unwrap_or(PAGE_ENTRIES_MAX)
            .clamp(1, PAGE_ENTRIES_MAX);
        let limit = usize::try_from(limit).unwrap_or(1);
        let offset = options.offset.filter(|_| believed == options.after);
        let offset = offset.unwrap_or(0);
        let reader = Reader {
            read_up_to: self.read_elsewhere(current.user, &owner, place).await?,
            blocked,
        };
        let start = (Position(after), offset);
        let mut page = self.page(place, start, reader, limit, room).await?;
        if page.entries.is_empty() && self.is_ahead(place, after).await? {
            let confirmed = self.confirmed(current.user, &owner, place).await?;
            let start = (Position(confirmed), 0);
            page = self.page(place, start, reader, limit, room).await?;
        }
        Ok(Answer::Page(page))
    }

    /// True if a cursor is above every position that the mailbox has ever had (READ-6): it is from
    /// a later life of the realm, which has been restored from an older copy since.
    pub(super) async fn is_ahead(&self, place: &MailboxLog, cursor: u64) -> Result<bool, Failure> {
        Ok(cursor > 0 && cursor > self.store.last(&place.log).await?.0)
    }

    /// Returns at most `limit` entries after a position, in an answer of at most `room` bytes, or
    /// one entry in at most `longest`. The first one begins at an offset.
    pub(super) async fn page(
        &self,
        place: &MailboxLog,
        (after, offset): (Position, u64),
        reader: Reader<'_>,
        limit: usize,
        (room, longest): (usize, usize),
    ) -> Result<Page, Failure> {
        let bytes = room.saturating_sub(ANSWER_HEAD);
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
        let Shown { entries, more, .. } = self.shown(place, after, reader, wanted).await?;
        // The entry that the offset is for is gone.
        let is_there = entries
            .first()
            .is_some_and(|first| first.position.0 == after.0 + 1 && first.content != CONTENT_GONE);
        let offset = if is_there { offset } else { 0 };
        let read_to_end = entries.len();
        let first = entries
            .first()
            .map_or(0, |first| Page::bytes_for(first, offset));
        let bytes = bytes.max(first.min(longest.saturating_sub(ANSWER_HEAD)));
        let mut page = Page::fill(entries, offset, limit, bytes);
        page.more |= more && page.entries.len() == read_to_end;
        Ok(page)
    }

    /// Returns the entries of a mailbox after a position that is not below its floor, as
    /// [`Realm::entries`] does, without those that the reader is not shown.
    pub(super) async fn shown(
        &self,
        place: &MailboxLog,
        after: Position,
        reader: Reader<'_>,
        limit: PageLimit,
    ) -> Result<Shown, Failure> {
        let (mut passed, mut left_out) = (after, 0);
        loop {
            let read = self.entries(place, passed, reader.read_up_to, limit);
            let (mut entries, more) = read.await?;
            passed = entries.last().map_or(passed, |last| last.position);
            let time = entries.last().map_or(0, |last| last.time);
            let count = entries.len();
            entries.retain(|entry| !reader.blocked.hides(entry));
            left_out += count - entries.len();
            if more && entries.is_empty() && left_out >= LEFT_OUT_MAX {
                // The reader goes on from here, so that nobody looks at them all again.
                let mut body = Vec::new();
                emit_varint(left_out as u64, &mut body);
                let said = realm_entry(place, (passed, time), CONTENT_HIDDEN, body);
                entries.push(said);
            }
            if !more || !entries.is_empty() {
                return Ok(Shown {
                    entries,
                    more,
                    passed,
                });
            }
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
    }

    /// Returns the entries of a mailbox after a position that is not below its floor, and whether
    /// others follow. If some are not kept any more, the first entry says so, at the position of
    /// the last removed one (READ-11).
    pub(super) async fn entries(
        &self,
        place: &MailboxLog,
        after: Position,
        read_up_to: u64,
        limit: PageLimit,
    ) -> Result<(Vec<Entry>, bool), Failure> {
        let mut found = self.store.read(&place.log, after, limit).await?;
        let mut before = 0;
        if found.entries.is_empty() {
            before = self.store.last(&place.log).await?.0;
            if before > after.0 {
                // They are gone, unless they were added after the first read.
                found = self.store.read(&place.log, after, limit).await?;
            }
        }
        let kept = found
            .entries
            .iter()
            .map(|(position, value)| entry(*position, value, read_up_to));
        let kept = kept.collect::<Result<Vec<_>, _>>()?;
        if let Some(first) = kept.first() {
            before = first.position.0.saturating_sub(1);
        }
        if before <= after.0 {
            return Ok((kept, found.more));
        }
        let mut count = Vec::new();
        emit_varint(before - after.0, &mut count);
        let time = kept.first().map_or(0, |first| first.time);
        let gone = Entry {
            read: before <= read_up_to,
            ..realm_entry(place, (Position(before), time), CONTENT_GONE, count)
        };
        Ok((iter::once(gone).chain(kept).collect(), found.more))
    }
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
fn entry(position: Position, value: &[u8], read_up_to: u64) -> Result<Entry, Failure> {
    let record = EntryRecord::from_value(value)?;
    let name = |_| Failure::from(ErrorCode::Internal);
    Ok(Entry {
        position,
        time: record.time,
        content: record.content,
        fragment: None,
        from: Sender {
            user: record.user.parse().map_err(name)?,
            realm: record
                .realm
                .map(|realm| realm.parse())
                .transpose()
                .map_err(name)?,
        },
        read: position.0 <= read_up_to,
        body: record.body,
    })
}
