//! Asking: a read is asked until its deadline; a command that changes something becomes an entry of the outbox, which the
//! [carrier](super::carrier) sends, and whoever asked waits for what becomes of it.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    CallError, Client, End, EntryId, Notice, Receipt, Shared,
    entries::end,
    lock,
    outbox::{self, Added, Left, New, Outcome, Waiting},
    state,
};
use crate::{
    faults::{Fault, is_planted},
    wire::{
        Answer, Command, ErrorCode, Life, Operation, OperationNumber, Options, Refusal, Request,
    },
};

/// What is waited for a realm that is busy and does not say for how long.
pub const BUSY_WAIT: Duration = Duration::from_millis(500);
/// A wait that a person should hear of.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// Whoever waits for an entry has a little longer than its attempt, which then has something to say.
pub const GRACE: Duration = Duration::from_millis(300);

/// Whoever asked has stopped waiting: what is begun goes on, or is taken back, as was wished.
pub(super) struct Waits<'a> {
    pub shared: &'a Shared,
    pub id: EntryId,
    pub keep: bool,
    pub is_over: bool,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        lock(&self.shared.troubles).remove(&self.id);
        lock(&self.shared.waited).remove(&self.id);
        if !self.is_over {
            let (id, keep) = (self.id, self.keep);
            // What cannot be written now ends with its time.
            let _ = self
                .shared
                .profile
                .write(|records| outbox::stop_waiting(records, id, keep));
        }
    }
}

impl Client {
    /// Asks the realm with any command and options. The operation is filled in.
    pub async fn call(&self, options: Options, command: Command<'_>) -> Result<Answer, CallError> {
        self.call_entry(options, command)
            .await
            .map(|(answer, _)| answer)
    }

    /// Asks with a message.
    pub(super) async fn call_message(
        &self,
        options: Options,
        command: Command<'_>,
    ) -> Result<Receipt, CallError> {
        match self.call_entry(options, command).await? {
            (Answer::Sent(state), id) => Ok(Receipt { state, id }),
            (other, _) => Err(super::commands::unexpected_change(&other)),
        }
    }

    async fn call_entry(
        &self,
        options: Options,
        command: Command<'_>,
    ) -> Result<(Answer, EntryId), CallError> {
        let deadline = self.shared.deadline();
        let mut request = Request { options, command };
        self.shared.check_target()?;
        self.start_carrier();
        let is_plain = self.shared.state()?.plain;
        let is_unnumbered = matches!(
            request.command,
            Command::Auth { .. } | Command::Register { .. }
        );
        let Some(operation) = request.command.operation_mut() else {
            let answer = self.read_patiently(&request, deadline, None).await?;
            return Ok((answer, EntryId(0)));
        };
        *operation = self.shared.salted()?;
        if is_plain && is_unnumbered {
            // EXACT-1: the link's memory of replies stands in for a number.
            let answer = self
                .shared
                .ask_patiently(&request, false, deadline, None)
                .await?;
            let last = EntryId(u64::MAX);
            self.shared.learn(last, &request, &answer)?;
            return accepted(answer).map(|answer| (answer, EntryId(0)));
        }
        if request.command.carries_password() {
            self.call_secret(&mut request, deadline).await
        } else {
            self.call_kept(&request, deadline).await
        }
    }

    /// Adds a command to the outbox, and waits for what becomes of it.
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
        let mut waits = Waits {
            shared,
            id,
            keep: self.sending.keep,
            is_over: false,
        };
        lock(&shared.waited).insert(id, Instant::now());
        shared.added.notify_one();
        let outcome = shared.settled(id, deadline).await;
        let outcome = outcome.and_then(|outcome| {
            waits.is_over = true;
            let told = || shared.told_before(request, self.sending.token.as_ref());
            match outcome.map_or_else(told, |outcome| Ok(Some(outcome)))? {
                Some(outcome) => Ok(outcome),
                None => match shared.stop_waiting(id, self.sending.keep)? {
                    Left::Settled(outcome) => Ok(outcome),
                    left => Err(shared.unsettled(id, &left)),
                },
            }
        });
        match outcome {
            Ok(outcome) => shared.end_of(&outcome).map(|answer| (answer, id)),
            Err(CallError::Profile(error)) => {
                waits.is_over = true;
                match shared.stop_waiting(id, self.sending.keep) {
                    Ok(Left::Settled(outcome)) => {
                        shared.end_of(&outcome).map(|answer| (answer, id))
                    }
                    Ok(left) => Err(shared.unsettled(id, &left)),
                    // It is in the outbox, whatever else cannot be written: it goes on.
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
    /// Refuses what could never leave, before anything is written down.
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

    /// An operation that nobody else has: not numbered yet, with a salt of its own (EXACT-10).
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

    pub(super) fn add(
        &self,
        request: &Request<'_>,
        token: Option<&outbox::Token>,
        deadline: Instant,
    ) -> Result<Added, CallError> {
        let now = self.host.time_of_day();
        let span = deadline.saturating_duration_since(Instant::now()) + GRACE;
        let new = New {
            account: self.account()?,
            request,
            token,
            waiting: Waiting::new(now, span),
            now,
        };
        self.profile
            .write(|records| outbox::add(records, &new))
            .map_err(CallError::NotWritten)
    }

    /// What became of the entry that has a token, where another process of the same token has been told.
    fn told_before(
        &self,
        request: &Request<'_>,
        token: Option<&outbox::Token>,
    ) -> Result<Option<Outcome>, CallError> {
        let (Some(token), account) = (token, self.account()?) else {
            return Ok(None);
        };
        let known =
            |records: &mut dyn super::store::Records| token.find(records, &account, request);
        Ok(match self.profile.write(known)? {
            Some(Added::Done(_, outcome)) => Some(outcome),
            _ => None,
        })
    }

    /// Waits until the records say something, or for the deadline.
    pub(super) async fn until<T>(
        &self,
        deadline: Instant,
        look: impl Fn(&dyn super::store::Records) -> Result<Option<T>, super::ProfileError>,
    ) -> Result<Option<T>, CallError> {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Whatever happens from here on wakes it.
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

    /// Waits for what becomes of an entry; none when that is not known at the deadline.
    pub(super) async fn settled(
        &self,
        id: EntryId,
        deadline: Instant,
    ) -> Result<Option<Outcome>, CallError> {
        let end = deadline + GRACE;
        let look = |records: &dyn super::store::Records| {
            let is_failed = lock(&self.troubles)
                .get(&id)
                .is_some_and(CallError::is_final);
            Ok((is_failed || outbox::is_done(records, id)?).then_some(()))
        };
        match self.until(end, look).await? {
            None => Ok(None),
            // A full disk does not take it; it is told once more then.
            Some(()) => Ok(self
                .profile
                .write(|records| outbox::take_done(records, id))
                .or_else(|_| self.profile.read(|records| outbox::done(records, id)))?),
        }
    }

    /// Waits until nothing is before an entry.
    pub(super) async fn unblocked(&self, id: EntryId, deadline: Instant) -> Result<(), CallError> {
        let free = |records: &dyn super::store::Records| {
            Ok((!outbox::is_blocked(records, id)?).then_some(()))
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
            Ok(outbox::last_login(records, realm, id)?
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

    pub(super) fn stop_waiting(&self, id: EntryId, keep: bool) -> Result<Left, CallError> {
        let left = self
            .profile
            .write(|records| outbox::stop_waiting(records, id, keep))?;
        self.added.notify_one();
        Ok(left)
    }

    /// What to say of an entry that is not settled when its deadline has passed.
    fn unsettled(&self, id: EntryId, left: &Left) -> CallError {
        let waited = self.options.deadline;
        let trouble = lock(&self.troubles).remove(&id);
        let first = |records: &dyn super::store::Records| outbox::first_before(records, id);
        let before = self.profile.read(first).ok().flatten();
        let behind = before.map(|before| format!("number {} is before it", before.0));
        match (left, trouble) {
            (Left::NotDone, None | Some(CallError::NoAnswer { .. })) => {
                CallError::NotDone { waited }
            }
            (Left::NotDone, Some(trouble)) => trouble,
            (Left::Kept | Left::KeptUnknown, trouble) => CallError::Kept {
                id,
                // The realm has said that it has not been done.
                is_unknown: *left == Left::KeptUnknown && !lock(&self.deferred).contains(&id),
                waited,
                // That its outcome is unknown is said already.
                why: trouble
                    .filter(CallError::says_why)
                    .map(|trouble| trouble.to_string())
                    .or(behind)
                    .or_else(|| self.other_trouble()),
            },
            (Left::Unknown | Left::Settled(_), _) => CallError::OutcomeUnknown { waited },
        }
    }

    /// What is wrong with what went before others.
    fn other_trouble(&self) -> Option<String> {
        let troubles = lock(&self.troubles);
        let told = troubles.values().find(|told| told.says_why());
        told.map(ToString::to_string)
    }

    /// What to say of a command that has not been done, because of a question that failed.
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
        (id, number): (EntryId, OperationNumber),
        refusal: Refusal,
    ) -> Result<(), CallError> {
        let (realm, _) = self.target()?;
        let highest = refusal.highest().unwrap_or_default();
        // Used by another copy of the profile, however far that is: whose session the device has is not known.
        let is_copy = refusal.code != ErrorCode::NoSession && !is_planted(Fault::TrustFirstNumber);
        Ok(self.profile.write(|records| {
            state::update(records, realm, |state| state.names_session |= is_copy)?;
            outbox::renumber(records, (id, realm), number, highest)
        })?)
    }

    /// What to say of an entry that is settled.
    fn end_of(&self, outcome: &Outcome) -> Result<Answer, CallError> {
        match end(outcome) {
            End::Done(answer) => Ok(answer),
            End::Refused(refusal) => Err(CallError::Refused(refusal)),
            End::Cancelled => Err(CallError::Cancelled),
            End::Expired => Err(CallError::Refused(ErrorCode::Expired.into())),
            End::Unknown => Err(CallError::OutcomeUnknown {
                waited: self.options.deadline,
            }),
        }
    }

    /// Asks, and asks again while the realm says that it is busy and there is time. What names positions names those of that life of the
    /// realm's store.
    pub(super) async fn ask_patiently(
        &self,
        request: &Request<'_>,
        early: bool,
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
            let wait = refusal.detail.map_or(BUSY_WAIT, Duration::from_millis);
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

    /// Asks, and reads the answer.
    pub(super) async fn ask_once(
        &self,
        bytes: Vec<u8>,
        early: bool,
        deadline: Instant,
        life: Option<Life>,
    ) -> Result<Answer, CallError> {
        // Large, and awaited in many places: apart.
        let (answer, may_be_done) = Box::pin(self.ask(bytes, early, deadline, life)).await?;
        self.note_heard().await?;
        Answer::parse(&answer).map_err(|error| CallError::Misunderstood {
            what: error.to_string(),
            may_be_done,
        })
    }

    /// Only a device that the realm knows has anything to gain by sending early, and a password has
    /// something to lose (HS-7).
    pub(super) fn may_be_early(&self, request: &Request<'_>) -> Result<bool, CallError> {
        let is_known = self.state()?.session.is_some();
        Ok(is_known && !request.command.carries_password())
    }
}

pub(super) fn accepted(answer: Answer) -> Result<Answer, CallError> {
    match answer {
        Answer::Refused(refusal) => Err(CallError::Refused(refusal)),
        answer => Ok(answer),
    }
}

/// True when a number has been used for another command, so that this one has not been done.
pub const fn is_used_up(refusal: Refusal, is_first: bool) -> bool {
    match refusal.code {
        ErrorCode::NumberReused => true,
        // A number from before the session was opened (EXACT-6).
        ErrorCode::NoSession => refusal.highest().is_some(),
        // A number that this profile gives out for the first time and the realm says is long done.
        ErrorCode::AlreadyDone => is_first,
        _ => false,
    }
}
