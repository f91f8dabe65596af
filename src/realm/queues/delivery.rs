//! Delivers the messages that wait for a peer, in order (PEER-5, PEER-6, PEER-14), and gives the
//! sender of each message its receipt.

use crate::realm::{
    failure::Failure,
    notice::Notice,
    peer::Peer,
    queues::PeerQueues,
    records::{self, CursorRecord, QueuedKind, QueuedRecord, Record as _},
    storage::{Outcome, Unnoted, Written},
    time::Moment,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, PageLimit, Position, Store},
    wire::{
        Answer, Body, Delivered, ErrorCode, GroupName, OperationNumber, PeerRequest, RealmId,
        Refusal, Sent, Username, peer,
    },
};

/// How long delivery of a message is tried, in seconds.
pub(in crate::realm) const QUEUED_LIFETIME_SECONDS: u32 = 7 * 24 * 3600;
/// How much of a message a notice quotes, in characters.
const NOTICE_QUOTE_MAX: usize = 60;

/// A peer, and the next message in its queue.
#[derive(Debug)]
pub struct Glance {
    /// The peer.
    pub peer: Peer,
    /// The next message, if any waits. An unreadable queue is an error and not an empty queue: its
    /// messages still wait.
    pub next: Result<Option<NextOutgoing>, Failure>,
}

/// The next message in a peer's queue.
#[derive(Debug)]
pub struct NextOutgoing {
    /// The message.
    pub outgoing: Outgoing,
    /// True if it was returned to its sender before its turn (PEER-17).
    pub is_returned: bool,
    /// True if others wait behind it. False if the caller did not ask for this.
    pub has_more: bool,
}

/// What became of a message, as its sender is told: it was delivered, or it was refused.
pub type Receipt = Result<Delivered, Refusal>;

/// What happens to the next message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settling {
    /// It leaves the queue, and its sender gets this receipt.
    Told(Receipt),
    /// It leaves the queue: its sender has been told.
    Returned,
    /// It moves to the end of the queue: the peer has promised not to deliver it.
    Aside,
    /// It moves to the end of the queue: it is a membership report and is never given up.
    Back,
    /// It moves to the end of the queue, under another number.
    Anew,
}

/// A message to a peer.
#[derive(Clone, Debug)]
pub struct Outgoing {
    position: u64,
    record: QueuedRecord,
}

impl Outgoing {
    /// Reads an entry of a queue.
    pub(in crate::realm) fn read(position: Position, value: &[u8]) -> Result<Self, Failure> {
        Ok(Self {
            position: position.0,
            record: QueuedRecord::from_value(value)?,
        })
    }

    /// Returns a message from ann to bob that was queued at the running time `queued`.
    #[cfg(test)]
    pub fn sample(position: u64, queued: u32) -> Self {
        let record = QueuedRecord {
            queued,
            content: 0,
            kind: QueuedKind::Private,
            from: "ann".into(),
            to: "bob".into(),
            body: b"hello".to_vec(),
            source: None,
            set_aside: false,
            lifetime: QUEUED_LIFETIME_SECONDS,
            operation: None,
            epoch: 7,
            membership: 0,
        };
        Self { position, record }
    }

    /// Returns the group, the user and the number of the membership by which its sender has sent a
    /// group message, if that is known.
    fn sender_membership(&self) -> Option<(GroupName, Username, u64)> {
        let QueuedRecord { kind, from, to, .. } = &self.record;
        let is_post = *kind == QueuedKind::Group && self.record.membership != 0;
        is_post.then(|| Some((to.parse().ok()?, from.parse().ok()?, self.record.membership)))?
    }

    /// True if its lifetime is shorter than the default.
    pub(super) const fn may_expire(&self) -> bool {
        self.record.lifetime < QUEUED_LIFETIME_SECONDS
    }

    /// True if its lifetime is over.
    pub const fn is_worthless(&self, now: Moment) -> bool {
        self.age(now) >= self.record.lifetime
    }

    /// True if it has been tried for so long that it is given up.
    pub const fn is_expired(&self, now: Moment) -> bool {
        self.age(now) >= QUEUED_LIFETIME_SECONDS
    }

    /// True if it is a membership report, which is this realm's own. No user would be told of its
    /// loss, so it is never given up.
    pub const fn is_membership_report(&self) -> bool {
        self.record.kind.is_membership_report()
    }

    /// True if it waits behind others because its peer refused to take it.
    pub const fn is_set_aside(&self) -> bool {
        self.record.set_aside
    }

    /// True if its epoch differs from the first epoch of its peering.
    pub const fn has_own_epoch(&self) -> bool {
        self.record.epoch != 0
    }

    /// Returns the peer with the address of this realm that the sender has named as the source.
    pub fn asks(&self, peer: &Peer) -> Peer {
        peer.asked_by(self.record.source.clone())
    }

    /// Returns the request that asks a peer not to deliver it any more.
    pub fn withdraw_request(&self, peer: &Peer) -> Vec<u8> {
        let request = PeerRequest::Withdraw(peer::Withdraw {
            epoch: self.epoch(peer),
            sequence: OperationNumber(self.position),
        });
        request.to_bytes()
    }

    /// Returns the request that delivers it to a peer, or `None` if its record makes no sense.
    pub fn deliver_request(&self, peer: &Peer) -> Option<Vec<u8>> {
        let record = &self.record;
        let (epoch, sequence) = (self.epoch(peer), OperationNumber(self.position));
        let content = record.content;
        let from = || record.from.parse().ok();
        let message = Body(&record.body);
        let request = match record.kind {
            QueuedKind::Private => PeerRequest::Deliver(peer::Deliver {
                epoch,
                sequence,
                content,
                from: from()?,
                to: record.to.parse().ok()?,
                message,
            }),
            QueuedKind::Group => PeerRequest::Post(peer::Post {
                epoch,
                sequence,
                content,
                from: from()?,
                group: record.to.parse().ok()?,
                message,
            }),
            QueuedKind::Expelled => PeerRequest::Expelled(peer::Expelled {
                epoch,
                sequence,
                group: record.to.parse().ok()?,
                user: from()?,
                // A message from an earlier release has no membership: it means any.
                membership: record
                    .body
                    .as_slice()
                    .try_into()
                    .map_or(0, u64::from_be_bytes),
            }),
            QueuedKind::Ended => PeerRequest::Ended(peer::Ended {
                epoch,
                sequence,
                group: record.to.parse().ok()?,
                group_epoch: u64::from_be_bytes(record.body.as_slice().try_into().ok()?),
            }),
        };
        Some(request.to_bytes())
    }

    /// Returns its position in the queue.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Returns the epoch of its number.
    const fn epoch(&self, peer: &Peer) -> u64 {
        match self.record.epoch {
            0 => peer.record.epoch,
            epoch => epoch,
        }
    }

    /// Returns how long it has waited, in seconds of the realm's running time.
    pub const fn age(&self, now: Moment) -> u32 {
        now.running.saturating_sub(self.record.queued)
    }
}

impl<S: Store> PeerQueues<S> {
    /// Returns a peer and its next message, or `None` if the realm is no peer. `more`: also find
    /// out whether others wait behind that message.
    ///
    /// # Errors
    /// It is unknown whether the realm is a peer.
    pub async fn look(&self, realm: RealmId, more: bool) -> Result<Option<Glance>, Failure> {
        let found = self.peers.find_peer(&mut Unnoted, realm).await;
        let found = found.inspect_err(|failure| self.storage.log_failure("peers", failure))?;
        let Some(peer) = found else {
            return Ok(None);
        };
        let next = self.find_next(realm, more).await;
        let next = next.inspect_err(|failure| self.storage.log_failure("queue", failure));
        Ok(Some(Glance { peer, next }))
    }

    async fn find_next(&self, realm: RealmId, more: bool) -> Result<Option<NextOutgoing>, Failure> {
        let Some(outgoing) = self.find_readable(realm).await? else {
            return Ok(None);
        };
        Ok(Some(NextOutgoing {
            is_returned: match self.is_returned(realm, &outgoing).await {
                // The sender may be told twice.
                Err(failure) if failure.is_damage() => {
                    self.storage.log_failure("queue", &failure);
                    false
                }
                is_returned => is_returned?,
            },
            has_more: more && self.has_more(realm, &outgoing).await,
            outgoing,
        }))
    }

    /// Returns the next message.
    ///
    /// A damaged message is skipped: its sender is unknown, so it cannot be returned, and it would
    /// block the others.
    async fn find_readable(&self, realm: RealmId) -> Result<Option<Outgoing>, Failure> {
        loop {
            let (settled, _) = self.settled(realm).await?;
            match self.find_behind(realm, settled).await {
                Err(failure) if failure.is_damage() => {
                    self.storage.log_failure("queue", &failure);
                    let end = self.storage.last(&records::queue(realm)).await?.0;
                    let next = (settled + 1).min(end);
                    if next <= settled {
                        return Err(failure);
                    }
                    // Another task may have skipped it meanwhile.
                    if let Some(batch) = self.leave_queue(realm, next).await?
                        && let Outcome::Durable = self.storage.commit(batch).await?
                    {
                        tracing::error!(peer = %realm, position = next, "damaged message to a peer was lost");
                    }
                }
                found => return found,
            }
        }
    }

    pub(in crate::realm) async fn find_outgoing(
        &self,
        realm: RealmId,
    ) -> Result<Option<Outgoing>, Failure> {
        let (settled, _) = self.settled(realm).await?;
        self.find_behind(realm, settled).await
    }

    async fn find_behind(&self, realm: RealmId, settled: u64) -> Result<Option<Outgoing>, Failure> {
        let is_out_of_order = is_planted(Fault::QueueOutOfOrder);
        let one = PageLimit {
            entries: 1 + usize::from(is_out_of_order),
            bytes: if is_out_of_order { usize::MAX } else { 1 },
        };
        let log = records::queue(realm);
        let page = self.storage.read(&log, Position(settled), one).await?;
        let first = page.entries.into_iter().next_back();
        let outgoing = first.map(|(position, value)| Outgoing::read(position, &value));
        outgoing.transpose()
    }

    /// Records what happens to the next message.
    pub async fn settle_outgoing(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
        settling: &Settling,
        now: Moment,
    ) -> Written {
        let settled = match settling {
            Settling::Told(receipt) => self.settle(peer, outgoing, *receipt, now.wall).await,
            Settling::Returned => self.drop_returned(peer, outgoing).await,
            Settling::Aside => self.set_aside(peer, outgoing).await,
            Settling::Back => self.move_back(peer, outgoing, now.running).await,
            Settling::Anew => self.number_anew(peer, outgoing).await,
        };
        match settled {
            Ok(true) => {
                let (position, record) = (outgoing.position, &outgoing.record);
                self.expiries.forget(peer.realm, position, record);
                Written::Durable
            }
            Ok(false) => Written::Conflict,
            Err(failure) => {
                self.storage.log_failure("settle", &failure);
                Written::Failed
            }
        }
    }

    /// True if others wait behind a message.
    async fn has_more(&self, realm: RealmId, outgoing: &Outgoing) -> bool {
        let log = records::queue(realm);
        let behind = Position(outgoing.position);
        let behind = self.storage.entry_behind(&log, behind).await;
        behind.is_ok_and(|behind| behind.is_some())
    }

    /// Moves a message that the peer has promised not to deliver to the end of the queue.
    async fn set_aside(&self, peer: &Peer, outgoing: &Outgoing) -> Result<bool, Failure> {
        let record = QueuedRecord {
            set_aside: true,
            epoch: self.epoch,
            ..outgoing.record.clone()
        };
        tracing::warn!(peer = %peer.realm, position = outgoing.position, "peer did not take a message; it was moved behind the others");
        self.queue_again(peer, outgoing, &record).await
    }

    /// Moves a membership report to the end of the queue, where it goes on waiting. It has
    /// waited for the whole lifetime of a message; the messages before it are given up in their
    /// turn.
    async fn move_back(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
        running: u32,
    ) -> Result<bool, Failure> {
        let record = QueuedRecord {
            queued: running,
            epoch: self.epoch,
            ..outgoing.record.clone()
        };
        self.queue_again(peer, outgoing, &record).await
    }

    /// Moves a message to the end of the queue, with a number in an epoch that the peer has never
    /// heard of.
    async fn number_anew(&self, peer: &Peer, outgoing: &Outgoing) -> Result<bool, Failure> {
        // A peer lets only few epochs of a queue begin at once.
        let epoch = if outgoing.record.epoch == self.epoch {
            u64::from_be_bytes(self.random.random()).max(1)
        } else {
            self.epoch
        };
        let record = QueuedRecord {
            epoch,
            ..outgoing.record.clone()
        };
        tracing::warn!(peer = %peer.realm, position = outgoing.position, "peer knew another message by the number of this one; it was numbered anew and moved behind the others");
        self.queue_again(peer, outgoing, &record).await
    }

    /// Moves a message to the end of the queue, with the contents of `record`. Returns false on a
    /// conflict.
    async fn queue_again(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
        record: &QueuedRecord,
    ) -> Result<bool, Failure> {
        let Some(mut batch) = self.leave_queue(peer.realm, outgoing.position).await? else {
            return Ok(false);
        };
        batch.append(records::queue(peer.realm), record.to_value()?);
        let placed = self.storage.commit_placed(batch).await?;
        if let Some(position) = placed.iter().flatten().next() {
            self.expiries.note(peer.realm, position.0, record);
        }
        Ok(placed.is_some())
    }

    /// Records the receipt of a message: it leaves the queue, and its sender is told.
    async fn settle(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
        receipt: Receipt,
        now: u32,
    ) -> Result<bool, Failure> {
        let Some(batch) = self.leave_queue(peer.realm, outgoing.position).await? else {
            return Ok(false);
        };
        self.conclude(peer.realm, outgoing, receipt, now, batch)
            .await
    }

    /// Returns a batch that removes the next message from the queue. Returns `None` if the message
    /// has already left it, for example because its peer was removed meanwhile.
    pub(in crate::realm) async fn leave_queue(
        &self,
        realm: RealmId,
        position: u64,
    ) -> Result<Option<Batch>, Failure> {
        let (settled, expected) = self.settled(realm).await?;
        if position <= settled && !is_planted(Fault::SettleTwice) {
            return Ok(None);
        }
        let key = records::settled(realm);
        let mut batch = Batch::new();
        batch
            .expect(key.clone(), expected)
            .put(key, CursorRecord { position }.to_value()?)
            .trim(records::queue(realm), Position(position + 1));
        Ok(Some(batch))
    }

    /// Commits the end of a message together with `batch`. Returns false on a conflict.
    ///
    /// From now on the command that queued it is answered with the receipt. A sender that does not
    /// wait any more gets a notice of a failure.
    pub(in crate::realm) async fn conclude(
        &self,
        realm: RealmId,
        outgoing: &Outgoing,
        receipt: Receipt,
        now: u32,
        mut batch: Batch,
    ) -> Result<bool, Failure> {
        let refusal = receipt.err();
        let answer = match receipt {
            Ok(Delivered) => Answer::Sent(Sent::Delivered),
            Err(refusal) => Answer::Refused(refusal),
        }
        .to_bytes();
        let settling = self.receipts.settle(outgoing.record.operation.as_ref());
        let notice = refusal.filter(|_| settling.is_none() && !outgoing.is_membership_report());
        // If a notice tells the sender, repeats are still answered `queued`: the sender is told
        // once (PEER-6).
        if (notice.is_none() || is_planted(Fault::TellTwice))
            && let Some(operation) = &outgoing.record.operation
        {
            self.idempotency
                .put_receipt(operation, &answer, &mut batch)
                .await?;
        }
        if refusal.is_some_and(|refusal| refusal.code == ErrorCode::NotAMember)
            && let Some((group, user, membership)) = outgoing.sender_membership()
        {
            self.groups
                .end_stale_membership((realm, group), (user, membership), &mut batch)
                .await?;
        }
        if let Some(refusal) = notice {
            append_notice(realm, outgoing, refusal, now, &mut batch)?;
        }
        let outcome = self.storage.commit(batch).await?;
        if let (Outcome::Durable, Some(settling)) = (&outcome, settling) {
            settling.tell(&answer);
        }
        Ok(matches!(outcome, Outcome::Durable))
    }
}

/// Adds to `batch` a notice that tells the sender that a message was not delivered, or perhaps not
/// delivered: then its peer was asked and has not answered.
fn append_notice(
    realm: RealmId,
    outgoing: &Outgoing,
    refusal: Refusal,
    now: u32,
    batch: &mut Batch,
) -> Result<(), Failure> {
    let record = &outgoing.record;
    let Ok(sender) = record.from.parse() else {
        return Ok(());
    };
    let body = String::from_utf8_lossy(&record.body);
    let mut quote: String = body.chars().take(NOTICE_QUOTE_MAX).collect();
    if quote.len() < body.len() {
        quote.push('…');
    }
    let what = if refusal.code == ErrorCode::RealmUnreachable {
        "perhaps not delivered"
    } else {
        "not delivered"
    };
    let text = format!("{what} ({}): {quote}", refusal.code.name());
    let notice = Notice {
        about: &record.to,
        realm: Some(realm),
        text,
        time: now,
    };
    notice.append(sender, batch)
}
