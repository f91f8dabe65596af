//! What the answer to a command holds, and the errors if it is a refusal or of another kind.

use super::CallError;
use crate::wire::{Answer, Command, FromAnswer};

/// Whether a command changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// It changes nothing, and may always be repeated.
    Read,
    /// It changes something.
    Change,
}

impl CommandKind {
    /// Returns the kind of `command`.
    pub fn of(command: &Command<'_>) -> Self {
        match command.operation() {
            Some(_) => Self::Change,
            None => Self::Read,
        }
    }
}

/// Returns what an answer holds. One of another kind is an error, after which the outcome of a
/// command that changes something is unknown (WIRE-14).
pub fn content<A: FromAnswer>(answer: Answer, kind: CommandKind) -> Result<A, CallError> {
    A::from_answer(answer).map_err(|other| unexpected(&other, kind))
}

/// Returns the error for an answer that was not asked for by a command of `kind`.
pub fn unexpected(answer: &Answer, kind: CommandKind) -> CallError {
    let found = match answer {
        Answer::Done => "done",
        Answer::Sent(_) => "a delivery state",
        Answer::Session(_) => "a session",
        Answer::Page(_) => "a page",
        Answer::Account(_) => "an account",
        Answer::Sessions(_) => "sessions",
        Answer::Names { .. } => "names",
        Answer::Members { .. } => "members",
        Answer::Joined { .. } => "a membership",
        Answer::Realms(_) => "realms",
        Answer::Details(_) => "details of realms",
        Answer::Unread(_) => "counts",
        Answer::Refused(_) => "a refusal",
    };
    CallError::Misunderstood {
        what: format!("{found} was not asked for"),
        may_be_done: kind == CommandKind::Change,
    }
}

/// Returns the answer, or the error if it is a refusal.
pub fn accepted(answer: Answer) -> Result<Answer, CallError> {
    match answer {
        Answer::Refused(refusal) => Err(CallError::Refused(refusal)),
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Sent, SessionId};

    /// WIRE-14: after an answer of another kind, the outcome of a change counts as unknown.
    #[test]
    fn answer_of_other_kind_leaves_outcome_of_change_unknown() {
        for kind in [CommandKind::Change, CommandKind::Read] {
            let outcomes = [
                content::<()>(Answer::Sent(Sent::Stored), kind),
                content::<SessionId>(Answer::Done, kind).map(drop),
            ];
            for outcome in outcomes {
                let Err(CallError::Misunderstood { may_be_done, .. }) = outcome else {
                    panic!("{outcome:?}");
                };
                assert_eq!(may_be_done, kind == CommandKind::Change);
            }
        }
    }
}
