//! Another realm, as this one knows it: a value that is read, passed around and written back.

use super::{
    failure::Failure,
    records::{self, PeerRecord, Record as _},
};
use crate::{
    crypto::PublicKey,
    store::{Batch, Version},
    wire::{Life, RealmId},
};

/// The state of the link to a peer, with the number as which `realms` returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::realm) enum LinkState {
    /// Nothing was heard of it since the start.
    Idle = 0,
    /// It has answered.
    Open = 1,
    /// It does not answer.
    Trying = 2,
    /// It has not accepted the peering, or refuses it now.
    NotAccepted = 3,
}

/// The half of a peering number that names the peering; the other one names a life (PEER-27).
pub(in crate::realm) const PEERING: u64 = 0xffff_ffff << 32;
/// The most introductions to a realm in a row, until it has heard that its number is known.
pub(in crate::realm) const NUMBERS_TOLD: usize = 3;

/// Whether a link to a peer may be opened to ask it something, if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialing {
    /// An operator has named the address, or the peer has answered there.
    Freely,
    /// The address is the peer's own claim, so an unrelated host may be there (PEER-23). The
    /// question is whether the peer is there: it is asked at that address only, and an answer over
    /// another link does not count.
    Once,
    /// There is no address: only a link that the peer has opened can be used.
    Never,
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

impl Peer {
    /// Returns the peer that a record describes.
    pub(super) const fn new(realm: RealmId, record: PeerRecord, version: Version) -> Self {
        Self {
            realm,
            record,
            version,
            is_tried: false,
        }
    }

    /// Adds its record to `batch`.
    pub(in crate::realm) fn put(&self, batch: &mut Batch) -> Result<(), Failure> {
        batch.put(records::peer(self.realm), self.record.to_value()?);
        Ok(())
    }

    /// Adds to `batch` that it is at an address that an operator has named, and which address of
    /// this realm it reaches.
    pub(in crate::realm) fn put_moved(
        &self,
        (address, port): (&str, u16),
        (src_address, src_port): (String, u16),
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let record = PeerRecord {
            address: address.into(),
            port,
            claimed: None,
            src_address,
            src_port,
            ..self.record.clone()
        };
        batch.put(records::peer(self.realm), record.to_value()?);
        Ok(())
    }

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

/// Returns the life that a number names, or `None` if its lower half is 0.
const fn life_in(number: u64) -> Option<Life> {
    match (number & !PEERING) as u32 {
        0 => None,
        name => Some(Life(name.to_be_bytes())),
    }
}
