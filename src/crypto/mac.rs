//! Keyed BLAKE2s: the first MAC of an Init, and all values that a realm must recognise as its own
//! (reset tokens, session ids).

use blake2::{
    Blake2s256, Blake2sMac256, Digest,
    digest::{FixedOutput, KeyInit, Update},
};
use zeroize::Zeroizing;

use super::{PublicKey, SecretKey};

/// A MAC: 32 bytes, of which protocols use the first few.
type Mac = [u8; 32];

/// A key for MACs of one kind.
#[derive(Clone)]
pub struct MacKey(Zeroizing<[u8; 32]>);

impl MacKey {
    /// Derives the key for `purpose` from `secret`. It is the same at every start, and only the
    /// holder of `secret` can derive it.
    pub fn derive(secret: &SecretKey, purpose: &str) -> Self {
        Self(Zeroizing::new(keyed(
            secret.as_bytes(),
            &[purpose.as_bytes()],
        )))
    }

    /// Returns the MAC over the concatenated `parts`. Callers use parts of fixed length, so that
    /// two different lists never have the same bytes.
    pub fn mac(&self, parts: &[&[u8]]) -> Mac {
        keyed(&self.0, parts)
    }

    /// Returns the first 16 bytes of [`MacKey::mac`].
    pub fn mac16(&self, parts: &[&[u8]]) -> [u8; 16] {
        truncated(&self.mac(parts))
    }
}

impl core::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("MacKey(…)")
    }
}

/// Returns the MAC that shows that an Init's sender knows the realm's public key (HS-3). It is
/// checked before any costly step, so that a scanner gets no answer.
pub fn mac1(realm: &PublicKey, covered: &[u8]) -> [u8; 8] {
    let mut hash = Blake2s256::new();
    Digest::update(&mut hash, b"merpati mac1");
    Digest::update(&mut hash, realm.0);
    truncated(&keyed(&hash.finalize().into(), &[covered]))
}

pub(super) fn keyed(key: &[u8; 32], parts: &[&[u8]]) -> Mac {
    let mut mac = <Blake2sMac256 as KeyInit>::new(key.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

fn truncated<const N: usize>(mac: &Mac) -> [u8; N] {
    const { assert!(N <= size_of::<Mac>(), "a MAC is not as long") };
    let mut first = [0; N];
    first.iter_mut().zip(mac).for_each(|(to, from)| *to = *from);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keyed vector of the BLAKE2 reference's `blake2s-kat` for the input 00 and the key
    /// 00..1f.
    #[test]
    fn mac_equals_blake2s_reference_vector() {
        let key: [u8; 32] = core::array::from_fn(|at| u8::try_from(at).unwrap());
        let wanted = data_encoding::HEXLOWER
            .decode(b"40d15fee7c328830166ac3f918650f807e7e01e177258cdc0a39b11f598066f1")
            .unwrap();
        assert_eq!(keyed(&key, &[&[0]]).to_vec(), wanted);
    }

    #[test]
    fn mac_keys_of_different_purposes_differ() {
        let secret = SecretKey::from_bytes([1; 32]);
        let (a, b) = (MacKey::derive(&secret, "a"), MacKey::derive(&secret, "b"));
        assert_ne!(a.mac(&[b"x"]), b.mac(&[b"x"]));
        assert_eq!(a.mac(&[b"x", b"y"]), a.mac(&[b"xy"]));
    }
}
