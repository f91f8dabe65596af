//! Why a command ends without its effect, and what is answered then.

use crate::{
    faults::{Fault, is_planted},
    store::StoreError,
    wire::{ErrorCode, Refusal},
};

/// Why a command ends without its effect.
#[derive(Debug)]
pub enum Failure {
    /// It was refused, and nothing was written.
    Refused(Refusal),
    /// The store failed before anything was written.
    Store(StoreError),
    /// The store failed while writing, or before it could tell whether the command had been carried out: whether it
    /// was, is not known.
    Unknown(StoreError),
}

impl Failure {
    /// True when something cannot be read, and all else is as before.
    pub const fn is_of_one_record(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_of_one_record())
    }

    /// True when something is lost, and all else is as before. What can only not be read now is not.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Store(StoreError::Damaged(_)))
    }

    /// The same where it leaves open whether the command was carried out before.
    #[must_use]
    pub fn in_doubt(self) -> Self {
        match self {
            Self::Store(error) => Self::Unknown(error),
            other => other,
        }
    }

    /// What is answered; `is_numbered`: the same number finds out what is not known now.
    pub fn refusal(self, is_numbered: bool) -> Refusal {
        // The store is about to be opened again: that nothing was done is no reason for the device to give up.
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

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
