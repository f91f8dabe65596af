//! Which entries are to be sent next, and under which numbers.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Aim, Before, ENTRY_LIFETIME, Entry, EntryId, Outcome, Reason, Scope, body, entry_key, list,
    millis, seconds_up, settle,
};
use crate::{
    client::{
        ProfileError,
        state::{self, Account, RealmNumber},
        store::{self, Records},
    },
    faults::{Fault, is_planted},
    wire::{OperationNumber, Request, SessionId, SessionRef},
};

/// The realm tells so many numbers up to the highest apart (EXACT-3): no number is given out that is so far above one that
/// is not settled (EXACT-12).
const WINDOW: u64 = 256;
/// An entry that another process has begun is left to it for so long.
const STUCK: Duration = Duration::from_secs(45);
/// The longest pause before an entry is tried again.
pub const PAUSE_MAX: Duration = Duration::from_hours(1);
/// Operation numbers are below this: 2^62.
const VARINT_MAX: u64 = (1 << 62) - 1;
/// Entries that are on their way at once.
pub const ON_THE_WAY_MAX: usize = 64;

/// An entry to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// The entry.
    pub id: EntryId,
    /// Whose it is.
    pub account: Account,
    /// Its number.
    pub number: OperationNumber,
    /// Its command, not numbered; none where it carried a password.
    pub body: Option<Vec<u8>>,
    /// What is to be done with it.
    pub aim: Aim,
    /// It logs somebody in, with a password that is not here.
    pub is_login: bool,
    /// Its session is named in full, and was not when it was typed.
    pub is_named_here: bool,
    /// It is the first time that anything of it leaves.
    pub is_first: bool,
    /// Bytes of it may have left before.
    pub left: bool,
    /// How often it was begun before.
    pub attempts: u32,
    /// For how long somebody waits for it; none for nobody.
    pub waited: Option<Duration>,
}

/// What is due.
#[derive(Debug, Default)]
pub struct Due {
    /// To be sent now.
    pub picked: Vec<Picked>,
    /// When to look again, if nothing changes before, since 1970.
    pub next: Option<Duration>,
    /// Something has been settled.
    pub has_settled: bool,
}

impl Due {
    /// Looks again at `time`, since 1970, or before.
    fn look_at(&mut self, time: Duration) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }
}

/// True when an entry has to wait for one that was typed before it. A login waits for logins only, lest an earlier one that
/// was delayed undoes it; what other users began stays theirs (EXACT-6).
pub fn is_blocked(records: &dyn Records, id: EntryId) -> Result<bool, ProfileError> {
    Ok(first_before(records, id)?.is_some())
}

/// The first entry that one has to wait for.
pub fn first_before(records: &dyn Records, id: EntryId) -> Result<Option<EntryId>, ProfileError> {
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

/// Picks what is to be sent of `account`'s entries, except those that are `on_the_way` with the same aim, and gives it numbers. Where nobody
/// is logged in, only what somebody waits for. At most so many are on their way at once.
pub fn pick(
    records: &mut dyn Records,
    account: &Account,
    now: Duration,
    (on_the_way, is_logged_in, most): (&BTreeMap<EntryId, Aim>, bool, usize),
) -> Result<Due, ProfileError> {
    let mut due = Due::default();
    let entries = list(records)?;
    let same_realm = |entry: &Entry| entry.account.realm == account.realm;
    // Where there may be one only, it is the one of which something has left before.
    let mut left = entries
        .iter()
        .filter(|(_, entry)| same_realm(entry) && entry.left && entry.account == *account);
    let only = left.next().map(|(id, _)| *id).filter(|_| most == 1);
    let (mut before, mut is_full) = (Before::default(), false);
    for (id, mut entry) in entries {
        let scope = entry.scope(records)?;
        // Whoever logs in keeps all of the realm's entries waiting. Those of other users wait for theirs to log in.
        let is_login = entry.is_login(records)?;
        if same_realm(&entry) && entry.account != *account && !is_login {
            release(records, (id, &mut entry), now)?;
        }
        // Whoever is logged in uses up the numbers of what nobody's passwords were for.
        let is_ours = entry.account == *account
            || (entry.is_secret && entry.account.is_nobody_of(account.realm))
            || is_planted(Fault::OutboxOfAnybody);
        if !same_realm(&entry) || (!is_ours && !is_login) {
            continue;
        }
        let is_blocked = before.meets(scope) && !is_planted(Fault::OutboxInNoOrder);
        before.add(scope);
        // An attempt that is on its way goes on for long: what expires meanwhile is taken back.
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
            settle(records, id, &Outcome::NotDone(reason))?;
            due.has_settled = true;
            continue;
        }
        let is_held =
            (!is_logged_in && !entry.waiting.is_on(now)) || only.is_some_and(|only| only != id);
        if entry.aim == Aim::Do && (is_held || is_blocked) {
            // Somebody logs in first, or what is before it is settled; both are changes.
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
        // One that is on its way with another aim is begun anew.
        let others = on_the_way.len() - usize::from(on_the_way.contains_key(&id));
        if due.picked.len() + others >= most {
            break;
        }
        if entry.number.is_none() && is_full {
            continue;
        }
        match begin(records, (id, &mut entry), now)? {
            Some(picked) => due.picked.push(picked),
            // The next look at it comes when something is settled.
            None => is_full = true,
        }
    }
    Ok(due)
}

/// Entries of a user who is not logged in wait for that. A number from before another user's login is of no use to them any
/// more (EXACT-6), and must not keep that user's waiting (EXACT-12).
fn release(
    records: &mut dyn Records,
    (id, entry): (EntryId, &mut Entry),
    now: Duration,
) -> Result<(), ProfileError> {
    if entry.end_if_over(now) && !entry.left {
        if let Aim::Cancel(reason) = entry.aim {
            settle(records, id, &Outcome::NotDone(reason))?;
        }
        return Ok(());
    }
    let since = state::load(records, entry.account.realm)?.since;
    if !entry.left && entry.number.is_some_and(|number| number <= since) {
        entry.number = None;
        store::put(records, &entry_key(id), entry)?;
    }
    Ok(())
}

/// Picks one entry that another process should have taken up and has not, if nothing is before it.
pub fn pick_one(
    records: &mut dyn Records,
    id: EntryId,
    now: Duration,
) -> Result<Option<Picked>, ProfileError> {
    match super::find(records, id)? {
        Some(entry)
            if !entry.is_secret
                && entry.begun.saturating_add(millis(STUCK)) <= millis(now)
                && entry.not_before <= millis(now)
                && !is_blocked(records, id)? =>
        {
            begin_now(records, id, now)
        }
        _ => Ok(None),
    }
}

/// Writes down that an entry leaves now: one with a password, which only its caller has, or one that the carrier left.
pub fn begin_now(
    records: &mut dyn Records,
    id: EntryId,
    now: Duration,
) -> Result<Option<Picked>, ProfileError> {
    match super::find(records, id)? {
        Some(mut entry) => begin(records, (id, &mut entry), now),
        None => Ok(None),
    }
}

/// A number for an entry that is added, above all that were used. None where one of the same user's is so far below it that
/// the realm would forget it (EXACT-12); the entry gets one when it leaves.
pub fn take_early(
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

/// A number for an entry that leaves. Only numbers of what may have left count: the outcome of others is certain.
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
    // What is that far below is forgotten already: it guards nothing.
    let lowest = lowest.filter(|lowest| lowest + WINDOW > highest);
    let lowest = lowest.filter(|_| !is_planted(Fault::NumbersWithoutWindow));
    if number >= VARINT_MAX || lowest.is_some_and(|lowest| number >= lowest + WINDOW) {
        return Ok(None);
    }
    state::update(records, realm, |state| state.highest = number)?;
    Ok(Some(number))
}

/// Writes down that an entry leaves, under a number, if there is one for it.
fn begin(
    records: &mut dyn Records,
    (id, entry): (EntryId, &mut Entry),
    now: Duration,
) -> Result<Option<Picked>, ProfileError> {
    let is_login = entry.is_login(records)?;
    // A number above that of a login whose outcome is not known might be the next user's.
    let logs_in = super::last_login(records, entry.account.realm, id)?;
    if entry.number.is_none()
        && !is_login
        && logs_in.is_some()
        && !is_planted(Fault::NumbersOverLogin)
    {
        return Ok(None);
    }
    let number = match entry.number {
        Some(number) => number,
        None => match take(records, entry.account.realm)? {
            Some(number) => {
                name_session(records, id, entry)?;
                number
            }
            None => return Ok(None),
        },
    };
    let (left, attempts) = (entry.left, entry.attempts);
    entry.number = Some(number);
    // From here on it may leave, whatever becomes of this process.
    entry.left = true;
    entry.attempts = attempts.saturating_add(1);
    entry.begun = millis(now);
    store::put(records, &entry_key(id), entry)?;
    let waited = entry.waiting.is_on(now);
    let until = Duration::from_millis(entry.waiting.until);
    Ok(Some(Picked {
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
        waited: waited.then(|| until.saturating_sub(now)),
    }))
}

/// A command that gets another number in an old copy of a profile names its session in full from then on: the device's latest may be
/// of another user by now (EXACT-8).
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

/// Gives a command's session another name, if there is one for it.
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
    store::put(records, &super::body_key(id), &request.to_bytes())
}

/// A command that was asked in the profile's own session, which has ended, is to be asked in its user's next one.
pub fn unname(
    records: &mut dyn Records,
    id: EntryId,
    session: Option<[u8; 16]>,
) -> Result<(), ProfileError> {
    let ended = SessionRef::Named(SessionId(session.unwrap_or_default()));
    rename(records, id, &|session| {
        (session == ended).then_some(SessionRef::Bound)
    })
}

/// True when a command has been given its session's name here: it is longer than it was when it was typed.
fn is_named_here(records: &dyn Records, id: EntryId, entry: &Entry) -> Result<bool, ProfileError> {
    let len = body(records, id)?.map_or(0, |body| body.len());
    Ok(u32::try_from(len).is_ok_and(|len| len > entry.bytes))
}

/// The command of an entry. What a message is worth counts from when it was typed: what it has waited here is gone.
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
    // A clock that was set back makes it worth no more than it was.
    request.options.ttl = request.options.ttl.map(|ttl| ttl.min(left));
    Ok(Some(request.to_bytes()))
}

impl Entry {
    fn scope(&self, records: &dyn Records) -> Result<Scope, ProfileError> {
        Scope::from_text(&self.scope).ok_or_else(|| records.damaged())
    }

    /// It logs somebody in, or changes who may: with a password, about the account.
    pub(super) fn is_login(&self, records: &dyn Records) -> Result<bool, ProfileError> {
        Ok(self.is_secret && self.scope(records)? == Scope::Account)
    }

    /// Nothing is tried before `time`, since 1970.
    pub fn wait_until(&mut self, time: Duration) {
        self.not_before = millis(time);
    }

    /// Ends an entry that nobody can do any more, or that is worth nothing any more. True when it is not to be done.
    fn end_if_over(&mut self, now: Duration) -> bool {
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

    /// When it is worth looking at the entry again, in milliseconds since 1970.
    fn next_look(&self) -> u64 {
        if self.is_secret && self.aim == Aim::Do {
            return self.waiting.until;
        }
        self.not_before
    }

    /// Nothing waits for so long honestly: a clock was set back, or a realm makes fun of us.
    fn is_too_far(&self, look: u64, now: Duration) -> bool {
        self.aim == Aim::Do && !self.is_secret && look > millis(now + PAUSE_MAX)
    }
}
