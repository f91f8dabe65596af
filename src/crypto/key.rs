//! X25519 keys: a realm's key is its identity, a client's key is its device (HS-1).

use alloc::string::String;
use core::{fmt, str::FromStr};

use blake2::{Blake2s256, Digest};
use curve25519_dalek::montgomery::MontgomeryPoint;
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

/// A text that is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key is 43 letters, digits, - and _, as the realm prints it after the # of its connection string"
)]
pub struct InvalidKey;

/// A public key: the identity of a party. Displayed as 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Returns the fingerprint that two people compare aloud: five groups of four characters from
    /// the key's BLAKE2s hash, 100 bits.
    pub fn fingerprint(&self) -> String {
        let hash = Blake2s256::digest(self.0);
        let text = BASE32_NOPAD.encode(&hash).to_lowercase();
        let mut shown = String::new();
        for (at, character) in text.chars().take(20).enumerate() {
            if at > 0 && at % 4 == 0 {
                shown.push('-');
            }
            shown.push(character);
        }
        shown
    }

    /// Returns the first characters of the fingerprint, for recognisable names.
    pub fn short(&self) -> String {
        self.fingerprint()
            .chars()
            .filter(|character| *character != '-')
            .take(8)
            .collect()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        BASE64URL_NOPAD
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(InvalidKey)
    }
}

/// A secret key. Wiped from memory when dropped; never displayed.
#[derive(Clone)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// Generates a key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut());
        Self(bytes)
    }

    /// Returns the key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes, for the handshake and for the identity file.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the public key.
    pub fn public(&self) -> PublicKey {
        let compute = || MontgomeryPoint::mul_base_clamped(*self.0).to_bytes();
        #[cfg(all(any(test, fuzzing), feature = "std"))]
        let compute = || super::dh_cache::public(&self.0, compute);
        PublicKey(compute())
    }

    /// Returns the text in which the key is stored: 43 characters of base64url.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64URL_NOPAD.encode(self.as_bytes()))
    }

    /// Reads [`SecretKey::to_text`].
    pub fn from_text(text: &str) -> Result<Self, InvalidKey> {
        text.parse::<PublicKey>().map(|key| Self::from_bytes(key.0))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    /// A key's bytes are wiped from memory when it is freed.
    #[test]
    fn key_secret_is_wiped_when_dropped() {
        const fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        is_wiped(&SecretKey::from_bytes([1; 32]).0);
    }

    /// RFC 7748 §6.1, Alice's pair.
    #[test]
    fn key_public_equals_rfc_7748_example() {
        let decode = |hex: &str| {
            data_encoding::HEXLOWER
                .decode(hex.as_bytes())
                .unwrap()
                .try_into()
                .unwrap()
        };
        let secret = decode("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let public = decode("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(SecretKey::from_bytes(secret).public(), PublicKey(public));
    }

    #[test]
    fn key_parses_as_shown() {
        let secret = SecretKey::from_bytes([9; 32]);
        let public = secret.public();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!(
            SecretKey::from_text(&secret.to_text()).unwrap().public(),
            public
        );
        assert_eq!(public.to_string().len(), 43);
        assert_eq!(public.fingerprint().len(), 24);
        assert_eq!("nonsense".parse::<PublicKey>(), Err(InvalidKey));
    }
}
