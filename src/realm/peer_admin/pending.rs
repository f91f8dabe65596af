//! Realms that have introduced themselves to one that is not open, until an operator decides (PEER-28). They are kept in memory: whoever
//! still wants to be a peer introduces itself again.

use std::time::Duration;

use tokio::time::Instant;

use crate::{crypto::PublicKey, wire::RealmId};

/// Realms that wait for a decision; the one that was heard from longest ago makes way for another.
pub const PENDING_MAX: usize = 32;
/// Realms of which it is remembered that they were refused.
const REFUSED_MAX: usize = 256;
/// For how long.
const REFUSED_FOR: Duration = Duration::from_hours(24);

/// A realm that has introduced itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// How it calls itself.
    pub realm: RealmId,
    /// The key that it has proven.
    pub key: PublicKey,
    /// The key by which it knows this realm.
    pub own: PublicKey,
    /// Where it says that it is.
    pub address: (String, u16),
    /// When it asked first, in seconds since 1970.
    pub first: u32,
    /// When it asked last.
    pub last: u32,
    /// How often it has.
    pub times: u64,
}

/// Those that wait, the one that was heard from longest ago first, and those that were refused.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: Vec<Introduction>,
    refused: Vec<(PublicKey, Instant)>,
}

impl Pending {
    /// A realm has introduced itself. It is kept if it waits already; else as `may_be_new` says.
    pub fn note(&mut self, new: Introduction, may_be_new: impl FnOnce() -> bool) {
        if self.is_refused(&new.key) {
            return;
        }
        let known = self.waiting.iter().position(|one| one.key == new.key);
        match known.map(|at| self.waiting.remove(at)) {
            Some(known) => self.waiting.push(Introduction {
                first: known.first,
                times: known.times + 1,
                ..new
            }),
            None if may_be_new() => {
                if self.waiting.len() >= PENDING_MAX {
                    self.waiting.remove(0);
                }
                self.waiting.push(new);
            }
            None => {}
        }
    }

    /// True when an operator has refused or removed it lately.
    pub fn is_refused(&mut self, key: &PublicKey) -> bool {
        self.refused.retain(|(_, at)| at.elapsed() < REFUSED_FOR);
        self.refused.iter().any(|(refused, _)| refused == key)
    }

    /// All that wait.
    pub fn all(&self) -> Vec<Introduction> {
        self.waiting.clone()
    }

    /// The one with that key.
    pub fn find(&self, key: &PublicKey) -> Option<Introduction> {
        self.waiting.iter().find(|one| one.key == *key).cloned()
    }

    /// It waits no more, and is wanted.
    pub fn forget(&mut self, key: &PublicKey) {
        self.waiting.retain(|one| one.key != *key);
        self.refused.retain(|(refused, _)| refused != key);
    }

    /// It waits no more, and is not kept again for a while.
    pub fn refuse(&mut self, key: &PublicKey) {
        self.forget(key);
        if self.refused.len() >= REFUSED_MAX {
            self.refused.remove(0);
        }
        self.refused.push((*key, Instant::now()));
    }
}
