//! What a profile knows of realms, its accounts there, and the messages shown.
//!
//! ```text
//! n                          the realm that commands are for, and the next realm number
//! r/ realm 4                 a realm's address and key, user and session, the operation counter
//! l/ realm 4                 earlier lives of the realm's current store, 4 bytes each
//! c/ realm 4 user / mailbox  how far a mailbox of an account has been shown
//! s                          the traffic of all runs
//! ```
//!
//! Records belong to a realm's key, and those of an account also to its user. A profile that
//! returns to a realm or a user finds the earlier state, and never mixes the two.

use serde::{Deserialize, Serialize};

use super::{
    ProfileError, Spending,
    life::LifeTold,
    store::{self, Pair, Records},
};
use crate::{
    crypto::{ConnectionString, PublicKey},
    wire::{
        Answer, Command, Entry, Fragment, Life, Mailbox, Options, SessionId, SessionRef, command,
    },
};

/// A realm that reports a higher leap of operation numbers is not believed: it would use them up.
const HIGHEST_LEAP_MAX: u64 = 1 << 32;
/// Stands for an unknown session id.
pub const UNNAMED: [u8; 16] = [0; 16];
/// Bytes of earlier lives that are remembered: messages of these may still wait to be shown.
const EARLIER_LIVES_BYTES: usize = 16 * 4;
/// The maximum number of realms of a profile. Those never heard from go first.
const REALMS_MAX: usize = 256;

/// The number of a realm in a profile, independent of its current key and address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RealmNumber(pub u32);

/// The realm that commands are for.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Current {
    realm: Option<RealmNumber>,
    next: u32,
}

/// What is remembered of a realm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The realm's connection string.
    pub server: String,
    /// The link is not encrypted (a plain listener).
    pub plain: bool,
    /// The user who is logged in, or was last.
    pub username: Option<String>,
    /// The id of the session.
    pub session: Option<[u8; 16]>,
    /// The round-trip time, in microseconds.
    pub rtt_us: Option<u64>,
    /// The highest operation number used.
    pub highest: u64,
    /// Earlier keys of the realm, each of which has vouched for the next.
    pub former: Vec<[u8; 32]>,
    /// The life of its store that was reported last.
    pub life: Option<[u8; 4]>,
    /// It has been heard from.
    pub is_heard: bool,
    /// The realm or the user has ended the session: nobody is logged in.
    pub is_logged_out: bool,
    /// The profile or the realm is an old copy of itself. The device's latest session may be
    /// another user's, so commands name their session in full.
    pub names_session: bool,
    /// The number of the command that opened the session. Lower numbers do nothing in it (EXACT-6).
    pub since: u64,
}

/// A user on a realm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Account {
    /// The realm.
    pub realm: RealmNumber,
    /// The user; empty before the first login.
    pub username: String,
}

impl Account {
    /// True if this stands for any user of `realm` before the first known login there.
    pub const fn is_nobody_of(&self, realm: RealmNumber) -> bool {
        self.realm.0 == realm.0 && self.username.is_empty()
    }
}

/// How far a mailbox has been shown to its reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The position of the last message shown in full.
    pub position: u64,
    /// How many bytes of the next message have been shown.
    pub offset: u64,
    /// The realm knows that everything up to this position has been shown.
    pub confirmed: u64,
}

impl Cursor {
    /// Returns the options to continue reading after the last message shown.
    pub fn reading(self) -> Options {
        Options {
            after: Some(self.position),
            offset: (self.offset > 0).then_some(self.offset),
            ..Options::NONE
        }
    }

    /// Records that `entry`, or this fragment of an entry, has been shown.
    fn show(&mut self, entry: &Entry) {
        let position = entry.position.0;
        match entry.fragment {
            Some(Fragment { offset, total }) if offset + (entry.body.len() as u64) < total => {
                let before = position.saturating_sub(1);
                if before >= self.position {
                    self.position = before;
                    self.offset = offset + entry.body.len() as u64;
                }
            }
            _ if position > self.position => (self.position, self.offset) = (position, 0),
            _ => {}
        }
    }
}

fn realm_key(realm: RealmNumber) -> Vec<u8> {
    [b"r/".as_slice(), &realm.0.to_be_bytes()].concat()
}

fn earlier_lives_key(realm: RealmNumber) -> Vec<u8> {
    [b"l/".as_slice(), &realm.0.to_be_bytes()].concat()
}

fn cursors_key(account: &Account) -> Vec<u8> {
    [
        b"c/".as_slice(),
        &account.realm.0.to_be_bytes(),
        account.username.as_bytes(),
        b"/",
    ]
    .concat()
}

fn cursor_key(account: &Account, mailbox: &Mailbox) -> Vec<u8> {
    let mut key = cursors_key(account);
    key.extend_from_slice(mailbox.to_string().as_bytes());
    key
}

fn current(records: &dyn Records) -> Result<Current, ProfileError> {
    Ok(store::get(records, b"n")?.unwrap_or_default())
}

/// Returns the realm that commands are for by default.
pub fn remembered(records: &dyn Records) -> Result<Option<RealmNumber>, ProfileError> {
    Ok(current(records)?.realm)
}

/// Makes `realm` the default realm for commands.
pub fn remember(records: &mut dyn Records, realm: RealmNumber) -> Result<(), ProfileError> {
    let now = current(records)?;
    if now.realm == Some(realm) {
        return Ok(());
    }
    store::put(
        records,
        b"n",
        &Current {
            realm: Some(realm),
            ..now
        },
    )
}

/// Loads the state of a realm.
pub fn load(records: &dyn Records, realm: RealmNumber) -> Result<State, ProfileError> {
    Ok(store::get(records, &realm_key(realm))?.unwrap_or_default())
}

/// Saves the state of a realm.
pub fn save(
    records: &mut dyn Records,
    realm: RealmNumber,
    state: &State,
) -> Result<(), ProfileError> {
    store::put(records, &realm_key(realm), state)
}

/// Changes the state of a realm.
pub fn update<T>(
    records: &mut dyn Records,
    realm: RealmNumber,
    change: impl FnOnce(&mut State) -> T,
) -> Result<T, ProfileError> {
    let before = load(records, realm)?;
    let mut state = before.clone();
    let result = change(&mut state);
    if state != before {
        save(records, realm, &state)?;
    }
    Ok(result)
}

/// Returns all known realms.
pub fn realms(records: &dyn Records) -> Result<Vec<(RealmNumber, State)>, ProfileError> {
    let found = records.scan(b"r/", b"", REALMS_MAX)?;
    let one = |(key, value): &Pair| {
        let state = store::parse(records, key, value)?;
        let number = key
            .get(2..)
            .and_then(|number| number.try_into().ok())
            .ok_or_else(|| records.damaged())?;
        Ok((RealmNumber(u32::from_be_bytes(number)), state))
    };
    found.iter().map(one).collect()
}

/// Returns the realm that a connection string names, and the string to reach it. The known key
/// replaces a missing or former key. An unknown realm gets a number.
pub fn find_or_add(
    records: &mut dyn Records,
    server: &ConnectionString,
    plain: bool,
) -> Result<(RealmNumber, ConnectionString), ProfileError> {
    let known = realms(records)?;
    for (number, state) in &known {
        if let Some(server) = state.same_realm(server, plain) {
            return Ok((*number, server));
        }
    }
    for (number, state) in &known {
        if !state.is_heard && known.len() > REALMS_MAX / 2 {
            records.delete(&realm_key(*number))?;
        }
    }
    let now = current(records)?;
    let number = RealmNumber(now.next);
    store::put(
        records,
        b"n",
        &Current {
            next: now.next + 1,
            ..now
        },
    )?;
    let state = State {
        server: server.to_string(),
        plain,
        ..State::default()
    };
    save(records, number, &state)?;
    Ok((number, server.clone()))
}

impl State {
    /// The realm's connection string.
    pub fn connection_string(&self) -> Option<ConnectionString> {
        self.server.parse().ok()
    }

    /// Returns how to reach this realm by `server`, if `server` names it.
    fn same_realm(&self, server: &ConnectionString, plain: bool) -> Option<ConnectionString> {
        let known = self.connection_string()?;
        let is_same_place = (&known.host, known.port) == (&server.host, server.port);
        let is_same = match (server.key, known.key) {
            _ if self.plain || plain => self.plain == plain && is_same_place,
            (Some(key), Some(known)) => key == known || self.former.contains(&key.0),
            // A known key is not given up for a connection string without one.
            (None, _) => is_same_place,
            (Some(_), None) => false,
        };
        is_same.then(|| ConnectionString {
            key: known.key,
            ..server.clone()
        })
    }

    /// Records that the realm's key `from` has vouched for `to`. False if that was known.
    pub fn follow(&mut self, from: PublicKey, to: PublicKey) -> bool {
        let Some(server) = self
            .connection_string()
            .filter(|known| known.key == Some(from))
        else {
            return false;
        };
        self.server = ConnectionString {
            key: Some(to),
            ..server
        }
        .to_string();
        self.former.push(from.0);
        true
    }

    /// Returns how commands name the session: in full in an old copy, whose device may have
    /// another, and on a plain link, which authenticates no device. `None` on a plain link without
    /// one.
    pub fn session_ref(&self) -> Option<SessionRef> {
        match self.session {
            // A session whose id was in a lost answer cannot be named.
            Some(id) if self.plain || (self.names_session && id != UNNAMED) => {
                Some(SessionRef::Named(SessionId(id)))
            }
            _ => (!self.plain).then_some(SessionRef::Bound),
        }
    }

    /// The session's id, if it is known.
    pub fn named(&self) -> Option<SessionRef> {
        let id = self.session.filter(|id| *id != UNNAMED)?;
        Some(SessionRef::Named(SessionId(id)))
    }

    /// True if a command in the device's session may run in another user's: only the realm knows.
    pub fn is_in_doubt(&self, session: Option<SessionRef>) -> bool {
        self.names_session && !self.plain && session == Some(SessionRef::Bound)
    }

    /// Records the highest number that the realm has seen from this device. If it exceeds the
    /// profile's own, the profile is an old copy. Implausible numbers are ignored.
    pub fn learn_highest(&mut self, highest: u64) {
        if highest > self.highest && highest - self.highest <= HIGHEST_LEAP_MAX {
            self.names_session = true;
            self.highest = highest;
        }
    }

    /// Learns from an answer which account is logged in.
    pub fn learn(&mut self, command: &Command<'_>, answer: &Answer) {
        match (command, answer) {
            (
                Command::Auth(command::Auth { username, .. })
                | Command::Register(command::Register { username, .. }),
                Answer::Session(SessionId(id)),
            ) => {
                self.username = Some(username.as_str().into());
                self.session = Some(*id);
                (self.is_logged_out, self.names_session) = (false, false);
                self.since = command.operation().map_or(0, |own| own.number.0);
            }
            (Command::Logout(command::Logout { session, operation }), Answer::Done) => {
                let ended = match session {
                    // Another login may have overtaken the answer.
                    SessionRef::Bound => operation.number.0 > self.since,
                    SessionRef::Named(SessionId(id)) => self.session == Some(*id),
                };
                if ended {
                    self.session = None;
                    self.is_logged_out = true;
                }
            }
            _ => {}
        }
    }
}

/// Returns how far a mailbox has been shown. `None` if that is not known.
pub fn cursor(
    records: &dyn Records,
    account: &Account,
    mailbox: &Mailbox,
) -> Result<Option<Cursor>, ProfileError> {
    store::get(records, &cursor_key(account, mailbox))
}

/// Records how far a mailbox has been shown.
pub fn set_cursor(
    records: &mut dyn Records,
    account: &Account,
    mailbox: &Mailbox,
    cursor: Cursor,
) -> Result<(), ProfileError> {
    store::put(records, &cursor_key(account, mailbox), &cursor)
}

/// Returns how far all mailboxes of an account have been shown.
pub fn cursors(
    records: &dyn Records,
    account: &Account,
) -> Result<Vec<(Mailbox, Cursor)>, ProfileError> {
    let prefix = cursors_key(account);
    let mut found = Vec::new();
    for (key, value) in records.scan(&prefix, b"", usize::MAX)? {
        let name = key
            .get(prefix.len()..)
            .and_then(|name| core::str::from_utf8(name).ok());
        if let Some(mailbox) = name.and_then(|name| name.parse().ok()) {
            found.push((mailbox, store::parse(records, &key, &value)?));
        }
    }
    Ok(found)
}

/// Records that `entry`, or this fragment, was shown, with the life of the link it came on.
/// Positions of a lost store are not recorded (READ-9).
pub fn show(
    records: &mut dyn Records,
    account: &Account,
    mailbox: &Mailbox,
    (entry, life): (&Entry, Option<Life>),
) -> Result<(), ProfileError> {
    let before = cursor(records, account, mailbox)?;
    let mut cursor = before.unwrap_or_default();
    cursor.show(entry);
    if before == Some(cursor) || !knows_life(records, account.realm, life)? {
        return Ok(());
    }
    set_cursor(records, account, mailbox, cursor)
}

/// Records that the realm knows that everything up to `position` has been shown.
pub fn confirm(
    records: &mut dyn Records,
    account: &Account,
    mailbox: &Mailbox,
    position: u64,
) -> Result<(), ProfileError> {
    match cursor(records, account, mailbox)? {
        Some(cursor) if cursor.confirmed < position => {
            let cursor = Cursor {
                confirmed: position.min(cursor.position),
                ..cursor
            };
            set_cursor(records, account, mailbox, cursor)
        }
        _ => Ok(()),
    }
}

/// True if a life belongs to the store whose positions are known.
pub fn knows_life(
    records: &dyn Records,
    realm: RealmNumber,
    life: Option<Life>,
) -> Result<bool, ProfileError> {
    let Some(Life(life)) = life else {
        return Ok(load(records, realm)?.life.is_none());
    };
    Ok(load(records, realm)?.life == Some(life)
        || records
            .get(&earlier_lives_key(realm))?
            .is_some_and(|lives| lives.chunks(4).any(|earlier| earlier == life)))
}

/// Records the life that a realm reported. If it did not know the claimed life, it was restored
/// from a backup, and known positions belong to a lost store (READ-9).
pub fn learn_life(
    records: &mut dyn Records,
    realm: RealmNumber,
    told: LifeTold,
) -> Result<(), ProfileError> {
    let mut state = load(records, realm)?;
    let before = state.life.map(Life);
    // Another process may have learned another life since. Copies of the realm may not know each
    // other's lives. The next request claims the stored life.
    if before == told.life || (before.is_some() && before != told.claimed) {
        return Ok(());
    }
    state.life = told.life.map(|life| life.0);
    state.names_session |= told.is_unknown;
    save(records, realm, &state)?;
    let earlier = earlier_lives_key(realm);
    match before {
        _ if told.is_unknown => {
            records.delete(&earlier)?;
            forget_cursors(records, realm)
        }
        // Messages fetched in that life may be shown now.
        Some(Life(life)) => {
            let mut lives = records.get(&earlier)?.unwrap_or_default();
            lives.extend_from_slice(&life);
            lives.drain(..lives.len().saturating_sub(EARLIER_LIVES_BYTES));
            records.put(&earlier, &lives)
        }
        None => Ok(()),
    }
}

/// Forgets how far mailboxes have been shown.
fn forget_cursors(records: &mut dyn Records, realm: RealmNumber) -> Result<(), ProfileError> {
    let prefix = [b"c/".as_slice(), &realm.0.to_be_bytes()].concat();
    for (key, _) in records.scan(&prefix, b"", usize::MAX)? {
        records.delete(&key)?;
    }
    Ok(())
}

/// Returns the traffic of all runs. An unreadable record counts as none: nothing else uses it.
pub fn spending(records: &dyn Records) -> Spending {
    store::get(records, b"s").ok().flatten().unwrap_or_default()
}

/// Records the traffic of all runs.
pub fn save_spending(records: &mut dyn Records, spending: &Spending) -> Result<(), ProfileError> {
    store::put(records, b"s", spending)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::store::{Memory, write},
        wire::Position,
    };

    /// READ-9: what was shown is forgotten once per restore, whichever process learns of it first.
    #[test]
    fn life_unknown_resets_cursor_once() {
        let account = Account {
            realm: RealmNumber(0),
            username: "ann".into(),
        };
        let mailbox = Mailbox::Private;
        let life = |number| Some(Life([number; 4]));
        let told = |claimed, life, is_unknown| LifeTold {
            claimed,
            life,
            is_unknown,
        };
        let outcome = write(&Memory::default(), |records| {
            let learn = |records: &mut dyn Records, told| learn_life(records, account.realm, told);
            let show = |records: &mut dyn Records, position, life| {
                let entry = Entry {
                    position: Position(position),
                    time: 0,
                    content: 0,
                    fragment: None,
                    from: "bob".parse().expect("a name"),
                    read: false,
                    body: Vec::new(),
                };
                show(records, &account, &mailbox, (&entry, life))
            };
            let shown = |records: &dyn Records| {
                cursor(records, &account, &mailbox).map(|cursor| cursor.map(|c| c.position))
            };
            learn(records, told(None, life(1), false))?;
            show(records, 10, life(1))?;
            // Reported again, then an ordinary restart.
            learn(records, told(None, life(1), false))?;
            learn(records, told(life(1), life(2), false))?;
            assert_eq!(shown(records)?, Some(10));
            // A message fetched before the restart is shown after it.
            show(records, 11, life(1))?;
            assert_eq!(shown(records)?, Some(11));
            // A restored store may continue in the life of the copy, as on a full disk.
            learn(records, told(life(2), life(1), true))?;
            assert_eq!(shown(records)?, None);
            learn(records, told(life(1), life(2), false))?;
            show(records, 11, life(2))?;
            learn(records, told(life(2), life(3), true))?;
            assert_eq!(shown(records)?, None);
            // A message fetched before the restore is shown after it: its store is lost.
            show(records, 12, life(2))?;
            assert_eq!(shown(records)?, None);
            show(records, 3, life(3))?;
            learn(records, told(life(2), life(3), true))?;
            assert_eq!(shown(records)?, Some(3));
            // A late process has claimed a life that an older copy knows. That copy does not know
            // life 3.
            learn(records, told(life(2), life(4), false))?;
            show(records, 4, life(4))?;
            assert_eq!(shown(records)?, Some(3));
            // A report from before that arrives late.
            learn(records, told(life(2), life(5), true))?;
            assert_eq!(shown(records)?, Some(3));
            learn(records, told(life(3), life(4), false))?;
            show(records, 4, life(4))?;
            assert_eq!(shown(records)?, Some(4));
            learn(records, told(life(4), None, true))?;
            assert_eq!(shown(records)?, None);
            Ok(())
        });
        outcome.unwrap();
    }

    #[test]
    fn profile_realm_is_found_by_key_at_any_address() {
        let key = "Qn6PtzrA4MTkMefWTqR5ItrFiP3dtbrW9K-6OMuE0xo";
        let at = |place: &str, key: &str| format!("merpati://{place}{key}").parse().unwrap();
        let key = format!("#{key}");
        let outcome = write(&Memory::default(), |records| {
            let (first, _) = find_or_add(records, &at("a:1", &key), false)?;
            assert_eq!(find_or_add(records, &at("b:2", &key), false)?.0, first);
            // A known key is not given up for a connection string without one.
            let (same, server) = find_or_add(records, &at("a:1", ""), false)?;
            assert!(same == first && server.key.is_some());
            assert_ne!(find_or_add(records, &at("c:3", ""), false)?.0, first);
            assert_ne!(find_or_add(records, &at("a:1", ""), true)?.0, first);
            Ok(())
        });
        outcome.unwrap();
    }
}
