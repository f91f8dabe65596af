//! The claim of a store's life in the handshake, which takes no extra byte: the handshake id of an
//! Init is a tag over the life that the client remembers (HS-14).
//!
//! The tag is keyed with a secret that only the two sides of the handshake share after Noise
//! message 1. So it differs in each handshake, and is random to others, even if they know the
//! device and the realm.

use blake2::{Blake2s256, Digest};
use zeroize::Zeroizing;

use crate::wire::{HandshakeId, Life};

const LABEL: &[u8] = b"merpati life";

/// The key for the tags of one handshake.
#[derive(Clone, PartialEq, Eq)]
pub struct LifeKey(Zeroizing<[u8; 32]>);

impl LifeKey {
    pub(super) fn new(shared: [u8; 32]) -> Self {
        Self(Zeroizing::new(shared))
    }

    /// Returns the handshake id that claims `life`.
    pub fn tag(&self, life: Life) -> HandshakeId {
        // All parts have a fixed length, and fit one block of the hash: a realm compares many.
        let mut hash = Blake2s256::new();
        hash.update(LABEL);
        hash.update(self.0.as_slice());
        hash.update(life.0);
        let [a, b, c, d, ..]: [u8; 32] = hash.finalize().into();
        HandshakeId(u32::from_be_bytes([a, b, c, d]))
    }
}

impl core::fmt::Debug for LifeKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("LifeKey(…)")
    }
}

/// An initiator's claim of a life, to be compared with the store's lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifeClaim {
    key: LifeKey,
    tag: HandshakeId,
}

impl LifeClaim {
    /// Returns the claim of an Init with the handshake id `tag`, whose message 1 gave `key`.
    pub const fn new(key: LifeKey, tag: HandshakeId) -> Self {
        Self { key, tag }
    }

    /// True if the claim is for `life`. A false match has a probability of 2^-32.
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
    fn life_claim_is_readable_by_realm_only() {
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
        // The same device claims the same life again, and nothing shows that.
        let (again, _) = handshake();
        assert_ne!(again.tag(life), ours.tag(life));
        assert!(!format!("{claim:?}").contains('['), "the key is not shown");
    }
}
