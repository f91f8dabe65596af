//! Places for peers (PEER-2, PEER-23): how many uninvited peers there may be, which of them is
//! evicted, and how often a claimed address is tried.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    failure::Failure,
    limits::{PEERS_MAX, UNASKED_MAX},
    network::Network,
    peers::{Peers, UndeliveredQueue},
    queues::PeerQueues,
    records::{self, ChangedRecord, GroupRecord, Record as _},
    shared::Shared,
    storage::Storage,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{ErrorCode, RealmId, Refusal},
};

/// The number of records that are read at once in the search for a peer to evict.
const SEARCHED_AT_ONCE: usize = 256;

/// Whether somebody here has asked for a new peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Newcomer {
    /// An operator has added or accepted it.
    Invited,
    /// It has introduced itself to an open realm.
    Uninvited,
}

/// The bounds on how many realms are peers, and who gives way to another.
#[derive(Debug)]
pub(super) struct PeerQuota<S> {
    storage: Arc<Storage<S>>,
    peers: Arc<Peers<S>>,
    queues: Arc<PeerQueues<S>>,
    network: Arc<Network>,
}

impl<S> PeerQuota<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(
        shared: &Shared<S>,
        peers: Arc<Peers<S>>,
        queues: Arc<PeerQueues<S>>,
    ) -> Self {
        Self {
            storage: shared.storage.clone(),
            peers,
            queues,
            network: shared.network.clone(),
        }
    }
}

impl<S: Store> PeerQuota<S> {
    /// Adds to `batch` the changes that make room for another peer. Returns the evicted peer, if
    /// one must go.
    pub(super) async fn make_place(
        &self,
        newcomer: Newcomer,
        batch: &mut Batch,
    ) -> Result<Option<RealmId>, Failure> {
        // Peers that take a place meanwhile are counted.
        let places = records::places();
        self.storage.noted::<ChangedRecord>(batch, &places).await?;
        batch.put(places, ChangedRecord {}.to_value()?);
        let peers = self.peers.list_peers().await?;
        let unasked = || peers.iter().filter(|peer| !peer.record.added);
        let are_theirs_taken = unasked().count() >= UNASKED_MAX;
        let are_limited = newcomer == Newcomer::Uninvited && !is_planted(Fault::UnaskedWithoutEnd);
        let is_full = peers.len() >= PEERS_MAX || (are_limited && are_theirs_taken);
        if !is_full {
            return Ok(None);
        }
        let refused = || -> Failure {
            match newcomer {
                Newcomer::Invited => Refusal::too_large(PEERS_MAX as u64).into(),
                Newcomer::Uninvited => ErrorCode::PeerRefused.into(),
            }
        };
        let in_use = self.realms_in_use().await?;
        let mut idle: Vec<_> = unasked()
            .filter(|peer| !in_use.contains(&peer.realm))
            .map(|peer| (self.network.state_of(peer).1, peer))
            .collect();
        idle.sort_by_key(|(heard, peer)| (*heard, peer.realm));
        for (_, peer) in idle {
            if self.is_of_no_use(peer.realm).await? {
                self.peers
                    .remove(peer, UndeliveredQueue::Returned, batch)
                    .await?;
                return Ok(Some(peer.realm));
            }
        }
        Err(refused())
    }

    /// Returns the realms whose users are in a group here, or banned from one.
    async fn realms_in_use(&self) -> Result<BTreeSet<RealmId>, Failure> {
        let mut found = BTreeSet::new();
        let groups = async |found: &mut BTreeSet<RealmId>| {
            let mut unread = None;
            let damage = self
                .storage
                .list_readable(&records::groups(), SEARCHED_AT_ONCE, |_, group| {
                    match GroupRecord::from_value(&group.value) {
                        Ok(group) => {
                            let realms = group.realms.iter();
                            found.extend(realms.filter_map(|name| name.parse::<RealmId>().ok()));
                        }
                        Err(error) => unread = Some(error),
                    }
                })
                .await;
            damage.or(unread)
        };
        let mut damage = groups(&mut found).await;
        if damage.is_none() {
            let bans = records::all_bans();
            damage = self
                .storage
                .list_readable(&bans, SEARCHED_AT_ONCE, |key, _| {
                    found.extend(records::banned_realm(key));
                })
                .await;
        }
        match damage {
            // Their realm cannot be read, so no peer is evicted.
            Some(error) => Err(error.into()),
            None => Ok(found),
        }
    }

    /// True if nothing waits for a realm and no user here is in a group of it.
    async fn is_of_no_use(&self, realm: RealmId) -> Result<bool, Failure> {
        let members = records::replica_members_of(realm);
        let is_in_none = self.storage.is_empty(&members).await?;
        Ok(is_in_none && self.queues.queued(realm).await? == 0)
    }
}
