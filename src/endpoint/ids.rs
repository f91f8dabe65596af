//! Tables by link. Ids are random and this side's own choice, so that nobody else can bring many of them into one place:
//! to find one takes no more than a multiplication.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};

use super::LinkId;

/// What is known of each of some links.
pub(super) type ById<T> = HashMap<LinkId, T, BuildHasherDefault<IdHasher>>;
/// Some links.
pub(super) type Ids = HashSet<LinkId, BuildHasherDefault<IdHasher>>;

/// Spreads ids over a table.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u32(&mut self, id: u32) {
        // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, 6.4).
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// For keys that are no ids; there are none.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32((*byte).into());
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
