//! Asking with a command that carries a password or a code: never written down, and so never kept.

use tokio::time::Instant;

use super::{
    CallError, Client, EntryId, Shared,
    calls::{Waits, accepted, is_used_up},
    outbox::{self, Added, Left, Outcome},
};
use crate::wire::{Answer, Command, ErrorCode, OperationNumber, Request};

/// How often a number that turns out to be used is replaced, before giving up.
const RENUMBERED_MAX: u32 = 16;

impl Client {
    /// Asks with a command that carries a password, which is never written down: it is tried until the deadline, and if its
    /// outcome is not known then, its number is used up as soon as the realm is reached (EXACT-11).
    pub(super) async fn call_secret(
        &self,
        request: &mut Request<'_>,
        deadline: Instant,
    ) -> Result<(Answer, EntryId), CallError> {
        let shared = &*self.shared;
        let account = shared.account()?;
        let id = match shared.add(request, None, deadline)? {
            Added::Entry(id) => id,
            Added::Full(bytes) => return Err(CallError::OutboxFull { bytes }),
            Added::Done(..) | Added::TokenReused | Added::TokensFull => {
                return Err(CallError::TokenReused);
            }
        };
        let mut waits = Waits {
            shared,
            id,
            keep: false,
            is_over: false,
        };
        // What was begun before it and is about the same thing goes first. A login needs not wait: what another user began
        // stays theirs (EXACT-6).
        let is_login = matches!(
            request.command,
            Command::Auth { .. } | Command::Register { .. }
        );
        shared.added.notify_one();
        if !is_login {
            shared.unblocked(id, deadline).await?;
        }
        for _ in 0..RENUMBERED_MAX {
            if !is_login {
                let named = shared.name_own_session(request, &account, deadline).await;
                if !matches!(named, Ok(true)) {
                    waits.is_over = true;
                    shared.stop_waiting(id, false)?;
                    return Err(named
                        .map_or_else(|error| shared.not_done(error), |_| CallError::AnotherUser));
                }
                shared.without_login(id, deadline).await?;
            }
            let since = shared.state()?.since;
            let Some(number) = shared.number(id)? else {
                return Err(CallError::Behind {
                    waited: shared.options.deadline,
                });
            };
            if let Some(operation) = request.command.operation_mut() {
                operation.number = number;
            }
            // From here on it may be done, whatever can be written down of it.
            let outcome = shared.ask_patiently(request, false, deadline, None).await;
            let answer = match outcome {
                Ok(answer) => answer,
                // Its number is used up all the same: should an answer before this one have been lost, it shows then.
                Err(CallError::Busy(refusal)) if refusal.is_transient() => {
                    waits.is_over = true;
                    shared.take_back(id);
                    return Err(CallError::Refused(refusal));
                }
                Err(error) => {
                    waits.is_over = true;
                    return Err(shared.give_up(id, error).await);
                }
            };
            if let Answer::Refused(refusal) = &answer
                && is_used_up(*refusal, true)
            {
                let named = request.command.session();
                shared.renumber((id, number), *refusal)?;
                shared
                    .learn_who_came(*refusal, number.0, named, deadline)
                    .await
                    .map_err(|error| shared.not_done(error))?;
                continue;
            }
            shared.note_answered(number);
            let begun = (id, since);
            match shared.note_done(begun, request, &answer, deadline).await {
                Ok(is_over) => waits.is_over = is_over,
                // Whose session the device has must be written down: the carrier finds out who is logged in.
                Err(CallError::Profile(_)) if matches!(answer, Answer::Session(_)) => {
                    return Err(shared.unknown());
                }
                // What the realm says is so, whether or not it can be written down that it is over.
                Err(CallError::Profile(_)) => {}
                Err(error) => return Err(error),
            }
            return accepted(answer).map(|answer| (answer, id));
        }
        Err(CallError::Refused(ErrorCode::NumberReused.into()))
    }
}

impl Shared {
    fn unknown(&self) -> CallError {
        CallError::OutcomeUnknown {
            waited: self.options.deadline,
        }
    }

    /// Writes down what the answer to a command says, and that it is over. False when the carrier has to find out who is logged in.
    async fn note_done(
        &self,
        (id, since): (EntryId, u64),
        request: &Request<'_>,
        answer: &Answer,
        deadline: Instant,
    ) -> Result<bool, CallError> {
        if !self
            .learn_own_login((id, since), request, answer, deadline)
            .await?
        {
            return Ok(false);
        }
        let answered = Outcome::Answer(answer.to_bytes());
        self.profile.write(|records| {
            outbox::settle(records, id, &answered)?;
            outbox::take_done(records, id)
        })?;
        self.settled.notify_waiters();
        self.added.notify_one();
        Ok(true)
    }

    /// Nobody waits any more for a command of which the realm says that it has not been done. What cannot be written down of that ends with
    /// its time.
    fn take_back(&self, id: EntryId) {
        let left = self
            .profile
            .write(|records| outbox::note_left(records, id, false));
        if left.is_ok() {
            let _ = self.stop_waiting(id, false);
        }
    }

    /// Gives a command up that was to leave: what to say.
    async fn give_up(&self, id: EntryId, error: CallError) -> CallError {
        // A password leaves on an open link only; whoever has another key has opened none.
        let is_elsewhere = error.is_final() && self.link_status().await.opened == 0;
        // What is answered, and cannot be written down, has left.
        let has_left = error.may_have_left() || matches!(error, CallError::Profile(_));
        if !has_left || is_elsewhere {
            self.take_back(id);
            return error;
        }
        match self.stop_waiting(id, false) {
            Ok(Left::NotDone) => error,
            Ok(Left::Kept | Left::KeptUnknown | Left::Unknown | Left::Settled(_)) | Err(_) => {
                self.unknown()
            }
        }
    }

    /// A number for an entry that whoever has its password sends.
    fn number(&self, id: EntryId) -> Result<Option<OperationNumber>, CallError> {
        let now = self.host.time_of_day();
        let picked = self
            .profile
            .write(|records| outbox::begin_now(records, id, now))?;
        Ok(picked.map(|picked| picked.number))
    }
}
