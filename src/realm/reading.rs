//! Reading: a mailbox is a log, and a device has a cursor in it (READ-1 … READ-5).

use super::{
    Caller, Failure, Realm,
    records::{self, CursorRecord, EntryRecord, Owner, Place, Record as _},
    sessions::Current,
};
use crate::{
    store::{Batch, PageLimit, Store},
    wire::{
        Answer, Entry, ErrorCode, GroupName, Options, Page, Position, RealmId, Sender, SessionRef,
        Username,
    },
};

/// Entries on a page unless the reader asks for fewer.
const PAGE_ENTRIES_MAX: u64 = 100;
/// A reader who asks for fewer bytes gets so many: what the longest names take, and a piece of text.
const PAGE_BYTES_MIN: usize = 126;
/// Bytes of an answer before the page it carries.
const ANSWER_HEAD: usize = 1;

impl<S: Store> Realm<S> {
    pub(super) async fn inbox(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let place = Place::private(current.user);
        self.read_page(caller, &current, &place, options).await
    }

    pub(super) async fn inboxgroup(
        &self,
        caller: &Caller,
        session: SessionRef,
        group: GroupName,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let group = self.group(group).await?;
        self.membership(&group, current.user).await?;
        self.read_page(caller, &current, &group.place(), options)
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
        self.peer(realm).await?;
        let place = Place::from_realm(current.user, realm);
        self.read_page(caller, &current, &place, options).await
    }

    pub(super) async fn read_page(
        &self,
        caller: &Caller,
        current: &Current,
        place: &Place,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let owner = current.owner();
        let believed = caller.believed(options.after);
        let after = match believed {
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
        // A reader who names no limit gets a datagram's worth, or one message, however long it is.
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
        let page = self
            .page(place, Position(after), offset, limit, room)
            .await?;
        Ok(Answer::Page(page))
    }

    /// At most `limit` entries after a position, in an answer of at most `room` bytes, or one entry in at
    /// most `longest`.
    pub(super) async fn page(
        &self,
        place: &Place,
        after: Position,
        offset: u64,
        limit: usize,
        (room, longest): (usize, usize),
    ) -> Result<Page, Failure> {
        let bytes = room.saturating_sub(ANSWER_HEAD);
        // One more of each tells whether others follow.
        let wanted = PageLimit {
            entries: limit + 1,
            bytes: bytes + 1,
        };
        let found = self.store.read(&place.log, after, wanted).await?;
        let entries = found
            .entries
            .iter()
            .map(|(position, value)| entry(*position, value))
            .collect::<Result<Vec<_>, _>>()?;
        let read_to_end = entries.len();
        let first = entries
            .first()
            .map_or(0, |first| Page::bytes_for(first, offset));
        let bytes = bytes.max(first.min(longest.saturating_sub(ANSWER_HEAD)));
        let mut page = Page::fill(entries, offset, limit, bytes);
        page.more |= found.more && page.entries.len() == read_to_end;
        Ok(page)
    }

    /// Where a device's reading begins when it does not say: where it has confirmed, or, before it
    /// has, where any of the user's devices has (READ-2).
    pub(super) async fn confirmed(
        &self,
        user: Username,
        owner: &Owner,
        place: &Place,
    ) -> Result<u64, Failure> {
        for key in [
            records::cursor(user, Some(owner), place),
            records::cursor(user, None, place),
        ] {
            if let Some((cursor, _)) = self.record::<CursorRecord>(&key).await? {
                return Ok(cursor.position);
            }
        }
        Ok(0)
    }

    /// Writes down that a device has everything up to `position`, which only ever grows. A position
    /// that no entry has confirms nothing: it would hide what is still to come (READ-3).
    pub(super) async fn confirm(
        &self,
        current: &Current,
        owner: &Owner,
        place: &Place,
        position: u64,
    ) -> Result<(), Failure> {
        let Some(before) = position.checked_sub(1) else {
            return Ok(());
        };
        let mut batch = Batch::new();
        for key in [
            records::cursor(current.user, Some(owner), place),
            records::cursor(current.user, None, place),
        ] {
            let known = self.record::<CursorRecord>(&key).await?;
            if known.is_none_or(|(cursor, _)| cursor.position < position) {
                batch.put(key, CursorRecord { position }.to_value()?);
            }
        }
        if batch == Batch::new() {
            return Ok(());
        }
        let limit = PageLimit {
            entries: 1,
            bytes: 1,
        };
        let page = self.store.read(&place.log, Position(before), limit).await?;
        if page.entries.first().is_some_and(|(at, _)| at.0 == position) {
            current.rely_on(&mut batch);
            // A conflict or a full disk: the reader confirms again with its next read.
            if let Err(Failure::Store(error)) = self.commit(batch).await {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

/// A kept message as it travels.
pub(super) fn entry(position: Position, value: &[u8]) -> Result<Entry, Failure> {
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
        body: record.body,
    })
}
