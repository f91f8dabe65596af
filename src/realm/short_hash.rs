//! Short hashes: the first bytes of a BLAKE2s, where a collision cannot be used.

use blake2::{Blake2s256, Digest as _};

/// Returns the first bytes of the hash of all parts together.
pub(super) fn short_hash<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut hash = Blake2s256::new();
    for part in parts {
        hash.update(part);
    }
    first(hash.finalize().into())
}

/// Returns the first bytes of a key or hash.
pub(super) fn first<const N: usize>(bytes: [u8; 32]) -> [u8; N] {
    const { assert!(N <= 32) };
    let mut short = [0; N];
    for (to, from) in short.iter_mut().zip(bytes) {
        *to = from;
    }
    short
}
