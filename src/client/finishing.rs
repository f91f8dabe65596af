//! Exactly once, from the client's side (EXACT-7 … EXACT-9): a command that changes something gets a
//! number and is written down before it leaves; what was cut off is finished under the same number.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{CallError, Client, Notice, Orphan, State, Unfinished};
use crate::{
    crypto::{ConnectionString, PublicKey},
    faults::{Fault, is_planted},
    wire::{Answer, Command, ErrorCode, OperationNumber, Options, Refusal, Request, SessionId},
};

/// Commands that may be unfinished at once; whoever begins another first finishes one.
const UNFINISHED_MAX: usize = 64;
/// How often a number that turns out to be used is replaced, before giving up.
const RENUMBERED_MAX: u32 = 3;
/// What is waited for a realm that is busy and does not say for how long.
const BUSY_WAIT: Duration = Duration::from_millis(500);

/// A wait that a person should hear of.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// A command on its way. Should whoever asks stop waiting, it is left for the next call to finish.
struct Begun<'a> {
    client: &'a Client,
    number: u64,
    is_settled: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        // What cannot be read now is read by the next run.
        if let Ok(state) = self.client.profile.load() {
            let mut unfinished = state.unfinished.into_iter();
            let begun = unfinished.find(|begun| begun.number == self.number);
            self.client.orphans().extend(begun.map(Orphan::from));
        }
    }
}

/// A number for a command, and whether it has been used before.
#[derive(Clone, Copy)]
struct Number {
    number: OperationNumber,
    is_fresh: bool,
}

impl Client {
    /// Asks the realm with any command and options. The operation number is filled in.
    pub async fn call(&self, options: Options, command: Command<'_>) -> Result<Answer, CallError> {
        let deadline = self.deadline();
        let mut request = Request { options, command };
        if request.command.operation().is_none() {
            self.finish_orphans(None, deadline).await?;
            let early = self.may_be_early(&request)?;
            return self.ask_patiently(&request, early, deadline).await;
        }
        let kept = request.without_secrets().to_bytes();
        self.finish_orphans(Some(&kept), deadline).await?;
        let mut number = self.number(&kept, &request)?;
        for _ in 0..RENUMBERED_MAX {
            let outcome = self.change(&mut request, &number, deadline).await;
            match outcome {
                Ok(Answer::Refused(refusal)) if is_used_up(refusal, number.is_fresh) => {
                    number = self.renumber(number.number, &kept, &request).await?;
                }
                outcome => return outcome.and_then(Self::accepted),
            }
        }
        Err(CallError::Refused(ErrorCode::NumberReused.into()))
    }

    fn accepted(answer: Answer) -> Result<Answer, CallError> {
        match answer {
            Answer::Refused(refusal) => Err(CallError::Refused(refusal)),
            answer => Ok(answer),
        }
    }

    /// Finishes what an earlier run began, unless that is just what is being asked now.
    async fn finish_orphans(
        &self,
        asked: Option<&[u8]>,
        deadline: Instant,
    ) -> Result<(), CallError> {
        self.note_passwords_needed(asked);
        let _alone = self.finishing.lock().await;
        while let Some(orphan) = self.take_orphan(asked) {
            let Ok(mut request) = Request::parse(&orphan.command) else {
                self.forget(orphan.number)?;
                continue;
            };
            let command = request.command.name();
            if is_planted(Fault::FinishUnderFreshNumber) {
                let fresh = self.fresh_number(OperationNumber(0), &orphan.command, &request)?;
                self.forget(orphan.number)?;
                let answer = self.change(&mut request, &fresh, deadline).await?;
                self.note(Notice::Finished { command, answer });
                continue;
            }
            let number = Number {
                number: OperationNumber(orphan.number),
                is_fresh: false,
            };
            let answer = self.change(&mut request, &number, deadline).await?;
            self.note(Notice::Finished { command, answer });
        }
        Ok(())
    }

    fn orphans(&self) -> MutexGuard<'_, Vec<Orphan>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next command that can be finished without its user.
    fn take_orphan(&self, asked: Option<&[u8]>) -> Option<Unfinished> {
        let mut orphans = self.orphans();
        let at = orphans.iter().position(|orphan| {
            !orphan.begun.needs_password && Some(orphan.begun.command.as_slice()) != asked
        })?;
        Some(orphans.remove(at).begun)
    }

    /// Says once of each command that lacks its password that only its user can finish it.
    fn note_passwords_needed(&self, asked: Option<&[u8]>) {
        for orphan in self.orphans().iter_mut() {
            let is_asked = Some(orphan.begun.command.as_slice()) == asked;
            if orphan.begun.needs_password
                && !is_asked
                && !std::mem::replace(&mut orphan.noted, true)
                && let Ok(request) = Request::parse(&orphan.begun.command)
            {
                let command = request.command.name();
                self.note(Notice::NeedsPassword { command });
            }
        }
    }

    /// A number for a command: the one under which it was begun before, or a fresh one, which is
    /// written down with it.
    fn number(&self, kept: &[u8], request: &Request<'_>) -> Result<Number, CallError> {
        let mut orphans = self.orphans();
        if let Some(at) = orphans
            .iter()
            .position(|orphan| orphan.begun.command == kept)
        {
            return Ok(Number {
                number: OperationNumber(orphans.remove(at).begun.number),
                is_fresh: false,
            });
        }
        drop(orphans);
        self.fresh_number(OperationNumber(0), kept, request)
    }

    fn fresh_number(
        &self,
        above: OperationNumber,
        kept: &[u8],
        request: &Request<'_>,
    ) -> Result<Number, CallError> {
        let number = self.profile.update(|state| {
            state.highest = state.highest.max(above.0) + 1;
            if state.unfinished.len() >= UNFINISHED_MAX {
                state.unfinished.remove(0);
            }
            state.unfinished.push(Unfinished {
                number: state.highest,
                command: kept.to_vec(),
                needs_password: request.command.carries_password(),
            });
            state.highest
        })?;
        Ok(Number {
            number: OperationNumber(number),
            is_fresh: true,
        })
    }

    /// The number was used before, by a profile that this one is an old copy of: takes another, above
    /// all that the realm has seen (EXACT-8).
    async fn renumber(
        &self,
        old: OperationNumber,
        kept: &[u8],
        request: &Request<'_>,
    ) -> Result<Number, CallError> {
        let highest = self.highest().await;
        let number = self.fresh_number(highest, kept, request)?;
        self.forget(old.0)?;
        Ok(number)
    }

    fn forget(&self, number: u64) -> Result<(), CallError> {
        Ok(self.profile.update(|state| state.forget(number))?)
    }

    /// Asks with a command that changes something, and writes down what came of it.
    async fn change(
        &self,
        request: &mut Request<'_>,
        number: &Number,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        if let Some(place) = request.command.operation_mut() {
            place.number = number.number;
        }
        let Number { number, is_fresh } = *number;
        let number = number.0;
        let mut begun = Begun {
            client: self,
            number,
            is_settled: false,
        };
        let outcome = match self.may_be_early(request) {
            Ok(early) => self.ask_patiently(request, early, deadline).await,
            Err(error) => Err(error),
        };
        match &outcome {
            Ok(answer) => {
                let rtt = self.rtt().await;
                self.profile.update(|state| {
                    state.forget(number);
                    state.learn(&request.command, answer);
                    state.rtt_us = rtt
                        .and_then(|rtt| u64::try_from(rtt.as_micros()).ok())
                        .or(state.rtt_us);
                })?;
            }
            // It has never left.
            Err(
                CallError::Refused(_)
                | CallError::Resolve { .. }
                | CallError::NoKey
                | CallError::NoServer
                | CallError::NotLoggedIn,
            ) if is_fresh => self.forget(number)?,
            // It may have taken effect: the next call finds out.
            Err(_) => return outcome,
        }
        begun.is_settled = true;
        outcome
    }

    /// Asks, and asks again while the realm says that it is busy and there is time.
    async fn ask_patiently(
        &self,
        request: &Request<'_>,
        early: bool,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let bytes = request.to_bytes();
        let changes = request.command.operation().is_some();
        loop {
            let answer = self.ask(bytes.clone(), early, deadline).await?;
            let answer = Answer::parse(&answer)
                .map_err(|error| CallError::Misunderstood(error.to_string()))?;
            let Answer::Refused(refusal) = &answer else {
                return Ok(answer);
            };
            if !refusal.is_transient() && changes {
                return Ok(answer);
            }
            let wait = refusal.detail.map_or(BUSY_WAIT, Duration::from_millis);
            if !refusal.is_transient() || Instant::now() + wait >= deadline {
                return Err(if changes {
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

    /// Only a device that the realm knows has anything to gain by sending early, and a password has
    /// something to lose (HS-7).
    fn may_be_early(&self, request: &Request<'_>) -> Result<bool, CallError> {
        let is_known = self.profile.load()?.session.is_some();
        Ok(is_known && !request.command.carries_password())
    }
}

/// True when a number has been used for another command, so that this one has not been done.
const fn is_used_up(refusal: Refusal, is_fresh: bool) -> bool {
    match refusal.code {
        ErrorCode::NumberReused => true,
        // A number that this profile gives out for the first time and the realm says is long done.
        ErrorCode::AlreadyDone => is_fresh,
        _ => false,
    }
}

impl State {
    /// Another realm, or the same one elsewhere.
    pub(super) fn move_to(&mut self, server: &ConnectionString, plain: bool) {
        let known = self
            .server
            .as_deref()
            .and_then(|known| known.parse::<ConnectionString>().ok());
        let mut server = server.clone();
        let is_same_place = known
            .as_ref()
            .is_some_and(|known| (&known.host, known.port) == (&server.host, server.port));
        if server.key.is_none() && is_same_place {
            // A key once known is not given up for a string that names none.
            server.key = known.as_ref().and_then(|known| known.key);
        }
        if server.key.is_some_and(|key| self.former.contains(&key.0)) {
            // An old connection string of the same realm.
            server.key = known.as_ref().and_then(|known| known.key);
        }
        let is_same_realm = known
            .as_ref()
            .is_none_or(|known| known.key == server.key && (known.key.is_some() || is_same_place));
        if !is_same_realm {
            *self = Self {
                highest: self.highest,
                ..Self::default()
            };
        }
        self.server = Some(server.to_string());
        self.plain = plain;
    }

    /// The realm's key `from` has vouched for `to`. False when that was known already.
    pub(super) fn follow(&mut self, from: PublicKey, to: PublicKey) -> bool {
        let known = self.server.as_deref().map(str::parse::<ConnectionString>);
        let known = known.and_then(Result::ok);
        let Some(server) = known.filter(|known| known.key == Some(from)) else {
            return false;
        };
        let key = Some(to);
        self.server = Some(ConnectionString { key, ..server }.to_string());
        self.former.push(from.0);
        true
    }

    fn forget(&mut self, number: u64) {
        self.unfinished
            .retain(|unfinished| unfinished.number != number);
    }

    /// What an answer says about who is logged in.
    fn learn(&mut self, command: &Command<'_>, answer: &Answer) {
        match (command, answer) {
            (
                Command::Auth { username, .. } | Command::Register { username, .. },
                Answer::Session(SessionId(id)),
            ) => {
                if self.username.as_deref() != Some(username.as_str()) {
                    self.username = Some(username.as_str().into());
                    self.shown.clear();
                }
                self.session = Some(*id);
                // Whatever waited for a password is settled by the one that was given.
                self.unfinished
                    .retain(|unfinished| !unfinished.needs_password);
            }
            (Command::Logout { session, .. }, Answer::Done) => {
                let ended = match session {
                    crate::wire::SessionRef::Bound => true,
                    crate::wire::SessionRef::Named(SessionId(id)) => self.session == Some(*id),
                };
                if ended {
                    self.session = None;
                }
            }
            _ => {}
        }
    }
}
