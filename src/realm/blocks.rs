//! The users whom a user has blocked (BLK-1 … BLK-5).
//!
//! Those who are blocked must not find out. A message of theirs is therefore decided and committed
//! like any other, with as many bytes, and answered the same. It only enters a log that nobody
//! reads, in place of the mailbox. A group has one log for all its members: there, entries are left
//! out when they are read.

use super::{
    Caller, Failure, Realm, Work,
    groups::{NamesPage, local},
    records::{self, AccountRecord, BlocksRecord, MailboxLog, Record as _},
    storage::{Notes, Unnoted},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Log, PageLimit, Position, Store},
    wire::{
        Answer, Entry, ErrorCode, Mailbox, Options, Refusal, Sender, SessionRef, Username, command,
        is_of_realm,
    },
};

/// The most users that a user blocks at once.
pub const BLOCKS_MAX: usize = 128;
/// The most entries of blocked users that are left out at once. After these, the reader is told
/// how many there were, and goes on from there (BLK-4).
pub const LEFT_OUT_MAX: usize = 200;
/// The most entries that one `unread` looks at to leave out those of blocked users.
pub const UNREAD_LOOKED_AT: usize = 1000;

/// The users whose entries in groups a reader is not shown.
#[derive(Clone, Debug, Default)]
pub struct Blocked(Vec<Sender>);

/// For readers that are shown everything.
pub static NOBODY: Blocked = Blocked(Vec::new());

impl Blocked {
    /// Returns a list of these.
    #[cfg(test)]
    pub fn of<const N: usize>(users: [Sender; N]) -> Self {
        Self(users.into())
    }

    /// True if an entry is left out. What realms say in a mailbox never is.
    pub fn hides(&self, entry: &Entry) -> bool {
        let is_blocked = !is_of_realm(entry.content) && self.0.contains(&entry.from);
        is_blocked && !is_planted(Fault::ShowBlocked)
    }

    /// Returns those whose entries are left out of a mailbox: nobody in private ones, which such
    /// entries do not enter.
    pub fn within(&self, mailbox: Mailbox) -> &Self {
        match mailbox {
            Mailbox::Group(_) | Mailbox::RealmGroup(..) => self,
            Mailbox::Private | Mailbox::Realm(_) => &NOBODY,
        }
    }

    /// True if nobody is blocked.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns its memory, in bytes.
    pub const fn bytes(&self) -> usize {
        self.0.len() * size_of::<Sender>()
    }
}

impl<S: Store> Realm<S> {
    pub(super) async fn block(
        &self,
        work: &mut Work<'_>,
        command: &command::Block,
    ) -> Result<Answer, Failure> {
        let &command::Block { user: who, .. } = command;
        let current = self.session_of(work).await?;
        if who == local(current.user) {
            return Err(ErrorCode::BadRequest.into());
        }
        let mut record = self.blocks_record(&mut work.batch, current.user).await?;
        let name = who.to_string();
        let Err(at) = record.users.binary_search(&name) else {
            return Ok(Answer::Done);
        };
        match who.realm {
            // Only the other realm knows whether it has such a user.
            Some(realm) => drop(self.peer(&mut work.batch, realm).await?),
            None => {
                let account = records::account(who.user);
                let account = self.noted::<AccountRecord>(&mut work.batch, &account);
                account.await?.ok_or(ErrorCode::NoSuchUser)?;
            }
        }
        if record.users.len() >= BLOCKS_MAX {
            return Err(Refusal::too_large(BLOCKS_MAX as u64).into());
        }
        record.users.insert(at, name);
        let key = records::blocks(current.user);
        work.batch.put(key, record.to_value()?);
        work.affected = Some(current.user);
        Ok(Answer::Done)
    }

    pub(super) async fn unblock(
        &self,
        work: &mut Work<'_>,
        command: &command::Unblock,
    ) -> Result<Answer, Failure> {
        let &command::Unblock { user: who, .. } = command;
        let current = self.session_of(work).await?;
        let mut record = self.blocks_record(&mut work.batch, current.user).await?;
        if let Ok(at) = record.users.binary_search(&who.to_string()) {
            record.users.remove(at);
            let key = records::blocks(current.user);
            work.batch.put(key, record.to_value()?);
            work.affected = Some(current.user);
        }
        Ok(Answer::Done)
    }

    pub(super) async fn blocks(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.session(caller, session).await?;
        let record = self.blocks_record(&mut Unnoted, current.user).await?;
        let behind = options.behind.map(|behind| behind.to_string());
        let mut page = NamesPage::new(options, caller.room);
        for name in record.users {
            if behind.as_ref().is_none_or(|behind| name > *behind) {
                page.add(name.len() + 1, name);
            }
        }
        let (more, names) = (page.more, page.items);
        Ok(Answer::Names { more, names })
    }

    async fn blocks_record(
        &self,
        notes: &mut impl Notes,
        user: Username,
    ) -> Result<BlocksRecord, Failure> {
        let found = self
            .noted::<BlocksRecord>(notes, &records::blocks(user))
            .await?;
        Ok(found.map_or_else(BlocksRecord::default, |(record, _)| record))
    }

    /// Returns the users whom a user has blocked.
    pub(super) async fn blocked_by(&self, user: Username) -> Result<Blocked, Failure> {
        let record = self.blocks_record(&mut Unnoted, user).await?;
        let users = record.users.iter().filter_map(|name| name.parse().ok());
        Ok(Blocked(users.collect()))
    }

    /// Returns the logs that a private message to a user enters: those of its mailboxes, or others
    /// with names as long if the user has blocked its sender.
    pub(super) async fn logs_for<const N: usize>(
        &self,
        mailboxes: [MailboxLog; N],
        (from, to): (&Sender, Username),
    ) -> Result<[Log; N], Failure> {
        let record = self.blocks_record(&mut Unnoted, to).await?;
        let is_blocked = record.users.binary_search(&from.to_string()).is_ok();
        Ok(if is_blocked && !is_planted(Fault::DeliverBlocked) {
            mailboxes.map(MailboxLog::into_discarded)
        } else {
            mailboxes.map(|mailbox| mailbox.log)
        })
    }

    /// Counts how many entries of a group after a position are of users whom the reader has
    /// blocked. Looks at no more than `left`, and lowers it.
    pub(super) async fn count_left_out(
        &self,
        place: &MailboxLog,
        after: u64,
        blocked: &Blocked,
        left: &mut usize,
    ) -> Result<u64, Failure> {
        let (mut after, mut count) = (Position(after), 0);
        while *left > 0 && !blocked.is_empty() {
            let limit = PageLimit {
                entries: LEFT_OUT_MAX.min(*left),
                bytes: super::limits::WATCH_READ_BYTES,
            };
            let (entries, more) = self.entries(place, after, 0, limit).await?;
            *left = left.saturating_sub(entries.len());
            let hidden = entries.iter().filter(|entry| blocked.hides(entry));
            count += hidden.count() as u64;
            match entries.last() {
                Some(last) if more => after = last.position,
                _ => break,
            }
            // Other tasks may run in between.
            tokio::task::yield_now().await;
        }
        Ok(count)
    }
}
