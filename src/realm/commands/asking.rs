//! Commands that depend on another realm's answer (PEER-1, PEER-8, PEER-9): they read, ask, and
//! then decide and write.
//!
//! No decision waits for an answer. A command that needs one returns the question, and is decided
//! again when the answer has come. It is committed only if the values that it relied on before it
//! asked have not changed; otherwise it asks again.

use crate::realm::{
    Realm,
    commands::work::{AnsweredQuestion, Question, Said, Work},
    failure::Failure,
    peer::Peer,
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{Answer, ErrorCode, Refusal},
};

/// The result of deciding a command.
#[derive(Debug)]
pub(in crate::realm) enum Decided<T> {
    /// What the command is answered, valid after the commit.
    Answer(T),
    /// Another realm must be asked first.
    Ask(Question),
}

impl<T> Decided<T> {
    pub(super) fn map<U>(self, write: impl FnOnce(T) -> U) -> Decided<U> {
        match self {
            Self::Answer(answer) => Decided::Answer(write(answer)),
            Self::Ask(question) => Decided::Ask(question),
        }
    }
}

impl Work<'_> {
    /// Begins a decision. If another realm was asked, the batch begins with the values that the
    /// command relied on before.
    pub(in crate::realm) fn begin(&mut self) {
        self.batch = self
            .answered
            .last()
            .map_or_else(Batch::new, |asked| asked.relied.clone());
    }

    /// Discards the answers, which may be outdated, so that the questions are asked again.
    pub(super) fn forget_answers(&mut self) {
        self.answered.clear();
    }

    fn said(&self, question: &Question) -> Option<&Said> {
        let asked = self
            .answered
            .iter()
            .find(|asked| asked.question.is(question));
        asked.map(|asked| &asked.said)
    }

    /// Returns the key of the realm at an address, if that was asked; otherwise the question as an
    /// error.
    pub(in crate::realm) fn who(
        &self,
        host: &str,
        port: u16,
    ) -> Result<Option<PublicKey>, Question> {
        let question = Question::Who(host.into(), port);
        match self.said(&question) {
            Some(Said::Who(key)) => Ok(*key),
            Some(Said::Peer(_)) | None => Err(question),
        }
    }

    /// Returns a peer's answer, if it was asked; otherwise the question as an error. `None` means
    /// that the peer was silent.
    pub(super) fn answer_of(
        &self,
        peer: &Peer,
        request: Vec<u8>,
    ) -> Result<Option<Answer>, Question> {
        let question = Question::Peer(Box::new(peer.clone()), request);
        match self.said(&question) {
            Some(Said::Peer(answer)) => Ok(answer.clone()),
            Some(Said::Who(_)) | None => Err(question),
        }
    }
}

impl<S: Store> Realm<S> {
    /// Asks another realm. Stores its answer for the command, with the values that the command has
    /// relied on so far.
    pub(super) async fn ask_first(&self, work: &mut Work<'_>, question: Question) {
        let mut relied = core::mem::take(&mut work.batch);
        relied.changes.clear();
        let said = match &question {
            Question::Who(host, port) => Said::Who(self.network.who(host, *port).await),
            Question::Peer(peer, bytes) => {
                let answer = self.network.ask(peer, bytes.clone()).await;
                if answer.is_some() {
                    self.network.reached(peer.realm);
                } else {
                    self.network.silent(peer.realm);
                }
                let answer = answer.map(|answer| understood(&answer));
                let refused = ErrorCode::PeerRefused;
                if matches!(&answer, Some(Answer::Refused(refusal)) if refusal.code == refused) {
                    // It may not know this realm's present key (PEER-6).
                    self.network.introduction_due(peer.realm);
                }
                Said::Peer(answer)
            }
        };
        work.answered.push(AnsweredQuestion {
            question,
            said,
            relied,
        });
    }
}

/// Returns what a peer's answer means to a client of this realm.
fn understood(answer: &[u8]) -> Answer {
    let internal = || Answer::Refused(ErrorCode::Internal.into());
    match Answer::parse(answer) {
        Ok(Answer::Refused(refusal)) => {
            refusal_of_peer(refusal).map_or_else(internal, Answer::Refused)
        }
        Ok(answer) => answer,
        Err(_) => internal(),
    }
}

/// Returns the refusal that a user of this realm gets for a peer's refusal (PEER-6), or `None` if
/// it is not passed on.
///
/// The user's client takes a refusal about sessions, passwords or numbers as its own realm's and
/// acts on it, so a peer's refusals of these kinds are not passed on.
pub fn refusal_of_peer(refusal: Refusal) -> Option<Refusal> {
    let detail = match refusal.code {
        _ if is_planted(Fault::PassRefusalsOn) => refusal.detail,
        ErrorCode::TooLarge | ErrorCode::Busy | ErrorCode::RateLimited => refusal.detail,
        ErrorCode::BadRequest
        | ErrorCode::NoSuchUser
        | ErrorCode::NoSuchGroup
        | ErrorCode::WrongPassword
        | ErrorCode::NotAMember
        | ErrorCode::RealmExists
        | ErrorCode::RealmUnreachable
        | ErrorCode::PeerRefused
        | ErrorCode::QueueFull
        | ErrorCode::Unsupported
        | ErrorCode::NotPermitted
        | ErrorCode::Banned
        | ErrorCode::Expired => None,
        ErrorCode::BadCredentials
        | ErrorCode::NoSession
        | ErrorCode::UsernameTaken
        | ErrorCode::GroupExists
        | ErrorCode::NoSuchRealm
        | ErrorCode::BadSource
        | ErrorCode::NotYou
        | ErrorCode::NotOperator
        | ErrorCode::AlreadyDone
        | ErrorCode::NumberReused
        | ErrorCode::Internal
        | ErrorCode::RegistrationClosed
        | ErrorCode::WrongCode
        | ErrorCode::Unknown => return None,
    };
    Some(Refusal {
        code: refusal.code,
        detail,
    })
}

/// Returns the answer of a peer whose answer is required.
pub(in crate::realm) fn needed(answer: Option<Answer>) -> Result<Answer, Failure> {
    answer.ok_or(ErrorCode::RealmUnreachable.into())
}
