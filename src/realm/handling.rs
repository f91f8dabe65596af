//! From the bytes of a command to its answer, and to what the answer means for the link that it
//! came over. Nothing beyond this file looks into the bytes of either.

use std::sync::Arc;

use super::{
    Caller, Realm, TooLong, account::Account, failure::Failure, link_owner::Answering,
    watching::Watch,
};
use crate::{
    store::Store,
    wire::{
        Answer, ErrorCode, OperationNumber, PeerRequest, Refusal, Request,
        command::{Change, Kind, Read},
    },
};

/// How long a client is asked to wait when its watch could not begin, in milliseconds.
const WATCH_BUSY_MS: u64 = 1000;

/// A command that was executed, or refused.
pub struct Handled<S> {
    /// The answer.
    pub answer: Vec<u8>,
    /// What follows for the link.
    pub effect: Effect<S>,
    /// The user or peer for which it was executed, if [`Caller::asks_account`] is set and it was
    /// not refused.
    pub account: Option<Account>,
    /// Its operation number, if it has one.
    pub operation: Option<OperationNumber>,
}

/// What an answered command means for the link that it came over.
pub enum Effect<S> {
    /// Nothing.
    None,
    /// Entries are pushed from now on.
    Watch(Box<Watch<S>>),
    /// Entries are no longer pushed.
    Unwatch,
    /// The peer has introduced itself.
    Introduced,
    /// A peer has asked for something else, or was refused.
    PeerAnswered,
}

/// The parsed bytes of a command.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one in each command, and it is not moved"
)]
enum Input<'a> {
    Command(Request<'a>),
    /// A request of another realm, which is parsed where it is executed.
    Peer(&'a [u8]),
    Unknown,
}

impl<'a> Input<'a> {
    fn parse(bytes: &'a [u8]) -> Self {
        if PeerRequest::is_one(bytes) {
            Self::Peer(bytes)
        } else {
            Request::parse(bytes).map_or(Self::Unknown, Self::Command)
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Command(request) => request.command.name(),
            Self::Peer(_) => "peer",
            Self::Unknown => "unknown",
        }
    }

    fn operation(&self) -> Option<OperationNumber> {
        match self {
            Self::Command(request) => request.command.operation().map(|own| own.number),
            Self::Peer(_) | Self::Unknown => None,
        }
    }
}

impl<S: Store> Realm<S> {
    /// Executes a command. Every input gets an answer.
    ///
    /// # Errors
    /// [`TooLong`] if the answer is longer than [`Caller::longest`].
    pub async fn handle(
        self: &Arc<Self>,
        caller: &Caller,
        bytes: &[u8],
    ) -> Result<Handled<S>, TooLong> {
        let input = Input::parse(bytes);
        let mut handled = Handled {
            answer: self.answer_input(caller, &input).await?,
            effect: Effect::None,
            account: None,
            operation: input.operation(),
        };
        if Answer::is_refusal(&handled.answer) {
            if let Input::Peer(_) = input {
                handled.effect = Effect::PeerAnswered;
            }
            return Ok(handled);
        }
        if caller.asks_account {
            handled.account = self.account(caller, &input, &handled.answer).await;
        }
        handled.effect = match &input {
            Input::Command(request) => match request.command.kind() {
                Kind::Read(Read::Watch(command)) => match self.watch(caller, command).await {
                    Some(watch) => Effect::Watch(Box::new(watch)),
                    None => {
                        // The client must not be told that a watch has begun when it has not.
                        let busy = Answer::Refused(Refusal::busy(WATCH_BUSY_MS));
                        handled.answer = busy.to_bytes();
                        Effect::None
                    }
                },
                Kind::Read(Read::Unwatch(_)) | Kind::Change(Change::Logout(_)) => Effect::Unwatch,
                Kind::Read(_) | Kind::Change(_) => Effect::None,
            },
            Input::Peer(bytes) => match PeerRequest::parse(bytes) {
                Ok(PeerRequest::Introduce(_)) => Effect::Introduced,
                Ok(_) | Err(_) => Effect::PeerAnswered,
            },
            Input::Unknown => Effect::None,
        };
        Ok(handled)
    }

    /// Returns the user or peer for which a command would be executed that needs a session or a
    /// peering. `None` if there is none, and if the store fails.
    pub async fn account_of(&self, caller: &Caller, bytes: &[u8]) -> Option<Account> {
        self.account(caller, &Input::parse(bytes), &[]).await
    }

    async fn account(&self, caller: &Caller, input: &Input<'_>, answer: &[u8]) -> Option<Account> {
        match input {
            Input::Command(request) => {
                let answering = Answering {
                    session: request.command.session(),
                    answer,
                };
                self.user_of(caller, answering).await
            }
            Input::Peer(_) => self.calling_peer(caller).await,
            Input::Unknown => None,
        }
    }

    /// Executes a command and returns the answer's bytes, without what it means for its link.
    #[cfg(test)]
    pub async fn answer(&self, caller: &Caller, bytes: &[u8]) -> Vec<u8> {
        let answer = self.answer_input(caller, &Input::parse(bytes)).await;
        answer.unwrap_or_else(TooLong::to_bytes)
    }

    /// Returns the watch of a `watch` command that was answered `done`.
    #[cfg(test)]
    pub async fn watch_of(self: &Arc<Self>, caller: &Caller, bytes: &[u8]) -> Option<Watch<S>> {
        let request = Request::parse(bytes).ok()?;
        let Kind::Read(Read::Watch(command)) = request.command.kind() else {
            return None;
        };
        self.watch(caller, command).await
    }

    async fn answer_input(&self, caller: &Caller, input: &Input<'_>) -> Result<Vec<u8>, TooLong> {
        let outcome = match input {
            Input::Command(request) => self.execute(caller, request).await,
            Input::Peer(bytes) => Box::pin(self.peer_request(caller, bytes)).await,
            Input::Unknown => Err(Failure::from(ErrorCode::BadRequest)),
        };
        match outcome {
            Ok(answer) if answer.len() <= caller.longest => Ok(answer),
            Ok(_) => Err(TooLong(caller.longest)),
            Err(failure) => {
                self.storage.log_failure_of(caller, input.name(), &failure);
                let is_numbered = input.operation().is_some();
                Ok(Answer::Refused(failure.refusal(is_numbered)).to_bytes())
            }
        }
    }
}
