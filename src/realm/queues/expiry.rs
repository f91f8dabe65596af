//! Messages to other realms with a limited lifetime (PEER-17). If an expired message waits behind
//! others, its peer was never asked about it, so it returns to its sender at once. If it may have
//! been delivered, it is withdrawn first.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::realm::{
    failure::Failure,
    peer::Peer,
    queues::{
        PeerQueues,
        delivery::{Outgoing, QUEUED_LIFETIME_SECONDS},
    },
    records::{self, QueuedRecord, Record as _, ReturnedRecord},
    storage::{Outcome, Unnoted},
    time::Moment,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, Position, Store},
    wire::{ErrorCode, RealmId},
};

/// After how many seconds the return of a message is retried.
const AGAIN_SECONDS: u32 = 10;

/// The expiry of a message, in seconds of the realm's running time, and its queue and position.
type Expiry = (u32, RealmId, u64);

/// The expiries of messages.
#[derive(Clone, Debug, Default)]
pub(in crate::realm) struct Expiries(Arc<(Mutex<BTreeSet<Expiry>>, Notify)>);

impl Expiries {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<Expiry>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a message that waits for `realm`, unless it has the default lifetime.
    pub fn note(&self, realm: RealmId, position: u64, record: &QueuedRecord) {
        if record.lifetime < QUEUED_LIFETIME_SECONDS {
            let due = record.queued.saturating_add(record.lifetime);
            self.lock().insert((due, realm, position));
            self.0.1.notify_one();
        }
    }

    /// Forgets a message that left its position.
    pub fn forget(&self, realm: RealmId, position: u64, record: &QueuedRecord) {
        let due = record.queued.saturating_add(record.lifetime);
        self.lock().remove(&(due, realm, position));
    }

    fn take_due(&self, now: u32) -> Vec<Expiry> {
        let mut all = self.lock();
        let due = all.iter().take_while(|(due, ..)| *due <= now).copied();
        let due: Vec<_> = due.collect();
        for expiry in &due {
            all.remove(expiry);
        }
        due
    }
}

impl<S: Store> PeerQueues<S> {
    /// Returns the next expiry, in seconds of the realm's running time.
    pub fn next_expiry(&self) -> Option<u32> {
        self.expiries.lock().first().map(|(due, ..)| *due)
    }

    /// Waits until another message with an expiry is noted.
    pub async fn expiry_noted(&self) {
        self.expiries.0.1.notified().await;
    }

    /// Looks through the queue to a peer for messages with an expiry, as after a start.
    ///
    /// # Errors
    /// The queue, or a part of it, cannot be read. What was read is noted all the same, also behind
    /// a malformed entry.
    pub async fn find_expiries(&self, realm: RealmId) -> Result<(), Failure> {
        let find = async {
            let (mut after, _) = self.settled(realm).await?;
            let mut unread = None;
            loop {
                let page = match self.read_queue(realm, after, usize::MAX).await? {
                    Ok(page) => page,
                    Err(failure) => {
                        (unread, after) = (Some(failure), after + 1);
                        continue;
                    }
                };
                for (position, value) in &page.entries {
                    match QueuedRecord::from_value(value) {
                        Ok(record) => self.expiries.note(realm, position.0, &record),
                        Err(error) => unread = Some(error.into()),
                    }
                    after = position.0;
                }
                if !page.more {
                    return unread.map_or(Ok(()), Err);
                }
            }
        };
        let found = find.await;
        found.inspect_err(|failure| self.storage.log_failure("expiries", failure))
    }

    /// Returns expired messages to their senders, if their peer was not asked about them.
    pub async fn return_expired(&self, now: Moment) {
        for (_, realm, position) in self.expiries.take_due(now.running) {
            if let Err(failure) = self.return_one(realm, position, now.wall).await {
                self.storage.log_failure("expiry", &failure);
                // The disk is full, or a read has failed: its turn in the queue may be far away.
                let again = now.running.saturating_add(AGAIN_SECONDS);
                self.expiries.lock().insert((again, realm, position));
            }
        }
    }

    async fn return_one(&self, realm: RealmId, position: u64, now: u32) -> Result<(), Failure> {
        loop {
            let Some(peer) = self.peers.find_peer(&mut Unnoted, realm).await? else {
                return Ok(());
            };
            let (settled, expected) = self.settled(realm).await?;
            // The next message may have been delivered, unless the peer was never talked to.
            let is_asked_about = position == settled + 1 && peer.is_introduced();
            if position <= settled || is_asked_about {
                return Ok(());
            }
            let Some(outgoing) = self.outgoing_at(realm, position).await? else {
                return Ok(());
            };
            if self.is_returned(realm, &outgoing).await? && !is_planted(Fault::GiveBackTwice) {
                // It was returned before the realm restarted.
                return Ok(());
            }
            let mut batch = Batch::new();
            // It must not become the next message meanwhile, and the peer must not be talked to.
            batch
                .expect(records::settled(realm), expected)
                .expect(records::peer(realm), Expected::At(peer.version))
                .put(
                    records::returned(realm, position),
                    ReturnedRecord {}.to_value()?,
                );
            let expired = Err(ErrorCode::Expired.into());
            if self.conclude(realm, &outgoing, expired, now, batch).await? {
                return Ok(());
            }
        }
    }

    /// Returns the message at a position of the queue to a peer.
    async fn outgoing_at(
        &self,
        realm: RealmId,
        position: u64,
    ) -> Result<Option<Outgoing>, Failure> {
        let log = records::queue(realm);
        let found = self.storage.entry_behind(&log, Position(position - 1));
        let found = found.await?.filter(|(at, _)| at.0 == position);
        found
            .map(|(at, value)| Outgoing::read(at, &value))
            .transpose()
    }

    /// True if a message was returned to its sender before its turn.
    pub(in crate::realm) async fn is_returned(
        &self,
        realm: RealmId,
        outgoing: &Outgoing,
    ) -> Result<bool, Failure> {
        if !outgoing.may_expire() {
            return Ok(false);
        }
        let key = records::returned(realm, outgoing.position());
        self.storage.has(&key).await
    }

    /// Removes a returned message from the queue.
    pub(super) async fn drop_returned(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
    ) -> Result<bool, Failure> {
        let position = outgoing.position();
        let Some(mut batch) = self.leave_queue(peer.realm, position).await? else {
            return Ok(false);
        };
        batch.delete(records::returned(peer.realm, position));
        Ok(matches!(
            self.storage.commit(batch).await?,
            Outcome::Durable
        ))
    }
}
