//! The owner of a link: the user that is logged in over it, or a peer.

use super::{Caller, Failure, Moment, Realm, records::Owner, sessions::Found, storage::Unnoted};
use crate::{
    crypto::PublicKey,
    store::Store,
    wire::{Answer, OperationNumber, PeerRequest, RealmId, Request, SessionRef, Username},
};

/// A user or peer that gets a share of what a server has for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// A user of this realm.
    User(Username),
    /// Another realm.
    Peer(RealmId),
}

/// What a realm knows about a device that opens a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The user that is logged in with the device, or the peer that it is.
    pub account: Option<Account>,
    /// The highest operation number that it has used.
    pub highest: OperationNumber,
}

impl<S: Store> Realm<S> {
    /// Returns what is known about a device that opens a link: nothing if the store fails.
    pub async fn greet(&self, device: &PublicKey, now: Moment) -> Greeting {
        let greeting = async {
            let account = match self.bound_session(device, now).await? {
                Some(session) => Some(Account::User(session.user)),
                None => self
                    .peer_of(&mut Unnoted, device)
                    .await?
                    .map(|peer| Account::Peer(peer.realm)),
            };
            let highest = self.highest(&Owner::Device(*device)).await?;
            Ok::<_, Failure>(Greeting { account, highest })
        };
        greeting.await.unwrap_or_else(|failure| {
            self.note("greet", &failure);
            Greeting {
                account: None,
                highest: OperationNumber(0),
            }
        })
    }

    /// Returns the user or peer for which a command with this answer was executed. `None` if there
    /// is no session, and if the store fails.
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
