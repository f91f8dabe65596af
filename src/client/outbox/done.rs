//! The outcomes of entries, until they are reported.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::{self, EntryId, Reason, Waiting, id_in};
use crate::client::{
    ProfileError,
    state::Account,
    store::{self, Records},
};

/// The maximum number of outcomes that are kept until they are reported.
const DONE_MAX: usize = 1000;

/// The outcome of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The realm's answer.
    Answer(Vec<u8>),
    /// It has not been executed, and never will be.
    NotDone(Reason),
    /// The realm keeps no record of its number any more: it may have been executed or not.
    Unknown,
}

impl Outcome {
    /// Returns the outcome of an entry whose command cannot be read, so that it is not sent any
    /// more. `left` says whether bytes of it may have been sent.
    pub const fn of_damaged(left: bool) -> Self {
        if left {
            Self::Unknown
        } else {
            Self::NotDone(Reason::Damaged)
        }
    }
}

/// The outcome of an entry, until it is reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The account it belonged to.
    pub account: Account,
    /// A description for people.
    pub what: String,
    /// Its outcome.
    pub outcome: Outcome,
    /// While this wait lasts, only its caller takes the outcome. Afterwards any process may report
    /// it.
    pub waiting: Waiting,
}

pub(super) fn done_key(id: EntryId) -> Vec<u8> {
    [b"d/".as_slice(), &id.0.to_be_bytes()].concat()
}

/// Removes and returns the outcome of an entry, to report it.
pub(super) fn take_done(
    records: &mut dyn Records,
    id: EntryId,
) -> Result<Option<Outcome>, ProfileError> {
    let outcome = done(records, id)?;
    if outcome.is_some() {
        records.delete(&done_key(id))?;
    }
    Ok(outcome)
}

/// Returns the outcome of an entry without removing it.
pub(super) fn done(records: &dyn Records, id: EntryId) -> Result<Option<Outcome>, ProfileError> {
    let done = store::get::<Done>(records, &done_key(id))?;
    Ok(done.map(|done| done.outcome))
}

/// True if the outcome of an entry is known, or there is no such entry.
pub(super) fn is_done(records: &dyn Records, id: EntryId) -> Result<bool, ProfileError> {
    Ok(entry::find(records, id)?.is_none())
}

/// True if the outcome of an entry is known and has not been reported.
pub(super) fn has_done_of(records: &dyn Records, id: EntryId) -> Result<bool, ProfileError> {
    Ok(records.get(&done_key(id))?.is_some())
}

/// True if [`take_untold`] may have something to report.
pub(super) fn has_done(records: &dyn Records) -> Result<bool, ProfileError> {
    Ok(!records.scan(b"d/", b"", 1)?.is_empty())
}

/// Removes and returns the outcomes of entries of `account` for which no call waits any more.
pub(super) fn take_untold(
    records: &mut dyn Records,
    account: &Account,
    now: Duration,
) -> Result<Vec<(EntryId, Done)>, ProfileError> {
    let found = records.scan(b"d/", b"", usize::MAX)?;
    let surplus = found.len().saturating_sub(DONE_MAX);
    let mut untold = Vec::new();
    for (at, (key, value)) in found.into_iter().enumerate() {
        let done: Done = store::parse(records, &key, &value)?;
        // Outcomes of entries that belong to nobody are reported to any user.
        let is_of = done.account == *account || done.account.is_nobody_of(account.realm);
        let is_ours = is_of && !done.waiting.is_on(now);
        if is_ours || at < surplus {
            records.delete(&key)?;
        }
        if is_ours {
            untold.push((id_in(records, &key)?, done));
        }
    }
    Ok(untold)
}
