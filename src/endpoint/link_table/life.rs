//! The life of the store that a link claims or tells (HS-14).

use super::super::life::ClaimedLife;
use crate::wire::{Life, OperationNumber, Welcome, varint_len};

/// From this length of an operation number on, in bytes, a WELCOME with a successor has no room for
/// a life: the Accept would be longer than the shortest Init (WIRE-11).
const HIGHEST_BYTES_MAX: usize = 8;

/// The life of the store that a link claims or tells.
#[derive(Debug)]
pub(in crate::endpoint) struct LinkLife {
    /// On an initiator's link: the life that its handshakes claim. On a responder's link: the life
    /// that its WELCOME tells, if any.
    current: Life,
    /// On a responder's link: true if the life that the initiator claimed is unknown.
    is_claim_unknown: bool,
}

impl Default for LinkLife {
    fn default() -> Self {
        Self {
            current: Life::NONE,
            is_claim_unknown: false,
        }
    }
}

impl LinkLife {
    /// The life that the link's handshakes claim, or that its WELCOME tells.
    pub const fn current(&self) -> Life {
        self.current
    }

    /// True if the life that the initiator claimed is unknown.
    pub const fn is_claim_unknown(&self) -> bool {
        self.is_claim_unknown
    }

    /// Sets the life that the link's handshakes claim.
    pub const fn claim(&mut self, life: Life) {
        self.current = life;
    }

    /// Sets the life that the link's WELCOME tells, and the verdict on the initiator's claim.
    pub fn tell(&mut self, life: Life, claimed: ClaimedLife) {
        self.current = life;
        self.is_claim_unknown = claimed == ClaimedLife::Unknown;
    }

    /// Records the life that the realm has told: later handshakes of the link claim it.
    pub const fn learn(&mut self, welcome: &Welcome) {
        if let (Some(life), false) = (welcome.life, welcome.is_life_unknown) {
            self.current = life;
        }
    }

    /// Returns the life to tell in a WELCOME with `successor` and `highest`.
    pub fn beside(&self, successor: Option<&[u8; 32]>, highest: OperationNumber) -> Option<Life> {
        let fits = successor.is_none() || varint_len(highest.0) < HIGHEST_BYTES_MAX;
        Some(self.current).filter(|life| fits && *life != Life::NONE)
    }
}
