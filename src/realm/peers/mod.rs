//! Peering with other realms (PEER-1 … PEER-3): their keys and addresses, and which realms may
//! become peers.

mod claimed_addresses;
pub(super) mod numbers;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::realm::{
    failure::Failure,
    identity::RealmIdentity,
    limits::{Limiter, PEERS_MAX},
    lives::Lives,
    network::Network,
    peer::Peer,
    pending::Introduction,
    random::Random,
    records::{self, DepartureRecord, FormerKeysRecord, PeerName, PeerRecord, Record as _},
    shared::Shared,
    storage::{Notes, Outcome, Storage},
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, Prefix, Store, StoreError, Version, Versioned},
    wire::{ErrorCode, Port, RealmId, Refusal, Text},
};

/// How long a realm is asked to wait for a name whose last holder is still departing, in
/// milliseconds.
const DEPARTING_MS: u64 = 1000;

/// The number of names that are read at once.
const NAMED_AT_ONCE: usize = 256;

/// What becomes of the messages that wait for a peer that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::realm) enum UndeliveredQueue {
    /// Their senders are told.
    Returned,
    /// An operator has said that they are dropped.
    Dropped,
}

/// The realms that are peers: their records, names and keys.
#[derive(Debug)]
pub struct Peers<S> {
    storage: Arc<Storage<S>>,
    random: Arc<Random>,
    lives: Arc<Lives<S>>,
    own: Arc<RealmIdentity>,
    limiter: Arc<Limiter>,
    network: Arc<Network>,
    chores: Arc<Notify>,
}

impl<S> Peers<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(shared: &Shared<S>, lives: Arc<Lives<S>>) -> Self {
        Self {
            storage: shared.storage.clone(),
            random: shared.random.clone(),
            lives,
            own: shared.own.clone(),
            limiter: shared.limiter.clone(),
            network: shared.network.clone(),
            chores: shared.chores.clone(),
        }
    }
}

impl<S: Store> Peers<S> {
    /// Adds to `notes` that a realm that asks is still a peer: it may have been removed after it
    /// asked. A new key does not change that.
    pub(in crate::realm) async fn rely_on_peer(
        &self,
        notes: &mut impl Notes,
        peer: &Peer,
    ) -> Result<(), Failure> {
        if is_planted(Fault::ForgetRemoval) {
            return Ok(());
        }
        let current = self.find_peer(notes, peer.realm).await?;
        match current.filter(|current| current.identity() == peer.identity()) {
            Some(_) => Ok(()),
            None => Err(ErrorCode::PeerRefused.into()),
        }
    }

    /// Returns the peer of that name.
    pub(in crate::realm) async fn peer(
        &self,
        notes: &mut impl Notes,
        realm: RealmId,
    ) -> Result<Peer, Failure> {
        self.find_peer(notes, realm)
            .await?
            .ok_or(ErrorCode::NoSuchRealm.into())
    }

    fn as_peer(&self, realm: RealmId, record: PeerRecord, version: Version) -> Peer {
        let number = self.lives.in_this_life(record.number);
        Peer::new(realm, PeerRecord { number, ..record }, version)
    }

    pub(in crate::realm) async fn find_peer(
        &self,
        notes: &mut impl Notes,
        realm: RealmId,
    ) -> Result<Option<Peer>, Failure> {
        let found = self
            .storage
            .noted::<PeerRecord>(notes, &records::peer(realm))
            .await?;
        Ok(found.map(|(record, version)| self.as_peer(realm, record, version)))
    }

    /// Returns the peer that has or had that key.
    pub(in crate::realm) async fn peer_of(
        &self,
        notes: &mut impl Notes,
        key: &PublicKey,
    ) -> Result<Option<Peer>, Failure> {
        let name = records::peer_name(key);
        let name = self.storage.noted::<PeerName>(notes, &name).await?;
        // A key without a name was given up by a peer that was removed since.
        let Some((name, _)) = name.filter(|(name, _)| !name.realm.is_empty()) else {
            return Ok(None);
        };
        let damaged = |_| StoreError::Damaged("the name under which a key is known".into());
        let realm = name.realm.parse().map_err(damaged)?;
        let found = self.find_peer(notes, realm).await?;
        // The realm that has the name now need not have the key.
        Ok(found.filter(|peer| peer.keys().any(|known| known == *key)))
    }

    /// Returns all peers that can be read, for the tasks that carry messages to them, and whether
    /// these are all. A peer that cannot be read may still exist: its messages still wait.
    pub async fn peers(&self) -> (Vec<Peer>, bool) {
        let (peers, unread) = self.read_peers().await;
        if let Some(failure) = &unread {
            self.storage.log_failure("peers", failure);
        }
        (peers, unread.is_none())
    }

    pub(in crate::realm) async fn list_peers(&self) -> Result<Vec<Peer>, Failure> {
        match self.read_peers().await {
            (peers, None) => Ok(peers),
            (_, Some(failure)) => Err(failure),
        }
    }

    /// Returns all peers that can be read, and an error if others cannot. The configuration may
    /// name more peers than the bound; these are included, or they would get no messages.
    async fn read_peers(&self) -> (Vec<Peer>, Option<Failure>) {
        let prefix = records::peers();
        let (mut peers, mut unread) = (Vec::new(), None);
        let found = |key: &Key, found: Versioned| {
            let Some(realm) = records::name_in(key, &prefix) else {
                return;
            };
            match PeerRecord::from_value(&found.value) {
                Ok(record) => peers.push(self.as_peer(realm, record, found.version)),
                Err(error) => {
                    tracing::error!(peer = %realm, %error, "record of a peer could not be read");
                    unread = Some(error);
                }
            }
        };
        let damage = self.storage.list_readable(&prefix, PEERS_MAX, found).await;
        (peers, damage.or(unread).map(Failure::Store))
    }

    /// Returns one of this realm's own addresses: the named one, or the first if none is named.
    pub(in crate::realm) fn source(
        &self,
        address: Text<'_>,
        port: Port,
    ) -> Result<(String, u16), Failure> {
        let named = (address.0, port.0);
        let mut own = self.own.addresses.iter();
        let found = if named == ("", 0) {
            own.next()
        } else {
            own.find(|(host, port)| (host.as_str(), *port) == named)
        };
        found.cloned().ok_or(ErrorCode::BadSource.into())
    }

    /// Refuses a name whose last holder is still departing.
    async fn check_departed(&self, realm: RealmId, batch: &mut Batch) -> Result<(), Failure> {
        let key = records::departure(realm);
        match self.storage.noted::<DepartureRecord>(batch, &key).await? {
            Some(_) => Err(Refusal::busy(DEPARTING_MS).into()),
            None => Ok(()),
        }
    }

    /// Returns the record of a new peer. If it was a peer before, the records of its earlier
    /// messages stay in use.
    pub(in crate::realm) async fn begin_peer(
        &self,
        batch: &mut Batch,
        (realm, key): (RealmId, PublicKey),
        (address, port): (String, u16),
        (src_address, src_port): (String, u16),
    ) -> Result<Peer, Failure> {
        self.check_departed(realm, batch).await?;
        let name = records::peer_name(&key);
        if self
            .storage
            .noted::<PeerName>(batch, &name)
            .await?
            .is_some()
        {
            // The key is a peer's, or one that a removed peer has replaced by another.
            return Err(ErrorCode::RealmExists.into());
        }
        let former = records::former_keys(&key);
        let former = self
            .storage
            .noted::<FormerKeysRecord>(batch, &former)
            .await?;
        let record = PeerRecord {
            key: key.0,
            former: former.map(|(former, _)| former.keys).unwrap_or_default(),
            knows: self.own.key().0,
            address,
            port,
            src_address,
            src_port,
            epoch: u64::from_be_bytes(self.random.random()),
            introduced: false,
            added: false,
            claimed: None,
            number: self.draw_number(),
            theirs: 0,
            apart: false,
        };
        Ok(Peer::new(realm, record, Version(0)))
    }

    pub(in crate::realm) async fn put_new_peer(
        &self,
        peer: &Peer,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let (key, name) = (records::peer(peer.realm), records::peer_name(&peer.key()));
        let realm: String = peer.realm.as_str().into();
        let named = PeerName { realm }.to_value()?;
        batch
            .expect(key.clone(), Expected::Absent)
            .expect(name.clone(), Expected::Absent)
            .put(key, peer.record.to_value()?)
            .put(name, named.clone());
        for former in &peer.record.former {
            let name = records::peer_name(&PublicKey(*former));
            // Another realm may have the key by now: then it keeps it.
            let before = self.storage.noted::<PeerName>(batch, &name).await?;
            if before.is_none_or(|(before, _)| before.realm.is_empty()) {
                batch.put(name, named.clone());
            }
        }
        Ok(())
    }

    /// Adds to `batch` a peer that an operator has accepted after it introduced itself. Its address
    /// is unknown until it has shown it.
    pub(in crate::realm) async fn put_accepted(
        &self,
        batch: &mut Batch,
        realm: RealmId,
        found: &Introduction,
        source: (String, u16),
    ) -> Result<(), Failure> {
        let nowhere = (String::new(), 0);
        let mut peer = self
            .begin_peer(batch, (realm, found.key), nowhere, source)
            .await?;
        let (host, port) = &found.address;
        peer.record = PeerRecord {
            introduced: true,
            added: true,
            // It may know this realm from before: no user joins before the two agree on the
            // peering.
            apart: true,
            knows: found.own.0,
            ..Self::with_claim(&peer.record, (host, *port))
        };
        self.put_new_peer(&peer, batch).await
    }

    /// Adds to `batch` that a peer has a new key, for which its present one vouches.
    pub(in crate::realm) fn put_new_key(
        peer: &Peer,
        new: &PublicKey,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let mut peer = peer.clone();
        peer.record.former.insert(0, peer.record.key);
        peer.record.key = new.0;
        peer.put(batch)?;
        let realm = peer.realm.as_str().into();
        batch.put(records::peer_name(new), PeerName { realm }.to_value()?);
        Ok(())
    }

    /// Adds to `batch` that a realm is no peer any more, and that its leftovers must be removed.
    pub(in crate::realm) async fn remove(
        &self,
        peer: &Peer,
        queue: UndeliveredQueue,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        batch
            .delete(records::peer(peer.realm))
            .delete(records::former_peering(peer.realm));
        let key = peer.key();
        for known in peer.keys() {
            let name = records::peer_name(&known);
            let Some((named, _)) = self.storage.noted::<PeerName>(batch, &name).await? else {
                continue;
            };
            if named.realm != peer.realm.as_str() {
                // The key is another peer's by now.
                continue;
            }
            if known == key || !peer.is_added() || is_planted(Fault::TakeGivenUpKey) {
                batch.delete(name);
            } else {
                // Any holder of this key now is not this peer; the key may have been replaced
                // because it was stolen.
                let realm = String::new();
                batch.put(name, PeerName { realm }.to_value()?);
            }
        }
        let is_kept = peer.is_added() || !is_planted(Fault::ForgetFirstKey);
        if !peer.record.former.is_empty() && is_kept {
            // These are needed if it comes back: its idempotency records use its first key. An
            // uninvited peer leaves only that key, and the number of uninvited peers is limited.
            let keys = if peer.is_added() {
                peer.record.former.clone()
            } else {
                vec![peer.first_key().0]
            };
            let former = FormerKeysRecord { keys }.to_value()?;
            batch.put(records::former_keys(&peer.key()), former);
        }
        let drops = queue == UndeliveredQueue::Dropped;
        let departure = DepartureRecord { drops }.to_value()?;
        batch.put(records::departure(peer.realm), departure);
        Ok(())
    }

    /// Returns the realms that are no peers any more and have left something behind, as far as they
    /// can be read, and why others cannot.
    pub(in crate::realm) async fn departing(&self) -> (Vec<RealmId>, Option<Failure>) {
        self.named_under(&records::departures()).await
    }

    /// Returns the same for peers whose former peering has left something behind.
    pub(in crate::realm) async fn with_former_peering(&self) -> (Vec<RealmId>, Option<Failure>) {
        self.named_under(&records::former_peerings()).await
    }

    async fn named_under(&self, prefix: &Prefix) -> (Vec<RealmId>, Option<Failure>) {
        let mut realms = Vec::new();
        let found =
            |key: &Key, _: Versioned| realms.extend(records::name_in::<RealmId>(key, prefix));
        let damage = self.storage.list_readable(prefix, NAMED_AT_ONCE, found);
        let damage = damage.await.map(Failure::from);
        (realms, damage)
    }

    /// True if what waits for a departing realm is dropped, and not returned to its senders.
    pub(in crate::realm) async fn is_queue_dropped(&self, realm: RealmId) -> Result<bool, Failure> {
        let key = records::departure(realm);
        let departure = self.storage.record::<DepartureRecord>(&key).await?;
        Ok(departure.is_some_and(|(departure, _)| departure.drops))
    }

    /// Makes a peer of a realm that the configuration names. Writes nothing if nothing has changed.
    ///
    /// Returns false if the name or the key is another realm's, or if the source is none of this
    /// realm's addresses.
    ///
    /// # Errors
    /// The realm is busy, as on a full disk, or the store has failed. An existing peer is
    /// unchanged.
    pub async fn list_peer(
        &self,
        realm: RealmId,
        key: PublicKey,
        (address, port): (String, u16),
        source: Option<(String, u16)>,
    ) -> Result<bool, Failure> {
        let listed = async {
            let (name, number) = source
                .as_ref()
                .map_or(("", 0), |(host, port)| (host, *port));
            let (src_address, src_port) = self.source(Text(name), Port(number))?;
            let mut batch = Batch::new();
            let found = self.find_peer(&mut batch, realm).await?;
            if let Some(Peer { record: was, .. }) = found {
                let record = PeerRecord {
                    claimed: was
                        .claimed
                        .clone()
                        .filter(|at| *at != (address.clone(), port)),
                    address,
                    port,
                    src_address,
                    src_port,
                    added: true,
                    ..was.clone()
                };
                if record.former.contains(&key.0) {
                    tracing::info!(
                        peer = %realm,
                        "configured key of a peer was a former one; its present key stays in use, as the former one vouched for it"
                    );
                } else if record.key != key.0 {
                    return Err(ErrorCode::RealmExists.into());
                }
                if record == was {
                    return Ok(Outcome::Durable);
                }
                batch.put(records::peer(realm), record.to_value()?);
            } else {
                let (of, source) = ((realm, key), (src_address, src_port));
                let mut peer = self
                    .begin_peer(&mut batch, of, (address, port), source)
                    .await?;
                peer.record.added = true;
                // The two may have agreed before, and this realm has forgotten it: no user joins
                // before they agree again (PEER-27).
                peer.record.apart = true;
                self.put_new_peer(&peer, &mut batch).await?;
            }
            let listed = self.storage.commit(batch).await?;
            self.network.peers_changed();
            Ok(listed)
        };
        let listed = listed.await;
        if let Err(failure) = &listed {
            self.storage.log_failure("peer", failure);
        }
        match listed {
            Err(Failure::Refused(refusal)) if refusal.code != ErrorCode::Busy => Ok(false),
            listed => Ok(matches!(listed?, Outcome::Durable)),
        }
    }
}
