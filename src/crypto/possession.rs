//! The proof that a realm has the new key that it announces (PEER-13). Without it, a known realm
//! could vouch for somebody else's key, and speak for the holder of that key.

use curve25519_dalek::montgomery::MontgomeryPoint;
use zeroize::Zeroizing;

use super::{MacKey, PublicKey, SecretKey, same};

/// The proof.
pub type Possession = [u8; 16];

/// Returns a MAC key that only the holders of `own` and of `other` can compute. None if `other` is
/// one of the few keys with which everybody can (RFC 7748 §6.1).
fn shared(own: &SecretKey, other: &PublicKey) -> Option<MacKey> {
    let point = MontgomeryPoint(other.0).mul_clamped(*own.as_bytes());
    let secret = Zeroizing::new(point.to_bytes());
    if same(secret.as_ref(), &[0; 32]) {
        return None;
    }
    let secret = SecretKey::from_bytes(*secret);
    Some(MacKey::derive(&secret, "merpati rotate"))
}

/// Returns the proof, for the realm whose key is `to`, that the holder of `old` also has `new`.
pub fn show_possession(new: &SecretKey, old: &PublicKey, to: &PublicKey) -> Option<Possession> {
    let key = shared(new, to)?;
    Some(key.mac16(&[&old.0, &new.public().0, &to.0]))
}

/// True if the holder of `old` has proved to the realm whose key is `own` that it also has `new`.
pub fn is_possession(
    shown: &Possession,
    own: &SecretKey,
    (old, new): (&PublicKey, &PublicKey),
) -> bool {
    let key = shared(own, new);
    key.is_some_and(|key| same(shown, &key.mac16(&[&old.0, &new.0, &own.public().0])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PEER-13
    #[test]
    fn key_rotation_proof_needs_new_key_and_names_realm_and_old_key() {
        let [old, new, realm, other] = [1, 2, 3, 4].map(|n| SecretKey::from_bytes([n; 32]));
        let shown = show_possession(&new, &old.public(), &realm.public()).unwrap();
        let holds = |own: &SecretKey, old: &SecretKey, new: &SecretKey| {
            is_possession(&shown, own, (&old.public(), &new.public()))
        };
        assert!(holds(&realm, &old, &new));
        // The proof is not valid for another realm, for another old key, or for another new one.
        assert!(!holds(&other, &old, &new));
        assert!(!holds(&realm, &other, &new));
        assert!(!holds(&realm, &old, &other));
        // The old key alone is not enough.
        let forged = show_possession(&old, &old.public(), &realm.public()).unwrap();
        assert!(!is_possession(
            &forged,
            &realm,
            (&old.public(), &new.public())
        ));
    }

    #[test]
    fn key_rotation_proof_with_low_order_key_is_refused() {
        // Keys of order 1, 2 and 8.
        let mut one = [0; 32];
        one[0] = 1;
        for low in [[0; 32], one] {
            let (realm, low) = (SecretKey::from_bytes([3; 32]), PublicKey(low));
            assert_eq!(show_possession(&realm, &realm.public(), &low), None);
            assert!(!is_possession(&[0; 16], &realm, (&realm.public(), &low)));
        }
    }
}
