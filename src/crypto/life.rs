//! Which life of the realm's store a client remembers, claimed in the handshake at no byte: the handshake id of an
//! Init is a tag over that life (HS-14).
//!
//! The tag is keyed with a secret that only the two sides of the handshake share after Noise message 1. So it is
//! another in each handshake, and to others it is random, whatever they know of the device and of the realm.

use blake2::{Blake2s256, Digest};
use zeroize::Zeroizing;

use crate::wire::{HandshakeId, Life};

const LABEL: &[u8] = b"merpati life";

/// What keys the tags of one handshake.
#[derive(Clone, PartialEq, Eq)]
pub struct LifeKey(Zeroizing<[u8; 32]>);

impl LifeKey {
    pub(super) fn new(shared: [u8; 32]) -> Self {
        Self(Zeroizing::new(shared))
    }

    /// The handshake id that claims `life`.
    pub fn tag(&self, life: Life) -> HandshakeId {
        // All parts are of fixed length, and fit one block of the hash: a realm compares many.
        let mut hash = Blake2s256::new();
        hash.update(LABEL);
        hash.update(self.0.as_slice());
        hash.update(life.0);
        let hash: [u8; 32] = hash.finalize().into();
        HandshakeId(u32::from_be_bytes(
            hash.first_chunk().copied().unwrap_or_default(),
        ))
    }
}

impl core::fmt::Debug for LifeKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("LifeKey(…)")
    }
}

/// What an initiator claims to know of the realm's store, to be compared with lives that the store had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifeClaim {
    key: LifeKey,
    tag: HandshakeId,
}

impl LifeClaim {
    /// The claim of an Init with the handshake id `tag`, whose message 1 gave `key`.
    pub const fn new(key: LifeKey, tag: HandshakeId) -> Self {
        Self { key, tag }
    }

    /// True when `life` is claimed; by accident once in 2^32 times.
    pub fn is_for(&self, life: Life) -> bool {
        self.key.tag(life) == self.tag
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;
    use crate::crypto::{Initiator, Responder, SecretKey};

    /// HS-14
    #[test]
    fn life_claim_is_readable_by_the_realm_alone() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (client, realm) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let life = Life([1, 2, 3, 4]);
        let mut handshake = || {
            let (initiator, one) =
                Initiator::start(&mut rng, &client, &realm.public(), b"").unwrap();
            let (responder, _) = Responder::read(&mut rng, &realm, &one).unwrap();
            (initiator.life_key, responder.life_key)
        };
        let (ours, theirs) = handshake();
        let claim = LifeClaim::new(theirs, ours.tag(life));
        assert!(claim.is_for(life));
        assert!(!claim.is_for(Life::NONE) && !claim.is_for(Life([1, 2, 3, 5])));
        // The same device claims the same life: nothing shows that.
        let (again, _) = handshake();
        assert_ne!(again.tag(life), ours.tag(life));
        assert!(!format!("{claim:?}").contains('['), "the key is not shown");
    }
}
