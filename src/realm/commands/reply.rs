//! What comes of a command: the answer in its bytes, and what follows from it. Each command has an
//! answer of its own type, and all of them are written here.

use crate::wire::{
    Answer, Refusal, Sent, SessionId, Username,
    command::{self, Answered, Change},
};

/// What an answer means besides its bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::realm) enum Outcome<'r> {
    /// The command is refused, and changed nothing.
    Refused,
    /// It was executed, and nothing follows for its link.
    Done,
    /// It has opened a session.
    SessionOpened(SessionId),
    /// It has ended a session: entries are no longer pushed.
    SessionEnded,
    /// Its message waits for a peer, whose receipt may come soon.
    Queued,
    /// Entries are to be pushed.
    Watch(&'r command::Watch),
    /// Entries are no longer pushed.
    Unwatch,
}

/// The answer to a command, and what it means.
#[derive(Clone, Debug)]
pub(in crate::realm) struct Reply<'r> {
    pub bytes: Vec<u8>,
    pub outcome: Outcome<'r>,
}

impl<'r> Reply<'r> {
    /// Returns the reply to a command that was executed, with what the table of commands says that
    /// its answer holds.
    pub fn new<'a, C: Answered<'a>>(_: &C, content: C::Answer) -> Self {
        let answer: Answer = content.into();
        Self {
            bytes: answer.to_bytes(),
            outcome: Outcome::Done,
        }
    }

    /// Returns the reply with what follows from it.
    pub fn with(self, outcome: Outcome<'r>) -> Self {
        Self { outcome, ..self }
    }

    pub fn refused(refusal: Refusal) -> Self {
        Self {
            bytes: Answer::Refused(refusal).to_bytes(),
            outcome: Outcome::Refused,
        }
    }

    /// Returns the reply to a command that has opened a session.
    pub fn opened<'a, C: Answered<'a, Answer = SessionId>>(command: &C, id: SessionId) -> Self {
        Self::new(command, id).with(Outcome::SessionOpened(id))
    }

    /// Returns the reply to a repeated command that has opened a session.
    pub fn reopened(id: SessionId) -> Self {
        Self {
            bytes: Answer::Session(id).to_bytes(),
            outcome: Outcome::SessionOpened(id),
        }
    }

    /// Returns the reply to a command that sends a message to another realm.
    pub fn sent<'a, C: Answered<'a, Answer = Sent>>(command: &C, sent: Sent) -> Self {
        Self::new(command, sent).with(match sent {
            Sent::Queued => Outcome::Queued,
            Sent::Stored | Sent::Delivered => Outcome::Done,
        })
    }

    /// Returns the reply to a peer's request, whose answer is known only by its bytes: it may be
    /// one that was recorded.
    pub fn of_peer_request(bytes: Vec<u8>) -> Self {
        let outcome = if Answer::is_refusal(&bytes) {
            Outcome::Refused
        } else {
            Outcome::Done
        };
        Self { bytes, outcome }
    }

    /// Returns the reply that was recorded for a command, or that a peer's receipt has put in its
    /// place.
    pub fn recorded(change: Change<'_, '_>, bytes: Vec<u8>) -> Self {
        if Answer::is_refusal(&bytes) {
            let outcome = Outcome::Refused;
            return Self { bytes, outcome };
        }
        let outcome = match Follows::from(change) {
            Follows::SessionEnds => Outcome::SessionEnded,
            Follows::Receipt if Answer::parse(&bytes) == Ok(Answer::Sent(Sent::Queued)) => {
                Outcome::Queued
            }
            // The id of a session is never recorded, but derived again.
            Follows::SessionOpens(_) | Follows::Receipt | Follows::Nothing => Outcome::Done,
        };
        Self { bytes, outcome }
    }
}

/// What follows from a command that was executed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Follows {
    /// A session of this user opens.
    SessionOpens(Username),
    /// A session ends.
    SessionEnds,
    /// A peer's receipt, if the message waits for the peer.
    Receipt,
    Nothing,
}

impl From<Change<'_, '_>> for Follows {
    fn from(change: Change<'_, '_>) -> Self {
        match change {
            Change::Auth(command) => Self::SessionOpens(command.username),
            Change::Register(command) => Self::SessionOpens(command.username),
            Change::Logout(_) => Self::SessionEnds,
            Change::SendRealm(_) | Change::SendGroupRealm(_) => Self::Receipt,
            Change::Send(_)
            | Change::AddGroup(_)
            | Change::JoinGroup(_)
            | Change::SendGroup(_)
            | Change::AddRealm(_)
            | Change::JoinGroupRealm(_)
            | Change::LeaveGroup(_)
            | Change::RemoveRealm(_)
            | Change::Revoke(_)
            | Change::Passwd(_)
            | Change::Claim(_)
            | Change::Kick(_)
            | Change::Ban(_)
            | Change::Unban(_)
            | Change::SetRole(_)
            | Change::GroupPasswd(_)
            | Change::DelGroup(_)
            | Change::LeaveGroupRealm(_)
            | Change::Void(_)
            | Change::Block(_)
            | Change::Unblock(_) => Self::Nothing,
        }
    }
}
