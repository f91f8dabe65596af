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
    groups::{Groups, vouchers::Posts},
    idempotency::Idempotency,
    limits::READ_BYTES,
    message_content::MessageContent,
    peer::Peer,
    peers::Peers,
    queues::{
        delivery::QUEUED_LIFETIME_SECONDS,
        expiry::Expiries,
        receipts::{Receipts, Wait},
        shares::QueueShares,
    },
    random::Random,
    records::{self, CursorRecord, Owner, QueuedKind, QueuedOperation, QueuedRecord, Record as _},
    shared::Shared,
    storage::{ONE, Storage},
    time::Moment,
};
use crate::{
    store::{Batch, Expected, Page, PageLimit, Position, Store, Subscription},
    wire::{ErrorCode, GroupName, RealmId, Username},
};

/// A user's message that is about to wait for a peer.
pub(in crate::realm) struct NewOutgoing<'a> {
    pub now: Moment,
    pub content: MessageContent<'a>,
    pub kind: QueuedKind,
    pub from: Username,
    /// The user or group that it is for.
    pub to: &'a str,
    /// This realm's address for it, if not the peering's.
    pub source: Option<(String, u16)>,
    /// How long it is worth delivering, in seconds.
    pub lifetime: u32,
    /// The command that sends it.
    pub operation: Option<QueuedOperation>,
    /// The number of the sender's membership in the group that it is for, or 0.
    pub membership: u64,
}

/// A membership report: what this realm itself has to tell a peer about the memberships of its
/// users here.
#[derive(Clone, Copy)]
pub(in crate::realm) enum MembershipReport {
    /// A user of the peer is no member of a group here any more. Holds the number of that
    /// membership.
    Expelled(Username, u64),
    /// A group here, with this epoch, has ended.
    Ended(u64),
}

/// The messages that wait for peers.
#[derive(Debug)]
pub struct PeerQueues<S> {
    storage: Arc<Storage<S>>,
    random: Arc<Random>,
    idempotency: Arc<Idempotency<S>>,
    peers: Arc<Peers<S>>,
    posts: Arc<Posts<S>>,
    groups: Arc<Groups<S>>,
    /// Commands that wait for the receipt of their message.
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
        shared: &Shared<S>,
        idempotency: Arc<Idempotency<S>>,
        peers: Arc<Peers<S>>,
        posts: Arc<Posts<S>>,
        groups: Arc<Groups<S>>,
        shares: QueueShares,
        epoch: u64,
    ) -> Self {
        Self {
            storage: shared.storage.clone(),
            random: shared.random.clone(),
            idempotency,
            peers,
            posts,
            groups,
            receipts: Receipts::default(),
            expiries: Expiries::default(),
            shares,
            epoch,
        }
    }

    /// Begins to wait for the receipt of a message that is about to be queued.
    pub(in crate::realm) fn expect_receipt(&self, owner: &Owner, number: u64) -> Wait {
        self.receipts.expect(owner, number)
    }

    /// Joins the commands that already wait for a receipt, if there are any.
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

    /// Returns entries of the queue to a peer behind a position, `most` at once. The inner error is
    /// of the first of them, which cannot be read though others follow.
    async fn read_queue(
        &self,
        realm: RealmId,
        after: u64,
        most: usize,
    ) -> Result<Result<Page, Failure>, Failure> {
        let log = records::queue(realm);
        let mut limit = PageLimit {
            entries: most,
            bytes: READ_BYTES,
        };
        loop {
            return match self.storage.read(&log, Position(after), limit).await {
                Ok(page) => Ok(Ok(page)),
                // Those before the damage are read one by one.
                Err(failure) if failure.is_of_one_record() && limit != ONE => {
                    limit = ONE;
                    continue;
                }
                Err(failure)
                    if failure.is_of_one_record() && self.storage.last(&log).await?.0 > after =>
                {
                    Ok(Err(failure))
                }
                Err(failure) => Err(failure),
            };
        }
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

    /// Adds to `batch` that a user's message waits for a peer. If the peer is removed meanwhile, no
    /// message may be left behind: the batch has to depend on it.
    pub(in crate::realm) async fn enqueue(
        &self,
        peer: &Peer,
        new: NewOutgoing<'_>,
        batch: &mut Batch,
    ) -> Result<QueuedRecord, Failure> {
        let queued = QueuedRecord {
            queued: new.now.running,
            content: new.content.content_type(),
            kind: new.kind,
            from: new.from.as_str().into(),
            to: new.to.into(),
            body: new.content.body().to_vec(),
            source: new.source,
            set_aside: false,
            lifetime: new.lifetime,
            operation: new.operation,
            epoch: self.epoch,
            membership: new.membership,
        };
        batch.append(records::queue(peer.realm), queued.to_value()?);
        if new.kind == QueuedKind::Group {
            self.posts
                .note_post(&queued, (peer.realm, new.to), batch)
                .await?;
        }
        Ok(queued)
    }

    /// Adds to `batch` a membership report to a peer, about a group.
    pub(in crate::realm) fn queue_membership_report(
        &self,
        peer: &Peer,
        group: GroupName,
        report: MembershipReport,
        now: Moment,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let (kind, from, number) = match report {
            MembershipReport::Expelled(user, membership) => {
                (QueuedKind::Expelled, user.as_str().into(), membership)
            }
            MembershipReport::Ended(group_epoch) => (QueuedKind::Ended, String::new(), group_epoch),
        };
        let queued = QueuedRecord {
            queued: now.running,
            content: 0,
            kind,
            from,
            to: group.as_str().into(),
            body: number.to_be_bytes().to_vec(),
            source: None,
            set_aside: false,
            lifetime: QUEUED_LIFETIME_SECONDS,
            operation: None,
            epoch: self.epoch,
            membership: 0,
        };
        batch.append(records::queue(peer.realm), queued.to_value()?);
        Ok(())
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
                Ok((queued, 0, Some(failure.refusal(false).code)))
            }
            Err(failure) => Err(failure),
        }
    }
}
