//! The records of realms: where each one is, who is logged in there, and which operation numbers
//! are used.

use serde::{Deserialize, Serialize};

use crate::{
    client::{
        ProfileError,
        store::{self, Records},
    },
    crypto::{ConnectionString, PublicKey},
    wire::{Answer, Command, OperationNumber, SessionId, SessionRef, command},
};

/// A realm that reports a higher leap of operation numbers is not believed: it would use them up.
const HIGHEST_LEAP_MAX: u64 = 1 << 32;
/// Stands for an unknown session id.
pub const UNNAMED: [u8; 16] = [0; 16];
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

/// What a profile remembers of a realm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The realm's connection string. `None` if nothing is known of the realm.
    #[serde(with = "as_text")]
    pub(in crate::client) server: Option<ConnectionString>,
    /// The link is not encrypted (a plain listener).
    pub(in crate::client) plain: bool,
    /// The user who is logged in, or was last.
    pub(in crate::client) username: Option<String>,
    /// The id of the session.
    pub(in crate::client) session: Option<[u8; 16]>,
    /// The round-trip time, in microseconds.
    pub(in crate::client) rtt_us: Option<u64>,
    /// The highest operation number used.
    pub(in crate::client) highest: u64,
    /// Earlier keys of the realm, each of which has vouched for the next.
    pub(in crate::client) former: Vec<[u8; 32]>,
    /// The life of its store that was reported last.
    pub(in crate::client) life: Option<[u8; 4]>,
    /// It has been heard from.
    pub(in crate::client) is_heard: bool,
    /// The realm or the user has ended the session: nobody is logged in.
    pub(in crate::client) is_logged_out: bool,
    /// The profile or the realm is an old copy of itself. The device's latest session may be
    /// another user's, so commands name their session in full.
    pub(in crate::client) names_session: bool,
    /// The number of the command that opened the session. Lower numbers do nothing in it (EXACT-6).
    pub(in crate::client) since: u64,
}

/// A connection string in a record: its text, empty for none. A text that is no connection string
/// is damage, like any other record that cannot be read.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::ConnectionString;

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(
        server: &Option<ConnectionString>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match server {
            Some(server) => serializer.serialize_str(&server.to_string()),
            None => serializer.serialize_str(""),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ConnectionString>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(D::Error::custom),
        }
    }
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
    /// Returns the account of a user of `realm`. Without one, it stands for any user there before
    /// the first known login.
    pub fn new(realm: RealmNumber, username: Option<String>) -> Self {
        Self {
            realm,
            username: username.unwrap_or_default(),
        }
    }

    /// True if this stands for any user of `realm` before the first known login there.
    pub const fn is_nobody_of(&self, realm: RealmNumber) -> bool {
        self.realm.0 == realm.0 && self.username.is_empty()
    }
}

fn realm_key(realm: RealmNumber) -> Vec<u8> {
    [b"r/".as_slice(), &realm.0.to_be_bytes()].concat()
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

/// The realms of a profile.
#[derive(Debug, Default)]
struct Realms {
    known: Vec<(RealmNumber, State)>,
    /// Descriptions of the records that cannot be read, for people.
    unreadable: Vec<String>,
}

/// Returns all realms. One that cannot be read does not hide the others.
fn realms(records: &dyn Records) -> Result<Realms, ProfileError> {
    let mut realms = Realms::default();
    for (key, value) in records.scan(b"r/", b"", REALMS_MAX)? {
        let number = key.get(2..).and_then(|number| number.try_into().ok());
        let number = number.map(u32::from_be_bytes);
        match (number, store::parse(records, &key, &value)) {
            (Some(number), Ok(state)) => realms.known.push((RealmNumber(number), state)),
            (Some(number), Err(_)) => {
                let what = format!("the record of realm {number}");
                realms.unreadable.push(what);
            }
            (None, _) => realms.unreadable.push("the record of a realm".into()),
        }
    }
    Ok(realms)
}

/// The realm that commands go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its number.
    pub realm: RealmNumber,
    /// The connection string to reach it by.
    pub server: ConnectionString,
    /// Descriptions of the realms that could not be read while this one was searched, for people.
    pub unreadable: Vec<String>,
}

/// Returns the realm that a connection string names, and the string to reach it. The known key
/// replaces a missing or former key. An unknown realm gets a number. Realms that cannot be read are
/// passed over.
///
/// # Errors
/// [`ProfileError::Server`] for a connection string that could not be read again. Nothing is
/// written then.
pub fn find_or_add(
    records: &mut dyn Records,
    server: &ConnectionString,
    plain: bool,
) -> Result<Target, ProfileError> {
    // The fields of a connection string are public, so that a program may have set any.
    let text = server.to_string();
    if text.parse().as_ref() != Ok(server) {
        return Err(ProfileError::Server(text));
    }
    let Realms { known, unreadable } = realms(records)?;
    for (number, state) in &known {
        if let Some(server) = state.same_realm(server, plain) {
            return Ok(Target {
                realm: *number,
                server,
                unreadable,
            });
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
        server: Some(server.clone()),
        plain,
        ..State::default()
    };
    save(records, number, &state)?;
    Ok(Target {
        realm: number,
        server: server.clone(),
        unreadable,
    })
}

impl State {
    /// Returns the realm's connection string, with the key it is known by. `None` if the profile
    /// knows no realm yet.
    pub fn connection_string(&self) -> Option<ConnectionString> {
        self.server.clone()
    }

    /// Returns the user who is logged in, or was last. `None` before the first login.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// True if a user is logged in, as far as the profile knows: the realm may have ended the
    /// session since.
    pub const fn is_logged_in(&self) -> bool {
        self.session.is_some()
    }

    /// Returns the highest operation number that the device has used with the realm.
    pub const fn highest(&self) -> OperationNumber {
        OperationNumber(self.highest)
    }

    /// Returns how to reach this realm by `server`, if `server` names it.
    fn same_realm(&self, server: &ConnectionString, plain: bool) -> Option<ConnectionString> {
        let known = self.server.as_ref()?;
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
    pub(in crate::client) fn follow(&mut self, from: PublicKey, to: PublicKey) -> bool {
        let known = self.server.as_mut();
        let Some(server) = known.filter(|known| known.key == Some(from)) else {
            return false;
        };
        server.key = Some(to);
        self.former.push(from.0);
        true
    }

    /// Returns how commands name the session: in full in an old copy, whose device may have
    /// another, and on a plain link, which authenticates no device. `None` on a plain link without
    /// one.
    pub(in crate::client) fn session_ref(&self) -> Option<SessionRef> {
        match self.session {
            // A session whose id was in a lost answer cannot be named.
            Some(id) if self.plain || (self.names_session && id != UNNAMED) => {
                Some(SessionRef::Named(SessionId(id)))
            }
            _ => (!self.plain).then_some(SessionRef::Bound),
        }
    }

    /// The session's id, if it is known.
    pub(in crate::client) fn named(&self) -> Option<SessionRef> {
        let id = self.session.filter(|id| *id != UNNAMED)?;
        Some(SessionRef::Named(SessionId(id)))
    }

    /// True if a command in the device's session may run in another user's: only the realm knows.
    pub(in crate::client) fn is_in_doubt(&self, session: Option<SessionRef>) -> bool {
        self.names_session && !self.plain && session == Some(SessionRef::Bound)
    }

    /// Records the highest number that the realm has seen from this device. If it exceeds the
    /// profile's own, the profile is an old copy. Implausible numbers are ignored.
    pub(in crate::client) fn learn_highest(&mut self, highest: u64) {
        if highest > self.highest && highest - self.highest <= HIGHEST_LEAP_MAX {
            self.names_session = true;
            self.highest = highest;
        }
    }

    /// Learns from an answer which account is logged in.
    pub(in crate::client) fn learn(&mut self, command: &Command<'_>, answer: &Answer) {
        match (command, answer) {
            (
                Command::Auth(command::Auth {
                    username,
                    operation,
                    ..
                })
                | Command::Register(command::Register {
                    username,
                    operation,
                    ..
                }),
                Answer::Session(SessionId(id)),
            ) => {
                self.username = Some(username.as_str().into());
                self.session = Some(*id);
                (self.is_logged_out, self.names_session) = (false, false);
                self.since = operation.number.0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::store::{Memory, write};

    #[test]
    fn profile_realm_with_invalid_connection_string_is_damaged() {
        let state = postcard::to_stdvec(&State::default()).unwrap();
        let outcome = write(&Memory::default(), |records| {
            let key = realm_key(RealmNumber(0));
            store::put_bytes(records, &key, &state)?;
            assert_eq!(load(records, RealmNumber(0))?, State::default());
            // The empty text becomes one that names no realm.
            let invalid = [&[1, b'x'], &state[1..]].concat();
            store::put_bytes(records, &key, &invalid)?;
            let found = load(records, RealmNumber(0));
            assert!(matches!(found, Err(ProfileError::Damaged(_))), "{found:?}");
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
            let first = find_or_add(records, &at("a:1", &key), false)?.realm;
            assert_eq!(find_or_add(records, &at("b:2", &key), false)?.realm, first);
            // A known key is not given up for a connection string without one.
            let same = find_or_add(records, &at("a:1", ""), false)?;
            assert!(same.realm == first && same.server.key.is_some());
            assert_ne!(find_or_add(records, &at("c:3", ""), false)?.realm, first);
            assert_ne!(find_or_add(records, &at("a:1", ""), true)?.realm, first);
            Ok(())
        });
        outcome.unwrap();
    }

    /// A program may set any host and port.
    #[test]
    fn profile_realm_that_could_not_be_read_again_is_refused() {
        let outcome = write(&Memory::default(), |records| {
            let known = "merpati://a:1".parse().unwrap();
            let known = find_or_add(records, &known, true)?.realm;
            for (host, port) in [("a b", 1), ("bücher.example", 1), ("", 1), ("a", 0)] {
                let server = ConnectionString {
                    host: host.into(),
                    port,
                    key: None,
                };
                let added = find_or_add(records, &server, true);
                assert!(matches!(added, Err(ProfileError::Server(_))), "{added:?}");
            }
            let all = realms(records)?;
            assert!(all.unreadable.is_empty());
            let numbers: Vec<_> = all.known.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, [known]);
            Ok(())
        });
        outcome.unwrap();
    }

    #[test]
    fn profile_realm_unreadable_does_not_hide_others() {
        let outcome = write(&Memory::default(), |records| {
            let at = |text: &str| text.parse().unwrap();
            let first = find_or_add(records, &at("merpati://a:1"), true)?.realm;
            let second = find_or_add(records, &at("merpati://b:2"), true)?.realm;
            store::put_bytes(records, &realm_key(first), b"x")?;
            let found = find_or_add(records, &at("merpati://b:2"), true)?;
            assert_eq!((found.realm, found.unreadable.len()), (second, 1));
            let third = find_or_add(records, &at("merpati://c:3"), true)?;
            assert!(third.realm != first && third.realm != second);
            assert!(load(records, second).is_ok());
            let damaged = load(records, first);
            assert!(
                matches!(damaged, Err(ProfileError::Damaged(_))),
                "{damaged:?}"
            );
            Ok(())
        });
        outcome.unwrap();
    }
}
