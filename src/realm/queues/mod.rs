//! Messages to other realms (PEER-5, PEER-9): a durable queue for each peer, and the answer to the
//! sender.

pub(super) mod delivery;
pub(super) mod expiry;
pub(super) mod receipts;
pub(super) mod shares;

use std::sync::Arc;

use crate::realm::{
    Caller,
    failure::Failure,
    peers::Peers,
    queues::{
        expiry::Expiries,
        receipts::{Receipts, Wait},
        shares::QueueShares,
    },
    random::Random,
    records::{self, CursorRecord, Owner, QueuedRecord},
    storage::Storage,
};
use crate::{
    store::{Expected, Position, Store, Subscription},
    wire::{Answer, ErrorCode, RealmId, Sent, command::Change},
};

/// The messages that wait for peers.
#[derive(Debug)]
pub struct PeerQueues<S> {
    storage: Arc<Storage<S>>,
    random: Arc<Random>,
    peers: Arc<Peers<S>>,
    /// Commands that wait for a peer's verdict on their message.
    receipts: Receipts,
    /// When messages to other realms expire.
    expiries: Expiries,
    shares: QueueShares,
    /// The epoch of all messages that are queued for peers until this realm is constructed again.
    /// Each construction draws a new one, because the store may have been restored from a backup.
    epoch: u64,
}

impl<S> PeerQueues<S> {
    /// Returns the service over those that it uses.
    pub(in crate::realm) fn new(
        storage: Arc<Storage<S>>,
        random: Arc<Random>,
        peers: Arc<Peers<S>>,
        shares: QueueShares,
        epoch: u64,
    ) -> Self {
        Self {
            storage,
            random,
            peers,
            receipts: Receipts::default(),
            expiries: Expiries::default(),
            shares,
            epoch,
        }
    }

    /// Returns the epoch of what is queued now.
    pub(in crate::realm) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Begins to wait for the verdict on a message that is about to be queued.
    pub(in crate::realm) fn expect_receipt(&self, owner: &Owner, number: u64) -> Wait {
        self.receipts.expect(owner, number)
    }

    /// Joins the commands that already wait for a verdict, if there are any.
    pub(in crate::realm) fn join_receipt(&self, owner: &Owner, number: u64) -> Option<Wait> {
        self.receipts.join(owner, number)
    }

    /// Notes when a message that was queued expires.
    pub(in crate::realm) fn note_queued(
        &self,
        realm: RealmId,
        position: u64,
        record: &QueuedRecord,
    ) {
        self.expiries.note(realm, position, record);
    }
}

/// The search for the number of waiting messages goes up to twice this number, less one.
const COUNTED_MAX: u64 = 4096;

/// True if a command has queued a message for a peer.
pub(in crate::realm) fn is_queued(change: Change<'_, '_>, answer: &[u8]) -> bool {
    let sends = matches!(change, Change::SendRealm(_) | Change::SendGroupRealm(_));
    sends && answer == Answer::Sent(Sent::Queued).to_bytes()
}

impl<S: Store> PeerQueues<S> {
    pub(in crate::realm) async fn settled(
        &self,
        realm: RealmId,
    ) -> Result<(u64, Expected), Failure> {
        let found = self
            .storage
            .record::<CursorRecord>(&records::settled(realm))
            .await?;
        Ok(found.map_or((0, Expected::Absent), |(cursor, version)| {
            (cursor.position, Expected::At(version))
        }))
    }

    /// Returns how many messages wait for a peer. Positions have no gaps, so the last one is found
    /// by a galloping search.
    pub(in crate::realm) async fn queued(&self, realm: RealmId) -> Result<u64, Failure> {
        let log = records::queue(realm);
        let (settled, _) = self.settled(realm).await?;
        let mut count = 0;
        for bit in (0..=COUNTED_MAX.ilog2()).rev() {
            let more = count + (1 << bit);
            let behind = Position(settled + more - 1);
            let is_there = match self.storage.entry_behind(&log, behind).await {
                // An unreadable entry also waits.
                Err(failure) if failure.is_of_one_record() => true,
                found => found?.is_some(),
            };
            if is_there {
                count = more;
            }
        }
        Ok(count)
    }

    /// Wakes when a message to one of these peers has been queued.
    pub fn queues_grown(&self, realms: &[RealmId]) -> Subscription {
        let queues: Vec<_> = realms.iter().map(|realm| records::queue(*realm)).collect();
        self.storage.subscribe(&queues)
    }

    /// Returns how many messages wait for a realm, the age of the oldest in seconds, and the error
    /// if that cannot be read: the operator still sees the state of all others.
    pub(in crate::realm) async fn waiting_for(
        &self,
        caller: &Caller,
        realm: RealmId,
    ) -> Result<(u64, u64, Option<ErrorCode>), Failure> {
        let queued = self.queued(realm).await?;
        match self.find_outgoing(realm).await {
            Ok(oldest) => {
                let age = oldest.map_or(0, |oldest| oldest.age(caller.now));
                Ok((queued, age.into(), None))
            }
            Err(failure) if failure.is_of_one_record() => {
                self.storage.log_failure("queue", &failure);
                Ok((queued, 0, Some(ErrorCode::Internal)))
            }
            Err(failure) => Err(failure),
        }
    }
}
