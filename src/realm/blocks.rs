//! The users whom a user has blocked (BLK-1 … BLK-5).
//!
//! Those who are blocked must not find out. A message of theirs is therefore decided and committed
//! like any other, with as many bytes, and answered the same. It only enters a log that nobody
//! reads, in place of the mailbox. A group has one log for all its members: there, entries are
//! hidden when they are read.

use super::{
    Caller, Failure, Mailboxes, Realm, Work,
    groups::{NamesPage, local},
    records::{self, AccountRecord, BlocksRecord, MailboxLog, Record as _},
    storage::{Notes, Unnoted},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Log, Store},
    wire::{Answer, ErrorCode, Mailbox, Options, Refusal, Sender, SessionRef, Username, command},
};

/// The most users that a user blocks at once.
pub const BLOCKS_MAX: usize = 128;
/// The most entries in a row that are hidden from a reader without a word, and their bytes. After
/// these, the reader is told how many there were, and goes on from there (BLK-4).
pub const HIDDEN_MAX: usize = 200;
pub const HIDDEN_BYTES_MAX: usize = 64 << 10;
/// The number of entries that are looked at together once some were hidden.
pub const HIDDEN_AT_ONCE: usize = 64;
/// The most entries that one `unread` looks at to find hidden ones.
pub const UNREAD_LOOKED_AT: usize = 1000;

/// The users whose entries in groups a reader is not shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blocked(Vec<Sender>);

/// For readers that are shown everything.
pub static NOBODY: Blocked = Blocked(Vec::new());

impl Blocked {
    /// Returns a list of these.
    #[cfg(test)]
    pub fn of(users: &[Sender]) -> Self {
        Self(users.into())
    }

    /// True if what a user wrote is hidden.
    pub fn hides(&self, author: &Sender) -> bool {
        self.0.contains(author) && !is_planted(Fault::ShowBlocked)
    }

    /// Returns those whose entries are hidden in a mailbox: nobody in private ones, which such
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
        let current = self.sessions.session_of(work).await?;
        let who = self.mailboxes.as_shown(command.user);
        if who == local(current.user) {
            return Err(ErrorCode::BadRequest.into());
        }
        let mut record = self
            .mailboxes
            .blocks_record(&mut work.batch, current.user)
            .await?;
        let name = who.to_string();
        let Err(at) = record.users.binary_search(&name) else {
            return Ok(Answer::Done);
        };
        match who.realm {
            // The user may be of a realm that is no peer, and write in a group that is read here.
            // The block must not begin after that of a peer's users has ended.
            Some(realm) => drop(self.peers.find_peer(&mut work.batch, realm).await?),
            None => {
                let account = records::account(who.user);
                let account = self
                    .storage
                    .noted::<AccountRecord>(&mut work.batch, &account);
                account.await?.ok_or(ErrorCode::NoSuchUser)?;
            }
        }
        if record.users.len() >= BLOCKS_MAX {
            return Err(Refusal::too_large(BLOCKS_MAX as u64).into());
        }
        record.users.insert(at, name);
        put_blocks(work, current.user, &record)?;
        Ok(Answer::Done)
    }

    pub(super) async fn unblock(
        &self,
        work: &mut Work<'_>,
        command: &command::Unblock,
    ) -> Result<Answer, Failure> {
        let current = self.sessions.session_of(work).await?;
        let who = self.mailboxes.as_shown(command.user);
        let mut record = self
            .mailboxes
            .blocks_record(&mut work.batch, current.user)
            .await?;
        if let Ok(at) = record.users.binary_search(&who.to_string()) {
            record.users.remove(at);
            put_blocks(work, current.user, &record)?;
        }
        Ok(Answer::Done)
    }

    pub(super) async fn blocks(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<Answer, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let record = self
            .mailboxes
            .blocks_record(&mut Unnoted, current.user)
            .await?;
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
}

impl<S: Store> Mailboxes<S> {
    /// Returns a user as readers here are shown it: one of this realm without its name.
    fn as_shown(&self, user: Sender) -> Sender {
        let realm = user.realm.filter(|realm| *realm != self.own.id);
        Sender { realm, ..user }
    }

    /// Returns the record of a user's blocks. A damaged one counts as empty: nobody must be cut off
    /// by it, and `block` writes it anew.
    async fn blocks_record(
        &self,
        notes: &mut impl Notes,
        user: Username,
    ) -> Result<BlocksRecord, Failure> {
        let key = records::blocks(user);
        match self.storage.noted::<BlocksRecord>(notes, &key).await {
            Err(failure) if failure.is_damage() => {
                self.storage.log_failure("blocks", &failure);
                Ok(BlocksRecord::default())
            }
            found => Ok(found?.map_or_else(BlocksRecord::default, |(record, _)| record)),
        }
    }

    /// Returns the users whom a user has blocked.
    pub(super) async fn blocked_by(&self, user: Username) -> Result<Blocked, Failure> {
        let record = self.blocks_record(&mut Unnoted, user).await?;
        Ok(Blocked(record.users().collect()))
    }

    /// Returns the logs that a private message to a user enters: those of its mailboxes, or others
    /// with names as long if the user has blocked its sender.
    pub(super) async fn logs_for<const N: usize>(
        &self,
        notes: &mut impl Notes,
        mailboxes: [MailboxLog; N],
        (from, to): (&Sender, Username),
    ) -> Result<[Log; N], Failure> {
        // If the user blocks the sender meanwhile, it is decided again: the message must not come
        // after the answer to `block`.
        let record = self.blocks_record(notes, to).await?;
        let is_blocked = record.users.binary_search(&from.to_string()).is_ok();
        Ok(if is_blocked && !is_planted(Fault::DeliverBlocked) {
            mailboxes.map(MailboxLog::into_discarded)
        } else {
            mailboxes.map(|mailbox| mailbox.log)
        })
    }
}

/// Adds to the work's batch the record of a user's blocks, which the user's watches follow.
fn put_blocks(work: &mut Work<'_>, user: Username, record: &BlocksRecord) -> Result<(), Failure> {
    work.batch.put(records::blocks(user), record.to_value()?);
    work.affected = Some(user);
    // It is allowed to users who have used up their storage quota, but not for nothing.
    work.adds_for = Some(user);
    Ok(())
}
