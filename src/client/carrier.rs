//! The carrier: of all processes of a profile the one that sends what is in the outbox, whoever put it there.
//!
//! That there is one saves bytes and keeps the order; that nothing is done twice does not depend on it. A process whose
//! entry the carrier does not take up, because it is suspended, say, sends it itself: under the same number it is the same
//! operation.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{
    CallError, Client, EntryId, Shared,
    calls::{BUSY_WAIT, GRACE, is_used_up},
    lock,
    outbox::{self, Aim, ON_THE_WAY_MAX, Outcome, PAUSE_MAX, Picked, Reason},
    state,
    store::Carrying,
};
use crate::{
    faults::{Fault, is_planted},
    wire::{
        Answer, Command, ErrorCode, Operation, OperationNumber, Refusal, Request, SessionId,
        SessionRef,
    },
};

/// How often an idle carrier looks at the outbox, should the system not have told of a change.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// An attempt for which nobody waits is begun anew after so long: longer than any round trip, several times.
const ATTEMPT: Duration = Duration::from_mins(30);
/// What is waited after an attempt that failed at once, at first and at last.
const AFTER_FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// The carrier takes an entry up within so long, or whoever waits for it sends it.
const TAKEN_UP: Duration = Duration::from_millis(500);

impl Client {
    /// Sees to it that what is in the outbox is sent.
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
                        // Whoever asks is told what is wrong with the profile; a full disk may have room again.
                        carrying.role = None;
                        shared.is_carrier.store(false, Ordering::Relaxed);
                        tokio::time::sleep(AFTER_FAILURE.0).await;
                    }
                }
            }));
        }
    }
}

/// What the carrier has in hand.
#[derive(Debug, Default)]
struct Carries {
    role: Option<Box<dyn Carrying>>,
    on_the_way: BTreeMap<EntryId, (Aim, AbortHandle)>,
    attempts: JoinSet<EntryId>,
}

impl Carries {
    /// Sends what is due, and waits until something happens.
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
            // The carrier may end at any time, and what it does not take up is to be sent.
            None => TAKEN_UP,
        };
        tokio::select! {
            biased;
            Some(ended) = self.attempts.join_next() => {
                if let Ok(id) = ended {
                    self.on_the_way.remove(&id);
                }
            }
            () = shared.added.notified() => {}
            // Another process may have settled what this one waits for.
            () = shared.profile.store().changed() => shared.settled.notify_waiters(),
            () = tokio::time::sleep(pause) => {}
        }
        Ok(())
    }

    /// Sends what is due of the account; how long to wait for more.
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
        // An old copy of the profile shows by what its first number is answered: until then no other command may end in
        // the session of whoever has logged in since.
        let is_certain = shared.is_answered.load(Ordering::Relaxed)
            || state.plain
            || state.names_session
            || is_planted(Fault::TrustFirstNumber);
        let most = if is_certain { ON_THE_WAY_MAX } else { 1 };
        if !shared
            .profile
            .read(|records| outbox::has_entries(records))?
        {
            return Ok(None);
        }
        let due = shared
            .profile
            .write(|records| outbox::pick(records, &account, now, (&on_the_way, is_known, most)))?;
        for picked in due.picked {
            self.begin(shared, picked);
        }
        if due.has_settled {
            shared.settled.notify_waiters();
        }
        Ok(due.next.map(|next| next.saturating_sub(now)))
    }

    /// Sends what this process waits for and the carrier does not take up.
    fn send_own(&mut self, shared: &std::sync::Arc<Shared>) -> Result<Option<Duration>, CallError> {
        let now = shared.host.time_of_day();
        let own = lock(&shared.waited).clone();
        for (id, since) in own {
            if since.elapsed() < TAKEN_UP || self.on_the_way.contains_key(&id) {
                continue;
            }
            if !self.on_the_way.is_empty() && !shared.is_answered.load(Ordering::Relaxed) {
                break;
            }
            let picked = shared
                .profile
                .write(|records| outbox::pick_one(records, id, now))?;
            if let Some(picked) = picked {
                self.begin(shared, picked);
            }
        }
        Ok(None)
    }

    fn begin(&mut self, shared: &std::sync::Arc<Shared>, picked: Picked) {
        let (id, aim) = (picked.id, picked.aim);
        let shared = std::sync::Arc::clone(shared);
        let attempt = self.attempts.spawn(async move {
            // What cannot be written down now is asked again.
            let _ = shared.attempt(&picked).await;
            shared.settled.notify_waiters();
            id
        });
        // One that was begun with another aim is of no use any more.
        if let Some((_, before)) = self.on_the_way.insert(id, (aim, attempt)) {
            before.abort();
        }
    }
}

impl Shared {
    /// One attempt to settle an entry.
    async fn attempt(&self, picked: &Picked) -> Result<(), CallError> {
        let begun = Instant::now();
        let waited = picked.waited.map(|waited| waited.saturating_sub(GRACE));
        let deadline = begun + waited.unwrap_or(ATTEMPT);
        let outcome = match (picked.aim, &picked.body) {
            (Aim::Do, Some(body)) => self.deliver(picked, body, deadline).await,
            (Aim::Cancel(reason), _) => self.withdraw(picked, reason, deadline).await,
            (Aim::Do, None) => return Ok(()),
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => {
                let id = picked.id;
                let left = picked.left || error.may_have_left();
                let until = if let CallError::Busy(refusal) = &error {
                    // It was asked who is logged in.
                    let wait = refusal.detail.map_or(BUSY_WAIT, Duration::from_millis);
                    self.host.time_of_day() + wait.clamp(AFTER_FAILURE.0, PAUSE_MAX)
                } else if begun.elapsed() < AFTER_FAILURE.0 {
                    self.pause_after(picked.attempts)
                } else {
                    // Whoever waits for it has the last word before it is begun anew.
                    self.host.time_of_day() + GRACE * 2
                };
                if error.may_have_left() {
                    self.forget_deferred(id);
                }
                lock(&self.troubles).insert(id, error);
                Ok(self.profile.write(|records| {
                    outbox::change(records, id, |entry| {
                        // Unless another process has begun it meanwhile.
                        if entry.attempts == picked.attempts + 1 {
                            entry.left = left;
                        }
                        entry.wait_until(until);
                    })
                })?)
            }
        }
    }

    /// Until when to wait after an attempt that failed at once.
    fn pause_after(&self, attempts: u32) -> Duration {
        let wait = AFTER_FAILURE.0 * 2_u32.pow(attempts.min(6));
        self.host.time_of_day() + wait.min(AFTER_FAILURE.1)
    }

    /// Asks the realm to do what an entry says.
    async fn deliver(
        &self,
        picked: &Picked,
        body: &[u8],
        deadline: Instant,
    ) -> Result<(), CallError> {
        let Ok(mut request) = Request::parse(body) else {
            return self.settle(picked.id, &Outcome::Unknown);
        };
        if self.account()? != picked.account {
            // Somebody else has logged in since it was picked.
            return self.put_back(picked, picked.left);
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
                self.put_back(picked, picked.left)?;
                return asked.map(drop);
            }
        }
        let early = self.may_be_early(&request)?;
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
            // The session that it was to end has ended. Who has logged in since means to stay.
            ErrorCode::NoSession if matches!(request.command, Command::Logout { .. }) => {
                if refusal.highest().is_none() && is_of(&request, session) {
                    self.note_logged_out(asked_in(&request, session))?;
                }
                self.settle(
                    picked.id,
                    &Outcome::Answer(Answer::Refused(refusal).to_bytes()),
                )
            }
            // What was typed just now no other copy has. Of what was kept, an old copy cannot know whether another one has done it.
            _ if is_used_up(
                refusal,
                picked.is_first && (picked.waited.is_some() || !is_copy),
            ) =>
            {
                let named = request.command.session();
                let learnt = self.learn_who_came(refusal, picked.number.0, named, deadline);
                if let Err(error) = learnt.await {
                    // Under this number it never will be done; who is logged in is asked again before it has another.
                    self.put_back(picked, false)?;
                    return Err(error);
                }
                self.renumber((picked.id, picked.number), refusal)?;
                self.pause_if_again(picked.id)
            }
            ErrorCode::AlreadyDone if self.is_current(picked)? => {
                self.settle(picked.id, &Outcome::Unknown)
            }
            // Under another number another process knows more.
            ErrorCode::AlreadyDone => Ok(()),
            _ if refusal.is_transient() || refusal.is_unknown() => self.wait(picked, refusal),
            ErrorCode::NoSession
                if picked.waited.is_none()
                    && (picked.is_named_here || is_of(&request, session)) =>
            {
                if matches!(request.command, Command::Revoke { .. }) {
                    // The session that it names may have ended, or its own.
                    self.put_back(picked, picked.left)?;
                    if let Answer::Account(_) = self.ask_who(None, 0, deadline).await? {
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

    /// True when this profile is known to be an old copy, by what a refusal tells of the numbers that the realm has seen, too: on a link that
    /// was resumed that may be the first word of it (EXACT-8).
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

    /// A number has been answered. If it was new to the realm, no other copy of the profile has been ahead of this one.
    pub(super) fn note_answered(&self, number: OperationNumber) {
        let status = self.link_status_now();
        if status.is_some_and(|status| status.is_highest_told && number > status.highest) {
            self.is_answered.store(true, Ordering::Relaxed);
        }
    }

    /// Nothing of an entry has left that had not left before, and it has not been tried.
    fn put_back(&self, picked: &Picked, left: bool) -> Result<(), CallError> {
        Ok(self.profile.write(|records| {
            outbox::change(records, picked.id, |entry| {
                // Unless another process has begun it meanwhile.
                if entry.attempts == picked.attempts + 1 {
                    (entry.left, entry.attempts) = (left, picked.attempts);
                }
            })
        })?)
    }

    /// An honest realm makes an entry take another number once. One that goes on is asked at leisure.
    fn pause_if_again(&self, id: EntryId) -> Result<(), CallError> {
        let mut renumbered = lock(&self.renumbered);
        let before = renumbered
            .get(&id)
            .filter(|(_, at)| at.elapsed() <= AFTER_FAILURE.1 * 2);
        let count = before.map_or(0, |(count, _)| count + 1);
        renumbered.insert(id, (count, Instant::now()));
        drop(renumbered);
        let Some(again) = count.checked_sub(1) else {
            return Ok(());
        };
        let until = self.pause_after(again);
        Ok(self
            .profile
            .write(|records| outbox::change(records, id, |entry| entry.wait_until(until)))?)
    }

    /// True when an entry still has the number under which it was asked.
    fn is_current(&self, picked: &Picked) -> Result<bool, CallError> {
        let entry = self
            .profile
            .read(|records| outbox::find(records, picked.id))?;
        Ok(entry.is_some_and(|entry| entry.number == Some(picked.number.0)))
    }

    /// The realm asks to come again later, or does not know whether it was done.
    fn wait(&self, picked: &Picked, refusal: Refusal) -> Result<(), CallError> {
        let wait = refusal.detail.map_or(BUSY_WAIT, Duration::from_millis);
        let wait = wait.min(PAUSE_MAX);
        let until = self.host.time_of_day() + wait;
        if picked.waited.is_some() && wait >= Duration::from_secs(1) {
            self.note(super::Notice::AskedToWait(refusal));
        }
        lock(&self.troubles).insert(picked.id, CallError::Busy(refusal));
        let was_deferred = self.forget_deferred(picked.id);
        if !refusal.is_unknown() && (!picked.left || was_deferred) {
            lock(&self.deferred).push(picked.id);
        }
        Ok(self
            .profile
            .write(|records| outbox::change(records, picked.id, |entry| entry.wait_until(until)))?)
    }

    /// Whether an entry was answered before that it is to come again later; it is not known any more.
    fn forget_deferred(&self, id: EntryId) -> bool {
        let mut deferred = lock(&self.deferred);
        let before = deferred.len();
        deferred.retain(|other| *other != id);
        deferred.len() < before
    }

    /// Nobody is logged in, as a command was told that was asked in `session`: what nobody waits for is kept until its user
    /// is again.
    fn hold(&self, picked: &Picked, session: Option<[u8; 16]>) -> Result<(), CallError> {
        let (realm, _) = self.target()?;
        self.note_logged_out(session)?;
        Ok(self.profile.write(|records| {
            outbox::unname(records, picked.id, session)?;
            // It has not been done, and under this number it never will be (EXACT-6).
            outbox::renumber(records, (picked.id, realm), picked.number, picked.number)
        })?)
    }

    /// The realm says that `session` has ended.
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

    /// Uses the number of an entry up, so that it is not done any more; or learns that it was.
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
        let body = picked.body.as_deref().map(Request::parse);
        let session = match body
            .and_then(Result::ok)
            .and_then(|body| body.command.session())
        {
            _ if !state.plain => SessionRef::Bound,
            // On a plain link the number is the session's in which the command was asked.
            Some(session @ SessionRef::Named(_)) => session,
            // Which one that was is not known of what carried a password.
            _ => match state.session {
                Some(id) => SessionRef::Named(SessionId(id)),
                None => return self.settle(picked.id, &Outcome::Unknown),
            },
        };
        // Always the same salt: a repeat is the same command.
        let operation = Operation::new(picked.number.0, [0; 2]);
        let void = Request::from(Command::Void { operation, session });
        let early = self.may_be_early(&void)?;
        let answer = self
            .ask_once(void.to_bytes(), early, deadline, None)
            .await?;
        let Answer::Refused(refusal) = answer else {
            self.learn_login(picked, false, deadline).await?;
            if !self.is_current(picked)? {
                // Another process has sent it under another number.
                return Ok(());
            }
            let is_certain = !state.plain || picked.body.is_some();
            let outcome = if is_certain {
                Outcome::NotDone(reason)
            } else {
                Outcome::Unknown
            };
            return self.settle(picked.id, &outcome);
        };
        match (refusal.code, &picked.body) {
            // Done, or refused: the realm says which.
            (ErrorCode::NumberReused, Some(body)) => self.deliver(picked, body, deadline).await,
            (ErrorCode::NumberReused | ErrorCode::AlreadyDone, _) => {
                let outcome = match self.learn_login(picked, true, deadline).await? {
                    Some(account) => Outcome::Answer(account.to_bytes()),
                    None => Outcome::Unknown,
                };
                self.settle(picked.id, &outcome)
            }
            _ if refusal.is_transient() || refusal.is_unknown() => self.wait(picked, refusal),
            // A realm that does not know how to say.
            _ => self.settle(picked.id, &Outcome::Unknown),
        }
    }

    fn settle(&self, id: EntryId, outcome: &Outcome) -> Result<(), CallError> {
        lock(&self.troubles).remove(&id);
        self.forget_deferred(id);
        lock(&self.renumbered).remove(&id);
        Ok(self
            .profile
            .write(|records| outbox::settle(records, id, outcome))?)
    }
}

/// The session in which a command was asked; `session` is the profile's own.
fn asked_in(request: &Request<'_>, session: Option<[u8; 16]>) -> Option<[u8; 16]> {
    match request.command.session() {
        Some(SessionRef::Named(SessionId(id))) => Some(id),
        Some(SessionRef::Bound) | None => session,
    }
}

/// True when a command was asked in the profile's own session.
fn is_of(request: &Request<'_>, session: Option<[u8; 16]>) -> bool {
    asked_in(request, session) == session
}
