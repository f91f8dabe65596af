//! The realm's randomness: one generator, which the realm's constructor seeds.

use std::sync::{Mutex, PoisonError};

use rand::{Rng as _, rngs::StdRng};

/// A random generator that all services share.
#[derive(Debug)]
pub(super) struct Random(Mutex<StdRng>);

impl Random {
    /// Returns a generator that draws from `rng`.
    pub const fn new(rng: StdRng) -> Self {
        Self(Mutex::new(rng))
    }

    /// Returns `N` random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(&mut bytes);
        bytes
    }
}
