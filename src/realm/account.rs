//! Whose a link is: the user who is logged in over it, or a peer.

use super::{Caller, Realm, sessions::Found, storing::Unnoted};
use crate::{
    store::Store,
    wire::{Answer, PeerRequest, RealmId, Request, SessionRef, Username},
};

/// Who has a share of what a server has for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// A user of this realm.
    User(Username),
    /// Another realm.
    Peer(RealmId),
}

impl<S: Store> Realm<S> {
    /// For whom a command was carried out that was answered so. None for who is not logged in, and where the store fails.
    pub async fn account_of(
        &self,
        caller: &Caller,
        command: &[u8],
        answer: &[u8],
    ) -> Option<Account> {
        if PeerRequest::is_one(command) {
            let peer = self.peer_of(&mut Unnoted, &caller.device?).await.ok()??;
            return Some(Account::Peer(peer.realm));
        }
        let request = Request::parse(command).ok()?;
        let session = match (request.command.session(), Answer::parse(answer)) {
            (Some(session), _) => session,
            (None, Ok(Answer::Session(id))) => SessionRef::Named(id),
            (None, _) => return None,
        };
        match self.find_session(caller, session).await.ok()? {
            Found::Open(current) => Some(Account::User(current.user)),
            Found::Since(_) | Found::None => None,
        }
    }
}
