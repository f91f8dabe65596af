//! Messages to other realms (PEER-5 … PEER-7): a durable queue for each peer, taken to it in order; what the
//! peer says of a message is told to its sender.

use std::{sync::PoisonError, time::Duration};

use tokio::sync::oneshot;

use super::{
    Failure, Outcome, Realm, Work,
    operations::fingerprint,
    peers::Peer,
    records::{
        self, CursorRecord, EntryRecord, OperationRecord, Owner, PeerRecord, Place,
        QueuedOperation, QueuedRecord, Record as _, RecordedAnswer,
    },
    sessions::Current,
};
use crate::{
    store::{Batch, Expected, PageLimit, Position, Store, Subscription},
    wire::{
        Answer, Body, CONTENT_NOTICE, Command, ErrorCode, OperationNumber, PeerRequest, Port,
        RealmId, Sent, Text,
    },
};

/// Messages that may wait for a peer: at the longest each, 64 MiB.
const QUEUE_MAX: u64 = 4096;
/// How long a command waits for what the peer says.
const VERDICT_PATIENCE: Duration = Duration::from_secs(2);
/// How long a message is worth being tried.
const QUEUED_LIFETIME_SECONDS: u32 = 7 * 24 * 3600;
/// How much of a message a notice repeats, in characters.
const NOTICE_QUOTE_MAX: usize = 60;

/// The next message to a peer.
#[derive(Debug)]
pub struct Outgoing {
    position: u64,
    record: QueuedRecord,
}

impl<S: Store> Realm<S> {
    pub(super) async fn sendrealm(&self, work: &mut Work<'_>) -> Result<Answer, Failure> {
        let Command::SendRealm {
            session,
            src_address,
            src_port,
            realm,
            from,
            to,
            message,
            ..
        } = work.request.command
        else {
            return Err(ErrorCode::Internal.into());
        };
        let current = self.session(work.caller, session).await?;
        if from != current.user {
            return Err(ErrorCode::NotYou.into());
        }
        let peer = self.peer(realm).await?;
        self.check_source(src_address, src_port)?;
        let to = (to.as_str(), false);
        self.enqueue(work, &current, &peer, to, &message).await
    }

    pub(super) async fn sendgrouprealm(&self, work: &mut Work<'_>) -> Result<Answer, Failure> {
        let Command::SendGroupRealm {
            session,
            src_address,
            src_port,
            realm,
            group,
            message,
            ..
        } = work.request.command
        else {
            return Err(ErrorCode::Internal.into());
        };
        let current = self.session(work.caller, session).await?;
        let peer = self.peer(realm).await?;
        self.check_source(src_address, src_port)?;
        self.copy_for(realm, group, current.user).await?;
        let to = (group.as_str(), true);
        self.enqueue(work, &current, &peer, to, &message).await
    }

    /// Refuses a source address that is not this realm's own; none is fine.
    pub(super) fn check_source(&self, address: Text<'_>, port: Port) -> Result<(), Failure> {
        if (address.0, port.0) != ("", 0) {
            self.source(address, port)?;
        }
        Ok(())
    }

    /// Adds to the work's batch that a message waits for a peer.
    async fn enqueue(
        &self,
        work: &mut Work<'_>,
        current: &Current,
        peer: &Peer,
        (to, is_group): (&str, bool),
        message: &Body<'_>,
    ) -> Result<Answer, Failure> {
        let content = self.check_message(&work.request.options, message)?;
        if self.queued(peer.realm).await? >= QUEUE_MAX {
            return Err(ErrorCode::QueueFull.into());
        }
        let owner = self.owner(work.caller, work.request.command.session());
        let number = work.request.command.operation().unwrap_or_default().0;
        let queued = QueuedRecord {
            queued: work.caller.now,
            content,
            from: current.user.as_str().into(),
            to: to.into(),
            is_group,
            body: message.0.to_vec(),
            operation: owner.map(|owner| QueuedOperation {
                owner: owner.bytes().to_vec(),
                number,
            }),
        };
        current.rely_on(&mut work.batch);
        work.batch
            // Whoever removes the peer meanwhile leaves no message behind.
            .expect(records::peer(peer.realm), Expected::At(peer.version))
            .append(records::queue(peer.realm), queued.to_value()?);
        Ok(Answer::Sent(Sent::Queued))
    }

    /// Waits a little for what the peer says of the message that a command has queued; the answer to
    /// that command as it then is.
    pub(super) async fn verdict(
        &self,
        work: &Work<'_>,
        position: Position,
        queued: Vec<u8>,
    ) -> Result<Vec<u8>, Failure> {
        let (Command::SendRealm {
            operation,
            session,
            realm,
            ..
        }
        | Command::SendGroupRealm {
            operation,
            session,
            realm,
            ..
        }) = work.request.command
        else {
            return Ok(queued);
        };
        let (tell, told) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((realm, position.0), tell);
        if let Ok(Ok(answer)) = tokio::time::timeout(VERDICT_PATIENCE, told).await {
            return Ok(answer);
        }
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(realm, position.0));
        // It may have come just before or after.
        let Some(owner) = self.owner(work.caller, Some(session)) else {
            return Ok(queued);
        };
        match self
            .look_up(owner, operation, fingerprint(work.request))
            .await
        {
            Ok(super::Known::Done(RecordedAnswer::Bytes(answer))) => Ok(answer),
            _ => Ok(queued),
        }
    }

    async fn settled(&self, realm: RealmId) -> Result<(u64, Expected), Failure> {
        let found = self
            .record::<CursorRecord>(&records::settled(realm))
            .await?;
        Ok(found.map_or((0, Expected::Absent), |(cursor, version)| {
            (cursor.position, Expected::At(version))
        }))
    }

    /// How many messages wait for a peer. Positions have no gaps, so the last is found by leaps.
    pub(super) async fn queued(&self, realm: RealmId) -> Result<u64, Failure> {
        let log = records::queue(realm);
        let (settled, _) = self.settled(realm).await?;
        let one = PageLimit {
            entries: 1,
            bytes: 1,
        };
        let mut count = 0;
        for bit in (0..=QUEUE_MAX.ilog2()).rev() {
            let more = count + (1 << bit);
            let page = self
                .store
                .read(&log, Position(settled + more - 1), one)
                .await?;
            if !page.entries.is_empty() {
                count = more;
            }
        }
        Ok(count)
    }

    /// Wakes when a message to a peer has been queued.
    pub fn queue_grown(&self, realm: RealmId) -> Subscription {
        self.store.subscribe(&records::queue(realm))
    }

    /// The message to be taken to a peer next, if there is one.
    pub async fn next_outgoing(&self, realm: RealmId) -> Option<Outgoing> {
        let next = async {
            let (settled, _) = self.settled(realm).await?;
            let one = PageLimit {
                entries: 1,
                bytes: 1,
            };
            let log = records::queue(realm);
            let page = self.store.read(&log, Position(settled), one).await?;
            let first = page.entries.into_iter().next();
            let outgoing = first.map(|(position, value)| {
                QueuedRecord::from_value(&value).map(|record| Outgoing {
                    position: position.0,
                    record,
                })
            });
            Ok::<_, Failure>(outgoing.transpose()?)
        };
        next.await.unwrap_or_else(|failure| {
            self.note("queue", &failure);
            None
        })
    }

    /// True when a message has been tried for so long that it is given up.
    pub const fn is_expired(outgoing: &Outgoing, now: u32) -> bool {
        now.saturating_sub(outgoing.record.queued) >= QUEUED_LIFETIME_SECONDS
    }

    /// Takes a message to its peer, and writes down what came of it. False when the peer did not answer,
    /// or is busy: it is to be tried again later.
    pub async fn deliver_outgoing(&self, peer: &Peer, outgoing: &Outgoing, now: u32) -> bool {
        let Ok(current) = self.peer(peer.realm).await else {
            return false;
        };
        let expired = Self::is_expired(outgoing, now);
        let answer = if expired {
            Some(Answer::Refused(ErrorCode::RealmUnreachable.into()))
        } else {
            self.ask_to_deliver(&current, outgoing).await
        };
        let settled = match answer {
            None => {
                self.network.silent(peer.realm);
                return false;
            }
            Some(Answer::Refused(refusal)) if refusal.is_transient() => return false,
            Some(Answer::Refused(refusal)) if refusal.code == ErrorCode::NumberReused => {
                // This realm's memory is older than the peer's: its numbers mean other messages there.
                self.begin_epoch(&current).await
            }
            Some(answer) => self.settle(&current, outgoing, &answer, now).await,
        };
        if !expired {
            self.network.heard(peer.realm, now);
        }
        settled.unwrap_or_else(|failure| {
            self.note("settle", &failure);
            false
        })
    }

    async fn ask_to_deliver(&self, peer: &Peer, outgoing: &Outgoing) -> Option<Answer> {
        let record = &outgoing.record;
        let (epoch, sequence) = (peer.record.epoch, OperationNumber(outgoing.position));
        let (content, from) = (record.content, record.from.parse().ok()?);
        let message = Body(&record.body);
        let request = if record.is_group {
            PeerRequest::Post {
                epoch,
                sequence,
                content,
                from,
                group: record.to.parse().ok()?,
                message,
            }
        } else {
            PeerRequest::Deliver {
                epoch,
                sequence,
                content,
                from,
                to: record.to.parse().ok()?,
                message,
            }
        };
        let answer = self.network.ask(peer, request.to_bytes()).await?;
        Answer::parse(&answer).ok()
    }

    /// From here on messages are numbered anew for a peer.
    async fn begin_epoch(&self, peer: &Peer) -> Result<bool, Failure> {
        let record = PeerRecord {
            epoch: u64::from_be_bytes(self.random()),
            ..peer.record.clone()
        };
        let key = records::peer(peer.realm);
        let mut batch = Batch::new();
        batch
            .expect(key.clone(), Expected::At(peer.version))
            .put(key, record.to_value()?);
        self.commit(batch).await?;
        Ok(true)
    }

    /// Writes down what a peer said of a message: it leaves the queue, the command that queued it is
    /// answered so from now on, and a sender who is not waiting any more is told of what failed.
    async fn settle(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
        answer: &Answer,
        now: u32,
    ) -> Result<bool, Failure> {
        let (_, expected) = self.settled(peer.realm).await?;
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
        let position = outgoing.position;
        let mut batch = Batch::new();
        let key = records::settled(peer.realm);
        batch
            .expect(key.clone(), expected)
            .put(key, CursorRecord { position }.to_value()?)
            .trim(records::queue(peer.realm), Position(position + 1));
        if let Some(operation) = &outgoing.record.operation
            && let Some(owner) = Owner::from_bytes(&operation.owner)
        {
            let key = records::operation(&owner, operation.number);
            if let Some((record, version)) = self.record::<OperationRecord>(&key).await? {
                let record = OperationRecord {
                    answer: RecordedAnswer::Bytes(verdict.clone()),
                    ..record
                };
                batch
                    .expect(key.clone(), Expected::At(version))
                    .put(key, record.to_value()?);
            }
        }
        let waiting = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(peer.realm, position))
            .filter(|waiting| !waiting.is_closed());
        if waiting.is_none()
            && let Some(refusal) = refusal
        {
            append_notice(peer, outgoing, refusal, now, &mut batch)?;
        }
        let outcome = self.commit(batch).await?;
        if let (Outcome::Durable, Some(waiting)) = (&outcome, waiting) {
            // Should it have stopped waiting just now, it reads the verdict where it was written down.
            let _ = waiting.send(verdict);
        }
        Ok(matches!(outcome, Outcome::Durable))
    }
}

/// Adds to `batch` that the sender is told that a message was not delivered.
fn append_notice(
    peer: &Peer,
    outgoing: &Outgoing,
    refusal: crate::wire::Refusal,
    now: u32,
    batch: &mut Batch,
) -> Result<(), Failure> {
    let record = &outgoing.record;
    let Ok(sender) = record.from.parse() else {
        return Ok(());
    };
    let quote: String = String::from_utf8_lossy(&record.body)
        .chars()
        .take(NOTICE_QUOTE_MAX)
        .collect();
    let text = format!("not delivered ({}): {quote}", refusal.code.name());
    let notice = EntryRecord {
        time: now,
        content: CONTENT_NOTICE,
        user: record.to.clone(),
        realm: Some(peer.realm.as_str().into()),
        body: text.into_bytes(),
    };
    batch.append(Place::private(sender).log, notice.to_value()?);
    Ok(())
}
