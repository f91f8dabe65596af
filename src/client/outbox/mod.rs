//! The outbox: every command that changes something is an entry here before its first byte leaves, and stays one until it
//! is known what became of it (EXACT-7 … EXACT-12). All processes of a profile share it.
//!
//! ```text
//! o                     counters: the last entry's number, bytes and tokens kept
//! e/ entry 8            an entry that is not settled
//! b/ entry 8            its command, without its number; none where it carries a password
//! d/ entry 8            what became of an entry, until somebody has been told
//! t/ realm 4 user / hash 16   a token, and what became of the entry that has it
//! a/ time 8 token       tokens by age
//! ```
//!
//! This is the sans-IO part: given the records, the time and what happened, it says what is to be sent next. `carrier`
//! sends it.

mod done;
mod numbers;
mod scope;
mod tokens;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ProfileError,
    state::{self, Account, RealmNumber},
    store::{self, Pair, Records},
};
use crate::{
    faults::{Fault, is_planted},
    wire::{Answer, OperationNumber, Request, SessionRef},
};

pub use done::{done, has_done, has_done_of, is_done, take_done, take_untold};
pub use numbers::{
    ON_THE_WAY_MAX, PAUSE_MAX, Picked, begin_now, first_before, is_blocked, pick, pick_one, unname,
};
pub use scope::{Before, Scope, describe};
pub use tokens::{TOKENS_MAX, Token};

/// Bytes of all entries that the outbox holds at most.
pub const OUTBOX_BYTES_MAX: u64 = 16 << 20;
/// What an entry counts beside its command, in bytes.
const ENTRY_BYTES: u64 = 128;
/// An entry that could not be delivered for so long is given up. Sessions live longer (SES-4).
pub const ENTRY_LIFETIME: Duration = Duration::from_hours(28 * 24);
/// What became of so many entries is kept for somebody to be told.
const DONE_MAX: usize = 1000;

/// Names an entry of a profile's outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId(pub u64);

/// What is to be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aim {
    /// To be done.
    Do,
    /// Not to be done any more, if it has not been: its number is to be used up (EXACT-11).
    Cancel(Reason),
}

/// Why an entry is not to be done any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// Somebody took it back.
    Cancelled,
    /// It outlived the time that it was worth, or that an entry may take.
    Expired,
    /// Whoever asked did not want it to be kept, or it cannot be kept because it carried a password.
    NotKept,
    /// Nobody was logged in when it was typed, and somebody has logged in since.
    NoSession,
}

/// A span of a process's waiting, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    from: u64,
    until: u64,
}

impl Waiting {
    /// Somebody waits for `span` from `now` on.
    pub fn new(now: Duration, span: Duration) -> Self {
        Self {
            from: millis(now),
            until: millis(now.saturating_add(span)),
        }
    }

    /// Somebody waits still. A clock that was set back by a minute ends it; by less, the time was asked for before this was
    /// written, as by another process that had to wait for the records.
    pub fn is_on(self, now: Duration) -> bool {
        let slack = millis(Duration::from_mins(1));
        (self.from.saturating_sub(slack)..self.until).contains(&millis(now))
    }
}

/// An entry that is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Whose it is.
    pub account: Account,
    /// What it does, for people.
    pub what: String,
    /// The scope's command, as its bytes: none where it carries a password.
    scope: String,
    /// Its operation number, once it has one.
    pub number: Option<u64>,
    /// Bytes of it may have left this machine.
    pub left: bool,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was begun last, in milliseconds since 1970.
    begun: u64,
    /// When it was typed, in seconds since 1970.
    pub created: u64,
    /// When it is worth nothing any more, in seconds since 1970.
    pub expires: Option<u64>,
    /// Nothing is tried before, in milliseconds since 1970.
    pub not_before: u64,
    /// Whoever waits for it.
    pub waiting: Waiting,
    /// What is to be done with it.
    pub aim: Aim,
    /// It carries a password, which is not here: only whoever has it can do it.
    pub is_secret: bool,
    /// The token under which it was asked for.
    pub token: Option<[u8; 16]>,
    /// Bytes of its command.
    pub bytes: u32,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The realm's answer.
    Answer(Vec<u8>),
    /// It has not been done, and never will be.
    NotDone(Reason),
    /// The realm keeps no record of its number any more: it may have been done or not.
    Unknown,
}

/// What became of an entry, for whoever is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Whose it was.
    pub account: Account,
    /// What it did, for people.
    pub what: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Whoever waits for it takes this; anybody else may tell it afterwards.
    pub waiting: Waiting,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Counters {
    last: u64,
    bytes: u64,
    tokens: u64,
}

/// A command to be added.
#[derive(Debug)]
pub struct New<'a> {
    /// Whose it is.
    pub account: Account,
    /// The command, with its salt, not numbered.
    pub request: &'a Request<'a>,
    /// The token under which it is asked for.
    pub token: Option<&'a Token>,
    /// Whoever waits for it.
    pub waiting: Waiting,
    /// What time it is, since 1970.
    pub now: Duration,
}

/// What came of adding a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is an entry.
    Entry(EntryId),
    /// Its token was used for it before: this became of it.
    Done(EntryId, Outcome),
    /// Its token was used for another command.
    TokenReused,
    /// The outbox is full: so many bytes are in it.
    Full(u64),
    /// As many tokens are remembered as fit.
    TokensFull,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A time in whole seconds, rounded up: what expires within a second of rounding would be worth less than was asked for.
fn seconds_up(time: Duration) -> u64 {
    time.as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0))
}

fn entry_key(id: EntryId) -> Vec<u8> {
    [b"e/".as_slice(), &id.0.to_be_bytes()].concat()
}

fn body_key(id: EntryId) -> Vec<u8> {
    [b"b/".as_slice(), &id.0.to_be_bytes()].concat()
}

fn done_key(id: EntryId) -> Vec<u8> {
    [b"d/".as_slice(), &id.0.to_be_bytes()].concat()
}

fn id_in(records: &dyn Records, key: &[u8]) -> Result<EntryId, ProfileError> {
    let id = key.get(2..).and_then(|id| id.try_into().ok());
    id.map(|id| EntryId(u64::from_be_bytes(id)))
        .ok_or_else(|| records.damaged())
}

fn counters(records: &dyn Records) -> Result<Counters, ProfileError> {
    Ok(store::get(records, b"o")?.unwrap_or_default())
}

/// Adds a command, unless its token says that it is there already.
pub fn add(records: &mut dyn Records, new: &New<'_>) -> Result<Added, ProfileError> {
    let mut counters = counters(records)?;
    if let Some(token) = new.token {
        token.free(records, &new.account, &mut counters.tokens)?;
        if let Some(known) = token.find(records, &new.account, new.request)? {
            return Ok(known);
        }
    }
    let is_secret = new.request.command.carries_password();
    let body = if is_secret {
        Vec::new()
    } else {
        new.request.to_bytes()
    };
    let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if counters.bytes + u64::from(bytes) + ENTRY_BYTES > OUTBOX_BYTES_MAX {
        return Ok(Added::Full(counters.bytes));
    }
    let id = EntryId(counters.last + 1);
    let token = match new.token {
        Some(token) if !token.remember(records, &mut counters.tokens, id, new)? => {
            return Ok(Added::TokensFull);
        }
        Some(token) => Some(token.hash()),
        None => None,
    };
    counters.last = id.0;
    counters.bytes += u64::from(bytes) + ENTRY_BYTES;
    let created = new.now.as_secs();
    // A copy of the profile from here on does the same under the same number, and so not again.
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
        is_secret,
        token,
        bytes,
    };
    store::put(records, b"o", &counters)?;
    store::put(records, &entry_key(id), &entry)?;
    if !is_secret {
        store::put(records, &body_key(id), &body)?;
    }
    Ok(Added::Entry(id))
}

/// An entry that is not settled.
pub fn find(records: &dyn Records, id: EntryId) -> Result<Option<Entry>, ProfileError> {
    store::get(records, &entry_key(id))
}

/// All entries that are not settled, in the order in which they were typed.
pub fn list(records: &dyn Records) -> Result<Vec<(EntryId, Entry)>, ProfileError> {
    let found = records.scan(b"e/", b"", usize::MAX)?;
    let one = |(key, value): &Pair| Ok((id_in(records, key)?, store::parse(records, key, value)?));
    found.iter().map(one).collect()
}

/// The command of an entry.
pub fn body(records: &dyn Records, id: EntryId) -> Result<Option<Vec<u8>>, ProfileError> {
    store::get(records, &body_key(id))
}

/// Changes an entry, if it is not settled.
pub fn change(
    records: &mut dyn Records,
    id: EntryId,
    change: impl FnOnce(&mut Entry),
) -> Result<(), ProfileError> {
    if let Some(mut entry) = find(records, id)? {
        change(&mut entry);
        store::put(records, &entry_key(id), &entry)?;
    }
    Ok(())
}

/// Writes down what became of an entry. What is settled already stays as it is.
pub fn settle(
    records: &mut dyn Records,
    id: EntryId,
    outcome: &Outcome,
) -> Result<(), ProfileError> {
    let Some(entry) = find(records, id)? else {
        return Ok(());
    };
    records.delete(&entry_key(id))?;
    records.delete(&body_key(id))?;
    let mut counters = counters(records)?;
    counters.bytes = counters
        .bytes
        .saturating_sub(u64::from(entry.bytes) + ENTRY_BYTES);
    if let Some(token) = entry.token {
        tokens::settle(records, &entry.account, token, outcome)?;
    }
    store::put(records, b"o", &counters)?;
    if *outcome == Outcome::NotDone(Reason::NotKept) {
        // Its user has been told that it was given up.
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

/// The account whose user is told what became of an entry. A login that turns out to be done is told to the user whom it
/// logged in: whoever was logged in when it was typed, often nobody, is not any more.
fn told_to(entry: &Entry, outcome: &Outcome) -> Account {
    let mut account = entry.account.clone();
    if let (true, Outcome::Answer(bytes)) = (entry.is_secret, outcome)
        && let Ok(Answer::Account(who)) = Answer::parse(bytes)
    {
        account.username = who.username.as_str().into();
    }
    account
}

/// Notes what became of something that was no entry here.
#[cfg(feature = "sqlite")]
pub fn add_done(
    records: &mut dyn Records,
    account: &Account,
    what: String,
    outcome: Outcome,
) -> Result<(), ProfileError> {
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

/// True when there are entries that are not settled.
pub fn has_entries(records: &dyn Records) -> Result<bool, ProfileError> {
    Ok(!records.scan(b"e/", b"", 1)?.is_empty())
}

/// What becomes of an entry that whoever asked for it does not wait for any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// It has been settled meanwhile.
    Settled(Outcome),
    /// It is kept. Nothing of it has left this machine.
    Kept,
    /// It is kept. Whether it was done is not known yet.
    KeptUnknown,
    /// It is not kept, and has certainly not been done.
    NotDone,
    /// It is not kept. Whether it was done is not known.
    Unknown,
}

/// Nobody waits for an entry any more.
pub fn stop_waiting(
    records: &mut dyn Records,
    id: EntryId,
    keep: bool,
) -> Result<Left, ProfileError> {
    if let Some(outcome) = take_done(records, id)? {
        return Ok(Left::Settled(outcome));
    }
    let Some(entry) = find(records, id)? else {
        // Taken by another run of the same token.
        return Ok(Left::Unknown);
    };
    let is_kept = keep && !entry.is_secret && !is_planted(Fault::KeepNothing);
    match (is_kept, entry.left) {
        (true, left) => {
            change(records, id, |entry| entry.waiting = Waiting::default())?;
            Ok(if left { Left::KeptUnknown } else { Left::Kept })
        }
        (false, true) => {
            change(records, id, |entry| {
                entry.waiting = Waiting::default();
                entry.aim = Aim::Cancel(Reason::NotKept);
                entry.not_before = 0;
            })?;
            Ok(Left::Unknown)
        }
        (false, false) => {
            settle(records, id, &Outcome::NotDone(Reason::NotKept))?;
            records.delete(&done_key(id))?;
            Ok(Left::NotDone)
        }
    }
}

/// What comes of taking an entry back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It has not been done, and never will be.
    Certainly,
    /// Some of it has left: the realm has to say.
    Asked,
    /// There is no such entry.
    NoSuchEntry,
}

/// Takes an entry back.
pub fn cancel(
    records: &mut dyn Records,
    id: EntryId,
    now: Duration,
) -> Result<Cancelled, ProfileError> {
    match find(records, id)? {
        None => Ok(Cancelled::NoSuchEntry),
        Some(entry) if !entry.left => {
            settle(records, id, &Outcome::NotDone(Reason::Cancelled))?;
            // Whoever waits for it is told; whoever takes it back knows.
            if !entry.waiting.is_on(now) {
                records.delete(&done_key(id))?;
            }
            Ok(Cancelled::Certainly)
        }
        Some(_) => {
            change(records, id, |entry| {
                entry.aim = Aim::Cancel(Reason::Cancelled);
                entry.not_before = 0;
            })?;
            Ok(Cancelled::Asked)
        }
    }
}

/// The operation number `number` of an entry is of no use: it was never done under it, and never will be. It gets another, above
/// `highest`.
pub fn renumber(
    records: &mut dyn Records,
    (id, realm): (EntryId, RealmNumber),
    number: OperationNumber,
    highest: OperationNumber,
) -> Result<(), ProfileError> {
    state::update(records, realm, |state| state.learn_highest(highest.0))?;
    change(records, id, |entry| {
        // Another process may have learnt the same, and sent it under another number already.
        if entry.number == Some(number.0) {
            (entry.number, entry.left, entry.attempts) = (None, false, 0);
        }
    })
}

/// It is known for the first time who is logged in on a realm. The command `login` may have opened the session; without one the
/// session is older than all that was typed here, as in an old copy of a profile. What was typed in the session is this user's. What
/// was typed before it was nobody's, and is not done.
pub fn adopt(
    records: &mut dyn Records,
    account: &Account,
    login: Option<EntryId>,
) -> Result<(), ProfileError> {
    tokens::adopt(records, account)?;
    for (id, mut entry) in list(records)? {
        let is_nobodys =
            entry.account.is_nobody_of(account.realm) && !is_planted(Fault::OutboxOfNobody);
        // What carries a password ends with its call.
        if !is_nobodys || entry.is_secret {
            continue;
        }
        entry.account = account.clone();
        let is_before = login.is_some_and(|login| id < login);
        if is_before && entry.aim == Aim::Do && !names_session(records, id)? {
            entry.aim = Aim::Cancel(Reason::NoSession);
            entry.not_before = 0;
        }
        store::put(records, &entry_key(id), &entry)?;
    }
    Ok(())
}

/// True when a command says in full in which session it is to be done.
fn names_session(records: &dyn Records, id: EntryId) -> Result<bool, ProfileError> {
    let body = body(records, id)?.unwrap_or_default();
    let request = Request::parse(&body).map_err(|_| records.damaged())?;
    Ok(matches!(
        request.command.session(),
        Some(SessionRef::Named(_))
    ))
}

/// The last entry that may have logged somebody in on a realm, beside `id`.
pub fn last_login(
    records: &dyn Records,
    realm: RealmNumber,
    id: EntryId,
) -> Result<Option<EntryId>, ProfileError> {
    let mut last = None;
    for (other, entry) in list(records)? {
        let is_there = other != id && entry.account.realm == realm && entry.left;
        if is_there && entry.is_login(records)? {
            last = Some(other);
        }
    }
    Ok(last)
}

/// Notes whether bytes of an entry may have left this machine: what has not is certainly not done.
pub fn note_left(records: &mut dyn Records, id: EntryId, left: bool) -> Result<(), ProfileError> {
    change(records, id, |entry| entry.left = left)
}

#[cfg(test)]
mod tests;
