//! Commands: each is a method of the realm that asks the services and returns an answer. A command
//! that changes something runs as `mutations` describes.

mod accounts;
mod add_peer;
pub(super) mod asking;
pub(super) mod blocks;
mod group_end;
mod groups;
mod mail;
mod moderation;
pub(super) mod mutations;
mod operators;
mod outgoing;
pub(super) mod peer_admin;
mod reading;
mod replicas;
mod sessions;
mod void;
mod work;

use crate::realm::{Caller, Realm, failure::Failure};
use crate::{
    store::Store,
    wire::{
        Answer, ErrorCode, Options, Request,
        command::{self, Kind, Read},
    },
};

impl<S: Store> Realm<S> {
    /// Executes a command.
    pub(in crate::realm) async fn execute(
        &self,
        caller: &Caller,
        request: &Request<'_>,
    ) -> Result<Vec<u8>, Failure> {
        // HS-7: a password in early data has no forward secrecy; a client never sends one there.
        if caller.early && request.command.carries_password() {
            return Err(ErrorCode::BadRequest.into());
        }
        if !request.has_only_own_options() {
            return Err(ErrorCode::Unsupported.into());
        }
        match request.command.kind() {
            Kind::Read(read) => {
                let answer = Box::pin(self.read(caller, read, &request.options)).await?;
                let bytes = answer.to_bytes();
                debug_assert!(request.command.is_answered_by(&bytes));
                Ok(bytes)
            }
            Kind::Change(change) => self.change(caller, request, change).await,
        }
    }

    /// Executes a command that changes nothing.
    async fn read(
        &self,
        caller: &Caller,
        read: Read<'_>,
        options: &Options,
    ) -> Result<Answer, Failure> {
        match read {
            Read::Inbox(&command::Inbox { session }) => self.inbox(caller, session, options).await,
            Read::InboxGroup(&command::InboxGroup { session, group }) => {
                self.inboxgroup(caller, session, group, options).await
            }
            Read::InboxRealm(&command::InboxRealm { session, realm }) => {
                self.inboxrealm(caller, session, realm, options).await
            }
            Read::InboxGroupRealm(&command::InboxGroupRealm {
                session,
                realm,
                group,
            }) => {
                let which = (session, realm, group);
                self.inboxgrouprealm(caller, which, options).await
            }
            Read::Realms(&command::Realms { session }) => {
                self.realms(caller, session, options.form).await
            }
            Read::Groups(&command::Groups { session }) => {
                self.groups(caller, session, options).await
            }
            Read::Members(&command::Members { session, group }) => {
                self.members(caller, session, group, options).await
            }
            Read::Sessions(&command::Sessions { session }) => self.sessions(caller, session).await,
            Read::WhoAmI(&command::WhoAmI { session }) => self.whoami(caller, session).await,
            Read::Watch(watch) => {
                self.begin_watch(caller, watch.session, &watch.cursors)
                    .await
            }
            Read::Unwatch(&command::Unwatch { session }) => {
                self.sessions.session(caller, session).await?;
                Ok(Answer::Done)
            }
            Read::Blocks(&command::Blocks { session }) => {
                self.blocks(caller, session, options).await
            }
            Read::Unread(unread) => self.unread(caller, unread.session, &unread.cursors).await,
        }
    }
}
