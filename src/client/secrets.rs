//! Calls with a command that carries a password or a code. Such a command is never written to disk,
//! so it is never kept.

use tokio::time::Instant;

use super::{
    CallError, Client, EntryId, Shared,
    answer::accepted,
    calls::{Waits, is_used_up},
    outbox::{Afterwards, Left, Outbox, Outcome},
};
use crate::{
    endpoint::EarlyData,
    wire::{Answer, Command, ErrorCode, OperationNumber, Request},
};

/// The limit for replacing a number that turns out to be used.
const RENUMBERED_MAX: u32 = 16;

impl Client {
    /// Sends a command that carries a password. It is never written to disk. It is tried until the
    /// deadline. If its outcome is then unknown, its number is used up once the realm is reachable
    /// (EXACT-11).
    pub(super) async fn call_secret(
        &self,
        request: &mut Request<'_>,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let shared = &*self.shared;
        let account = shared.account()?;
        let id = shared.add_unnamed(request, deadline)?;
        let mut waits = Waits {
            shared,
            id,
            afterwards: Afterwards::GiveUp,
            is_over: false,
        };
        // Earlier entries about the same subject are sent first. A login need not wait: entries of
        // another user remain that user's (EXACT-6).
        let is_login = matches!(request.command, Command::Auth(_) | Command::Register(_));
        shared.progress.notify_added();
        if !is_login {
            shared.unblocked(id, deadline).await?;
        }
        for _ in 0..RENUMBERED_MAX {
            if !is_login {
                let named = shared.name_own_session(request, &account, deadline).await;
                let failed = match named {
                    Ok(true) => None,
                    Ok(false) => Some(CallError::AnotherUser),
                    Err(error) => Some(shared.not_done(error)),
                };
                if let Some(error) = failed {
                    waits.is_over = true;
                    shared.stop_waiting(id, Afterwards::GiveUp)?;
                    return Err(error);
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
            // From here on the command may take effect, even if nothing about it can be written.
            let outcome = shared
                .ask_patiently(request, EarlyData::Forbidden, deadline, None)
                .await;
            let answer = match outcome {
                Ok(answer) => answer,
                // The number is used up anyway. If an earlier answer was lost, that reveals it.
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
                shared.renumber(id, number, *refusal)?;
                shared
                    .learn_who_came(*refusal, number.0, named, deadline)
                    .await
                    .map_err(|error| shared.not_done(error))?;
                continue;
            }
            shared.note_answered(number);
            let noted = shared.note_done(id, since, request, &answer, deadline);
            match noted.await {
                Ok(is_over) => waits.is_over = is_over,
                // The device's session must be recorded. The carrier finds out which account is
                // logged in.
                Err(CallError::Profile(_)) if matches!(answer, Answer::Session(_)) => {
                    return Err(shared.unknown());
                }
                // The realm's answer is valid even if the end of the entry cannot be written.
                Err(CallError::Profile(_)) => {}
                Err(error) => return Err(error),
            }
            return accepted(answer);
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

    /// Records the content of an answer and the end of the entry. Returns false if the carrier has
    /// to find out which account is logged in.
    async fn note_done(
        &self,
        id: EntryId,
        since: u64,
        request: &Request<'_>,
        answer: &Answer,
        deadline: Instant,
    ) -> Result<bool, CallError> {
        if !self
            .learn_own_login(id, since, request, answer, deadline)
            .await?
        {
            return Ok(false);
        }
        let answered = Outcome::Answer(answer.to_bytes());
        self.profile.write(|records| {
            Outbox::of(records).settle(id, &answered)?;
            Outbox::of(records).take_done(id)
        })?;
        self.progress.notify_settled();
        self.progress.notify_added();
        Ok(true)
    }

    /// Cancels a command that, according to the realm, was not executed. If this cannot be written,
    /// the entry ends at its deadline.
    fn take_back(&self, id: EntryId) {
        let left = self
            .profile
            .write(|records| Outbox::of(records).note_unexecuted(id));
        if left.is_ok() {
            let _ = self.stop_waiting(id, Afterwards::GiveUp);
        }
    }

    /// Gives up a command that was to be sent. Returns the error to report.
    async fn give_up(&self, id: EntryId, error: CallError) -> CallError {
        // Passwords are sent on an open link only. A server with another key has opened none.
        let is_elsewhere = error.is_final() && self.link_status().await.opened == 0;
        // If an answer arrived but could not be written, the command has been sent.
        let has_left = error.may_have_left() || matches!(error, CallError::Profile(_));
        if !has_left || is_elsewhere {
            self.take_back(id);
            return error;
        }
        match self.stop_waiting(id, Afterwards::GiveUp) {
            Ok(Left::NotDone) => error,
            Ok(Left::Kept | Left::KeptUnknown | Left::Unknown | Left::Settled(_)) | Err(_) => {
                self.unknown()
            }
        }
    }

    /// Returns a number for an entry that the caller sends, because only the caller has its
    /// password.
    fn number(&self, id: EntryId) -> Result<Option<OperationNumber>, CallError> {
        let now = self.host.time_of_day();
        let picked = self
            .profile
            .write(|records| Outbox::of(records).begin_now(id, now))?;
        Ok(picked.map(|picked| picked.number))
    }
}
