//! The logs of a user's mailboxes.

use crate::realm::{
    Caller, current_session::Current, failure::Failure, mailboxes::Mailboxes, records::MailboxLog,
};
use crate::{
    store::Store,
    wire::{Cursors, Mailbox, Username},
};

impl<S: Store> Mailboxes<S> {
    /// Confirms the cursors that a reader names (READ-3).
    pub(in crate::realm) async fn confirm_all(
        &self,
        caller: &Caller,
        current: &Current,
        cursors: &Cursors,
    ) -> Result<(), Failure> {
        let owner = current.owner();
        for (mailbox, position) in &cursors.0 {
            if caller.believed(Some(position.0)).is_some()
                && let Some(place) = self.place_of(current.user, mailbox).await?
            {
                self.confirm(current, &owner, &place, position.0).await?;
            }
        }
        Ok(())
    }

    /// Returns the log of a user's mailbox, if it is theirs.
    pub(in crate::realm) async fn place_of(
        &self,
        user: Username,
        mailbox: &Mailbox,
    ) -> Result<Option<MailboxLog>, Failure> {
        Ok(match *mailbox {
            Mailbox::Private => Some(MailboxLog::private(user)),
            Mailbox::Realm(realm) => Some(MailboxLog::from_realm(user, realm)),
            Mailbox::Group(group) => self.groups.joined_place(user, group).await?,
            Mailbox::RealmGroup(realm, group) => {
                self.groups.copied_place(user, realm, group).await?
            }
        })
    }
}
