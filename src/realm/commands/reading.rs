//! `inbox` and its kin: reading the messages of a mailbox.

use crate::realm::{
    Caller, Realm, failure::Failure, mailboxes::blocks::NOBODY, records::MailboxLog,
    storage::Unnoted,
};
use crate::{
    store::Store,
    wire::{GroupName, Options, Page, RealmId, SessionRef},
};

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn inbox(
        &self,
        caller: &Caller,
        session: SessionRef,
        options: &Options,
    ) -> Result<Page, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let place = MailboxLog::private(current.user);
        self.mailboxes
            .read_page(caller, &current, (&place, &NOBODY), options)
            .await
    }

    pub(in crate::realm) async fn inboxgroup(
        &self,
        caller: &Caller,
        session: SessionRef,
        group: GroupName,
        options: &Options,
    ) -> Result<Page, Failure> {
        let current = self.sessions.session(caller, session).await?;
        let (group, _) = self
            .groups
            .group_of_member(&mut Unnoted, group, current.user)
            .await?;
        let blocked = self.blocks.blocked_by(current.user).await?;
        self.mailboxes
            .read_page(caller, &current, (&group.place(), &blocked), options)
            .await
    }

    pub(super) async fn inboxrealm(
        &self,
        caller: &Caller,
        session: SessionRef,
        realm: RealmId,
        options: &Options,
    ) -> Result<Page, Failure> {
        let current = self.sessions.session(caller, session).await?;
        self.peers.peer(&mut Unnoted, realm).await?;
        let place = MailboxLog::from_realm(current.user, realm);
        self.mailboxes
            .read_page(caller, &current, (&place, &NOBODY), options)
            .await
    }
}
