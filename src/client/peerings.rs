//! An operator's commands about other realms.

use super::{
    CallError, Client, RealmAddress,
    answer::{CommandKind, unexpected},
    commands::UNNUMBERED,
};
use crate::{
    crypto::PublicKey,
    wire::{
        Answer, Peer, PeerAddition, PeerDetail, PeerList, PeerListing, PeerRemoval, Peered,
        RealmId, Sent, command,
    },
};

impl Client {
    /// Peers the realm with another one, which is at `address` and has `key`. Without a key, the
    /// key found there is trusted. `source` is the address at which the other realm can reach this
    /// one; the default is this realm's first address.
    ///
    /// [`Peered::Accepted`]: the other realm has accepted. [`Peered::Queued`]: it has not yet, and
    /// this realm keeps asking.
    pub async fn addrealm(
        &self,
        realm: RealmId,
        address: RealmAddress<'_>,
        source: Option<RealmAddress<'_>>,
        key: Option<PublicKey>,
    ) -> Result<Peered, CallError> {
        let key = key.map(|key| key.0);
        let addition = PeerAddition::Add { key };
        let source = source.unwrap_or(RealmAddress::OWN);
        self.add_peer(realm, address, source, addition).await
    }

    /// Ends a peering. Messages queued for the peer are returned to their senders.
    pub async fn removerealm(&self, realm: RealmId) -> Result<(), CallError> {
        self.remove(realm, PeerRemoval::Return).await
    }

    /// Like [`Client::removerealm`], but messages queued for the peer are dropped and their senders
    /// are not told.
    pub async fn droprealm(&self, realm: RealmId) -> Result<(), CallError> {
        self.remove(realm, PeerRemoval::Drop).await
    }

    async fn remove(&self, realm: RealmId, removal: PeerRemoval) -> Result<(), CallError> {
        let command = command::RemoveRealm {
            operation: UNNUMBERED,
            session: self.session()?,
            realm,
        };
        self.call(removal.into(), command).await
    }

    /// Accepts a realm that has introduced itself and waits for a decision: the one with this key,
    /// under this name.
    pub async fn acceptrealm(&self, realm: RealmId, key: PublicKey) -> Result<(), CallError> {
        let accept = PeerAddition::Add { key: Some(key.0) };
        self.about_address(realm, RealmAddress::OWN, accept).await
    }

    /// Refuses a realm that has introduced itself, by the name that it calls itself.
    pub async fn refuserealm(&self, realm: RealmId, key: PublicKey) -> Result<(), CallError> {
        self.remove(realm, PeerRemoval::Refuse { key: key.0 }).await
    }

    /// Changes the address of a peer.
    pub async fn moverealm(
        &self,
        realm: RealmId,
        address: RealmAddress<'_>,
    ) -> Result<(), CallError> {
        self.about_address(realm, address, PeerAddition::Move { key: None })
            .await
    }

    async fn add_peer(
        &self,
        realm: RealmId,
        address: RealmAddress<'_>,
        source: RealmAddress<'_>,
        addition: PeerAddition,
    ) -> Result<Peered, CallError> {
        let (address, port) = address.fields();
        let (src_address, src_port) = source.fields();
        let command = command::AddRealm {
            operation: UNNUMBERED,
            session: self.session()?,
            realm,
            address,
            port,
            src_address,
            src_port,
        };
        self.call(addition.into(), command).await
    }

    async fn about_address(
        &self,
        realm: RealmId,
        address: RealmAddress<'_>,
        addition: PeerAddition,
    ) -> Result<(), CallError> {
        let source = RealmAddress::OWN;
        match self.add_peer(realm, address, source, addition).await? {
            Peered::Accepted => Ok(()),
            Peered::Queued => Err(unexpected(&Answer::Sent(Sent::Queued), CommandKind::Change)),
        }
    }

    /// Returns the realm's peers.
    pub async fn realms(&self) -> Result<Vec<Peer>, CallError> {
        match self.list(PeerListing::Peers).await? {
            PeerList::Peers(peers) => Ok(peers),
            PeerList::Details(details) => {
                Err(unexpected(&Answer::Details(details), CommandKind::Read))
            }
        }
    }

    /// Returns the realm's peers with all details for an operator.
    pub async fn realm_details(&self) -> Result<Vec<PeerDetail>, CallError> {
        self.details(PeerListing::Details).await
    }

    /// Returns the realms that have introduced themselves and wait for a decision.
    pub async fn pending_realms(&self) -> Result<Vec<PeerDetail>, CallError> {
        self.details(PeerListing::Pending).await
    }

    async fn details(&self, listing: PeerListing) -> Result<Vec<PeerDetail>, CallError> {
        match self.list(listing).await? {
            PeerList::Details(details) => details.read().map_err(|_| CallError::Misunderstood {
                what: "details of realms".into(),
                may_be_done: false,
            }),
            PeerList::Peers(peers) => Err(unexpected(&Answer::Realms(peers), CommandKind::Read)),
        }
    }

    async fn list(&self, listing: PeerListing) -> Result<PeerList, CallError> {
        let command = command::Realms {
            session: self.session()?,
        };
        self.call(listing.into(), command).await
    }
}
