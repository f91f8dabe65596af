//! Resumption (HS-18 … HS-21): a device that was here before comes back without a handshake. Both
//! sides of a link derive the same secret from its keys. The packet that resumes is sealed under
//! that secret and a nonce of the device. The answer also depends on a nonce of the realm. So no
//! pair of key and number is ever used twice, even after a restore or a replay.

use blake2::{Blake2s256, Digest as _};
use zeroize::Zeroizing;

use super::{SealKey, SessionKeys, mac::keyed, same};
use crate::wire::{Life, ResetToken, ResumeNonce, TicketCheck};

/// The resumption secret: both sides of a link share it once the handshake is over.
#[derive(Clone)]
pub struct ResumptionSecret(Zeroizing<[u8; 32]>);

impl ResumptionSecret {
    /// Returns the secret with which the initiator of a link resumes it (HS-18).
    pub fn of_initiator(keys: &SessionKeys) -> Self {
        Self::of(&keys.seal, &keys.open)
    }

    /// Returns the same secret, from the keys of the responder.
    pub fn of_responder(keys: &SessionKeys) -> Self {
        Self::of(&keys.open, &keys.seal)
    }

    /// Returns the secret of a link, from the keys of both directions: the initiator's packets, and
    /// the responder's.
    fn of(initiators: &SealKey, responders: &SealKey) -> Self {
        let mut hash = Blake2s256::new();
        hash.update(b"merpati resume");
        hash.update(initiators.as_bytes());
        hash.update(responders.as_bytes());
        Self::from_bytes(hash.finalize().into())
    }

    /// Returns the secret with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes, for storage.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self, parts: &[&[u8]]) -> SealKey {
        SealKey::new(keyed(&self.0, parts))
    }

    /// Returns the key that seals a Resume of a device that knows `life`.
    pub fn resume_key(&self, nonce: &ResumeNonce, life: Life) -> SealKey {
        self.key(&[b"resume", nonce, &life.0])
    }

    /// Returns the key that seals the answer to a Resume.
    pub fn answer_key(&self, device: &ResumeNonce, realm: &ResumeNonce) -> SealKey {
        self.key(&[b"answer", device, realm])
    }

    /// Returns the keys of the resumed link, for its initiator.
    pub fn initiators_keys(&self, device: &ResumeNonce, realm: &ResumeNonce) -> SessionKeys {
        SessionKeys {
            seal: self.key(&[b"device", device, realm]),
            open: self.key(&[b"realms", device, realm]),
        }
    }

    /// Returns the keys of the resumed link, for its responder.
    pub fn responders_keys(&self, device: &ResumeNonce, realm: &ResumeNonce) -> SessionKeys {
        let SessionKeys { seal, open } = self.initiators_keys(device, realm);
        SessionKeys {
            seal: open,
            open: seal,
        }
    }
}

impl PartialEq for ResumptionSecret {
    fn eq(&self, other: &Self) -> bool {
        same(self.as_bytes(), other.as_bytes())
    }
}

impl Eq for ResumptionSecret {}

impl core::fmt::Debug for ResumptionSecret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ResumptionSecret(…)")
    }
}

/// Returns the check that shows that the sender of a ticket knows its Reset token. It detects junk
/// before any look-up.
pub fn ticket_check(token: &ResetToken) -> TicketCheck {
    let mut hash = Blake2s256::new();
    hash.update(b"merpati ticket");
    hash.update(token);
    let [a, b, c, d, ..]: [u8; 32] = hash.finalize().into();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use alloc::{format, vec::Vec};

    use super::*;

    const SECRET: [u8; 32] = [7; 32];

    /// HS-19: each key is for one purpose, one pair of nonces and one life.
    #[test]
    fn resumption_keys_are_all_different() {
        let secret = ResumptionSecret::from_bytes(SECRET);
        let (a, b, life) = ([1; 8], [2; 8], Life([3; 4]));
        let link = secret.initiators_keys(&a, &b);
        let keys = [
            secret.resume_key(&a, life),
            secret.resume_key(&a, Life::NONE),
            secret.resume_key(&b, life),
            secret.answer_key(&a, &b),
            secret.answer_key(&b, &a),
            link.seal,
            link.open,
            secret.initiators_keys(&a, &a).seal,
        ];
        let all: Vec<_> = keys.iter().map(|key| *key.as_bytes()).collect();
        for (at, key) in all.iter().enumerate() {
            assert!(!all.iter().skip(at + 1).any(|other| other == key), "{at}");
        }
        assert!(!format!("{secret:?}").contains('7'));
    }

    /// HS-18
    #[test]
    fn resumption_secret_is_same_on_both_sides() {
        let (up, down) = (SealKey::new([1; 32]), SealKey::new([2; 32]));
        let initiator = SessionKeys {
            seal: up.clone(),
            open: down.clone(),
        };
        let responder = SessionKeys {
            seal: down,
            open: up,
        };
        let ours = ResumptionSecret::of_initiator(&initiator);
        assert_eq!(ours, ResumptionSecret::of_responder(&responder));
        assert_ne!(ours, ResumptionSecret::of_initiator(&responder));
    }
}
