//! Peering with other realms (PEER-1 … PEER-3): their keys and addresses, and which realms may
//! become peers.

mod claims;
mod departed;
pub(super) mod numbers;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::realm::{
    Dialing, Failure, Limiter, Lives, Network, Outcome, Random, Storage,
    limits::PEERS_MAX,
    records::{self, FormerKeysRecord, PeerName, PeerRecord, Record as _},
    storage::Notes,
};
use crate::{
    crypto::{PublicKey, SecretKey},
    faults::{Fault, is_planted},
    store::{Batch, Expected, Key, Store, Version, Versioned},
    wire::{ErrorCode, Life, PeerRequest, Port, RealmId, RegistrationCode, Text},
};

/// The state of the link to a peer, as `realms` returns it.
pub(in crate::realm) const STATE_IDLE: u8 = 0;
pub(in crate::realm) const STATE_OPEN: u8 = 1;
pub(in crate::realm) const STATE_TRYING: u8 = 2;
pub(in crate::realm) const STATE_NOT_ACCEPTED: u8 = 3;

/// The half of a peering number that names the peering; the other one names a life (PEER-27).
pub(in crate::realm) const PEERING: u64 = 0xffff_ffff << 32;
/// The most introductions to a realm in a row, until it has heard that its number is known.
pub(in crate::realm) const NUMBERS_TOLD: usize = 3;

/// Which realms may become peers without being added here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peering {
    /// Any realm.
    Open,
    /// Only realms that an operator of this one has added.
    #[default]
    Listed,
    /// None: this realm alone starts peerings.
    Closed,
}

/// Which users may register an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Registration {
    /// Anybody.
    #[default]
    Open,
    /// Users that have this code.
    Code(RegistrationCode),
    /// Nobody.
    Closed,
}

/// What this realm says of itself to others.
#[derive(Clone, Debug)]
pub struct RealmIdentity {
    /// Its name for itself.
    pub id: RealmId,
    /// Its secret key.
    pub secret: SecretKey,
    /// Its former keys, to which it still answers.
    pub former: Vec<SecretKey>,
    /// Which realms may become its peers.
    pub peering: Peering,
    /// The hosts and ports at which others reach it. The first is the default.
    pub addresses: Vec<(String, u16)>,
    /// Which users may register an account.
    pub registration: Registration,
    /// The code that makes a session an operator's.
    pub operator_code: String,
}

impl RealmIdentity {
    /// Returns its public key.
    pub fn key(&self) -> PublicKey {
        self.secret.public()
    }

    /// Returns a realm at one address.
    #[cfg(test)]
    pub fn sample(id: RealmId, secret: SecretKey) -> Self {
        Self {
            id,
            secret,
            former: Vec::new(),
            peering: Peering::Listed,
            addresses: vec![("192.0.2.1".into(), 6377)],
            registration: Registration::Open,
            operator_code: "open sesame".into(),
        }
    }

    /// Returns the secret half of one of its keys.
    pub(in crate::realm) fn secret_of(&self, key: &PublicKey) -> Option<&SecretKey> {
        let mut all = core::iter::once(&self.secret).chain(&self.former);
        all.find(|secret| secret.public() == *key)
    }

    /// Returns the request that introduces this realm to a peer. It has no numbers if the peer's
    /// release is older than these (PEER-27).
    pub fn introduction(&self, peer: &Peer, is_numbered: bool) -> Vec<u8> {
        let (address, port) = self.told_to(peer);
        let request = PeerRequest::Introduce {
            realm: self.id,
            address: Text(&address),
            port: Port(port),
            numbers: is_numbered.then_some((peer.record.number, peer.record.theirs)),
        };
        request.to_bytes()
    }

    /// Returns the address at which a peer is told to reach this realm: the address noted for the
    /// peer or, if this realm does not have that address any more, its first one.
    ///
    /// An unspecified address (all addresses) leads nowhere from elsewhere: then the result is
    /// empty.
    pub(in crate::realm) fn told_to(&self, peer: &Peer) -> (String, u16) {
        let (host, port) = peer.source();
        let is_noted = |own: &&(String, u16)| (own.0.as_str(), own.1) == (host, port);
        let mut own = self.addresses.iter();
        let found = own.find(is_noted).or(self.addresses.first());
        let is_said = |(host, _): &&(String, u16)| {
            let ip = host.parse::<std::net::IpAddr>();
            is_planted(Fault::TellUnspecified) || !ip.is_ok_and(|ip| ip.is_unspecified())
        };
        if is_planted(Fault::IntroduceOldAddress) {
            return (host.into(), port);
        }
        found.filter(is_said).cloned().unwrap_or_default()
    }

    /// True if `key` is or was this realm's.
    pub(in crate::realm) fn is(&self, key: &PublicKey) -> bool {
        self.secret_of(key).is_some()
    }
}

/// Another realm, as this one knows it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// This realm's name for it.
    pub realm: RealmId,
    /// Its record.
    pub(in crate::realm) record: PeerRecord,
    pub(in crate::realm) version: Version,
    /// True if it must be asked at an address that nobody has confirmed.
    is_tried: bool,
}

/// Returns the life that a number names, or `None` if its lower half is 0.
const fn life_in(number: u64) -> Option<Life> {
    match (number & !PEERING) as u32 {
        0 => None,
        name => Some(Life(name.to_be_bytes())),
    }
}

impl Peer {
    /// Returns the peer's key.
    pub const fn key(&self) -> PublicKey {
        PublicKey(self.record.key)
    }

    /// Returns all keys that it has or had.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> {
        let former = self.record.former.iter();
        former.copied().map(PublicKey).chain([self.key()])
    }

    /// Returns the life of its store as far as this side knows it (PEER-29), or `None` if unknown.
    pub(crate) fn life(&self) -> Option<Life> {
        life_in(self.record.theirs)
    }

    /// Returns its key at the time when it became a peer. Records about its messages use this key.
    pub(in crate::realm) fn first_key(&self) -> PublicKey {
        PublicKey(*self.record.former.last().unwrap_or(&self.record.key))
    }

    /// Returns a peer that has not accepted the peering yet.
    #[cfg(test)]
    pub fn sample(realm: RealmId, key: PublicKey, knows: PublicKey) -> Self {
        let record = PeerRecord {
            key: key.0,
            former: Vec::new(),
            knows: knows.0,
            address: "192.0.2.9".into(),
            port: 6377,
            src_address: "192.0.2.1".into(),
            src_port: 6377,
            epoch: 7,
            introduced: false,
            added: true,
            claimed: None,
            number: 11,
            theirs: 0,
            apart: false,
        };
        let version = Version(0);
        Self {
            realm,
            record,
            version,
            is_tried: false,
        }
    }

    /// Returns the realm's identity, which does not change with its key, and the epoch of the
    /// peering.
    pub fn identity(&self) -> (PublicKey, u64) {
        (self.first_key(), self.record.epoch)
    }

    /// Returns the same peer, with `key` as the key by which it knows this realm.
    #[must_use]
    pub fn known_by(&self, key: PublicKey) -> Self {
        let mut peer = self.clone();
        peer.record.knows = key.0;
        peer
    }

    /// Returns the key by which it knows this realm.
    pub const fn knows(&self) -> PublicKey {
        PublicKey(self.record.knows)
    }

    /// Returns the same peer, with another of this realm's addresses as the source.
    pub(in crate::realm) fn asked_by(&self, source: Option<(String, u16)>) -> Self {
        let mut peer = self.clone();
        if let Some((address, port)) = source {
            (peer.record.src_address, peer.record.src_port) = (address, port);
        }
        peer
    }

    /// True if an operator has added it, or the configuration names it.
    pub const fn is_added(&self) -> bool {
        self.record.added
    }

    /// Returns its address.
    pub fn address(&self) -> (&str, u16) {
        (&self.record.address, self.record.port)
    }

    /// Returns whether a link to its address may be opened to ask it something.
    pub fn dialing(&self) -> Dialing {
        match self.record.port {
            _ if self.is_tried => Dialing::Once,
            0 => Dialing::Never,
            _ if self.record.address.is_empty() => Dialing::Never,
            _ => Dialing::Freely,
        }
    }

    /// Returns the same peer at the address that it claims, if that differs from the address in
    /// use.
    pub fn at_claim(&self) -> Option<Self> {
        let (address, port) = self.record.claimed.clone()?;
        let mut peer = self.clone();
        (peer.record.address, peer.record.port) = (address, port);
        peer.is_tried = true;
        Some(peer)
    }

    /// Returns the same peer, with a claim of another address.
    #[cfg(test)]
    #[must_use]
    pub fn claiming(mut self, address: &str, port: u16) -> Self {
        self.record.claimed = Some((address.into(), port));
        self
    }

    /// Returns the address at which it reaches this realm.
    pub fn source(&self) -> (&str, u16) {
        (&self.record.src_address, self.record.src_port)
    }

    /// True if it has accepted the peering.
    pub const fn is_introduced(&self) -> bool {
        self.record.introduced
    }
}

/// The realms that are peers: their records, names and keys.
#[derive(Debug)]
pub struct Peers<S> {
    pub(in crate::realm) storage: Arc<Storage<S>>,
    pub(in crate::realm) random: Arc<Random>,
    pub(in crate::realm) lives: Arc<Lives<S>>,
    pub(in crate::realm) own: Arc<RealmIdentity>,
    pub(in crate::realm) limiter: Arc<Limiter>,
    pub(in crate::realm) network: Arc<Network>,
    pub(in crate::realm) chores: Arc<Notify>,
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
        Peer {
            realm,
            record: PeerRecord { number, ..record },
            version,
            is_tried: false,
        }
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
        match name.and_then(|(name, _)| name.realm.parse().ok()) {
            Some(realm) => {
                let found = self.find_peer(notes, realm).await?;
                // The realm that has the name now need not have the key.
                Ok(found.filter(|peer| peer.keys().any(|known| known == *key)))
            }
            None => Ok(None),
        }
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
                    tracing::error!(peer = %realm, %error, "what is kept of a peer cannot be read");
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
        Ok(Peer {
            realm,
            record: PeerRecord {
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
            },
            version: Version(0),
            is_tried: false,
        })
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
                        "a peer has another key by now than the configuration says; its old one vouched for it"
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
