//! Resumption (HS-18 … HS-21): how a device that was here before comes back without a handshake. Both sides of a link make
//! the same secret of its keys; the packet that resumes is sealed under that and a nonce of the device's, the answer also
//! under a nonce of the realm's, so that no pair of key and number is ever used twice, whatever is restored or replayed.

use blake2::{Blake2s256, Digest as _};
use zeroize::Zeroizing;

use super::{SealKey, SessionKeys, mac::keyed, same};
use crate::wire::{Life, ResetToken, ResumeNonce, TicketCheck};

/// What both sides of a link have in common once its handshake is over, to come back with.
#[derive(Clone)]
pub struct ResumptionSecret(Zeroizing<[u8; 32]>);

impl ResumptionSecret {
    /// The secret of a link, by its keys: those of what its initiator sends, and of what its responder sends.
    pub(super) fn of(initiators: &SealKey, responders: &SealKey) -> Self {
        let mut hash = Blake2s256::new();
        hash.update(b"merpati resume");
        hash.update(initiators.as_bytes());
        hash.update(responders.as_bytes());
        Self::from_bytes(hash.finalize().into())
    }

    /// The secret made of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be kept.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self, parts: &[&[u8]]) -> SealKey {
        SealKey::new(keyed(&self.0, parts))
    }

    /// What seals a Resume of a device that knows `life`.
    pub fn resume_key(&self, nonce: &ResumeNonce, life: Life) -> SealKey {
        self.key(&[b"resume", nonce, &life.0])
    }

    /// What seals the answer to it.
    pub fn answer_key(&self, device: &ResumeNonce, realm: &ResumeNonce) -> SealKey {
        self.key(&[b"answer", device, realm])
    }

    /// The keys of the link that is resumed, as its initiator has them.
    pub fn initiators_keys(&self, device: &ResumeNonce, realm: &ResumeNonce) -> SessionKeys {
        SessionKeys {
            seal: self.key(&[b"device", device, realm]),
            open: self.key(&[b"realms", device, realm]),
        }
    }

    /// The same, as its responder has them.
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

/// Shows that whoever names a ticket has been told its Reset token: junk is known for that before anything is looked up.
pub fn ticket_check(token: &ResetToken) -> TicketCheck {
    let mut hash = Blake2s256::new();
    hash.update(b"merpati ticket");
    hash.update(token);
    let hash: [u8; 32] = hash.finalize().into();
    hash.first_chunk().copied().unwrap_or_default()
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
    fn both_sides_of_a_link_have_the_same_secret() {
        let (up, down) = (SealKey::new([1; 32]), SealKey::new([2; 32]));
        let initiator = SessionKeys {
            seal: up.clone(),
            open: down.clone(),
        };
        let responder = SessionKeys {
            seal: down,
            open: up,
        };
        let ours = initiator.initiators_secret();
        assert_eq!(ours.as_bytes(), responder.responders_secret().as_bytes());
        assert_ne!(ours.as_bytes(), responder.initiators_secret().as_bytes());
    }
}
