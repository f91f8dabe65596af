//! The state of a link's handshake.

use super::super::{accept_cache::InitHash, dial::Dial, limits::ACCEPT_PATIENCE};
use crate::{
    crypto::{LifeClaim, Responder, ResumptionSecret},
    link::Time,
    wire::{HandshakeId, LinkName, OperationNumber, ResumeNonce},
};

/// The role of this side: whether it opened the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::endpoint) enum Role {
    Initiator,
    Responder,
}

/// The packet that the other side began with, and what its answer needs.
#[derive(Debug)]
pub(in crate::endpoint) enum Answering {
    /// An Init: an Accept completes the handshake.
    Accept(Box<Responder>, HandshakeId),
    /// A Resume, under this secret and with this nonce.
    Resumed(ResumptionSecret, ResumeNonce),
}

/// A handshake that the other side began and whose answer has not left yet.
#[derive(Debug)]
pub(in crate::endpoint) struct Accepting {
    pub answering: Answering,
    pub init: InitHash,
    /// Length of the first packet, in bytes.
    pub brought: usize,
    /// The longest answer allowed, in bytes.
    pub answer_limit: usize,
    pub(super) due: Time,
    /// The highest operation number that its device has used; `None` until the link is accepted.
    pub(super) welcomed: Option<OperationNumber>,
}

impl Accepting {
    /// Returns a handshake whose first packet has `brought` bytes, and whose answer may be no
    /// longer.
    pub fn new(now: Time, answering: Answering, init: InitHash, brought: usize) -> Self {
        Self {
            answering,
            init,
            brought,
            answer_limit: brought,
            due: now + ACCEPT_PATIENCE,
            welcomed: None,
        }
    }

    /// Allows the answer to be `factor` times as long as the first packet.
    pub fn amplified(mut self, factor: usize) -> Self {
        self.answer_limit = self.brought.saturating_mul(factor);
        self
    }
}

/// The state of a link's handshake.
#[derive(Debug)]
pub(in crate::endpoint) enum Stage {
    /// This side sends its first packet as soon as it may transmit.
    Calling,
    /// This side has dialed and waits for the Accept.
    Dialing(Box<Dial>),
    /// This side has yet to send the Accept.
    Accepting(Box<Accepting>),
    /// The handshake is complete, or was not needed.
    Open,
}

impl Stage {
    /// True once the handshake is complete, or was not needed.
    pub const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Returns the handshake that this side has dialed and that is not answered yet.
    pub fn dial(&self) -> Option<&Dial> {
        match self {
            Self::Dialing(dial) => Some(dial),
            Self::Calling | Self::Accepting(_) | Self::Open => None,
        }
    }

    /// Returns the handshake of the other side whose answer has not left yet.
    pub fn accepting(&self) -> Option<&Accepting> {
        match self {
            Self::Accepting(accepting) => Some(accepting),
            Self::Calling | Self::Dialing(_) | Self::Open => None,
        }
    }

    /// Returns the life claim of a link that another side opens. Realms, which name their links,
    /// and plain links make none.
    pub fn life_claim(&self, name: Option<&LinkName>) -> Option<LifeClaim> {
        match &self.accepting()?.answering {
            Answering::Accept(responder, handshake) if name.is_none() => {
                Some(LifeClaim::new(responder.life_key.clone(), *handshake))
            }
            // The key that decrypts a Resume shows its life.
            Answering::Accept(..) | Answering::Resumed(..) => None,
        }
    }

    /// True if the handshake is not a replayed recording: its device is known to have used no
    /// number as high as `operation`.
    pub fn is_fresh(&self, operation: OperationNumber) -> bool {
        let welcomed = self.accepting().and_then(|accepting| accepting.welcomed);
        welcomed.is_some_and(|highest| operation > highest)
    }
}
