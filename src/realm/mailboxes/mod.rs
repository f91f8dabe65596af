//! Mailboxes: what users read, how far they have read, whom they block, and how long entries are
//! kept.

pub(super) mod blocks;
mod cursors;
mod owned;
mod peer_reads;
pub(super) mod reading;
mod sweep;
pub(super) mod watch_memory;

use std::sync::Arc;

use crate::realm::{
    Groups, Limiter, Peers, RealmIdentity, RetentionPolicy, Storage, WatchMemory, Watched,
};

/// What users read: their mailboxes, how far they have read, whom they block, and their watches.
#[derive(Debug)]
pub struct Mailboxes<S> {
    pub(in crate::realm) storage: Arc<Storage<S>>,
    pub(in crate::realm) peers: Arc<Peers<S>>,
    pub(in crate::realm) groups: Arc<Groups<S>>,
    pub(in crate::realm) policy: Arc<RetentionPolicy<S>>,
    pub(in crate::realm) own: Arc<RealmIdentity>,
    pub(in crate::realm) limiter: Arc<Limiter>,
    pub(in crate::realm) watched: Watched,
    pub(in crate::realm) watch_memory: WatchMemory,
}
