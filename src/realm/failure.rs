//! Reasons why a command has no effect, and the answers to them.

use crate::{
    faults::{Fault, is_planted},
    store::StoreError,
    wire::{AnswerError, ErrorCode, Refusal, UnknownForm},
};

/// How long a client is asked to wait after all attempts met a conflict, in milliseconds.
const CONTENDED_MS: u64 = 100;

/// The reason why a command has no effect.
#[derive(Debug)]
pub enum Failure {
    /// It was refused, and nothing was written.
    Refused(Refusal),
    /// The store failed before anything was written.
    Store(StoreError),
    /// The store failed during the commit, or before it could tell whether the command was executed
    /// before: whether it was is unknown.
    Unknown(StoreError),
}

impl Failure {
    /// Returns the refusal of a command that has met a conflict at each of its attempts.
    pub(super) fn contended() -> Self {
        Refusal::busy(CONTENDED_MS).into()
    }

    /// True if a record cannot be read, and everything else still works.
    pub const fn is_of_one_record(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_of_one_record())
    }

    /// True if a record is lost, and everything else still works. A record that is unreadable only
    /// for now is not lost.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Store(StoreError::Damaged(_)))
    }

    /// Returns the failure as one that leaves it open whether the command was executed before.
    #[must_use]
    pub fn in_doubt(self) -> Self {
        match self {
            Self::Store(error) => Self::Unknown(error),
            other => other,
        }
    }

    /// Returns the refusal to answer with. `is_numbered`: a repeat with the same number will find
    /// out what is unknown now.
    pub fn refusal(self, is_numbered: bool) -> Refusal {
        // The store is about to be opened again. That nothing was done is no reason for the device
        // to give up.
        let is_over = |error: &StoreError| !error.is_of_one_record();
        match self {
            Self::Refused(refusal) => refusal,
            Self::Unknown(_) if is_numbered && !is_planted(Fault::RefuseInDoubt) => {
                ErrorCode::Unknown.into()
            }
            Self::Store(error) if is_numbered && is_over(&error) => ErrorCode::Unknown.into(),
            Self::Store(_) | Self::Unknown(_) => ErrorCode::Internal.into(),
        }
    }
}

impl From<ErrorCode> for Failure {
    fn from(code: ErrorCode) -> Self {
        Self::Refused(code.into())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<UnknownForm> for Failure {
    fn from(UnknownForm: UnknownForm) -> Self {
        ErrorCode::Unsupported.into()
    }
}

/// A peer has answered what it may not answer. Nothing was written here, and the user can do
/// nothing about it.
impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Malformed(_) | AnswerError::OtherKind => ErrorCode::Internal.into(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
