//! Entries: their records, and what one alone says about when it is sent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::scope::Scope;
use crate::client::{
    ProfileError,
    state::{Account, RealmNumber},
    store::{self, Pair, Records},
};
use crate::wire::{OperationNumber, Request};

/// An entry that could not be delivered for this long is given up. Sessions live longer (SES-4).
pub const ENTRY_LIFETIME: Duration = Duration::from_hours(28 * 24);
/// The longest pause before the next attempt.
pub const PAUSE_MAX: Duration = Duration::from_hours(1);

/// The id of an entry in a profile's outbox. Later entries have higher ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryId(pub u64);

impl EntryId {
    /// Stands behind all entries.
    pub(in crate::client) const BEHIND_ALL: Self = Self(u64::MAX);
}

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aim {
    /// Execute it.
    Do,
    /// Cancel it, if it has not been executed: its number is used up (EXACT-11).
    Cancel(Reason),
}

/// Why an entry is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It was cancelled by a user.
    Cancelled,
    /// Its time to live or the lifetime of an entry is over.
    Expired,
    /// The caller did not want it kept, or it cannot be kept because it carried a password.
    NotKept,
    /// Nobody was logged in when it was typed, and a user has logged in since.
    NoSession,
    /// Its command cannot be read: it is damaged, or a newer version wrote it.
    Damaged,
}

/// The time in which a process waits for an entry, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    from: u64,
    until: u64,
}

impl Waiting {
    /// Returns a wait of `span` from `now` on.
    pub fn new(now: Duration, span: Duration) -> Self {
        Self {
            from: millis(now),
            until: millis(now.saturating_add(span)),
        }
    }

    /// True if the wait is not over. A clock set back by more than a minute ends it. A smaller step
    /// is accepted: the time may have been read before this was written, as by another process that
    /// had to wait for the records.
    pub fn is_on(self, now: Duration) -> bool {
        let slack = millis(Duration::from_mins(1));
        (self.from.saturating_sub(slack)..self.until).contains(&millis(now))
    }

    /// Returns how long the wait still lasts. `None` if it is over.
    pub fn left(self, now: Duration) -> Option<Duration> {
        let until = Duration::from_millis(self.until);
        self.is_on(now).then(|| until.saturating_sub(now))
    }
}

/// What becomes of an entry whose caller has stopped waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// It is kept, and sent again, unless it carries a password.
    Keep,
    /// It is given up.
    GiveUp,
}

impl Afterwards {
    /// Returns [`Afterwards::Keep`] if `keep`.
    pub const fn keep_if(keep: bool) -> Self {
        if keep { Self::Keep } else { Self::GiveUp }
    }
}

/// Whether bytes of an entry were sent in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmission {
    /// Certainly nothing was sent.
    None,
    /// Something may have been sent.
    Possible,
}

/// An entry that is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The account it belongs to.
    pub(super) account: Account,
    /// A description for people.
    pub(super) what: String,
    /// The scope of the command, as text ([`Scope::to_text`]).
    pub(super) scope: String,
    /// Its operation number, if it has one.
    pub(super) number: Option<u64>,
    /// Bytes of it may have been sent.
    pub(super) left: bool,
    /// How many attempts were started.
    pub(super) attempts: u32,
    /// When the last attempt started, in milliseconds since 1970.
    pub(super) begun: u64,
    /// When it was typed, in seconds since 1970.
    pub(super) created: u64,
    /// When its time to live ends, in seconds since 1970.
    pub(super) expires: Option<u64>,
    /// No attempt starts before this time, in milliseconds since 1970.
    pub(super) not_before: u64,
    /// The wait of its caller.
    pub(super) waiting: Waiting,
    /// What to do with it.
    pub(super) aim: Aim,
    /// It carries a password, which is not stored: only its caller can send it.
    pub(super) is_secret: bool,
    /// The token of the call.
    pub(super) token: Option<[u8; 16]>,
    /// The length of its command, in bytes.
    pub(super) bytes: u32,
}

impl Entry {
    /// Returns the account it belongs to.
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// Returns a description for people.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Returns its operation number, if it has one.
    pub fn number(&self) -> Option<OperationNumber> {
        self.number.map(OperationNumber)
    }

    /// True if bytes of it may have been sent.
    pub const fn may_have_left(&self) -> bool {
        self.left
    }

    /// Returns how many attempts were started.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns when it was typed, in seconds since 1970.
    pub const fn created(&self) -> u64 {
        self.created
    }

    /// Returns what to do with it.
    pub const fn aim(&self) -> Aim {
        self.aim
    }

    /// True if it carries a password, so that only its caller can send it.
    pub const fn is_secret(&self) -> bool {
        self.is_secret
    }

    /// Returns the length of its command, in bytes.
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Cancels it as soon as possible.
    pub(super) fn cancel(&mut self, reason: Reason) {
        self.aim = Aim::Cancel(reason);
        self.not_before = 0;
    }

    pub(super) fn scope(&self, records: &dyn Records) -> Result<Scope, ProfileError> {
        Scope::from_text(&self.scope).ok_or_else(|| records.damaged())
    }

    /// True if it is a login or changes who may log in: a command with a password about the
    /// account.
    pub(super) fn is_login(&self, records: &dyn Records) -> Result<bool, ProfileError> {
        Ok(self.is_secret && self.scope(records)? == Scope::Account)
    }

    /// Starts no attempt before `time`, since 1970.
    pub(super) fn wait_until(&mut self, time: Duration) {
        self.not_before = millis(time);
    }

    /// Ends an entry that nobody can send any more, or whose lifetime is over. True if it must not
    /// be executed.
    pub(super) fn end_if_over(&mut self, now: Duration) -> bool {
        let lifetime = self.created.saturating_add(ENTRY_LIFETIME.as_secs());
        let over = self.expires.unwrap_or(u64::MAX).min(lifetime) <= now.as_secs();
        match self.aim {
            Aim::Do if self.is_secret && !self.waiting.is_on(now) => {
                self.aim = Aim::Cancel(Reason::NotKept);
            }
            Aim::Do if over => self.aim = Aim::Cancel(Reason::Expired),
            Aim::Do | Aim::Cancel(_) => {}
        }
        self.aim != Aim::Do
    }

    /// Returns when to check the entry again, in milliseconds since 1970.
    pub(super) fn next_look(&self) -> u64 {
        if self.is_secret && self.aim == Aim::Do {
            return self.waiting.until;
        }
        self.not_before
    }

    /// True for an implausibly long wait: a clock was set back, or a realm misbehaves.
    pub(super) fn is_too_far(&self, look: u64, now: Duration) -> bool {
        self.aim == Aim::Do && !self.is_secret && look > millis(now + PAUSE_MAX)
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Rounds a time up to whole seconds. Rounding down would shorten the time to live that was asked
/// for.
pub(super) fn seconds_up(time: Duration) -> u64 {
    time.as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0))
}

pub(super) fn entry_key(id: EntryId) -> Vec<u8> {
    [b"e/".as_slice(), &id.0.to_be_bytes()].concat()
}

pub(super) fn body_key(id: EntryId) -> Vec<u8> {
    [b"b/".as_slice(), &id.0.to_be_bytes()].concat()
}

pub(super) fn id_in(records: &dyn Records, key: &[u8]) -> Result<EntryId, ProfileError> {
    let id = key.get(2..).and_then(|id| id.try_into().ok());
    id.map(|id| EntryId(u64::from_be_bytes(id)))
        .ok_or_else(|| records.damaged())
}

/// Returns an entry that is not settled.
pub(super) fn find(records: &dyn Records, id: EntryId) -> Result<Option<Entry>, ProfileError> {
    store::get(records, &entry_key(id))
}

/// Returns all entries that are not settled, in the order in which they were typed.
pub(super) fn list(records: &dyn Records) -> Result<Vec<(EntryId, Entry)>, ProfileError> {
    let found = records.scan(b"e/", b"", usize::MAX)?;
    let one = |(key, value): &Pair| Ok((id_in(records, key)?, store::parse(records, key, value)?));
    found.iter().map(one).collect()
}

/// Saves an entry.
pub(super) fn save(
    records: &mut dyn Records,
    id: EntryId,
    entry: &Entry,
) -> Result<(), ProfileError> {
    store::put(records, &entry_key(id), entry)
}

/// Saves the command of an entry.
pub(super) fn save_body(
    records: &mut dyn Records,
    id: EntryId,
    body: &[u8],
) -> Result<(), ProfileError> {
    store::put(records, &body_key(id), &body)
}

/// Removes an entry and its command.
pub(super) fn remove(records: &mut dyn Records, id: EntryId) -> Result<(), ProfileError> {
    records.delete(&entry_key(id))?;
    records.delete(&body_key(id))
}

/// Returns the command of an entry. `None` if there is none, or if it cannot be read. That is no
/// error: one entry must not stop the others.
pub(super) fn body(records: &dyn Records, id: EntryId) -> Result<Option<Vec<u8>>, ProfileError> {
    let body = match store::get::<Vec<u8>>(records, &body_key(id)) {
        Err(ProfileError::Damaged(_)) => None,
        found => found?,
    };
    Ok(body.filter(|body| Request::parse(body).is_ok()))
}

/// Changes an entry if it is not settled.
pub(super) fn change(
    records: &mut dyn Records,
    id: EntryId,
    change: impl FnOnce(&mut Entry),
) -> Result<(), ProfileError> {
    if let Some(mut entry) = find(records, id)? {
        change(&mut entry);
        save(records, id, &entry)?;
    }
    Ok(())
}

/// True if there are entries that are not settled.
pub(super) fn has_entries(records: &dyn Records) -> Result<bool, ProfileError> {
    Ok(!records.scan(b"e/", b"", 1)?.is_empty())
}

/// Returns the last entry other than `except` that may have logged a user in on a realm.
pub(super) fn last_login(
    records: &dyn Records,
    realm: RealmNumber,
    except: Option<EntryId>,
) -> Result<Option<EntryId>, ProfileError> {
    let mut last = None;
    for (other, entry) in list(records)? {
        let is_there = Some(other) != except && entry.account.realm == realm && entry.left;
        if is_there && entry.is_login(records)? {
            last = Some(other);
        }
    }
    Ok(last)
}
