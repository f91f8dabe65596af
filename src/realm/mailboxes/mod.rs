//! Mailboxes: what users read (`reading`), how far they have read (`cursors`), whom they block
//! (`blocks`), what their watches hold (`watch_memory`), and what is kept (`sweep`).

pub(super) mod blocks;
pub(super) mod cursors;
pub(super) mod reading;
pub(super) mod sweep;
pub(super) mod watch_memory;

use std::sync::Arc;

use crate::realm::{
    groups::Groups,
    limits::Limiter,
    mailboxes::{
        cursors::ReadCursors,
        watch_memory::{Held, WatchMemory},
    },
    shared::Shared,
    storage::Storage,
};
use crate::{
    store::{Log, Subscribers, Subscription},
    wire::Username,
};

/// Wakes watches when a user's groups or sessions change.
pub type Watched = Subscribers;

/// Returns the log that represents a user in [`Watched`].
pub fn watched_of(user: Username) -> Log {
    Log(user.as_bytes().into())
}

/// What users read: the pages of their mailboxes, and their watches.
#[derive(Debug)]
pub struct Mailboxes<S> {
    storage: Arc<Storage<S>>,
    groups: Arc<Groups<S>>,
    cursors: Arc<ReadCursors<S>>,
    limiter: Arc<Limiter>,
    watched: Watched,
    watch_memory: WatchMemory,
}

impl<S> Mailboxes<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(
        shared: &Shared<S>,
        groups: Arc<Groups<S>>,
        cursors: Arc<ReadCursors<S>>,
        watch_memory: WatchMemory,
    ) -> Self {
        Self {
            storage: shared.storage.clone(),
            groups,
            cursors,
            limiter: shared.limiter.clone(),
            watched: Watched::default(),
            watch_memory,
        }
    }

    /// Wakes the watches of a user: groups, sessions or blocks have changed.
    pub(in crate::realm) fn notify_watches(&self, user: Username) {
        self.watched.notify(&watched_of(user));
    }

    /// Returns what wakes when groups, sessions or blocks of a user change.
    pub(in crate::realm) fn subscribe_user(&self, user: Username) -> Subscription {
        self.watched.subscribe(&[watched_of(user)])
    }

    /// True if another watch of a user may hold as many bytes.
    pub(in crate::realm) fn has_room_to_watch(&self, user: Username, bytes: usize) -> bool {
        self.watch_memory.has_room(user, bytes)
    }

    /// Begins to count the memory of a watch.
    pub(in crate::realm) fn reserve_watch(&self, user: Username) -> Held {
        self.watch_memory.watch(user)
    }

    /// Returns how much memory watches hold, in bytes.
    #[cfg(test)]
    pub(in crate::realm) fn watched_bytes(&self) -> usize {
        self.watch_memory.held()
    }
}
