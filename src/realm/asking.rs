//! Commands that depend on what another realm says (PEER-1, PEER-8, PEER-9): they read, ask, and only then decide and write.
//!
//! Nobody is asked in the middle of a decision. A command that needs an answer first says what it asks, and is decided once more when that has
//! come. It is committed only where nothing has changed meanwhile that it had relied on before it asked; else it asks again.

use super::{Failure, Realm, Work, peers::Peer};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{Answer, ErrorCode, Refusal},
};

/// What comes of deciding about a command.
#[derive(Debug)]
pub(super) enum Decided {
    /// Its answer, once what is to be written is.
    Answer(Answer),
    /// Another realm is to be asked first.
    Ask(Question),
}

/// What another realm is asked.
#[derive(Debug)]
pub(super) enum Question {
    /// Who is at a host and port?
    Who(String, u16),
    /// A request to a peer, in its bytes on the wire.
    Peer(Box<Peer>, Vec<u8>),
}

impl Question {
    /// True when the same was asked of the same.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Who(host, port), Self::Who(asked_host, asked_port)) => {
                (host, port) == (asked_host, asked_port)
            }
            (Self::Peer(peer, bytes), Self::Peer(asked, asked_bytes)) => {
                let to = |peer: &Peer| (peer.key(), peer.knows());
                to(peer) == to(asked) && peer.address() == asked.address() && bytes == asked_bytes
            }
            (Self::Who(..), Self::Peer(..)) | (Self::Peer(..), Self::Who(..)) => false,
        }
    }
}

/// What another realm has said.
#[derive(Debug)]
enum Said {
    Who(Option<PublicKey>),
    Peer(Option<Answer>),
}

/// What a command has asked, and what it had relied on before.
#[derive(Debug)]
pub(super) struct Asked {
    question: Question,
    said: Said,
    relied: Batch,
}

impl Work<'_> {
    /// Decides (once more): by what was relied on before another realm was asked, if it was.
    pub(super) fn begin(&mut self) {
        self.batch = self
            .asked
            .last()
            .map_or_else(Batch::new, |asked| asked.relied.clone());
    }

    /// What was said may not be so any more: it is asked again.
    pub(super) fn forget_answers(&mut self) {
        self.asked.clear();
    }

    fn said(&self, question: &Question) -> Option<&Said> {
        let asked = self.asked.iter().find(|asked| asked.question.is(question));
        asked.map(|asked| &asked.said)
    }

    /// Who is at an address, as far as that was asked; else the question.
    pub(super) fn who(&self, host: &str, port: u16) -> Result<Option<PublicKey>, Question> {
        let question = Question::Who(host.into(), port);
        match self.said(&question) {
            Some(Said::Who(key)) => Ok(*key),
            Some(Said::Peer(_)) | None => Err(question),
        }
    }

    /// What a peer has answered, as far as it was asked; else the question. None when it is silent.
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
    /// Asks another realm, and keeps what it says for the command, with what the command has relied on so far.
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
                Said::Peer(answer.map(|answer| understood(&answer)))
            }
        };
        work.asked.push(Asked {
            question,
            said,
            relied,
        });
    }
}

/// What a peer's answer means to a client of this realm.
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

/// What a user of this realm is told of a peer's refusal (PEER-6). Their client takes what is said of sessions, passwords and numbers
/// for the word of its own realm and acts on it, so a peer has no say in these: none.
pub fn refusal_of_peer(refusal: Refusal) -> Option<Refusal> {
    let detail = match refusal.code {
        _ if is_planted(Fault::PassRefusalsOn) => refusal.detail,
        ErrorCode::TooLarge | ErrorCode::Busy | ErrorCode::RateLimited => refusal.detail,
        ErrorCode::NoSuchUser
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
        ErrorCode::BadRequest
        | ErrorCode::BadCredentials
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

/// The answer of a peer that has to be there.
pub(super) fn needed(answer: Option<Answer>) -> Result<Answer, Failure> {
    answer.ok_or(ErrorCode::RealmUnreachable.into())
}
