//! How far the introduction to a peer is, and what the peer's answers to it mean (PEER-1, PEER-13,
//! PEER-27). It sends and stores nothing: the peer's task does.

use super::super::steps::Numbering;
use crate::{
    realm::Written,
    wire::{
        AnswerError, AnsweredByPeer as _, ErrorCode, Numbered, Refusal,
        peer::{Introduce, Rotate},
    },
};

/// How often this realm retries at once when a peer does not know its peering numbers.
const NUMBERS_TOLD: u32 = 3;

/// How far the introduction to a peer is.
#[derive(Debug)]
pub struct Introduction {
    /// True if this realm has introduced itself since it started, or if the peer was added since.
    is_done: bool,
    /// Another introduction was requested since the last one began.
    is_requested: bool,
    /// The peer did not know this realm although it had accepted the peering.
    was_unknown: bool,
    /// How often the peer was told of numbers that it did not know (PEER-27).
    numbers_told: u32,
}

/// What follows after the peer's answer to an introduction is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterIntroduction {
    /// The next work, and the backoff begins anew.
    GoOn,
    /// The next work, at once.
    Begin,
    /// A wait.
    Wait,
}

impl Introduction {
    pub const fn new(is_done: bool) -> Self {
        Self {
            is_done,
            is_requested: false,
            was_unknown: false,
            numbers_told: 0,
        }
    }

    /// True if the peer knows this realm.
    pub const fn is_done(&self) -> bool {
        self.is_done
    }

    /// Requests another introduction.
    pub const fn request(&mut self) {
        self.is_done = false;
        self.is_requested = true;
    }

    /// Handles the begin of an introduction.
    pub const fn begun(&mut self) {
        self.is_requested = false;
    }

    /// Handles that the peer no longer knows this realm.
    pub const fn forgotten(&mut self) {
        self.is_done = false;
        self.was_unknown = true;
    }

    /// Handles the result of the write of the peer's answer.
    pub fn stored(&mut self, written: Written) -> AfterIntroduction {
        match written {
            Written::Durable => {
                // If the link that carried the answer is lost, the introduction has to be repeated.
                self.is_done = !self.is_requested;
                self.numbers_told = 0;
                if std::mem::take(&mut self.was_unknown) {
                    // Without the backoff, a peer that accepts the peering and then takes nothing
                    // would be asked without pause.
                    AfterIntroduction::Begin
                } else {
                    AfterIntroduction::GoOn
                }
            }
            // This realm tells its current numbers again at once, but only a few times.
            Written::Conflict if self.numbers_told < NUMBERS_TOLD => {
                self.numbers_told += 1;
                AfterIntroduction::Begin
            }
            Written::Conflict | Written::Failed => {
                self.numbers_told = 0;
                AfterIntroduction::Wait
            }
        }
    }
}

/// What a peer's answer to this realm's new key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    /// The peer does not answer.
    Silent,
    /// The peer follows to the new key.
    Followed,
    /// The peer no longer knows the old key. It may know the new one.
    NotFollowed(ErrorCode),
    /// The peer has not followed. An introduction under the new key would make it see a different
    /// realm.
    NotNow(Option<Refusal>),
}

/// Evaluates a peer's answer to this realm's new key.
pub fn judge_key_answer(answer: Option<&[u8]>) -> KeyAnswer {
    let Some(answer) = answer else {
        return KeyAnswer::Silent;
    };
    match Rotate::read_answer(answer) {
        Ok(Ok(())) => KeyAnswer::Followed,
        Ok(Err(refusal)) if refusal.is_final() => KeyAnswer::NotFollowed(refusal.code),
        Ok(Err(refusal)) => KeyAnswer::NotNow(Some(refusal)),
        Err(_) => KeyAnswer::NotNow(None),
    }
}

/// What a peer's answer to an introduction means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntroductionAnswer {
    /// The peer does not answer, or not intelligibly.
    Silent,
    /// The peer has accepted the peering, with its number if it gave one.
    Accepted(Option<Numbered>),
    /// The peer runs a release without peering numbers.
    Unnumbered,
    /// The peer cannot say yet.
    NotNow(Refusal),
    /// The peer refuses the peering.
    Refused(ErrorCode),
    /// The answer is none to an introduction.
    Unexpected,
}

/// Evaluates a peer's answer to an introduction.
pub fn judge_introduction(numbering: Numbering, answer: Option<&[u8]>) -> IntroductionAnswer {
    let Some(answer) = answer else {
        return IntroductionAnswer::Silent;
    };
    let refusal = match Introduce::read_answer(answer) {
        Ok(Ok(numbered)) => return IntroductionAnswer::Accepted(numbered),
        Ok(Err(refusal)) => refusal,
        // A malformed answer counts as no answer.
        Err(AnswerError::Malformed(_)) => return IntroductionAnswer::Silent,
        Err(AnswerError::OtherKind) => return IntroductionAnswer::Unexpected,
    };
    if refusal.code == ErrorCode::Unsupported && numbering == Numbering::Numbered {
        IntroductionAnswer::Unnumbered
    } else if refusal.is_transient() || refusal.is_unknown() {
        IntroductionAnswer::NotNow(refusal)
    } else {
        IntroductionAnswer::Refused(refusal.code)
    }
}
