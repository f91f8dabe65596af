//! The carrier: the one process of a profile that sends the outbox, including the entries of other
//! processes.
//!
//! Having one carrier saves bytes and keeps the order. Exactly-once does not depend on it. If the
//! carrier does not take up an entry, for example because it is suspended, the process that waits
//! for the entry sends it itself. Under the same number it is the same operation.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{
    CallError, Client, EntryId, Shared,
    account::LoggedIn,
    calls::{GRACE, is_used_up, retry_after},
    lock,
    outbox::{
        Aim, Due, ON_THE_WAY_MAX, Outbox, OutboxView, Outcome, PAUSE_MAX, Picked, Reason,
        Situation, Transmission,
    },
    state,
    store::Carrying,
};
use crate::{
    faults::{Fault, is_planted},
    wire::{
        Answer, Command, ErrorCode, Operation, OperationNumber, Refusal, Request, SessionId,
        SessionRef, command,
    },
};

/// How often an idle carrier checks the outbox, in case the system reported no change.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// An attempt for which nobody waits is restarted after this time: several times longer than any
/// round trip.
const ATTEMPT: Duration = Duration::from_mins(30);
/// The first and the longest pause after an attempt that failed at once.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// The carrier takes up an entry within this time. Otherwise the process that waits for it sends
/// it.
const TAKEN_UP: Duration = Duration::from_millis(500);

impl Client {
    /// Starts the carrier task if it is not running.
    pub(super) fn start_carrier(&self) {
        let mut task = lock(&self.carrier.0);
        if task
            .as_ref()
            .is_none_or(tokio::task::JoinHandle::is_finished)
        {
            let shared = std::sync::Arc::clone(&self.shared);
            *task = Some(tokio::spawn(async move {
                let mut carrying = Carries::default();
                loop {
                    if carrying.turn(&shared).await.is_err() {
                        // Calls report what is wrong with the profile. A full disk may have room
                        // again later.
                        carrying.role = None;
                        shared.is_carrier.store(false, Ordering::Relaxed);
                        tokio::time::sleep(AFTER_FAILURE.0).await;
                    }
                }
            }));
        }
    }
}

/// The state of the carrier task.
#[derive(Debug, Default)]
struct Carries {
    role: Option<Box<dyn Carrying>>,
    on_the_way: BTreeMap<EntryId, (Aim, AbortHandle)>,
    attempts: JoinSet<EntryId>,
}

impl Carries {
    /// Sends the due entries, then waits until something happens.
    async fn turn(&mut self, shared: &std::sync::Arc<Shared>) -> Result<(), CallError> {
        if self.role.is_none() {
            self.role = shared.profile.store().try_carry(shared.target()?.0.0)?;
            shared
                .is_carrier
                .store(self.role.is_some(), Ordering::Relaxed);
        }
        let next = match self.role {
            Some(_) => self.send_due(shared)?,
            None => self.send_own(shared)?,
        };
        let pause = match self.role {
            Some(_) => next.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN),
            // The carrier may end at any time. This process then sends its own entries.
            None => TAKEN_UP,
        };
        tokio::select! {
            biased;
            Some(ended) = self.attempts.join_next() => {
                if let Ok(id) = ended {
                    self.on_the_way.remove(&id);
                }
            }
            () = shared.progress.added() => {}
            // Another process may have settled an entry that this one waits for.
            () = shared.profile.store().changed() => shared.progress.notify_settled(),
            () = tokio::time::sleep(pause) => {}
        }
        Ok(())
    }

    /// Sends the due entries of the account. Returns how long to wait for the next one.
    fn send_due(&mut self, shared: &std::sync::Arc<Shared>) -> Result<Option<Duration>, CallError> {
        let now = shared.host.time_of_day();
        let account = shared.account()?;
        let on_the_way = self
            .on_the_way
            .iter()
            .map(|(id, (aim, _))| (*id, *aim))
            .collect();
        let state = shared.state()?;
        let is_known = !state.is_logged_out;
        // The answer to the first number shows whether this is an old copy of the profile. Until
        // then no other command may be sent: it could take effect in the session of a user who has
        // logged in since.
        let is_certain = shared.progress.is_answered()
            || state.plain
            || state.names_session
            || is_planted(Fault::TrustFirstNumber);
        let most = if is_certain { ON_THE_WAY_MAX } else { 1 };
        if !shared
            .profile
            .read(|records| OutboxView::of(records).has_entries())?
        {
            return Ok(None);
        }
        let situation = Situation {
            account: &account,
            now,
            on_the_way: &on_the_way,
            is_logged_in: is_known,
            most,
        };
        let due = shared
            .profile
            .write(|records| Outbox::of(records).pick(&situation))?;
        let next = due.next;
        self.send(shared, due);
        Ok(next.map(|next| next.saturating_sub(now)))
    }

    /// Sends what is due, and tells what has been settled meanwhile.
    fn send(&mut self, shared: &std::sync::Arc<Shared>, due: Due) {
        for picked in due.picked {
            self.begin(shared, picked);
        }
        for id in due.damaged {
            shared.note_damaged_entry(id);
        }
        if due.has_settled {
            shared.progress.notify_settled();
        }
    }

    /// Sends the entries that this process waits for and the carrier has not taken up.
    fn send_own(&mut self, shared: &std::sync::Arc<Shared>) -> Result<Option<Duration>, CallError> {
        let now = shared.host.time_of_day();
        let own = shared.progress.waited();
        for (id, since) in own {
            if since.elapsed() < TAKEN_UP || self.on_the_way.contains_key(&id) {
                continue;
            }
            if !self.on_the_way.is_empty() && !shared.progress.is_answered() {
                break;
            }
            let due = shared
                .profile
                .write(|records| Outbox::of(records).pick_one(id, now))?;
            self.send(shared, due);
        }
        Ok(None)
    }

    fn begin(&mut self, shared: &std::sync::Arc<Shared>, picked: Picked) {
        let (id, aim) = (picked.id, picked.aim);
        let shared = std::sync::Arc::clone(shared);
        let attempt = self.attempts.spawn(async move {
            // An attempt that cannot be recorded now is repeated.
            let _ = shared.attempt(&picked).await;
            shared.progress.notify_settled();
            id
        });
        // The earlier attempt had another aim and is no longer useful.
        if let Some((_, before)) = self.on_the_way.insert(id, (aim, attempt)) {
            before.abort();
        }
    }
}

impl Shared {
    /// Makes one attempt to settle an entry.
    async fn attempt(&self, picked: &Picked) -> Result<(), CallError> {
        let begun = Instant::now();
        let waited = picked.waited.map(|waited| waited.saturating_sub(GRACE));
        let deadline = begun + waited.unwrap_or(ATTEMPT);
        let outcome = match (picked.aim, &picked.body) {
            (Aim::Do, Some(body)) => self.deliver(picked, body, deadline).await,
            (Aim::Cancel(reason), _) => self.withdraw(picked, reason, deadline).await,
            // Only its caller has its password, and sends it.
            (Aim::Do, None) => return Ok(()),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => {
                let id = picked.id;
                let transmission = if error.may_have_left() {
                    Transmission::Possible
                } else {
                    Transmission::None
                };
                let until = if let CallError::Busy(refusal) = &error {
                    // The busy answer was to the request for the logged-in account.
                    let wait = retry_after(*refusal);
                    self.host.time_of_day() + wait.clamp(AFTER_FAILURE.0, PAUSE_MAX)
                } else if begun.elapsed() < AFTER_FAILURE.0 {
                    self.pause_after(picked.attempts)
                } else {
                    // The caller's wait ends before the next attempt starts.
                    self.host.time_of_day() + GRACE * 2
                };
                if transmission == Transmission::Possible {
                    self.progress.forget_deferred(id);
                }
                self.progress.note_trouble(id, error);
                Ok(self.profile.write(|records| {
                    Outbox::of(records).attempt_failed(picked, transmission, until)
                })?)
            }
        }
    }

    /// Returns until when to wait after an attempt that failed at once.
    fn pause_after(&self, attempts: u32) -> Duration {
        let wait = AFTER_FAILURE.0 * 2_u32.pow(attempts.min(6));
        self.host.time_of_day() + wait.min(AFTER_FAILURE.1)
    }

    /// Sends the command of an entry to the realm.
    async fn deliver(
        &self,
        picked: &Picked,
        body: &[u8],
        deadline: Instant,
    ) -> Result<(), CallError> {
        let Ok(mut request) = Request::parse(body) else {
            return self.end_damaged(picked);
        };
        if self.account()? != picked.account {
            // Another user has logged in since the entry was picked.
            return self.put_back(picked);
        }
        if let Some(operation) = request.command.operation_mut() {
            operation.number = picked.number;
            if is_planted(Fault::FinishUnderFreshNumber) && !picked.is_first {
                *operation = self.salted()?;
                operation.number = picked.number;
            }
        }
        let state = self.state()?;
        if state.is_in_doubt(request.command.session()) {
            let asked = self.ask_who(None, 0, deadline).await;
            if asked.is_err() || self.account()? != picked.account {
                self.put_back(picked)?;
                return asked.map(drop);
            }
        }
        let early = self.early_data(&request)?;
        let session = self.state()?.session;
        let answer = self
            .ask_once(request.to_bytes(), early, deadline, None)
            .await?;
        let Answer::Refused(refusal) = answer.clone() else {
            self.note_answered(picked.number);
            self.learn(picked.id, &request, &answer)?;
            return self.settle(picked.id, &Outcome::Answer(answer.to_bytes()));
        };
        if !refusal.is_transient() {
            self.note_answered(picked.number);
        }
        let is_copy = self.is_copy(refusal)?;
        match refusal.code {
            // The session to end has ended already. A user who has logged in since stays logged in.
            ErrorCode::NoSession if matches!(request.command, Command::Logout(_)) => {
                if refusal.highest().is_none() && is_of(&request, session) {
                    self.note_logged_out(asked_in(&request, session))?;
                }
                self.settle(
                    picked.id,
                    &Outcome::Answer(Answer::Refused(refusal).to_bytes()),
                )
            }
            // No other copy has a command that was typed just now. For a kept command, an old copy
            // cannot know whether another copy has executed it.
            _ if is_used_up(
                refusal,
                picked.is_first && (picked.waited.is_some() || !is_copy),
            ) =>
            {
                let named = request.command.session();
                let learnt = self.learn_who_came(refusal, picked.number.0, named, deadline);
                if let Err(error) = learnt.await {
                    // Under this number it will never be executed. The logged-in account is
                    // requested again before the entry gets another number.
                    self.profile
                        .write(|records| Outbox::of(records).put_back_unexecuted(picked))?;
                    return Err(error);
                }
                self.renumber(picked.id, picked.number, refusal)?;
                self.pause_if_again(picked.id)
            }
            ErrorCode::AlreadyDone if self.is_current(picked)? => {
                self.settle(picked.id, &Outcome::Unknown)
            }
            // Another process has renumbered the entry and knows more.
            ErrorCode::AlreadyDone => Ok(()),
            _ if refusal.is_transient() || refusal.is_unknown() => self.wait(picked, refusal),
            ErrorCode::NoSession
                if picked.waited.is_none()
                    && (picked.is_named_here || is_of(&request, session)) =>
            {
                if matches!(request.command, Command::Revoke(_)) {
                    // Either the named session or the command's own session has ended.
                    self.put_back(picked)?;
                    if let LoggedIn::As(_) = self.ask_who(None, 0, deadline).await? {
                        return self.settle(picked.id, &Outcome::Answer(answer.to_bytes()));
                    }
                }
                self.hold(picked, asked_in(&request, session))
            }
            _ => self.settle(
                picked.id,
                &Outcome::Answer(Answer::Refused(refusal).to_bytes()),
            ),
        }
    }

    /// Returns true if this profile is known to be an old copy. Takes into account the highest
    /// number that the refusal reports: on a resumed link it may be the first such report
    /// (EXACT-8).
    fn is_copy(&self, refusal: Refusal) -> Result<bool, CallError> {
        let state = self.state()?;
        let is_used = matches!(
            refusal.code,
            ErrorCode::AlreadyDone | ErrorCode::NumberReused
        );
        let highest = refusal.highest().filter(|_| is_used);
        let is_ahead = |highest: &OperationNumber| {
            highest.0 > state.highest && !is_planted(Fault::TakeCopyForOriginal)
        };
        let Some(highest) = highest.filter(is_ahead) else {
            return Ok(state.names_session);
        };
        let (realm, _) = self.target()?;
        self.profile.write(|records| {
            state::update(records, realm, |state| state.learn_highest(highest.0))
        })?;
        Ok(self.state()?.names_session)
    }

    /// Records that a number was answered. If the number was new to the realm, no other copy of the
    /// profile is ahead of this one.
    pub(super) fn note_answered(&self, number: OperationNumber) {
        let status = self.link_status_now();
        if status.is_some_and(|status| status.is_highest_told && number > status.highest) {
            self.progress.note_answered();
        }
    }

    /// Records that an entry was not tried after all.
    fn put_back(&self, picked: &Picked) -> Result<(), CallError> {
        Ok(self
            .profile
            .write(|records| Outbox::of(records).put_back(picked))?)
    }

    /// Pauses an entry that was renumbered repeatedly. An honest realm causes this once per entry.
    /// A realm that continues is asked ever more slowly.
    fn pause_if_again(&self, id: EntryId) -> Result<(), CallError> {
        let count = self.progress.count_renumbering(id, AFTER_FAILURE.1 * 2);
        let Some(again) = count.checked_sub(1) else {
            return Ok(());
        };
        let until = self.pause_after(again);
        Ok(self
            .profile
            .write(|records| Outbox::of(records).pause(id, until))?)
    }

    /// True if an entry still has the number under which it was sent.
    fn is_current(&self, picked: &Picked) -> Result<bool, CallError> {
        let entry = self
            .profile
            .read(|records| OutboxView::of(records).find(picked.id))?;
        Ok(entry.is_some_and(|entry| entry.number() == Some(picked.number)))
    }

    /// Waits before the next attempt: the realm asked for a retry later, or does not know the
    /// outcome.
    fn wait(&self, picked: &Picked, refusal: Refusal) -> Result<(), CallError> {
        let wait = retry_after(refusal).min(PAUSE_MAX);
        let until = self.host.time_of_day() + wait;
        if picked.waited.is_some() && wait >= Duration::from_secs(1) {
            self.note(super::Notice::AskedToWait(refusal));
        }
        self.progress
            .note_trouble(picked.id, CallError::Busy(refusal));
        let was_deferred = self.progress.forget_deferred(picked.id);
        if !refusal.is_unknown() && (!picked.left || was_deferred) {
            self.progress.defer(picked.id);
        }
        Ok(self
            .profile
            .write(|records| Outbox::of(records).pause(picked.id, until))?)
    }

    /// Handles the refusal that nobody is logged in, for a command sent in `session`. An entry for
    /// which nobody waits is kept until its user logs in again.
    fn hold(&self, picked: &Picked, session: Option<[u8; 16]>) -> Result<(), CallError> {
        let (realm, _) = self.target()?;
        self.note_logged_out(session)?;
        Ok(self.profile.write(|records| {
            Outbox::of(records).unname(picked.id, session)?;
            // It was not executed, and under this number it never will be (EXACT-6).
            Outbox::of(records).renumber(picked.id, realm, picked.number, picked.number)
        })?)
    }

    /// Records that, according to the realm, `session` has ended.
    fn note_logged_out(&self, session: Option<[u8; 16]>) -> Result<(), CallError> {
        let (realm, _) = self.target()?;
        Ok(self.profile.write(|records| {
            state::update(records, realm, |state| {
                if state.session == session {
                    state.session = None;
                    state.is_logged_out = true;
                }
            })
        })?)
    }

    /// Uses up the number of an entry, so that the command can no longer take effect. If it already
    /// has, learns its outcome.
    async fn withdraw(
        &self,
        picked: &Picked,
        reason: Reason,
        deadline: Instant,
    ) -> Result<(), CallError> {
        if is_planted(Fault::CancelWithoutVoid) {
            return self.settle(picked.id, &Outcome::NotDone(reason));
        }
        let state = self.state()?;
        let body = picked.body.as_deref();
        let request = body.and_then(|body| Request::parse(body).ok());
        let is_readable = request.is_some();
        let named = request.and_then(|request| request.command.session());
        let session = if state.plain {
            match (named, state.session) {
                // On a plain link the number belongs to the session in which the command was sent.
                (Some(session @ SessionRef::Named(_)), _) => session,
                // The session of a command with a password is not recorded, and that of a damaged
                // one cannot be read.
                (Some(SessionRef::Bound) | None, Some(id)) => SessionRef::Named(SessionId(id)),
                (Some(SessionRef::Bound) | None, None) => {
                    return self.settle(picked.id, &Outcome::Unknown);
                }
            }
        } else {
            SessionRef::Bound
        };
        // Always the same salt: a repetition is the same command.
        let operation = Operation::new(picked.number.0, [0; 2]);
        let void = Request::from(Command::Void(command::Void { operation, session }));
        let early = self.early_data(&void)?;
        let answer = self
            .ask_once(void.to_bytes(), early, deadline, None)
            .await?;
        let Answer::Refused(refusal) = answer else {
            self.learn_login(picked, false, deadline).await?;
            if !self.is_current(picked)? {
                // Another process has sent the entry under another number.
                return Ok(());
            }
            let is_certain = !state.plain || is_readable;
            let outcome = if is_certain {
                Outcome::NotDone(reason)
            } else {
                Outcome::Unknown
            };
            return self.settle(picked.id, &outcome);
        };
        match (refusal.code, &picked.body) {
            // Executed or refused: the realm reports which.
            (ErrorCode::NumberReused, Some(body)) if is_readable => {
                self.deliver(picked, body, deadline).await
            }
            (ErrorCode::NumberReused | ErrorCode::AlreadyDone, _) => {
                let outcome = match self.learn_login(picked, true, deadline).await? {
                    Some(account) => Outcome::Answer(Answer::Account(account).to_bytes()),
                    None => Outcome::Unknown,
                };
                self.settle(picked.id, &outcome)
            }
            _ if refusal.is_transient() || refusal.is_unknown() => self.wait(picked, refusal),
            // The realm cannot report the outcome.
            _ => self.settle(picked.id, &Outcome::Unknown),
        }
    }

    /// Settles an entry whose command cannot be read. An error would have it tried again for ever.
    fn end_damaged(&self, picked: &Picked) -> Result<(), CallError> {
        self.settle(picked.id, &Outcome::of_damaged(picked.left))?;
        if picked.left {
            self.note_damaged_entry(picked.id);
        }
        Ok(())
    }

    /// Tells the user that the command of an entry cannot be read, so that its outcome stays
    /// unknown.
    fn note_damaged_entry(&self, id: EntryId) {
        self.note_damage(format!("the command of entry {} of the outbox", id.0));
    }

    fn settle(&self, id: EntryId, outcome: &Outcome) -> Result<(), CallError> {
        self.progress.forget(id);
        Ok(self
            .profile
            .write(|records| Outbox::of(records).settle(id, outcome))?)
    }
}

/// Returns the session in which a command was sent. `session` is the profile's own.
fn asked_in(request: &Request<'_>, session: Option<[u8; 16]>) -> Option<[u8; 16]> {
    match request.command.session() {
        Some(SessionRef::Named(SessionId(id))) => Some(id),
        Some(SessionRef::Bound) | None => session,
    }
}

/// True if a command was sent in the profile's own session.
fn is_of(request: &Request<'_>, session: Option<[u8; 16]>) -> bool {
    asked_in(request, session) == session
}

#[cfg(test)]
mod tests;
