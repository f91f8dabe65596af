//! The outbox. Every command that changes something is an entry here before its first byte is sent,
//! and remains one until its outcome is known (EXACT-7 … EXACT-12). All processes of a profile
//! share it.
//!
//! ```text
//! o                     counters: the last entry's id, bytes of entries, number of tokens
//! e/ entry 8            an entry that is not settled
//! b/ entry 8            its command, without its number; none if it carries a password
//! d/ entry 8            the outcome of an entry, until it is reported
//! t/ realm 4 user / hash 16   a token, and the outcome of its entry
//! a/ time 8 token       tokens by age
//! ```
//!
//! This is the sans-IO part: from the records, the time and the events it decides what to send
//! next. `carrier` sends it.

mod done;
mod entry;
mod numbers;
mod scope;
mod tokens;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ProfileError,
    state::{self, Account, RealmNumber},
    store::{self, Records},
};
use crate::{
    faults::{Fault, is_planted},
    wire::{Answer, OperationNumber, Request, SessionRef},
};

pub use done::Outcome;
use done::take_done;
use done::{Done, done_key};
pub use entry::{Afterwards, Aim, Entry, EntryId, PAUSE_MAX, Reason, Transmission, Waiting};
use entry::{body, change, find, list, save, save_body, seconds_up};
pub use numbers::{Due, ON_THE_WAY_MAX, Picked, Situation};
pub use scope::describe;
pub use tokens::{InvalidToken, TOKENS_MAX, Token};

/// The maximum size of all entries in the outbox, in bytes.
pub const OUTBOX_BYTES_MAX: u64 = 16 << 20;
/// What an entry counts in addition to its command, in bytes.
const ENTRY_BYTES: u64 = 128;

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Counters {
    last: u64,
    bytes: u64,
    tokens: u64,
}

/// A command to be added.
#[derive(Debug)]
pub struct New<'a> {
    /// The account it belongs to.
    pub account: Account,
    /// The command, with its salt, without a number.
    pub request: &'a Request<'a>,
    /// The wait of its caller.
    pub waiting: Waiting,
    /// The current time, since 1970.
    pub now: Duration,
}

/// The result of adding a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is an entry now.
    Entry(EntryId),
    /// Its token was used for the same command before, with this outcome.
    Done(EntryId, Outcome),
    /// Its token was used for another command.
    TokenReused,
    /// The outbox is full. It holds this many bytes.
    Full(u64),
    /// The maximum number of tokens is remembered.
    TokensFull,
}

/// The result of adding a command without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddedUnnamed {
    /// It is an entry now.
    Entry(EntryId),
    /// The outbox is full. It holds this many bytes.
    Full(u64),
}

fn counters(records: &dyn Records) -> Result<Counters, ProfileError> {
    Ok(store::get(records, b"o")?.unwrap_or_default())
}

impl New<'_> {
    /// Returns the bytes of the command to keep; none if it carries a password.
    fn body(&self) -> Option<Vec<u8>> {
        let is_secret = self.request.command.carries_password();
        (!is_secret).then(|| self.request.to_bytes())
    }
}

impl Counters {
    /// True if there is no room for an entry with this command.
    fn is_full_for(&self, body: Option<&[u8]>) -> bool {
        let bytes = body.map_or(0, <[u8]>::len) as u64;
        self.bytes + bytes + ENTRY_BYTES > OUTBOX_BYTES_MAX
    }
}

/// The outbox of a profile in a transaction that may change it. Its operations are the things that
/// happen to entries.
pub struct Outbox<'a> {
    records: &'a mut dyn Records,
}

impl<'a> Outbox<'a> {
    /// Returns the outbox in these records.
    pub fn of(records: &'a mut dyn Records) -> Self {
        Self { records }
    }

    /// Adds a command, unless its token is known already.
    pub fn add(&mut self, new: &New<'_>, token: Option<&Token>) -> Result<Added, ProfileError> {
        let Some(token) = token else {
            return Ok(match self.add_unnamed(new)? {
                AddedUnnamed::Entry(id) => Added::Entry(id),
                AddedUnnamed::Full(bytes) => Added::Full(bytes),
            });
        };
        let records = &mut *self.records;
        let mut counters = counters(records)?;
        token.free(records, &new.account, &mut counters.tokens)?;
        if let Some(known) = token.find(records, &new.account, new.request)? {
            return Ok(known);
        }
        let body = new.body();
        if counters.is_full_for(body.as_deref()) {
            return Ok(Added::Full(counters.bytes));
        }
        let id = EntryId(counters.last + 1);
        if !token.remember(records, &mut counters.tokens, id, new)? {
            return Ok(Added::TokensFull);
        }
        self.insert(new, counters, body, Some(token.hash()))
            .map(Added::Entry)
    }

    /// Adds a command without a token.
    pub fn add_unnamed(&mut self, new: &New<'_>) -> Result<AddedUnnamed, ProfileError> {
        let counters = counters(self.records)?;
        let body = new.body();
        if counters.is_full_for(body.as_deref()) {
            return Ok(AddedUnnamed::Full(counters.bytes));
        }
        self.insert(new, counters, body, None)
            .map(AddedUnnamed::Entry)
    }

    /// Makes an entry of a command for which there is room.
    fn insert(
        &mut self,
        new: &New<'_>,
        mut counters: Counters,
        body: Option<Vec<u8>>,
        token: Option<[u8; 16]>,
    ) -> Result<EntryId, ProfileError> {
        let records = &mut *self.records;
        // At most `OUTBOX_BYTES_MAX`.
        let bytes = u32::try_from(body.as_ref().map_or(0, Vec::len)).unwrap_or(u32::MAX);
        let id = EntryId(counters.last + 1);
        counters.last = id.0;
        counters.bytes += u64::from(bytes) + ENTRY_BYTES;
        let created = new.now.as_secs();
        // With a number from the start, a copy of the profile made from here on sends it under the
        // same number, so it is not executed twice.
        let number = numbers::take_early(records, &new.account)?;
        let entry = Entry {
            account: new.account.clone(),
            what: describe(new.request),
            scope: scope::Scope::of(&new.request.command).to_text(),
            number,
            left: false,
            attempts: 0,
            begun: 0,
            created,
            expires: new
                .request
                .options
                .ttl
                .map(|ttl| seconds_up(new.now).saturating_add(ttl)),
            not_before: 0,
            waiting: new.waiting,
            aim: Aim::Do,
            is_secret: body.is_none(),
            token,
            bytes,
        };
        store::put(records, b"o", &counters)?;
        save(records, id, &entry)?;
        if let Some(body) = body {
            save_body(records, id, &body)?;
        }
        Ok(id)
    }

    /// Records the outcome of an entry. A settled entry stays as it is.
    pub fn settle(&mut self, id: EntryId, outcome: &Outcome) -> Result<(), ProfileError> {
        let records = &mut *self.records;
        let Some(entry) = find(records, id)? else {
            return Ok(());
        };
        entry::remove(records, id)?;
        let mut counters = counters(records)?;
        counters.bytes = counters
            .bytes
            .saturating_sub(u64::from(entry.bytes) + ENTRY_BYTES);
        if let Some(token) = entry.token {
            tokens::settle(records, &entry.account, token, outcome)?;
        }
        store::put(records, b"o", &counters)?;
        if *outcome == Outcome::NotDone(Reason::NotKept) {
            // The caller has been told that it was given up.
            return Ok(());
        }
        let done = Done {
            account: told_to(&entry, outcome),
            what: entry.what,
            outcome: outcome.clone(),
            waiting: entry.waiting,
        };
        store::put(records, &done_key(id), &done)
    }

    /// Records the outcome of a command that was no entry here.
    #[cfg(feature = "sqlite")]
    pub fn add_done(
        &mut self,
        account: &Account,
        what: String,
        outcome: Outcome,
    ) -> Result<(), ProfileError> {
        let records = &mut *self.records;
        let mut counters = counters(records)?;
        counters.last += 1;
        store::put(records, b"o", &counters)?;
        let done = Done {
            account: account.clone(),
            what,
            outcome,
            waiting: Waiting::default(),
        };
        store::put(records, &done_key(EntryId(counters.last)), &done)
    }

    /// Records that the caller of an entry has stopped waiting.
    pub fn stop_waiting(
        &mut self,
        id: EntryId,
        afterwards: Afterwards,
    ) -> Result<Left, ProfileError> {
        let records = &mut *self.records;
        if let Some(outcome) = take_done(records, id)? {
            return Ok(Left::Settled(outcome));
        }
        let Some(entry) = find(records, id)? else {
            // Another process with the same token has taken it.
            return Ok(Left::Unknown);
        };
        let is_kept =
            afterwards == Afterwards::Keep && !entry.is_secret && !is_planted(Fault::KeepNothing);
        match (is_kept, entry.left) {
            (true, left) => {
                change(records, id, |entry| entry.waiting = Waiting::default())?;
                Ok(if left { Left::KeptUnknown } else { Left::Kept })
            }
            (false, true) => {
                change(records, id, |entry| {
                    entry.waiting = Waiting::default();
                    entry.cancel(Reason::NotKept);
                })?;
                Ok(Left::Unknown)
            }
            (false, false) => {
                self.settle(id, &Outcome::NotDone(Reason::NotKept))?;
                self.records.delete(&done_key(id))?;
                Ok(Left::NotDone)
            }
        }
    }

    /// Cancels an entry.
    pub fn cancel(&mut self, id: EntryId, now: Duration) -> Result<Cancelled, ProfileError> {
        match find(self.records, id)? {
            None => Ok(Cancelled::NoSuchEntry),
            Some(entry) if !entry.left => {
                self.settle(id, &Outcome::NotDone(Reason::Cancelled))?;
                // A waiting caller is told. The caller of this function knows already.
                if !entry.waiting.is_on(now) {
                    self.records.delete(&done_key(id))?;
                }
                Ok(Cancelled::Certainly)
            }
            Some(_) => {
                change(self.records, id, |entry| entry.cancel(Reason::Cancelled))?;
                Ok(Cancelled::Asked)
            }
        }
    }

    /// Replaces the operation number `number` of an entry: the command was not executed under it,
    /// and never will be. The entry gets another number, above `highest`.
    pub fn renumber(
        &mut self,
        id: EntryId,
        realm: RealmNumber,
        number: OperationNumber,
        highest: OperationNumber,
    ) -> Result<(), ProfileError> {
        let records = &mut *self.records;
        state::update(records, realm, |state| state.learn_highest(highest.0))?;
        change(records, id, |entry| {
            // Another process may have learned the same, and sent it under another number already.
            if entry.number == Some(number.0) {
                (entry.number, entry.left, entry.attempts) = (None, false, 0);
            }
        })
    }

    /// Assigns entries to the account that is found to be logged in on a realm for the first time.
    /// The command `login` may have opened the session. Without one, the session is older than all
    /// entries here, as in an old copy of a profile. Entries typed in the session belong to this
    /// user. Entries typed before it belong to nobody, and are cancelled.
    pub fn adopt(&mut self, account: &Account, login: Option<EntryId>) -> Result<(), ProfileError> {
        let records = &mut *self.records;
        tokens::adopt(records, account)?;
        for (id, mut entry) in list(records)? {
            let is_nobodys =
                entry.account.is_nobody_of(account.realm) && !is_planted(Fault::OutboxOfNobody);
            // A command with a password ends with its call.
            if !is_nobodys || entry.is_secret {
                continue;
            }
            entry.account = account.clone();
            let is_before = login.is_some_and(|login| id < login);
            if is_before && entry.aim == Aim::Do && !names_session(records, id)? {
                entry.cancel(Reason::NoSession);
            }
            save(records, id, &entry)?;
        }
        Ok(())
    }

    /// Records that an entry has certainly not been executed, as if nothing of it had been sent.
    pub fn note_unexecuted(&mut self, id: EntryId) -> Result<(), ProfileError> {
        change(self.records, id, |entry| entry.left = false)
    }

    /// Records that an attempt has failed. The next one does not start before `until`, since 1970.
    pub fn attempt_failed(
        &mut self,
        picked: &Picked,
        transmission: Transmission,
        until: Duration,
    ) -> Result<(), ProfileError> {
        change(self.records, picked.id, |entry| {
            if picked.is_latest_of(entry) {
                entry.left = picked.left || transmission == Transmission::Possible;
            }
            entry.wait_until(until);
        })
    }

    /// Records that an entry was not tried after all.
    pub fn put_back(&mut self, picked: &Picked) -> Result<(), ProfileError> {
        change(self.records, picked.id, |entry| {
            if picked.is_latest_of(entry) {
                (entry.left, entry.attempts) = (picked.left, picked.attempts);
            }
        })
    }

    /// Records that an entry was not executed under its number, and never will be. It was not tried
    /// then.
    pub fn put_back_unexecuted(&mut self, picked: &Picked) -> Result<(), ProfileError> {
        change(self.records, picked.id, |entry| {
            if picked.is_latest_of(entry) {
                (entry.left, entry.attempts) = (false, picked.attempts);
            }
        })
    }

    /// Starts no attempt of an entry before `until`, since 1970.
    pub fn pause(&mut self, id: EntryId, until: Duration) -> Result<(), ProfileError> {
        change(self.records, id, |entry| entry.wait_until(until))
    }

    /// Returns the outcome of the command with a token, if the token was used before.
    pub fn find_token(
        &mut self,
        token: &Token,
        account: &Account,
        request: &Request<'_>,
    ) -> Result<Option<Added>, ProfileError> {
        token.find(self.records, account, request)
    }

    /// Picks the entries to send, and assigns numbers. Skips those in flight with the same aim.
    pub fn pick(&mut self, situation: &Situation<'_>) -> Result<Due, ProfileError> {
        numbers::pick(self.records, situation)
    }

    /// Picks an entry that another process should have sent and has not, if nothing is before it.
    pub fn pick_one(&mut self, id: EntryId, now: Duration) -> Result<Due, ProfileError> {
        numbers::pick_one(self.records, id, now)
    }

    /// Records that an entry is sent now: one with a password, which only its caller has, or one
    /// that the carrier did not send.
    pub fn begin_now(
        &mut self,
        id: EntryId,
        now: Duration,
    ) -> Result<Option<Picked>, ProfileError> {
        numbers::begin_now(self.records, id, now)
    }

    /// Rebinds a command that named the profile's ended session, so that it is sent in its user's
    /// next one.
    pub fn unname(&mut self, id: EntryId, session: Option<[u8; 16]>) -> Result<(), ProfileError> {
        numbers::unname(self.records, id, session)
    }

    /// Removes and returns the outcome of an entry, to report it.
    pub fn take_done(&mut self, id: EntryId) -> Result<Option<Outcome>, ProfileError> {
        done::take_done(self.records, id)
    }

    /// Removes and returns the outcomes of entries of `account` for which no call waits any more.
    pub fn take_untold(
        &mut self,
        account: &Account,
        now: Duration,
    ) -> Result<Vec<(EntryId, Done)>, ProfileError> {
        done::take_untold(self.records, account, now)
    }
}

/// The outbox of a profile, to look at.
#[derive(Clone, Copy)]
pub struct OutboxView<'a> {
    records: &'a dyn Records,
}

impl<'a> OutboxView<'a> {
    /// Returns the outbox in these records.
    pub fn of(records: &'a dyn Records) -> Self {
        Self { records }
    }

    /// Returns an entry that is not settled.
    pub fn find(self, id: EntryId) -> Result<Option<Entry>, ProfileError> {
        entry::find(self.records, id)
    }

    /// Returns all entries that are not settled, in the order in which they were typed.
    pub fn list(self) -> Result<Vec<(EntryId, Entry)>, ProfileError> {
        entry::list(self.records)
    }

    /// True if there are entries that are not settled.
    pub fn has_entries(self) -> Result<bool, ProfileError> {
        entry::has_entries(self.records)
    }

    /// Returns the last entry other than `except` that may have logged a user in on a realm.
    pub fn last_login(
        self,
        realm: RealmNumber,
        except: Option<EntryId>,
    ) -> Result<Option<EntryId>, ProfileError> {
        entry::last_login(self.records, realm, except)
    }

    /// True if an entry has to wait for an earlier one. A login waits for logins only, so that a
    /// delayed earlier login does not undo it. Entries of another user remain that user's
    /// (EXACT-6).
    pub fn is_blocked(self, id: EntryId) -> Result<bool, ProfileError> {
        numbers::is_blocked(self.records, id)
    }

    /// Returns the first entry that this entry has to wait for.
    pub fn first_before(self, id: EntryId) -> Result<Option<EntryId>, ProfileError> {
        numbers::first_before(self.records, id)
    }

    /// Returns the outcome of an entry without removing it.
    pub fn done(self, id: EntryId) -> Result<Option<Outcome>, ProfileError> {
        done::done(self.records, id)
    }

    /// True if the outcome of an entry is known, or there is no such entry.
    pub fn is_done(self, id: EntryId) -> Result<bool, ProfileError> {
        done::is_done(self.records, id)
    }

    /// True if [`Outbox::take_untold`] may have something to report.
    pub fn has_done(self) -> Result<bool, ProfileError> {
        done::has_done(self.records)
    }

    /// True if the outcome of an entry is known and has not been reported.
    pub fn has_done_of(self, id: EntryId) -> Result<bool, ProfileError> {
        done::has_done_of(self.records, id)
    }
}

/// Returns the account to report an outcome to. For a login that turns out to have succeeded, it is
/// the user who was logged in. The account at the time of typing, often nobody, is no longer logged
/// in.
fn told_to(entry: &Entry, outcome: &Outcome) -> Account {
    let mut account = entry.account.clone();
    if let (true, Outcome::Answer(bytes)) = (entry.is_secret, outcome)
        && let Ok(Answer::Account(who)) = Answer::parse(bytes)
    {
        account.username = who.username.as_str().into();
    }
    account
}

/// The state of an entry whose caller has stopped waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It has been settled in the meantime.
    Settled(Outcome),
    /// It is kept. Nothing of it was sent.
    Kept,
    /// It is kept. It is not known yet whether it was executed.
    KeptUnknown,
    /// It is not kept, and has certainly not been executed.
    NotDone,
    /// It is not kept. It is not known whether it was executed.
    Unknown,
}

/// The result of cancelling an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It has not been executed, and never will be.
    Certainly,
    /// Some of it was sent: the realm has to decide.
    Asked,
    /// There is no such entry.
    NoSuchEntry,
}

/// True if a command names its session in full, as far as it can be read.
fn names_session(records: &dyn Records, id: EntryId) -> Result<bool, ProfileError> {
    let body = body(records, id)?;
    let request = body.as_deref().and_then(|body| Request::parse(body).ok());
    let session = request.and_then(|request| request.command.session());
    Ok(matches!(session, Some(SessionRef::Named(_))))
}

#[cfg(test)]
mod tests;
