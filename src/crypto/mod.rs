//! Cryptography: identities, the handshake, sealing of packets, MACs.
//!
//! Pure functions over bytes; the caller passes randomness. This module does not know what packets
//! mean. It uses `snow` for the Noise handshake. Realms seal for many links and use `ring`; clients
//! and devices use the pure Rust ChaCha20-Poly1305 that the handshake needs anyway. Normative text:
//! `spec/handshake.md`.

#[cfg(all(test, feature = "std"))]
pub(crate) mod audit;
mod connect;
#[cfg(all(any(test, fuzzing), feature = "std"))]
mod dh_cache;
mod handshake;
#[cfg(feature = "std")]
mod identity;
mod key;
mod life;
mod mac;
#[cfg(feature = "server")]
mod possession;
mod resume;
mod seal;

pub use connect::{ConnectionString, DEFAULT_PORT, InvalidConnectionString};
pub use handshake::{
    HandshakeFailed, Initiator, MESSAGE_1_OVERHEAD, MESSAGE_2_OVERHEAD, Responder,
};
#[cfg(feature = "std")]
pub use identity::{IdentityError, load_or_create_identity, refuse_exposed, write_private};
pub use key::{InvalidKey, PublicKey, SecretKey};
pub use life::{LifeClaim, LifeKey};
pub use mac::{MacKey, mac1};
#[cfg(feature = "server")]
pub(crate) use possession::{Possession, is_possession, show_possession};
pub use resume::{ResumptionSecret, ticket_check};
pub use seal::{OpenFailed, SealKey, SessionKeys, TAG_LEN};

/// Compares two byte strings in constant time.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    a.ct_eq(b).into()
}
