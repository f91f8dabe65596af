//! The users whom a user has blocked (BLK-1 … BLK-5).
//!
//! Those who are blocked must not find out. A message of theirs is therefore decided and committed
//! like any other, with as many bytes, and answered the same. It only enters a log that nobody
//! reads, in place of the mailbox. A group has one log for all its members: there, entries are
//! hidden when they are read.

use std::sync::Arc;

use crate::realm::{
    failure::Failure,
    identity::RealmIdentity,
    records::{self, BlocksRecord, MailboxLog, Record as _},
    shared::Shared,
    storage::{Notes, Storage, Unnoted},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Log, Store},
    wire::{Mailbox, Sender, Username},
};

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

/// Whom users have blocked.
#[derive(Debug)]
pub struct Blocks<S> {
    storage: Arc<Storage<S>>,
    own: Arc<RealmIdentity>,
}

impl<S> Blocks<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(shared: &Shared<S>) -> Self {
        Self {
            storage: shared.storage.clone(),
            own: shared.own.clone(),
        }
    }
}

impl<S: Store> Blocks<S> {
    /// Returns a user as readers here are shown it: one of this realm without its name.
    pub(in crate::realm) fn as_shown(&self, user: Sender) -> Sender {
        let realm = user.realm.filter(|realm| *realm != self.own.id);
        Sender { realm, ..user }
    }

    /// Returns the record of a user's blocks. A damaged one counts as empty: nobody must be cut off
    /// by it, and `block` writes it anew.
    pub(in crate::realm) async fn blocks_record(
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
    pub(in crate::realm) async fn blocked_by(&self, user: Username) -> Result<Blocked, Failure> {
        let record = self.blocks_record(&mut Unnoted, user).await?;
        Ok(Blocked(record.users().collect()))
    }

    /// Returns the logs that a private message to a user enters: those of its mailboxes, or others
    /// with names as long if the user has blocked its sender.
    pub(in crate::realm) async fn logs_for<const N: usize>(
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

/// Adds to `batch` the record of a user's blocks.
pub fn put_blocks(user: Username, record: &BlocksRecord, batch: &mut Batch) -> Result<(), Failure> {
    batch.put(records::blocks(user), record.to_value()?);
    Ok(())
}
