//! Commands: each is a method of the realm that asks the services. It returns what its answer
//! holds, of the type that the table of commands names. A command that changes something runs as
//! `mutations` describes.

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
pub(super) mod reply;
mod sessions;
mod void;
mod work;

use self::reply::{Outcome, Reply};
use crate::realm::{Caller, Realm, Secrecy, failure::Failure};
use crate::{
    store::Store,
    wire::{
        ErrorCode, Options, Request,
        command::{self, Kind, Read},
    },
};

impl<S: Store> Realm<S> {
    /// Executes a command.
    pub(in crate::realm) async fn execute<'r>(
        &self,
        caller: &Caller,
        request: &'r Request<'_>,
    ) -> Result<Reply<'r>, Failure> {
        // HS-7: a password in early data has no forward secrecy; a client never sends one there.
        if caller.secrecy == Secrecy::Early && request.command.carries_password() {
            return Err(ErrorCode::BadRequest.into());
        }
        if !request.has_only_own_options() {
            return Err(ErrorCode::Unsupported.into());
        }
        match request.command.kind() {
            Kind::Read(read) => Box::pin(self.read(caller, read, &request.options)).await,
            Kind::Change(change) => self.change(caller, request, change).await,
        }
    }

    /// Executes a command that changes nothing.
    async fn read<'r>(
        &self,
        caller: &Caller,
        read: Read<'r>,
        options: &Options,
    ) -> Result<Reply<'r>, Failure> {
        Ok(match read {
            Read::Inbox(command) => {
                let page = self.inbox(caller, command.session, options).await?;
                Reply::new(command, page)
            }
            Read::InboxGroup(command) => {
                let &command::InboxGroup { session, group } = command;
                let page = self.inboxgroup(caller, session, group, options).await?;
                Reply::new(command, page)
            }
            Read::InboxRealm(command) => {
                let &command::InboxRealm { session, realm } = command;
                let page = self.inboxrealm(caller, session, realm, options).await?;
                Reply::new(command, page)
            }
            Read::InboxGroupRealm(command) => {
                let which = (command.session, command.realm, command.group);
                let page = self.inboxgrouprealm(caller, which, options).await?;
                Reply::new(command, page)
            }
            Read::Realms(command) => {
                let peers = self.realms(caller, command, options).await?;
                Reply::new(command, peers)
            }
            Read::Groups(command) => {
                let groups = self.groups(caller, command.session, options).await?;
                Reply::new(command, groups)
            }
            Read::Members(command) => {
                let &command::Members { session, group } = command;
                let members = self.members(caller, session, group, options).await?;
                Reply::new(command, members)
            }
            Read::Sessions(command) => {
                let sessions = self.sessions(caller, command.session).await?;
                Reply::new(command, sessions)
            }
            Read::WhoAmI(command) => {
                let account = self.whoami(caller, command.session).await?;
                Reply::new(command, account)
            }
            Read::Watch(command) => {
                let command::Watch { session, cursors } = command;
                self.begin_watch(caller, *session, cursors).await?;
                Reply::new(command, ()).with(Outcome::Watch(command))
            }
            Read::Unwatch(command) => {
                self.sessions.session(caller, command.session).await?;
                Reply::new(command, ()).with(Outcome::Unwatch)
            }
            Read::Blocks(command) => {
                let blocked = self.blocks(caller, command.session, options).await?;
                Reply::new(command, blocked)
            }
            Read::Unread(command) => {
                let command::Unread { session, cursors } = command;
                let unread = self.unread(caller, *session, cursors).await?;
                Reply::new(command, unread)
            }
        })
    }
}
