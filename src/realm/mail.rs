//! Private messages: `send` and `inbox` (READ-1 … READ-5).

use super::{
    Caller, Failure, Realm, Work,
    records::{self, CursorRecord, EntryRecord, Owner, Record as _},
    sessions::Current,
};
use crate::{
    store::{Batch, PageLimit, Store},
    wire::{
        Answer, Body, CONTENT_TEXT, Command, Entry, ErrorCode, Options, Page, Position, Refusal,
        Sender, Sent, SessionRef, Username,
    },
};

/// The highest content type there is.
const CONTENT_MAX: u8 = 0x7f;
/// Entries on a page unless the reader asks for fewer.
const PAGE_ENTRIES_MAX: u64 = 100;
/// A reader who asks for fewer bytes gets so many: what the longest names take, and a piece of text.
const PAGE_BYTES_MIN: usize = 126;
/// Bytes of an answer before the page it carries.
const ANSWER_HEAD: usize = 1;

impl<S: Store> Realm<S> {
    pub(super) async fn send(&self, work: &mut Work<'_>) -> Result<Answer, Failure> {
        let Command::Send { to, message, .. } = work.request.command else {
            return Err(ErrorCode::Internal.into());
        };
        let options = &work.request.options;
        let current = self.session_of(work.caller, &work.request.command).await?;
        let content = self.check_message(options, &message)?;
        if self.store.get(&records::account(to)).await?.is_none() {
            return Err(ErrorCode::NoSuchUser.into());
        }
        let entry = EntryRecord {
            time: work.caller.now,
            content,
            user: current.user.as_str().into(),
            realm: None,
            body: message.0.to_vec(),
        };
        current.rely_on(&mut work.batch);
        work.batch
            .append(records::private_log(to), entry.to_value()?);
        Ok(Answer::Sent(Sent::Stored))
    }

    /// Refuses a message that is too long or not what it says it is; gives its content type.
    fn check_message(&self, options: &Options, message: &Body<'_>) -> Result<u8, Failure> {
        if message.0.len() > self.limits.max_message {
            return Err(Refusal::too_large(self.limits.max_message as u64).into());
        }
        match options.content.unwrap_or(CONTENT_TEXT) {
            CONTENT_TEXT if core::str::from_utf8(message.0).is_err() => {
                Err(ErrorCode::BadRequest.into())
            }
            content @ 0..=CONTENT_MAX => Ok(content),
            _ => Err(ErrorCode::BadRequest.into()),
        }
    }

    pub(super) async fn inbox(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let owner = match &current.record.device {
            Some(device) => Owner::Device(crate::crypto::PublicKey(*device)),
            None => Owner::Session(current.hash),
        };
        let after = match options.after {
            Some(after) => {
                self.confirm(&current, &owner, after).await?;
                after
            }
            None => self.confirmed(current.user, &owner).await?,
        };
        let room = caller.room.saturating_sub(ANSWER_HEAD);
        let asked = options
            .bytes
            .map_or(room, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        let bytes = asked
            .saturating_sub(ANSWER_HEAD)
            .max(PAGE_BYTES_MIN)
            .min(room);
        let limit = options
            .limit
            .unwrap_or(PAGE_ENTRIES_MAX)
            .clamp(1, PAGE_ENTRIES_MAX);
        let limit = usize::try_from(limit).unwrap_or(1);
        let found = self
            .store
            .read(
                &records::private_log(current.user),
                Position(after),
                PageLimit {
                    // One more tells whether others follow.
                    entries: limit + 1,
                    bytes: bytes + 1,
                },
            )
            .await?;
        let entries = found
            .entries
            .iter()
            .map(|(position, value)| entry(*position, value))
            .collect::<Result<Vec<_>, _>>()?;
        let read_to_end = entries.len();
        let mut page = Page::fill(entries, options.offset.unwrap_or(0), limit, bytes);
        page.more |= found.more && page.entries.len() == read_to_end;
        Ok(Answer::Page(page))
    }

    /// Where a device's reading begins when it does not say: where it has confirmed, or, before it
    /// has, where any of the user's devices has (READ-2).
    async fn confirmed(&self, user: Username, owner: &Owner) -> Result<u64, Failure> {
        for key in [
            records::private_cursor(user, Some(owner)),
            records::private_cursor(user, None),
        ] {
            if let Some((cursor, _)) = self.record::<CursorRecord>(&key).await? {
                return Ok(cursor.position);
            }
        }
        Ok(0)
    }

    /// Writes down that a device has everything up to `position`, which only ever grows. A position
    /// that no entry has confirms nothing: it would hide what is still to come (READ-3).
    async fn confirm(
        &self,
        current: &Current,
        owner: &Owner,
        position: u64,
    ) -> Result<(), Failure> {
        let Some(before) = position.checked_sub(1) else {
            return Ok(());
        };
        let mut batch = Batch::new();
        for key in [
            records::private_cursor(current.user, Some(owner)),
            records::private_cursor(current.user, None),
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
        let log = records::private_log(current.user);
        let page = self.store.read(&log, Position(before), limit).await?;
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
fn entry(position: Position, value: &[u8]) -> Result<Entry, Failure> {
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
