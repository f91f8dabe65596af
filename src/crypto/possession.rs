//! Shows that a realm has the key that it says it goes by from now on (PEER-13). Without that whoever is known could vouch for somebody
//! else's key, and speak for whoever has it.

use curve25519_dalek::montgomery::MontgomeryPoint;
use zeroize::Zeroizing;

use super::{MacKey, PublicKey, SecretKey, same};

/// What shows it.
pub type Possession = [u8; 16];

/// What only holders of `own` and of `other` can make of both keys. None where `other` is one of the few keys with which everybody can
/// (RFC 7748 §6.1).
fn shared(own: &SecretKey, other: &PublicKey) -> Option<MacKey> {
    let point = MontgomeryPoint(other.0).mul_clamped(*own.as_bytes());
    let secret = Zeroizing::new(point.to_bytes());
    if same(secret.as_ref(), &[0; 32]) {
        return None;
    }
    let secret = SecretKey::from_bytes(*secret);
    Some(MacKey::derive(&secret, "merpati rotate"))
}

/// Shows the realm whose key is `to` that whoever goes by `old` there has `new`.
pub fn show_possession(new: &SecretKey, old: &PublicKey, to: &PublicKey) -> Option<Possession> {
    let key = shared(new, to)?;
    Some(key.mac16(&[&old.0, &new.public().0, &to.0]))
}

/// True when whoever goes by `old` has shown to have `new`, too, to the realm whose key is `own`.
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
    fn only_the_holder_of_the_new_key_shows_it() {
        let [old, new, realm, other] = [1, 2, 3, 4].map(|n| SecretKey::from_bytes([n; 32]));
        let shown = show_possession(&new, &old.public(), &realm.public()).unwrap();
        let holds = |own: &SecretKey, old: &SecretKey, new: &SecretKey| {
            is_possession(&shown, own, (&old.public(), &new.public()))
        };
        assert!(holds(&realm, &old, &new));
        // Not to another realm, not for another's old key, and not for another new one.
        assert!(!holds(&other, &old, &new));
        assert!(!holds(&realm, &other, &new));
        assert!(!holds(&realm, &old, &other));
        // Whoever has the old key alone cannot.
        let forged = show_possession(&old, &old.public(), &realm.public()).unwrap();
        assert!(!is_possession(
            &forged,
            &realm,
            (&old.public(), &new.public())
        ));
    }

    #[test]
    fn a_key_that_anybody_has_is_nobodys() {
        // Of order 1, 2 and 8.
        let mut one = [0; 32];
        one[0] = 1;
        for low in [[0; 32], one] {
            let (realm, low) = (SecretKey::from_bytes([3; 32]), PublicKey(low));
            assert_eq!(show_possession(&realm, &realm.public(), &low), None);
            assert!(!is_possession(&[0; 16], &realm, (&realm.public(), &low)));
        }
    }
}
