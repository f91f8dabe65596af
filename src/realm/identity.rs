//! This realm: its name, keys and addresses, and whom it admits.

use super::peer::Peer;
use crate::{
    crypto::{PublicKey, SecretKey},
    faults::{Fault, is_planted},
    wire::{PeerRequest, PeeringNumbers, Port, RealmId, RegistrationCode, Text, peer},
};

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
    pub(crate) fn introduction(&self, peer: &Peer, is_numbered: bool) -> Vec<u8> {
        let (address, port) = self.told_to(peer);
        let request = PeerRequest::Introduce(peer::Introduce {
            realm: self.id,
            address: Text(&address),
            port: Port(port),
            numbers: is_numbered.then_some(PeeringNumbers {
                own: peer.record.number,
                other: peer.record.theirs,
            }),
        });
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
