//! Taking what waits for a peer to it, in order (PEER-5, PEER-6, PEER-14); what the peer says of a message is
//! told to its sender.

use super::{
    Failure, Moment, Outcome, Realm,
    peers::Peer,
    records::{
        self, CursorRecord, EntryRecord, OperationRecord, Owner, Place, QueuedKind, QueuedRecord,
        Record as _, RecordedAnswer,
    },
    storing::Unnoted,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Expected, PageLimit, Position, Store},
    wire::{
        Answer, Body, CONTENT_NOTICE, ErrorCode, OperationNumber, PeerRequest, RealmId, Refusal,
        Sent,
    },
};

/// How long a message is worth being tried.
pub(super) const QUEUED_LIFETIME_SECONDS: u32 = 7 * 24 * 3600;
/// How much of a message a notice repeats, in characters.
const NOTICE_QUOTE_MAX: usize = 60;

/// How often a peer may fail to take a message before the message makes way for others.
const REFUSED_MAX: u32 = 4;

/// What came of taking a message to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// It has left its place in the queue.
    Settled,
    /// The peer takes nothing now.
    Busy,
    /// The peer does not take this one.
    Refused,
    /// The peer did not answer.
    Silent,
    /// This realm cannot read or write what it keeps of it.
    Failed,
}

/// The next message to a peer.
#[derive(Debug)]
pub struct Outgoing {
    position: u64,
    record: QueuedRecord,
}

impl Outgoing {
    /// Reads what stands at a place of a queue.
    pub(super) fn read(position: Position, value: &[u8]) -> Result<Self, Failure> {
        Ok(Self {
            position: position.0,
            record: QueuedRecord::from_value(value)?,
        })
    }

    /// True when it is worth delivering for less long than others.
    pub(super) const fn may_expire(&self) -> bool {
        self.record.lifetime < QUEUED_LIFETIME_SECONDS
    }

    /// True when it is not worth delivering any more.
    const fn is_worthless(&self, now: Moment) -> bool {
        self.age(now) >= self.record.lifetime
    }

    /// True when this realm has something to say of memberships itself: nobody is told should it be lost, so it never is.
    pub(super) const fn is_word(&self) -> bool {
        self.record.kind.is_word()
    }

    /// Its place in the queue.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// In which epoch it is numbered.
    const fn epoch(&self, peer: &Peer) -> u64 {
        match self.record.epoch {
            0 => peer.record.epoch,
            epoch => epoch,
        }
    }

    /// For how many seconds of the realm's running time it has been waiting.
    pub const fn age(&self, now: Moment) -> u32 {
        now.running.saturating_sub(self.record.queued)
    }
}

impl<S: Store> Realm<S> {
    /// The message to be taken to a peer next, if there is one.
    ///
    /// # Errors
    /// It cannot be read. That is not an empty queue: what waits in it still waits.
    pub async fn next_outgoing(&self, realm: RealmId) -> Result<Option<Outgoing>, Failure> {
        let next = self.find_outgoing(realm).await;
        next.inspect_err(|failure| self.note("queue", failure))
    }

    pub(super) async fn find_outgoing(&self, realm: RealmId) -> Result<Option<Outgoing>, Failure> {
        let (settled, _) = self.settled(realm).await?;
        let is_out_of_order = is_planted(Fault::QueueOutOfOrder);
        let one = PageLimit {
            entries: 1 + usize::from(is_out_of_order),
            bytes: if is_out_of_order { usize::MAX } else { 1 },
        };
        let log = records::queue(realm);
        let page = self.store.read(&log, Position(settled), one).await?;
        let first = page.entries.into_iter().next_back();
        let outgoing = first.map(|(position, value)| Outgoing::read(position, &value));
        outgoing.transpose()
    }

    /// True when a message has been tried for so long that it is given up.
    pub const fn is_expired(outgoing: &Outgoing, now: Moment) -> bool {
        outgoing.age(now) >= QUEUED_LIFETIME_SECONDS
    }

    /// Takes a message to its peer, and writes down what came of it. `refused` says how often the peer
    /// would not take it: then it makes way for those behind it (PEER-14).
    pub async fn deliver_outgoing(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
        refused: u32,
        now: Moment,
    ) -> Carried {
        let Ok(current) = self.peer(&mut Unnoted, peer.realm).await else {
            return Carried::Failed;
        };
        let patience = if outgoing.record.set_aside {
            1
        } else {
            REFUSED_MAX
        };
        match self.is_returned(current.realm, outgoing).await {
            Ok(false) => {}
            Ok(true) => {
                let dropped = self.drop_returned(&current, outgoing).await;
                return self.carried(dropped);
            }
            Err(failure) => return self.carried(Err(failure)),
        }
        let expired = Self::is_expired(outgoing, now);
        if expired && outgoing.is_word() {
            let moved = self.move_back(&current, outgoing, now.running).await;
            return self.carried(moved);
        }
        let mut is_withdrawn = false;
        let answer = if expired {
            Some(Answer::Refused(ErrorCode::RealmUnreachable.into()))
        } else if outgoing.is_worthless(now) {
            // It may have been delivered: only the peer can say.
            let answer = self.ask_to_withdraw(&current, outgoing).await;
            answer.map(|answer| match answer {
                Answer::Done => Answer::Refused(ErrorCode::Expired.into()),
                other => other,
            })
        } else if refused >= patience && self.has_more(peer.realm, outgoing).await {
            is_withdrawn = true;
            self.ask_to_withdraw(&current, outgoing).await
        } else {
            self.ask_to_deliver(&current, outgoing).await
        };
        let settled = match answer {
            None if is_planted(Fault::TakeSilenceForDelivery) => {
                let delivered = Answer::Sent(Sent::Delivered);
                self.settle(&current, outgoing, &delivered, now.wall).await
            }
            None => {
                self.network.silent(peer.realm);
                return Carried::Silent;
            }
            Some(Answer::Refused(refusal)) if refusal.is_transient() => {
                self.network.heard(peer.realm, now.wall);
                return Carried::Busy;
            }
            Some(Answer::Refused(refusal))
                if refusal.is_unknown() || refusal.code == ErrorCode::Internal =>
            {
                self.network.heard(peer.realm, now.wall);
                return Carried::Refused;
            }
            Some(Answer::Done) if is_withdrawn => self.set_aside(&current, outgoing).await,
            // It says nothing of a message that was brought.
            Some(Answer::Done) => {
                self.network.heard(peer.realm, now.wall);
                return Carried::Refused;
            }
            Some(Answer::Refused(refusal)) if refusal.code == ErrorCode::NumberReused => {
                // Its number means another message there: this realm's memory is older than the peer's, or the peer lies.
                let moved = self.number_anew(&current, outgoing).await;
                return match self.carried(moved) {
                    Carried::Settled if outgoing.record.epoch != 0 => Carried::Refused,
                    carried => carried,
                };
            }
            Some(answer) => self.settle(&current, outgoing, &answer, now.wall).await,
        };
        if !expired {
            self.network.heard(peer.realm, now.wall);
        }
        self.carried(settled)
    }

    /// True when others wait behind a message.
    async fn has_more(&self, realm: RealmId, outgoing: &Outgoing) -> bool {
        let one = PageLimit {
            entries: 1,
            bytes: 1,
        };
        let log = records::queue(realm);
        let behind = self.store.read(&log, Position(outgoing.position), one);
        behind.await.is_ok_and(|page| !page.entries.is_empty())
    }

    async fn ask_to_withdraw(&self, peer: &Peer, outgoing: &Outgoing) -> Option<Answer> {
        let request = PeerRequest::Withdraw {
            epoch: outgoing.epoch(peer),
            sequence: OperationNumber(outgoing.position),
        };
        let answer = self.network.ask_patiently(peer, request.to_bytes()).await?;
        Answer::parse(&answer).ok()
    }

    /// Puts a message that the peer has promised not to deliver behind the others.
    async fn set_aside(&self, peer: &Peer, outgoing: &Outgoing) -> Result<bool, Failure> {
        let record = QueuedRecord {
            set_aside: true,
            epoch: self.epoch,
            ..outgoing.record.clone()
        };
        tracing::warn!(peer = %peer.realm, "a peer does not take a message; it waits behind the others now");
        self.queue_again(peer, outgoing, &record).await
    }

    /// Puts word of memberships that has waited for as long as a message may behind the others, where it goes on waiting: those
    /// are given up in their turn.
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

    async fn ask_to_deliver(&self, peer: &Peer, outgoing: &Outgoing) -> Option<Answer> {
        let record = &outgoing.record;
        let (epoch, sequence) = (outgoing.epoch(peer), OperationNumber(outgoing.position));
        let content = record.content;
        let from = || record.from.parse().ok();
        let message = Body(&record.body);
        let request = match record.kind {
            QueuedKind::Private => PeerRequest::Deliver {
                epoch,
                sequence,
                content,
                from: from()?,
                to: record.to.parse().ok()?,
                message,
            },
            QueuedKind::Group => PeerRequest::Post {
                epoch,
                sequence,
                content,
                from: from()?,
                group: record.to.parse().ok()?,
                message,
            },
            QueuedKind::Expelled => PeerRequest::Expelled {
                epoch,
                sequence,
                group: record.to.parse().ok()?,
                user: from()?,
                // One that was queued by an earlier release is about whatever membership there is.
                membership: record
                    .body
                    .as_slice()
                    .try_into()
                    .map_or(0, u64::from_be_bytes),
            },
            QueuedKind::Ended => PeerRequest::Ended {
                epoch,
                sequence,
                group: record.to.parse().ok()?,
                life: u64::from_be_bytes(record.body.as_slice().try_into().ok()?),
            },
        };
        let peer = peer.asked_by(record.source.clone());
        let answer = self
            .network
            .ask_patiently(&peer, request.to_bytes())
            .await?;
        Answer::parse(&answer).ok()
    }

    /// Puts a message behind the others, numbered in an epoch of which the peer has never heard.
    async fn number_anew(&self, peer: &Peer, outgoing: &Outgoing) -> Result<bool, Failure> {
        let record = QueuedRecord {
            epoch: u64::from_be_bytes(self.random()).max(1),
            ..outgoing.record.clone()
        };
        tracing::warn!(peer = %peer.realm, "the number of a message means another to a peer; it is numbered anew, behind the others");
        self.queue_again(peer, outgoing, &record).await
    }

    /// A message waits behind the others from now on, as `record` says. False on a conflict.
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
        let placed = self.commit_placed(batch).await?;
        if let Some(position) = placed.iter().flatten().next() {
            self.expiries.note(peer.realm, position.0, record);
        }
        Ok(placed.is_some())
    }

    /// What has come of a message, once that is written down.
    fn carried(&self, settled: Result<bool, Failure>) -> Carried {
        match settled {
            Ok(true) => Carried::Settled,
            Ok(false) => Carried::Refused,
            Err(failure) => {
                self.note("settle", &failure);
                Carried::Failed
            }
        }
    }

    /// Writes down what a peer said of a message: it leaves the queue, and its sender is told.
    async fn settle(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
        answer: &Answer,
        now: u32,
    ) -> Result<bool, Failure> {
        let Some(batch) = self.leave_queue(peer.realm, outgoing.position).await? else {
            return Ok(false);
        };
        self.conclude(peer.realm, outgoing, answer, now, batch)
            .await
    }

    /// A batch by which the next message in turn leaves the queue; none where it has left it already, as when its peer was removed meanwhile.
    pub(super) async fn leave_queue(
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

    /// Commits, together with `batch`, the end of a message: the command that queued it is answered so from now
    /// on, and a sender who is not waiting any more is told of what failed. False on a conflict.
    pub(super) async fn conclude(
        &self,
        realm: RealmId,
        outgoing: &Outgoing,
        answer: &Answer,
        now: u32,
        mut batch: Batch,
    ) -> Result<bool, Failure> {
        let refusal = match answer {
            // `already-done`: it was delivered, longer ago than the peer remembers how.
            Answer::Refused(refusal) if refusal.code != ErrorCode::AlreadyDone => Some(*refusal),
            _ => None,
        };
        let verdict = match refusal {
            Some(refusal) => Answer::Refused(refusal),
            None => Answer::Sent(Sent::Delivered),
        }
        .to_bytes();
        let settling = self.verdicts.settle(outgoing.record.operation.as_ref());
        let notice = refusal.filter(|_| settling.is_none() && !outgoing.is_word());
        // Where a notice tells, repeats are still answered `queued`: its sender is told once (PEER-6).
        if (notice.is_none() || is_planted(Fault::TellTwice))
            && let Some(operation) = &outgoing.record.operation
            && let Some(owner) = Owner::from_bytes(&operation.owner)
        {
            let key = records::operation(&owner, operation.number);
            let found = self.record::<OperationRecord>(&key).await?;
            if let Some((record, version)) =
                found.filter(|(record, _)| record.number == operation.number)
            {
                let record = OperationRecord {
                    answer: RecordedAnswer::Bytes(verdict.clone()),
                    ..record
                };
                batch
                    .expect(key.clone(), Expected::At(version))
                    .put(key, record.to_value()?);
            }
        }
        if let Some(refusal) = notice {
            append_notice(realm, outgoing, refusal, now, &mut batch)?;
        }
        let outcome = self.commit(batch).await?;
        if let (Outcome::Durable, Some(settling)) = (&outcome, settling) {
            settling.tell(&verdict);
        }
        Ok(matches!(outcome, Outcome::Durable))
    }
}

/// Adds to `batch` that the sender is told that a message was not delivered.
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
    let text = format!("not delivered ({}): {quote}", refusal.code.name());
    let notice = EntryRecord {
        time: now,
        content: CONTENT_NOTICE,
        user: record.to.clone(),
        realm: Some(realm.as_str().into()),
        body: text.into_bytes(),
    };
    batch.append(Place::private(sender).log, notice.to_value()?);
    Ok(())
}
