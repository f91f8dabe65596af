//! The owner of a link: the user that is logged in over it, or a peer.

use super::{
    Caller, Realm, account::Account, failure::Failure, records::Owner, sessions::SessionLookup,
    storage::Unnoted, time::Moment,
};
use crate::{
    crypto::PublicKey,
    store::Store,
    wire::{OperationNumber, SessionRef},
};

/// What a realm knows about a device that opens a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The user that is logged in with the device, or the peer that it is.
    pub account: Option<Account>,
    /// The highest operation number that it has used.
    pub highest: OperationNumber,
}

impl<S: Store> Realm<S> {
    /// Returns what is known about a device that opens a link. What the store does not give is
    /// absent.
    pub async fn greet(&self, device: &PublicKey, now: Moment) -> Greeting {
        let account = self.account_of_device(device, now).await;
        // The device must learn this also if its session is damaged: its next number follows from
        // it.
        let highest = self.idempotency.highest(&Owner::Device(*device)).await;
        let absent = |failure: &Failure| self.storage.log_failure("greet", failure);
        match highest {
            Ok(highest) => Greeting {
                account: account.inspect_err(absent).ok().flatten(),
                highest,
            },
            Err(failure) => {
                absent(&failure);
                Greeting {
                    account: None,
                    highest: OperationNumber(0),
                }
            }
        }
    }

    /// Returns the user that is logged in with a device, or the peer that it is.
    async fn account_of_device(
        &self,
        device: &PublicKey,
        now: Moment,
    ) -> Result<Option<Account>, Failure> {
        Ok(match self.sessions.bound_session(device, now).await? {
            Some(session) => Some(Account::User(session.user)),
            None => self
                .peers
                .peer_of(&mut Unnoted, device)
                .await?
                .map(|peer| Account::Peer(peer.realm)),
        })
    }

    /// Returns the peer that has sent a request. `None` if the caller is none, and if the store
    /// fails.
    pub(super) async fn calling_peer(&self, caller: &Caller) -> Option<Account> {
        let peer = self
            .peers
            .peer_of(&mut Unnoted, &caller.device()?)
            .await
            .ok()??;
        Some(Account::Peer(peer.realm))
    }

    /// Returns the user of a session. `None` if it is not open, and if the store fails.
    pub(super) async fn user_of(&self, caller: &Caller, session: SessionRef) -> Option<Account> {
        match self
            .sessions
            .find_session(caller, session, None)
            .await
            .ok()?
        {
            SessionLookup::Open(current) => Some(Account::User(current.user)),
            SessionLookup::Since(_) | SessionLookup::None => None,
        }
    }
}
