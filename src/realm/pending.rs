//! Realms that have introduced themselves to a realm that is not open, and wait for an operator's
//! decision (PEER-28). They are kept in memory: a realm that still wants to be a peer introduces
//! itself again.

use std::time::Duration;

use tokio::time::Instant;

use crate::{crypto::PublicKey, wire::RealmId};

/// The most realms that wait for a decision. The one heard from longest ago is dropped for another.
pub const PENDING_MAX: usize = 32;
/// The most refused realms that are remembered.
const REFUSED_MAX: usize = 256;
/// How long a refusal is remembered.
const REFUSED_FOR: Duration = Duration::from_hours(24);

/// A realm that has introduced itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Its name for itself.
    pub realm: RealmId,
    /// The key that it has proven.
    pub key: PublicKey,
    /// The key by which it knows this realm.
    pub own: PublicKey,
    /// The address that it claims.
    pub address: (String, u16),
    /// When it first asked, in seconds since 1970.
    pub first: u32,
    /// When it last asked.
    pub last: u32,
    /// How often it has asked.
    pub times: u64,
}

/// The realms that wait, the one heard from longest ago first, and those that were refused.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: Vec<Introduction>,
    refused: Vec<(PublicKey, Instant)>,
}

impl Pending {
    /// Notes an introduction. A realm that waits already is updated; another is added if
    /// `may_be_new`.
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

    /// True if an operator has refused or removed it lately.
    pub fn is_refused(&mut self, key: &PublicKey) -> bool {
        self.refused.retain(|(_, at)| at.elapsed() < REFUSED_FOR);
        self.refused.iter().any(|(refused, _)| refused == key)
    }

    /// Returns all that wait.
    pub fn all(&self) -> Vec<Introduction> {
        self.waiting.clone()
    }

    /// Returns the one with that key.
    pub fn find(&self, key: &PublicKey) -> Option<Introduction> {
        self.waiting.iter().find(|one| one.key == *key).cloned()
    }

    /// Removes a realm that is wanted now.
    pub fn forget(&mut self, key: &PublicKey) {
        self.waiting.retain(|one| one.key != *key);
        self.refused.retain(|(refused, _)| refused != key);
    }

    /// Removes a realm and refuses it for a while.
    pub fn refuse(&mut self, key: &PublicKey) {
        self.forget(key);
        if self.refused.len() >= REFUSED_MAX {
            self.refused.remove(0);
        }
        self.refused.push((*key, Instant::now()));
    }
}
