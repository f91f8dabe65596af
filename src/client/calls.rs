//! Calls. A read is requested until its deadline. A command that changes something becomes an
//! outbox entry: the [carrier](super::carrier) sends it, and the caller waits for its outcome.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    CallError, Client, End, EntryId, Message, Notice, Receipt, Shared,
    answer::{CommandKind, accepted, content},
    entries::end,
    outbox::{
        self, Added, AddedUnnamed, Afterwards, Left, New, Outbox, OutboxView, Outcome, Waiting,
    },
    state,
};
use crate::{
    endpoint::EarlyData,
    faults::{Fault, is_planted},
    wire::{
        Answer, Answered, Command, ErrorCode, FromAnswer, Life, Operation, OperationNumber,
        Options, Refusal, Request, Sent,
    },
};

/// How long to wait for a busy realm that does not say for how long.
const BUSY_WAIT: Duration = Duration::from_millis(500);
/// A wait from this length on is reported to the user.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// A caller waits this much longer than the attempt, so that the attempt's error is available.
pub const GRACE: Duration = Duration::from_millis(300);

/// Marks a caller as waiting. When dropped, the entry continues or is cancelled, as `afterwards`
/// says.
pub(super) struct Waits<'a> {
    pub shared: &'a Shared,
    pub id: EntryId,
    pub afterwards: Afterwards,
    pub is_over: bool,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.shared.progress.take_trouble(self.id);
        self.shared.progress.end_waiting(self.id);
        if !self.is_over {
            let (id, afterwards) = (self.id, self.afterwards);
            // If this cannot be written, the wait ends at its deadline anyway.
            let _ = self
                .shared
                .profile
                .write(|records| Outbox::of(records).stop_waiting(id, afterwards));
        }
    }
}

impl Client {
    /// Sends a command with any options to the realm, and returns its answer as the type that the
    /// table of commands names. For a [`Command`] that is any answer. The operation is filled in.
    pub fn call<'a, C: Answered<'a>>(
        &self,
        options: Options,
        command: C,
    ) -> impl Future<Output = Result<C::Answer, CallError>> + Send {
        // One future for all commands with an answer of the same type: a light client is small.
        self.call_as(options, command.into())
    }

    async fn call_as<A: FromAnswer>(
        &self,
        options: Options,
        command: Command<'_>,
    ) -> Result<A, CallError> {
        let kind = CommandKind::of(&command);
        content(self.call_any(options, command).await?, kind)
    }

    /// Sends a message command.
    pub(super) fn call_message<'a>(
        &self,
        message: &Message<'_>,
        command: impl Answered<'a, Answer = Sent>,
    ) -> impl Future<Output = Result<Receipt, CallError>> + Send {
        self.send_entry(message.options(), command.into())
    }

    async fn send_entry(
        &self,
        options: Options,
        command: Command<'_>,
    ) -> Result<Receipt, CallError> {
        let deadline = self.shared.deadline();
        let mut request = Request { options, command };
        self.shared.check_target()?;
        self.start_carrier();
        if let Some(operation) = request.command.operation_mut() {
            *operation = self.shared.salted()?;
        }
        let (answer, id) = self.call_kept(&request, deadline).await?;
        let state = content(answer, CommandKind::Change)?;
        Ok(Receipt { state, id })
    }

    async fn call_any(&self, options: Options, command: Command<'_>) -> Result<Answer, CallError> {
        let deadline = self.shared.deadline();
        let mut request = Request { options, command };
        self.shared.check_target()?;
        self.start_carrier();
        let is_plain = self.shared.state()?.plain;
        let is_unnumbered = matches!(request.command, Command::Auth(_) | Command::Register(_));
        let Some(operation) = request.command.operation_mut() else {
            return self.read_patiently(&request, deadline, None).await;
        };
        *operation = self.shared.salted()?;
        if is_plain && is_unnumbered {
            // EXACT-1: on a plain link, the link's record of replies replaces an operation number.
            let answer = self
                .shared
                .ask_patiently(&request, EarlyData::Forbidden, deadline, None)
                .await?;
            self.shared.learn(EntryId::BEHIND_ALL, &request, &answer)?;
            return accepted(answer);
        }
        if request.command.carries_password() {
            self.call_secret(&mut request, deadline).await
        } else {
            let (answer, _) = self.call_kept(&request, deadline).await?;
            Ok(answer)
        }
    }

    /// Adds a command to the outbox and waits for its outcome.
    async fn call_kept(
        &self,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<(Answer, EntryId), CallError> {
        let shared = &*self.shared;
        let id = match shared.add(request, self.sending.token.as_ref(), deadline)? {
            Added::Entry(id) => id,
            Added::Done(id, outcome) => return shared.end_of(&outcome).map(|answer| (answer, id)),
            Added::TokenReused => return Err(CallError::TokenReused),
            Added::Full(bytes) => return Err(CallError::OutboxFull { bytes }),
            Added::TokensFull => return Err(CallError::TokensFull),
        };
        let afterwards = Afterwards::keep_if(self.sending.keep);
        let mut waits = Waits {
            shared,
            id,
            afterwards,
            is_over: false,
        };
        shared.progress.begin_waiting(id);
        shared.progress.notify_added();
        let outcome = shared.settled(id, deadline).await;
        let outcome = outcome.and_then(|outcome| {
            waits.is_over = true;
            let told = || shared.told_before(request, self.sending.token.as_ref());
            match outcome.map_or_else(told, |outcome| Ok(Some(outcome)))? {
                Some(outcome) => Ok(outcome),
                None => match shared.stop_waiting(id, afterwards)? {
                    Left::Settled(outcome) => Ok(outcome),
                    left => Err(shared.unsettled(id, &left)),
                },
            }
        });
        match outcome {
            Ok(outcome) => shared.end_of(&outcome).map(|answer| (answer, id)),
            Err(CallError::Profile(error)) => {
                waits.is_over = true;
                match shared.stop_waiting(id, afterwards) {
                    Ok(Left::Settled(outcome)) => {
                        shared.end_of(&outcome).map(|answer| (answer, id))
                    }
                    Ok(left) => Err(shared.unsettled(id, &left)),
                    // The entry is in the outbox and continues, even if nothing else can be
                    // written.
                    Err(_) => Err(CallError::Kept {
                        id,
                        is_unknown: true,
                        waited: shared.options.deadline,
                        why: Some(error.to_string()),
                    }),
                }
            }
            Err(error) => Err(error),
        }
    }
}

impl Shared {
    /// Refuses a command that could never be sent, before anything is written.
    pub(super) fn check_target(&self) -> Result<(), CallError> {
        let (_, server) = self.target()?;
        let state = self.state()?;
        let has_key = state
            .connection_string()
            .is_some_and(|known| known.key.is_some())
            || server.key.is_some();
        if has_key || state.plain || self.options.trust {
            Ok(())
        } else {
            Err(CallError::NoKey)
        }
    }

    /// Returns an unnumbered operation with a salt of its own, so that it is unique (EXACT-10).
    pub(super) fn salted(&self) -> Result<Operation, CallError> {
        let salt = if is_planted(Fault::NoSalt) {
            [0; 2]
        } else {
            self.host.salt()?
        };
        Ok(Operation {
            number: OperationNumber(0),
            salt,
        })
    }

    fn add(
        &self,
        request: &Request<'_>,
        token: Option<&outbox::Token>,
        deadline: Instant,
    ) -> Result<Added, CallError> {
        let new = self.new_entry(request, deadline)?;
        self.profile
            .write(|records| Outbox::of(records).add(&new, token))
            .map_err(CallError::NotWritten)
    }

    /// Adds a command to the outbox for which a token means nothing.
    pub(super) fn add_unnamed(
        &self,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<EntryId, CallError> {
        let new = self.new_entry(request, deadline)?;
        let added = self
            .profile
            .write(|records| Outbox::of(records).add_unnamed(&new));
        match added.map_err(CallError::NotWritten)? {
            AddedUnnamed::Entry(id) => Ok(id),
            AddedUnnamed::Full(bytes) => Err(CallError::OutboxFull { bytes }),
        }
    }

    fn new_entry<'a>(
        &self,
        request: &'a Request<'a>,
        deadline: Instant,
    ) -> Result<New<'a>, CallError> {
        let now = self.host.time_of_day();
        let span = deadline.saturating_duration_since(Instant::now()) + GRACE;
        Ok(New {
            account: self.account()?,
            request,
            waiting: Waiting::new(now, span),
            now,
        })
    }

    /// Returns the outcome of the entry with `token`, if another process with the same token has
    /// already taken it.
    fn told_before(
        &self,
        request: &Request<'_>,
        token: Option<&outbox::Token>,
    ) -> Result<Option<Outcome>, CallError> {
        let (Some(token), account) = (token, self.account()?) else {
            return Ok(None);
        };
        let known = |records: &mut dyn super::store::Records| {
            Outbox::of(records).find_token(token, &account, request)
        };
        Ok(match self.profile.write(known)? {
            Some(Added::Done(_, outcome)) => Some(outcome),
            _ => None,
        })
    }

    /// Waits until `look` finds something in the records, or until the deadline.
    pub(super) async fn until<T>(
        &self,
        deadline: Instant,
        look: impl Fn(&dyn super::store::Records) -> Result<Option<T>, super::ProfileError>,
    ) -> Result<Option<T>, CallError> {
        loop {
            let settled = self.progress.settled();
            tokio::pin!(settled);
            // Enabled before the look, so that no change after it is missed.
            settled.as_mut().enable();
            if let Some(found) = self.profile.read(&look)? {
                return Ok(Some(found));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = settled => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Waits for the outcome of an entry. `None` if it is not known at the deadline.
    pub(super) async fn settled(
        &self,
        id: EntryId,
        deadline: Instant,
    ) -> Result<Option<Outcome>, CallError> {
        let end = deadline + GRACE;
        let look = |records: &dyn super::store::Records| {
            Ok(
                (self.progress.has_failed(id) || OutboxView::of(records).is_done(id)?)
                    .then_some(()),
            )
        };
        match self.until(end, look).await? {
            None => Ok(None),
            // On a full disk the outcome cannot be removed. It is then reported once more.
            Some(()) => Ok(self
                .profile
                .write(|records| Outbox::of(records).take_done(id))
                .or_else(|_| {
                    self.profile
                        .read(|records| OutboxView::of(records).done(id))
                })?),
        }
    }

    /// Waits until no other entry blocks this one.
    pub(super) async fn unblocked(&self, id: EntryId, deadline: Instant) -> Result<(), CallError> {
        let free = |records: &dyn super::store::Records| {
            Ok((!OutboxView::of(records).is_blocked(id)?).then_some(()))
        };
        match self.until(deadline, free).await? {
            Some(()) => Ok(()),
            None => Err(CallError::Behind {
                waited: self.options.deadline,
            }),
        }
    }

    /// Waits until the outcome of every login is known.
    pub(super) async fn without_login(
        &self,
        id: EntryId,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let (realm, _) = self.target()?;
        let free = |records: &dyn super::store::Records| {
            Ok(OutboxView::of(records)
                .last_login(realm, Some(id))?
                .is_none()
                .then_some(()))
        };
        match self.until(deadline, free).await? {
            Some(()) => Ok(()),
            None => Err(CallError::Behind {
                waited: self.options.deadline,
            }),
        }
    }

    pub(super) fn stop_waiting(
        &self,
        id: EntryId,
        afterwards: Afterwards,
    ) -> Result<Left, CallError> {
        let left = self
            .profile
            .write(|records| Outbox::of(records).stop_waiting(id, afterwards))?;
        self.progress.notify_added();
        Ok(left)
    }

    /// Returns the error for an entry that is not settled at its deadline.
    fn unsettled(&self, id: EntryId, left: &Left) -> CallError {
        let waited = self.options.deadline;
        let trouble = self.progress.take_trouble(id);
        let first = |records: &dyn super::store::Records| OutboxView::of(records).first_before(id);
        let before = self.profile.read(first).ok().flatten();
        let behind = before.map(|before| format!("entry {} is before it", before.0));
        match (left, trouble) {
            (Left::NotDone, None | Some(CallError::NoAnswer { .. })) => {
                CallError::NotDone { waited }
            }
            (Left::NotDone, Some(trouble)) => trouble,
            (Left::Kept | Left::KeptUnknown, trouble) => CallError::Kept {
                id,
                // For a deferred entry, the realm has said that it has not been executed.
                is_unknown: *left == Left::KeptUnknown && !self.progress.is_deferred(id),
                waited,
                // `is_unknown` already says that the outcome is unknown.
                why: trouble
                    .filter(CallError::says_why)
                    .map(|trouble| trouble.to_string())
                    .or(behind)
                    .or_else(|| self.progress.any_trouble()),
            },
            (Left::Unknown | Left::Settled(_), _) => CallError::OutcomeUnknown { waited },
        }
    }

    /// Returns the error for a command that has not been executed because a request before it
    /// failed.
    pub(super) fn not_done(&self, error: CallError) -> CallError {
        if error.may_have_left() || matches!(error, CallError::NoAnswer { .. }) {
            CallError::NotDone {
                waited: self.options.deadline,
            }
        } else {
            error
        }
    }

    pub(super) fn renumber(
        &self,
        id: EntryId,
        number: OperationNumber,
        refusal: Refusal,
    ) -> Result<(), CallError> {
        let (realm, _) = self.target()?;
        let highest = refusal.highest().unwrap_or_default();
        // Another copy of the profile used the number, and perhaps many more. So it is not known
        // whose session the device has.
        let is_copy = refusal.code != ErrorCode::NoSession && !is_planted(Fault::TrustFirstNumber);
        Ok(self.profile.write(|records| {
            state::update(records, realm, |state| state.names_session |= is_copy)?;
            Outbox::of(records).renumber(id, realm, number, highest)
        })?)
    }

    /// Returns the result of a settled entry.
    fn end_of(&self, outcome: &Outcome) -> Result<Answer, CallError> {
        match end(outcome) {
            End::Done(answer) => Ok(answer),
            End::Refused(refusal) => Err(CallError::Refused(refusal)),
            End::Cancelled => Err(CallError::Cancelled),
            End::Expired => Err(CallError::Refused(ErrorCode::Expired.into())),
            End::Damaged => Err(CallError::NotWritten(self.profile.damaged())),
            End::Unknown => Err(CallError::OutcomeUnknown {
                waited: self.options.deadline,
            }),
        }
    }

    /// Sends a request, and repeats it while the realm is busy and time is left. `life` is the life
    /// of the realm's store to which positions in the request belong.
    pub(super) async fn ask_patiently(
        &self,
        request: &Request<'_>,
        early: EarlyData,
        deadline: Instant,
        life: Option<Life>,
    ) -> Result<Answer, CallError> {
        let bytes = request.to_bytes();
        loop {
            let answer = self.ask_once(bytes.clone(), early, deadline, life).await?;
            let Answer::Refused(refusal) = &answer else {
                return Ok(answer);
            };
            if !refusal.is_transient() && !refusal.is_unknown() {
                return Ok(answer);
            }
            let wait = retry_after(*refusal);
            if Instant::now() + wait >= deadline {
                return Err(if request.command.operation().is_some() {
                    CallError::Busy(*refusal)
                } else {
                    CallError::Refused(*refusal)
                });
            }
            if wait >= WORTH_TELLING {
                self.note(Notice::AskedToWait(*refusal));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends a request once and parses the answer.
    pub(super) async fn ask_once(
        &self,
        bytes: Vec<u8>,
        early: EarlyData,
        deadline: Instant,
        life: Option<Life>,
    ) -> Result<Answer, CallError> {
        // Boxed because the future is large and awaited in many places.
        let (answer, may_be_done) = Box::pin(self.ask(bytes, early, deadline, life)).await?;
        self.note_heard().await?;
        Answer::parse(&answer).map_err(|error| CallError::Misunderstood {
            what: error.to_string(),
            may_be_done,
        })
    }

    /// Returns whether a request may be sent as early data (HS-7). Only a device that the realm
    /// knows gains from it, and a password must not be sent without forward secrecy.
    pub(super) fn early_data(&self, request: &Request<'_>) -> Result<EarlyData, CallError> {
        let is_known = self.state()?.session.is_some();
        let is_allowed = is_known && !request.command.carries_password();
        Ok(EarlyData::allowed_if(is_allowed))
    }
}

/// Returns how long to wait before a command that was refused for the time being is sent again. The
/// details of other refusals are no times.
pub fn retry_after(refusal: Refusal) -> Duration {
    let wait = refusal.detail.filter(|_| refusal.is_transient());
    wait.map_or(BUSY_WAIT, Duration::from_millis)
}

/// True if a number has been used for another command, so that this command has not been executed.
pub const fn is_used_up(refusal: Refusal, is_first: bool) -> bool {
    match refusal.code {
        ErrorCode::NumberReused => true,
        // The number is older than the session (EXACT-6).
        ErrorCode::NoSession => refusal.highest().is_some(),
        // This profile uses the number for the first time, and the realm says that it was executed
        // long ago.
        ErrorCode::AlreadyDone => is_first,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_detail_is_time_to_wait_only_if_refusal_is_transient() {
        let wait = Duration::from_secs(7);
        assert_eq!(retry_after(Refusal::busy(7000)), wait);
        assert_eq!(retry_after(Refusal::rate_limited(wait)), wait);
        assert_eq!(retry_after(ErrorCode::Busy.into()), BUSY_WAIT);
        assert_eq!(retry_after(Refusal::too_large(7000)), BUSY_WAIT);
    }
}
