//! For whom a link works: a user, or a peer.

use crate::wire::{RealmId, Username};

/// A user or peer that gets a share of what a server has for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// A user of this realm.
    User(Username),
    /// Another realm.
    Peer(RealmId),
}
