//! What a client tells of its outbox, and lets be done with it.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    CallError, Client, End, EntryId, Notice, Shared, lock,
    outbox::{self, Aim, Outcome, Reason},
    state, store,
};
use crate::wire::{Answer, ErrorCode};

/// An entry of the outbox, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Names it in this profile.
    pub id: EntryId,
    /// What it does: the command and to whom.
    pub what: String,
    /// The connection string of the realm that it is for.
    pub realm: String,
    /// Whose it is.
    pub username: String,
    /// When it was typed, in seconds since 1970.
    pub created: u64,
    /// How it stands.
    pub state: OutboxState,
    /// How often it was tried.
    pub attempts: u32,
    /// Bytes of its command.
    pub bytes: u32,
}

/// How an entry of the outbox stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxState {
    /// Nothing of it has left this machine.
    Kept,
    /// It may have been done: its answer has not come.
    Unknown,
    /// It is being taken back.
    Cancelling,
}

/// What came of waiting for an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// This became of it.
    Ended(End),
    /// It waits still.
    Waits,
    /// It is finished, and another process of the profile has told what became of it.
    ToldElsewhere,
    /// There is no such entry, or somebody has been told what became of it.
    NoSuchEntry,
}

/// What came of taking an entry back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// It has certainly not been done, and never will be.
    Cancelled,
    /// It turned out to be done or refused before.
    Ended(End),
    /// It is not known: the realm has not been reached; it is asked as soon as it is.
    Asked,
    /// There is no such entry.
    NoSuchEntry,
}

impl Client {
    /// What is in the outbox: everything, in the order in which it was typed.
    pub fn outbox(&self) -> Result<Vec<OutboxEntry>, CallError> {
        Ok(self.shared.profile.read(|records| {
            let mut entries = Vec::new();
            for (id, entry) in outbox::list(records)? {
                let realm = state::load(records, entry.account.realm)?.server;
                entries.push(OutboxEntry {
                    id,
                    what: entry.what,
                    realm,
                    username: entry.account.username,
                    created: entry.created,
                    state: match entry.aim {
                        Aim::Cancel(_) => OutboxState::Cancelling,
                        Aim::Do if entry.left => OutboxState::Unknown,
                        Aim::Do => OutboxState::Kept,
                    },
                    attempts: entry.attempts,
                    bytes: entry.bytes,
                });
            }
            Ok(entries)
        })?)
    }

    /// Waits for what becomes of an entry.
    pub async fn outbox_wait_for(&self, id: EntryId) -> Result<Awaited, CallError> {
        let deadline = self.shared.deadline();
        let known = |records: &dyn store::Records| {
            Ok(outbox::find(records, id)?.is_some() || outbox::has_done_of(records, id)?)
        };
        if !self.shared.profile.read(known)? {
            return Ok(Awaited::NoSuchEntry);
        }
        if self
            .shared
            .profile
            .read(|records| outbox::find(records, id))?
            .is_some()
        {
            self.shared.check_target()?;
            self.start_carrier();
        }
        lock(&self.shared.waited).insert(id, Instant::now());
        let settled = self.shared.settled(id, deadline).await;
        lock(&self.shared.waited).remove(&id);
        Ok(match settled? {
            Some(outcome) => Awaited::Ended(end(&outcome)),
            None if self.shared.is_there(id)? => Awaited::Waits,
            None => Awaited::ToldElsewhere,
        })
    }

    /// Waits until all entries of the account are settled; false when that takes longer than the deadline, or when
    /// another user turns out to be logged in: then they wait for theirs. What became of
    /// them is among the notices.
    pub async fn outbox_wait(&self) -> Result<bool, CallError> {
        let deadline = self.shared.deadline();
        if !self.shared.profile.read(outbox::has_entries)? {
            return Ok(true);
        }
        self.shared.check_target()?;
        self.start_carrier();
        let account = self.shared.account()?;
        let settled = self.shared.until(deadline, |records| {
            let user = state::load(records, account.realm)?.username;
            let is_other = user.is_some_and(|user| user != account.username);
            if is_other && !account.is_nobody_of(account.realm) {
                // What is not settled waits for its user.
                return Ok(Some(false));
            }
            // A login that was given up is nobody's, and is taken back by whoever comes.
            let is_ours = |entry: &outbox::Entry| {
                let of = &entry.account;
                *of == account || (entry.is_secret && of.is_nobody_of(account.realm))
            };
            let waits = outbox::list(records)?
                .iter()
                .any(|(_, entry)| is_ours(entry));
            Ok((!waits).then_some(true))
        });
        Ok(settled.await? == Some(true))
    }

    /// Takes an entry back. What has not left this machine is certainly not done. Of what has, the realm says whether it was
    /// done, if it is reached within the deadline.
    pub async fn outbox_cancel(&self, id: EntryId) -> Result<Withdrawn, CallError> {
        let deadline = self.shared.deadline();
        let now = self.shared.host.time_of_day();
        match self
            .shared
            .profile
            .write(|records| outbox::cancel(records, id, now))?
        {
            outbox::Cancelled::Certainly => return Ok(Withdrawn::Cancelled),
            outbox::Cancelled::NoSuchEntry => return Ok(Withdrawn::NoSuchEntry),
            outbox::Cancelled::Asked => {}
        }
        self.shared.check_target()?;
        self.start_carrier();
        self.shared.added.notify_one();
        Ok(match self.shared.settled(id, deadline).await? {
            None if !self.shared.is_there(id)? => Withdrawn::NoSuchEntry,
            None => Withdrawn::Asked,
            Some(outcome) => match end(&outcome) {
                End::Cancelled => Withdrawn::Cancelled,
                end => Withdrawn::Ended(end),
            },
        })
    }

    /// Gives what is in the outbox the time to go, while it goes: until nothing is left, nothing has come of it for
    /// `patience`, or `limit` is over.
    pub async fn drain(&self, patience: Duration, limit: Duration) -> Result<(), CallError> {
        if !self.shared.is_carrier() {
            return Ok(());
        }
        let account = self.shared.account()?;
        let end = Instant::now() + limit;
        let left = || {
            self.shared.profile.read(|records| {
                let entries = outbox::list(records)?;
                Ok(entries
                    .iter()
                    .filter(|(_, entry)| entry.account == account)
                    .count())
            })
        };
        let mut before = left()?;
        while before > 0 {
            let settled = self.shared.settled.notified();
            let until = (Instant::now() + patience).min(end);
            if tokio::time::timeout_at(until, settled).await.is_err() {
                return Ok(());
            }
            before = left()?;
        }
        Ok(())
    }
}

impl Shared {
    fn is_there(&self, id: EntryId) -> Result<bool, CallError> {
        Ok(self
            .profile
            .read(|records| outbox::find(records, id))?
            .is_some())
    }

    /// What became of entries for which nobody waits any more.
    pub(super) fn untold(&self) -> Result<Vec<Notice>, CallError> {
        let account = self.account()?;
        if !self.profile.read(outbox::has_done)? {
            return Ok(Vec::new());
        }
        let now = self.host.time_of_day();
        let untold = self
            .profile
            .write(|records| outbox::take_untold(records, &account, now))?;
        Ok(untold
            .into_iter()
            .map(|(id, done)| Notice::Finished {
                id,
                what: done.what,
                end: end(&done.outcome),
            })
            .collect())
    }
}

/// What became of an entry.
pub(super) fn end(outcome: &Outcome) -> End {
    match outcome {
        Outcome::Answer(bytes) => match Answer::parse(bytes) {
            Ok(Answer::Refused(refusal)) => End::Refused(refusal),
            Ok(answer) => End::Done(answer),
            Err(_) => End::Unknown,
        },
        Outcome::NotDone(Reason::Cancelled | Reason::NotKept) => End::Cancelled,
        Outcome::NotDone(Reason::Expired) => End::Expired,
        Outcome::NotDone(Reason::NoSession) => End::Refused(ErrorCode::NoSession.into()),
        Outcome::Unknown => End::Unknown,
    }
}
