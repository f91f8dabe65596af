//! The handshake: `Noise_IK_25519_ChaChaPoly_BLAKE2s` (HS-2). It has two messages. The first
//! already carries a payload that only the realm can read. The second authenticates the realm and
//! carries the answer.

use alloc::{boxed::Box, vec, vec::Vec};

use blake2::{Blake2s256, Digest as _};
use rand_core::CryptoRng;
use snow::{
    HandshakeState,
    params::{
        BaseChoice, CipherChoice, DHChoice, HandshakeChoice, HandshakeModifierList,
        HandshakePattern, HashChoice, NoiseParams,
    },
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use super::{LifeKey, PublicKey, SealKey, SecretKey, SessionKeys};

/// The bytes that Noise message 1 adds to its payload.
pub const MESSAGE_1_OVERHEAD: usize = 96;
/// The bytes that Noise message 2 adds to its payload.
pub const MESSAGE_2_OVERHEAD: usize = 48;

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// Protocol name and version, so that parties of different versions never share keys.
const PROLOGUE: &[u8] = b"merpati\x01";
const MESSAGE_MAX: usize = 65_535;

/// A handshake message is not authentic, or not for this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake failed: the message is not authentic, or not meant for this key")]
pub struct HandshakeFailed;

impl From<snow::Error> for HandshakeFailed {
    fn from(_: snow::Error) -> Self {
        Self
    }
}

/// The primitives for snow. The one random value of a handshake is passed in.
struct Primitives {
    ephemeral: Zeroizing<[u8; 32]>,
}

/// A random number generator that returns the ephemeral key and nothing else.
struct Once(Option<Zeroizing<[u8; 32]>>);

impl Random for Once {
    fn try_fill_bytes(&mut self, wanted: &mut [u8]) -> Result<(), snow::Error> {
        match self.0.take() {
            Some(bytes) if bytes.len() == wanted.len() => {
                wanted.copy_from_slice(bytes.as_ref());
                Ok(())
            }
            _ => Err(snow::Error::Rng),
        }
    }
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let dh = DefaultResolver.resolve_dh(choice)?;
        #[cfg(all(any(test, fuzzing), feature = "std"))]
        let dh: Box<dyn Dh> = Box::new(super::dh_cache::CachedDh::new(dh));
        Some(dh)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        // The default resolver would link all its other hashes into every program.
        matches!(choice, HashChoice::Blake2s).then(|| Box::<Hasher>::default() as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// BLAKE2s with snow's interface.
#[derive(Default)]
struct Hasher(Blake2s256);

impl Hash for Hasher {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash: [u8; 32] = self.0.finalize_reset().into();
        out.iter_mut().zip(hash).for_each(|(out, byte)| *out = byte);
    }
}

fn build(
    rng: &mut impl CryptoRng,
    secret: &SecretKey,
    remote: Option<&PublicKey>,
) -> Result<HandshakeState, HandshakeFailed> {
    let mut ephemeral = Zeroizing::new([0; 32]);
    rng.fill_bytes(ephemeral.as_mut());
    let pattern = HandshakeChoice {
        pattern: HandshakePattern::IK,
        modifiers: HandshakeModifierList { list: Vec::new() },
    };
    let params = NoiseParams::new(
        PATTERN.into(),
        BaseChoice::Noise,
        pattern,
        DHChoice::Curve25519,
        CipherChoice::ChaChaPoly,
        HashChoice::Blake2s,
    );
    let builder = snow::Builder::with_resolver(params, Box::new(Primitives { ephemeral }))
        .local_private_key(secret.as_bytes())?
        .prologue(PROLOGUE)?;
    Ok(match remote {
        Some(remote) => builder.remote_public_key(&remote.0)?.build_initiator()?,
        None => builder.build_responder()?,
    })
}

/// The initiator's side of a handshake.
#[derive(Debug)]
pub struct Initiator {
    noise: HandshakeState,
    /// The key for the life claim in the Init.
    pub life_key: LifeKey,
}

impl Initiator {
    /// Starts a handshake with the realm whose key is `realm`. Returns the state, and Noise message
    /// 1 with the sealed `payload`.
    pub fn start(
        rng: &mut impl CryptoRng,
        secret: &SecretKey,
        realm: &PublicKey,
        payload: &[u8],
    ) -> Result<(Self, Vec<u8>), HandshakeFailed> {
        let mut noise = build(rng, secret, Some(realm))?;
        let message = write(&mut noise, payload, MESSAGE_1_OVERHEAD)?;
        let life_key = life_key(&mut noise);
        Ok((Self { noise, life_key }, message))
    }

    /// Finishes the handshake with Noise message 2. Returns the keys, and the message's payload. A
    /// message that fails leaves the handshake unchanged: the genuine one may still come.
    pub fn finish(&mut self, message: &[u8]) -> Result<(SessionKeys, Vec<u8>), HandshakeFailed> {
        let payload = read(&mut self.noise, message)?;
        let (ours, theirs) = self.noise.dangerously_get_raw_split();
        Ok((
            SessionKeys {
                seal: SealKey::new(ours),
                open: SealKey::new(theirs),
            },
            payload,
        ))
    }
}

/// The responder's side of a handshake.
#[derive(Debug)]
pub struct Responder {
    noise: HandshakeState,
    /// The initiator's key.
    pub peer: PublicKey,
    /// The key for the life claim in the Init.
    pub life_key: LifeKey,
}

impl Responder {
    /// Reads Noise message 1. Returns the state, and the message's payload.
    pub fn read(
        rng: &mut impl CryptoRng,
        secret: &SecretKey,
        message: &[u8],
    ) -> Result<(Self, Vec<u8>), HandshakeFailed> {
        let mut noise = build(rng, secret, None)?;
        let payload = read(&mut noise, message)?;
        let peer = noise
            .get_remote_static()
            .and_then(|key| key.try_into().ok())
            .ok_or(HandshakeFailed)?;
        Ok((
            Self {
                life_key: life_key(&mut noise),
                noise,
                peer: PublicKey(peer),
            },
            payload,
        ))
    }

    /// Writes Noise message 2 with the sealed `payload`. Returns the keys, and the message.
    pub fn finish(mut self, payload: &[u8]) -> Result<(SessionKeys, Vec<u8>), HandshakeFailed> {
        let message = write(&mut self.noise, payload, MESSAGE_2_OVERHEAD)?;
        let (theirs, ours) = self.noise.dangerously_get_raw_split();
        Ok((
            SessionKeys {
                seal: SealKey::new(ours),
                open: SealKey::new(theirs),
            },
            message,
        ))
    }
}

/// Returns the first output of Noise's `Split()` on the state after message 1. The handshake does
/// not use it otherwise: message 2 and the link's keys each mix in a further shared secret, never
/// an empty value.
fn life_key(noise: &mut HandshakeState) -> LifeKey {
    LifeKey::new(noise.dangerously_get_raw_split().0)
}

fn write(
    noise: &mut HandshakeState,
    payload: &[u8],
    overhead: usize,
) -> Result<Vec<u8>, HandshakeFailed> {
    let mut message = vec![0; payload.len() + overhead];
    let len = noise.write_message(payload, &mut message)?;
    message.truncate(len);
    Ok(message)
}

fn read(noise: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, HandshakeFailed> {
    if message.len() > MESSAGE_MAX {
        return Err(HandshakeFailed);
    }
    let mut payload = vec![0; message.len()];
    let len = noise.read_message(message, &mut payload)?;
    payload.truncate(len);
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::ChaCha20Rng};

    use super::*;

    /// HS-2: both sides get the same keys and payloads, and a forged Accept does not end the
    /// handshake.
    #[test]
    fn handshake_gives_both_sides_same_keys_despite_forged_accept() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let (client, realm) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let (mut initiator, one) =
            Initiator::start(&mut rng, &client, &realm.public(), b"early").unwrap();
        assert_eq!(one.len(), MESSAGE_1_OVERHEAD + 5);
        let (responder, early) = Responder::read(&mut rng, &realm, &one).unwrap();
        assert_eq!(
            (early.as_slice(), responder.peer),
            (&b"early"[..], client.public())
        );
        let (theirs, two) = responder.finish(b"answer").unwrap();
        assert_eq!(two.len(), MESSAGE_2_OVERHEAD + 6);
        // The genuine Accept still completes the handshake.
        let mut forged = two.clone();
        forged[40] ^= 1;
        assert!(initiator.finish(&forged).is_err());
        assert!(initiator.finish(&[]).is_err());
        let (ours, answer) = initiator.finish(&two).unwrap();
        assert_eq!(answer, b"answer");
        let mut packet = b"hbody".to_vec();
        ours.seal.seal(0, 1, &mut packet);
        assert_eq!(
            theirs.open.open(0, b"h", &mut packet[1..]),
            Ok(&b"body"[..])
        );
    }

    /// HS-2: an attacker that has recorded a handshake and later steals both keys can read the
    /// early data, and nothing else.
    #[test]
    fn handshake_keys_stolen_later_open_early_data_only() {
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let (client, realm) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let (mut initiator, one) =
            Initiator::start(&mut rng, &client, &realm.public(), b"early").unwrap();
        let (responder, _) = Responder::read(&mut rng, &realm, &one).unwrap();
        let (theirs, two) = responder.finish(b"answer").unwrap();
        let (ours, _) = initiator.finish(&two).unwrap();
        let mut packet = b"hbody".to_vec();
        ours.seal.seal(0, 1, &mut packet);
        // As the realm, from the recorded messages; and as the client.
        let (thief, early) = Responder::read(&mut rng, &realm, &one).unwrap();
        assert_eq!(early, b"early");
        let (stolen, _) = thief.finish(b"answer").unwrap();
        let opened = stolen.open.open(0, b"h", &mut packet.clone()[1..]).is_ok();
        assert!(!opened, "the keys of a link are not the realm's");
        let (mut again, _) =
            Initiator::start(&mut rng, &client, &realm.public(), b"early").unwrap();
        assert!(again.finish(&two).is_err());
        assert_eq!(
            theirs.open.open(0, b"h", &mut packet[1..]),
            Ok(&b"body"[..])
        );
    }

    #[test]
    fn handshake_message_for_other_realm_is_refused() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let (client, realm) = (SecretKey::generate(&mut rng), SecretKey::generate(&mut rng));
        let (_, one) = Initiator::start(&mut rng, &client, &realm.public(), b"").unwrap();
        let other = SecretKey::generate(&mut rng);
        assert!(Responder::read(&mut rng, &other, &one).is_err());
        assert!(Responder::read(&mut rng, &realm, &one[..50]).is_err());
        assert!(Responder::read(&mut rng, &realm, &[]).is_err());
    }
}
