//! How far mailboxes were shown, and the lives of the realm's store in which those positions count.
//! The two change together: a position of a lost store is forgotten (READ-9).

use serde::{Deserialize, Serialize};

use super::realm::{Account, RealmNumber, load, save};
use crate::{
    client::{
        ProfileError,
        life::LifeTold,
        store::{self, Records},
    },
    wire::{Entry, Fragment, Life, Mailbox, Options},
};

/// Bytes of earlier lives that are remembered: messages of these may still wait to be shown.
const EARLIER_LIVES_BYTES: usize = 16 * 4;

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

/// How far the mailboxes of an account have been shown.
#[derive(Clone, Debug, Default)]
pub struct Cursors {
    /// The mailboxes, each with its cursor.
    pub known: Vec<(Mailbox, Cursor)>,
    /// Descriptions of the records that cannot be read, for people.
    pub unreadable: Vec<String>,
}

/// Returns how far all mailboxes of an account have been shown. One whose record cannot be read
/// counts as never shown, and does not stop the others.
pub fn cursors(records: &dyn Records, account: &Account) -> Result<Cursors, ProfileError> {
    let prefix = cursors_key(account);
    let mut cursors = Cursors::default();
    for (key, value) in records.scan(&prefix, b"", usize::MAX)? {
        let Some(name) = key.strip_prefix(prefix.as_slice()) else {
            continue;
        };
        let name = String::from_utf8_lossy(name);
        match (name.parse(), store::parse(records, &key, &value)) {
            (Ok(mailbox), Ok(cursor)) => cursors.known.push((mailbox, cursor)),
            (Ok(_), Err(_)) | (Err(_), _) => {
                let what = format!("how far the mailbox {name:?} was shown");
                cursors.unreadable.push(what);
            }
        }
    }
    Ok(cursors)
}

/// Records that `entry`, or this fragment, was shown, with the life of the link it came on.
/// Positions of a lost store are not recorded (READ-9).
pub fn show(
    records: &mut dyn Records,
    account: &Account,
    mailbox: &Mailbox,
    entry: &Entry,
    life: Option<Life>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        client::store::{Memory, write},
        wire::Position,
    };

    #[test]
    fn cursor_of_unknown_mailbox_does_not_hide_others() {
        let account = Account {
            realm: RealmNumber(0),
            username: "ann".into(),
        };
        let outcome = write(&Memory::default(), |records| {
            let cursor = Cursor {
                position: 7,
                ..Cursor::default()
            };
            set_cursor(records, &account, &Mailbox::Private, cursor)?;
            let unknown = [cursors_key(&account).as_slice(), b"no mailbox"].concat();
            store::put(records, &unknown, &cursor)?;
            let found = cursors(records, &account)?;
            assert_eq!(found.known, [(Mailbox::Private, cursor)]);
            assert_eq!(found.unreadable.len(), 1);
            // READ-9: it is forgotten with the others.
            forget_cursors(records, account.realm)?;
            assert!(cursors(records, &account)?.unreadable.is_empty());
            Ok(())
        });
        outcome.unwrap();
    }

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
                show(records, &account, &mailbox, &entry, life)
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
}
