//! The ids of links, and hash tables by id. Ids are random and chosen by this side, so no attacker
//! can cause collisions. The hash is one multiplication.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

/// Identifies a link at this endpoint. A responder's is also the connection id it chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// A map by link.
pub(super) type ById<T> = HashMap<LinkId, T, BuildHasherDefault<IdHasher>>;
/// A set of links.
pub(super) type Ids = HashSet<LinkId, BuildHasherDefault<IdHasher>>;

/// Hashes link ids.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u32(&mut self, id: u32) {
        // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, 6.4).
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// For other keys; there are none.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((*byte).into());
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
