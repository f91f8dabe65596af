//! Decides which entries are sent next, and under which numbers.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Outbox,
    done::Outcome,
    entry::{self, Aim, Entry, EntryId, body, list, millis, seconds_up},
    scope::Before,
};
use crate::{
    client::{
        ProfileError,
        state::{self, Account, RealmNumber},
        store::Records,
    },
    faults::{Fault, is_planted},
    wire::{OperationNumber, Request, SessionId, SessionRef},
};

/// The realm distinguishes this many numbers up to the highest (EXACT-3). No number is assigned
/// that is this far above an unsettled one (EXACT-12).
const WINDOW: u64 = 256;
/// An entry that another process has started is left to it for this time.
const STUCK: Duration = Duration::from_secs(45);
/// Operation numbers are below this: 2^62 - 1.
const VARINT_MAX: u64 = (1 << 62) - 1;
/// The maximum number of entries in flight.
pub const ON_THE_WAY_MAX: usize = 64;

/// An entry to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Its id.
    pub id: EntryId,
    /// The account it belongs to.
    pub account: Account,
    /// Its operation number.
    pub number: OperationNumber,
    /// Its command, without a number. `None` if it carried a password.
    pub body: Option<Vec<u8>>,
    /// What to do with it.
    pub aim: Aim,
    /// It is a login or changes the login. Its password is not here.
    pub is_login: bool,
    /// Its session was named in full here, not when it was typed.
    pub is_named_here: bool,
    /// This is its first attempt.
    pub is_first: bool,
    /// Bytes of it may have been sent before.
    pub left: bool,
    /// How many attempts were started before.
    pub attempts: u32,
    /// How long its caller still waits. `None` if no caller waits.
    pub waited: Option<Duration>,
}

impl Picked {
    /// True unless another process has started another attempt in the meantime.
    pub(super) const fn is_latest_of(&self, entry: &Entry) -> bool {
        entry.attempts == self.attempts + 1
    }
}

/// The due entries.
#[derive(Debug, Default)]
pub struct Due {
    /// The entries to send now.
    pub picked: Vec<Picked>,
    /// When to check again if nothing changes earlier, since 1970.
    pub next: Option<Duration>,
    /// An entry has been settled.
    pub has_settled: bool,
    /// Entries that may have been sent, and have been settled as unknown because their commands
    /// cannot be read any more. Their outcomes do not say so.
    pub damaged: Vec<EntryId>,
}

/// What came of an entry that was to be sent.
enum Begun {
    /// It is to be sent.
    Picked(Picked),
    /// No number is available for it.
    NoNumber,
    /// Its command cannot be read. It has been settled.
    Damaged,
}

impl Due {
    /// Makes the next check happen at `time`, since 1970, or earlier.
    fn look_at(&mut self, time: Duration) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }

    /// Records what came of `entry`. False if no number is available.
    fn take(&mut self, id: EntryId, left: bool, begun: Begun) -> bool {
        match begun {
            Begun::Picked(picked) => self.picked.push(picked),
            Begun::NoNumber => return false,
            Begun::Damaged => {
                self.has_settled = true;
                self.damaged.extend(left.then_some(id));
            }
        }
        true
    }
}

/// True if an entry has to wait for an earlier one. A login waits for logins only, so that a
/// delayed earlier login does not undo it. Entries of another user remain that user's (EXACT-6).
pub(super) fn is_blocked(records: &dyn Records, id: EntryId) -> Result<bool, ProfileError> {
    Ok(first_before(records, id)?.is_some())
}

/// Returns the first entry that this entry has to wait for.
pub(super) fn first_before(
    records: &dyn Records,
    id: EntryId,
) -> Result<Option<EntryId>, ProfileError> {
    let entries = list(records)?;
    let Some((_, own)) = entries.iter().find(|(other, _)| *other == id) else {
        return Ok(None);
    };
    let (is_login, scope) = (own.is_login(records)?, own.scope(records)?);
    for (other, entry) in entries.iter().take_while(|(other, _)| *other < id) {
        let logs_in = entry.account.realm == own.account.realm && entry.is_login(records)?;
        if logs_in || (!is_login && entry.account == own.account) {
            let mut before = Before::default();
            before.add(entry.scope(records)?);
            if before.meets(scope) {
                return Ok(Some(*other));
            }
        }
    }
    Ok(None)
}

/// What the carrier knows when it picks entries.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The account whose entries are picked.
    pub account: &'a Account,
    /// The current time, since 1970.
    pub now: Duration,
    /// The entries in flight, and with which aim.
    pub on_the_way: &'a BTreeMap<EntryId, Aim>,
    /// Its user is logged in. Otherwise only entries with a waiting caller are picked.
    pub is_logged_in: bool,
    /// How many entries may be in flight at once.
    pub most: usize,
}

/// Picks the entries to send, and assigns numbers. Skips those in flight with the same aim.
pub(super) fn pick(
    records: &mut dyn Records,
    situation: &Situation<'_>,
) -> Result<Due, ProfileError> {
    let Situation {
        account,
        now,
        on_the_way,
        is_logged_in,
        most,
    } = *situation;
    let mut due = Due::default();
    let entries = list(records)?;
    let same_realm = |entry: &Entry| entry.account.realm == account.realm;
    // If only one may be in flight, it is the one that may have been sent before.
    let mut left = entries
        .iter()
        .filter(|(_, entry)| same_realm(entry) && entry.left && entry.account == *account);
    let only = left.next().map(|(id, _)| *id).filter(|_| most == 1);
    let (mut before, mut is_full) = (Before::default(), false);
    for (id, mut entry) in entries {
        let scope = entry.scope(records)?;
        // Any login makes all later entries of the realm wait. Entries of other users wait for
        // their user's login.
        let is_login = entry.is_login(records)?;
        if same_realm(&entry) && entry.account != *account && !is_login {
            release(records, id, &mut entry, now)?;
        }
        // The logged-in user also cancels commands with passwords that nobody was logged in for.
        let is_ours = entry.account == *account
            || (entry.is_secret && entry.account.is_nobody_of(account.realm))
            || is_planted(Fault::OutboxOfAnybody);
        if !same_realm(&entry) || (!is_ours && !is_login) {
            continue;
        }
        let is_blocked = before.meets(scope) && !is_planted(Fault::OutboxInNoOrder);
        before.add(scope);
        // An attempt in flight takes long: an entry that expires meanwhile is cancelled.
        let is_over = entry.end_if_over(now);
        if let (Aim::Do, Some(expires)) = (entry.aim, entry.expires) {
            due.look_at(Duration::from_secs(expires));
        }
        if on_the_way.get(&id) == Some(&entry.aim) {
            continue;
        }
        if is_over && !entry.left {
            let Aim::Cancel(reason) = entry.aim else {
                continue;
            };
            Outbox::of(records).settle(id, &Outcome::NotDone(reason))?;
            due.has_settled = true;
            continue;
        }
        let is_held =
            (!is_logged_in && !entry.waiting.is_on(now)) || only.is_some_and(|only| only != id);
        if entry.aim == Aim::Do && (is_held || is_blocked) {
            // A login, or the end of an earlier entry, comes first. Both are changes.
            continue;
        }
        let later = entry.next_look();
        if later > millis(now) && !entry.is_too_far(later, now) {
            due.look_at(Duration::from_millis(later));
            continue;
        }
        if entry.is_secret && entry.aim == Aim::Do {
            continue;
        }
        // An attempt with another aim is restarted.
        let others = on_the_way.len() - usize::from(on_the_way.contains_key(&id));
        if due.picked.len() + others >= most {
            break;
        }
        if entry.number.is_none() && is_full {
            continue;
        }
        let left = entry.left;
        let begun = begin(records, id, &mut entry, now)?;
        // Without a number it is checked again when an entry is settled.
        is_full |= !due.take(id, left, begun);
    }
    Ok(due)
}

/// Releases the number of an entry whose user is not logged in. The entry waits for that user's
/// login. A number from before another user's login is useless to it (EXACT-6), and must not block
/// the numbers of the logged-in user (EXACT-12).
fn release(
    records: &mut dyn Records,
    id: EntryId,
    entry: &mut Entry,
    now: Duration,
) -> Result<(), ProfileError> {
    if entry.end_if_over(now) && !entry.left {
        if let Aim::Cancel(reason) = entry.aim {
            Outbox::of(records).settle(id, &Outcome::NotDone(reason))?;
        }
        return Ok(());
    }
    let since = state::load(records, entry.account.realm)?.since;
    if !entry.left && entry.number.is_some_and(|number| number <= since) {
        entry.number = None;
        entry::save(records, id, entry)?;
    }
    Ok(())
}

/// Picks an entry that another process should have sent and has not, if nothing is before it.
pub(super) fn pick_one(
    records: &mut dyn Records,
    id: EntryId,
    now: Duration,
) -> Result<Due, ProfileError> {
    let mut due = Due::default();
    if let Some(mut entry) = entry::find(records, id)?
        && !entry.is_secret
        && entry.begun.saturating_add(millis(STUCK)) <= millis(now)
        && entry.not_before <= millis(now)
        && !is_blocked(records, id)?
    {
        let left = entry.left;
        let begun = begin(records, id, &mut entry, now)?;
        due.take(id, left, begun);
    }
    Ok(due)
}

/// Records that an entry is sent now: one with a password, which only its caller has, or one that
/// the carrier did not send.
pub(super) fn begin_now(
    records: &mut dyn Records,
    id: EntryId,
    now: Duration,
) -> Result<Option<Picked>, ProfileError> {
    let Some(mut entry) = entry::find(records, id)? else {
        return Ok(None);
    };
    Ok(match begin(records, id, &mut entry, now)? {
        Begun::Picked(picked) => Some(picked),
        Begun::NoNumber | Begun::Damaged => None,
    })
}

/// Returns a number for a new entry, above all used numbers. `None` if a number of the same user is
/// so far below it that the realm would forget it (EXACT-12). Then the entry gets a number when it
/// is sent.
pub(super) fn take_early(
    records: &mut dyn Records,
    account: &Account,
) -> Result<Option<u64>, ProfileError> {
    let entries = list(records)?;
    let own = entries
        .iter()
        .filter(|(_, other)| other.account == *account);
    let lowest = own.filter_map(|(_, other)| other.number).min();
    take_above(records, account.realm, lowest)
}

/// Returns a number for an entry to send. Only numbers that may have been sent count: the outcome
/// of the others is certain.
fn take(records: &mut dyn Records, realm: RealmNumber) -> Result<Option<u64>, ProfileError> {
    let entries = list(records)?;
    let left = entries
        .iter()
        .filter(|(_, other)| other.account.realm == realm && other.left);
    let lowest = left.filter_map(|(_, other)| other.number).min();
    take_above(records, realm, lowest)
}

fn take_above(
    records: &mut dyn Records,
    realm: RealmNumber,
    lowest: Option<u64>,
) -> Result<Option<u64>, ProfileError> {
    let highest = state::load(records, realm)?.highest;
    let number = highest + 1;
    // A number that far below is forgotten already and protects nothing.
    let lowest = lowest.filter(|lowest| lowest + WINDOW > highest);
    let lowest = lowest.filter(|_| !is_planted(Fault::NumbersWithoutWindow));
    if number >= VARINT_MAX || lowest.is_some_and(|lowest| number >= lowest + WINDOW) {
        return Ok(None);
    }
    state::update(records, realm, |state| state.highest = number)?;
    Ok(Some(number))
}

/// Records that an entry is sent. Assigns a number if it has none. Settles an entry whose command
/// cannot be read: as an error it would stop all others. To cancel it, its command is not needed.
fn begin(
    records: &mut dyn Records,
    id: EntryId,
    entry: &mut Entry,
    now: Duration,
) -> Result<Begun, ProfileError> {
    if entry.aim == Aim::Do && !entry.is_secret && body(records, id)?.is_none() {
        Outbox::of(records).settle(id, &Outcome::of_damaged(entry.left))?;
        return Ok(Begun::Damaged);
    }
    let is_login = entry.is_login(records)?;
    // While the outcome of a login is unknown, a number above it might belong to the next user.
    let logs_in = entry::last_login(records, entry.account.realm, Some(id))?;
    if entry.number.is_none()
        && !is_login
        && logs_in.is_some()
        && !is_planted(Fault::NumbersOverLogin)
    {
        return Ok(Begun::NoNumber);
    }
    let number = match entry.number {
        Some(number) => number,
        None => match take(records, entry.account.realm)? {
            Some(number) => {
                name_session(records, id, entry)?;
                number
            }
            None => return Ok(Begun::NoNumber),
        },
    };
    let (left, attempts) = (entry.left, entry.attempts);
    entry.number = Some(number);
    // From here on it may be sent, even if this process ends.
    entry.left = true;
    entry.attempts = attempts.saturating_add(1);
    entry.begun = millis(now);
    entry::save(records, id, entry)?;
    Ok(Begun::Picked(Picked {
        id,
        account: entry.account.clone(),
        number: OperationNumber(number),
        body: shortened(records, id, entry, now)?,
        aim: entry.aim,
        is_login,
        is_named_here: is_named_here(records, id, entry)?,
        is_first: attempts == 0,
        left,
        attempts,
        waited: entry.waiting.left(now),
    }))
}

/// Names the session in full in a command that gets another number in an old copy of a profile: the
/// device's latest session may be another user's by now (EXACT-8).
fn name_session(records: &mut dyn Records, id: EntryId, entry: &Entry) -> Result<(), ProfileError> {
    let state = state::load(records, entry.account.realm)?;
    let is_own = state.username.as_deref() == Some(entry.account.username.as_str());
    let named = state.session_ref().filter(|_| is_own);
    let Some(named) = named else {
        return Ok(());
    };
    let is_ours = is_named_here(records, id, entry)?;
    rename(records, id, &|session| {
        let is_other = session != named && (is_ours || session == SessionRef::Bound);
        is_other.then_some(named)
    })
}

/// Replaces the session of a command if `name` returns another one.
fn rename(
    records: &mut dyn Records,
    id: EntryId,
    name: &dyn Fn(SessionRef) -> Option<SessionRef>,
) -> Result<(), ProfileError> {
    let Some(bytes) = body(records, id)? else {
        return Ok(());
    };
    let mut request = Request::parse(&bytes).map_err(|_| records.damaged())?;
    let session = request.command.session_mut();
    match session.and_then(|session| name(*session).map(|name| (session, name))) {
        Some((session, name)) => *session = name,
        None => return Ok(()),
    }
    entry::save_body(records, id, &request.to_bytes())
}

/// Rebinds a command that named the profile's ended session, so that it is sent in its user's next
/// one.
pub(super) fn unname(
    records: &mut dyn Records,
    id: EntryId,
    session: Option<[u8; 16]>,
) -> Result<(), ProfileError> {
    let Some(session) = session else {
        return Ok(());
    };
    let ended = SessionRef::Named(SessionId(session));
    rename(records, id, &|session| {
        (session == ended).then_some(SessionRef::Bound)
    })
}

/// True if the session of a command was named here: the command is longer than when it was typed.
fn is_named_here(records: &dyn Records, id: EntryId, entry: &Entry) -> Result<bool, ProfileError> {
    let len = body(records, id)?.map_or(0, |body| body.len());
    Ok(u32::try_from(len).is_ok_and(|len| len > entry.bytes))
}

/// Returns the command of an entry, as [`body`]. The time to live of a message counts from when it
/// was typed, so the time it has waited here is deducted.
fn shortened(
    records: &dyn Records,
    id: EntryId,
    entry: &Entry,
    now: Duration,
) -> Result<Option<Vec<u8>>, ProfileError> {
    let body = body(records, id)?;
    let (Some(expires), Some(bytes)) = (entry.expires, &body) else {
        return Ok(body);
    };
    let Ok(mut request) = Request::parse(bytes) else {
        return Err(records.damaged());
    };
    if is_planted(Fault::LifetimeFromDeparture) {
        return Ok(Some(bytes.clone()));
    }
    let left = expires.saturating_sub(seconds_up(now)).max(1);
    // A clock that was set back does not extend the time to live.
    request.options.ttl = request.options.ttl.map(|ttl| ttl.min(left));
    Ok(Some(request.to_bytes()))
}
