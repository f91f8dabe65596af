//! Records of blocked users.

use serde::{Deserialize, Serialize};

use super::{Record, key};
use crate::{
    store::{Key, Prefix, concat},
    wire::{RealmId, Sender, Username},
};

/// The users whom a user has blocked, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksRecord {
    pub users: Vec<String>,
}

impl Record for BlocksRecord {}

impl BlocksRecord {
    /// Returns the users.
    pub fn users(&self) -> impl Iterator<Item = Sender> {
        self.users.iter().filter_map(|name| name.parse().ok())
    }

    /// Returns the realms that some of them are of.
    pub fn realms(&self) -> impl Iterator<Item = RealmId> {
        self.users().filter_map(|user| user.realm)
    }
}

/// The users whom a user has blocked.
pub fn blocks(user: Username) -> Key {
    key(&[b"X/", user.as_bytes()])
}

pub fn all_blocks() -> Prefix {
    Prefix(concat(&[b"X/"]))
}
