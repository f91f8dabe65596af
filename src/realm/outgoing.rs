//! Messages to other realms (PEER-5, PEER-9): a durable queue for each peer, and the answer to the
//! sender.

use super::{
    Failure, Known, PeerQueues, Realm, Work,
    delivery::QUEUED_LIFETIME_SECONDS,
    operations::fingerprint,
    peers::Peer,
    receipts::Wait,
    records::{
        self, CursorRecord, Owner, QueuedKind, QueuedOperation, QueuedRecord, Record as _,
        RecordedAnswer,
    },
    sessions::Current,
};
use crate::{
    store::{Expected, PageLimit, Position, Store, Subscription},
    wire::{
        Answer, Body, ErrorCode, GroupName, Options, Port, RealmId, Sent, Text, command,
        command::Change,
    },
};

/// The search for the number of waiting messages goes up to twice this number, less one.
const COUNTED_MAX: u64 = 4096;

/// Returns how long a message is worth delivering, in seconds.
fn lifetime(options: &Options) -> Result<u32, Failure> {
    match options.ttl {
        Some(0) => Err(ErrorCode::BadRequest.into()),
        Some(ttl) => Ok(u32::try_from(ttl).map_or(QUEUED_LIFETIME_SECONDS, |ttl| {
            ttl.min(QUEUED_LIFETIME_SECONDS)
        })),
        None => Ok(QUEUED_LIFETIME_SECONDS),
    }
}

/// True if a command has queued a message for a peer.
pub(super) fn is_queued(change: Change<'_, '_>, answer: &[u8]) -> bool {
    let sends = matches!(change, Change::SendRealm(_) | Change::SendGroupRealm(_));
    sends && answer == Answer::Sent(Sent::Queued).to_bytes()
}

impl<S: Store> Realm<S> {
    pub(super) async fn sendrealm(
        &self,
        work: &mut Work<'_>,
        command: &command::SendRealm<'_>,
    ) -> Result<Answer, Failure> {
        let &command::SendRealm {
            session,
            src_address,
            src_port,
            realm,
            from,
            to,
            message,
            ..
        } = command;
        let current = self.sessions.session_noted(work, session).await?;
        if from != current.user {
            return Err(ErrorCode::NotYou.into());
        }
        let peer = self.peers.peer(&mut work.batch, realm).await?;
        let source = self.named_source(src_address, src_port)?;
        let to = (QueuedKind::Private, to.as_str(), 0);
        self.enqueue(work, &current, (&peer, source), to, &message)
            .await
    }

    pub(super) async fn sendgrouprealm(
        &self,
        work: &mut Work<'_>,
        command: &command::SendGroupRealm<'_>,
    ) -> Result<Answer, Failure> {
        let &command::SendGroupRealm {
            session,
            src_address,
            src_port,
            realm,
            group,
            message,
            ..
        } = command;
        let current = self.sessions.session_noted(work, session).await?;
        let peer = self.peers.peer(&mut work.batch, realm).await?;
        let source = self.named_source(src_address, src_port)?;
        let which = (realm, group);
        let (copy, member) = self
            .groups
            .copy_for(&mut work.batch, which, current.user)
            .await?;
        if copy.has_ended() {
            return Err(ErrorCode::NoSuchGroup.into());
        }
        let to = (QueuedKind::Group, group.as_str(), member.membership);
        self.enqueue(work, &current, (&peer, source), to, &message)
            .await
    }

    /// Returns the address of this realm that a message names as its source, or `None` for the
    /// peering's.
    pub(super) fn named_source(
        &self,
        address: Text<'_>,
        port: Port,
    ) -> Result<Option<(String, u16)>, Failure> {
        if (address.0, port.0) == ("", 0) {
            return Ok(None);
        }
        self.peers.source(address, port).map(Some)
    }

    /// Adds to the work's batch that a message waits for a peer. `membership` is the sender's in
    /// the group that it goes to, or 0.
    async fn enqueue(
        &self,
        work: &mut Work<'_>,
        current: &Current,
        (peer, source): (&Peer, Option<(String, u16)>),
        (kind, to, membership): (QueuedKind, &str, u64),
        message: &Body<'_>,
    ) -> Result<Answer, Failure> {
        let content = self.check_message(&work.request.options, message)?;
        // The reservation of an earlier attempt is released.
        work.queued = None;
        let place = self.queues.queue_share(peer.realm, current.user).await?;
        let owner = self
            .sessions
            .owner(work.caller, work.request.command.session());
        let number = work.caller.operation.0;
        let queued = QueuedRecord {
            queued: work.caller.now.running,
            content,
            kind,
            from: current.user.as_str().into(),
            to: to.into(),
            body: message.0.to_vec(),
            source,
            set_aside: false,
            lifetime: lifetime(&work.request.options)?,
            operation: owner.map(|owner| QueuedOperation {
                owner: owner.bytes().to_vec(),
                number,
            }),
            epoch: self.queues.epoch,
            membership,
        };
        // If the peer is removed meanwhile, no message may be left behind.
        work.batch
            .append(records::queue(peer.realm), queued.to_value()?);
        if kind == QueuedKind::Group {
            let batch = &mut work.batch;
            self.groups
                .note_post(&queued, (peer.realm, to), batch)
                .await?;
        }
        work.queued = Some((peer.realm, queued, place));
        Ok(Answer::Sent(Sent::Queued))
    }

    /// Adds to the work's batch a message to a peer about its users' memberships in a group: `from`
    /// is no member any more, or the group has ended.
    pub(super) fn queue_word(
        &self,
        peer: &Peer,
        (kind, from): (QueuedKind, &str),
        group: GroupName,
        body: &[u8],
        work: &mut Work<'_>,
    ) -> Result<(), Failure> {
        let queued = QueuedRecord {
            queued: work.caller.now.running,
            content: 0,
            kind,
            from: from.into(),
            to: group.as_str().into(),
            body: body.to_vec(),
            source: None,
            set_aside: false,
            lifetime: QUEUED_LIFETIME_SECONDS,
            operation: None,
            epoch: self.queues.epoch,
            membership: 0,
        };
        work.batch
            .append(records::queue(peer.realm), queued.to_value()?);
        Ok(())
    }

    /// Returns the answer to a command that has `queued` a message: the peer's verdict, if it comes
    /// while the command waits.
    pub(super) async fn verdict(
        &self,
        work: &Work<'_>,
        owner: Owner,
        wait: Option<Wait>,
        queued: Vec<u8>,
    ) -> Result<Vec<u8>, Failure> {
        if let Some(wait) = wait
            && let Some(verdict) = wait.verdict().await
        {
            return Ok(verdict);
        }
        // The verdict may have come just before or after.
        let number = work.caller.operation;
        match self
            .idempotency
            .look_up_command(owner, number, fingerprint(work.request))
            .await?
        {
            Known::Done(RecordedAnswer::Bytes(answer)) => Ok(answer),
            _ => Ok(queued),
        }
    }
}

impl<S: Store> PeerQueues<S> {
    pub(super) async fn settled(&self, realm: RealmId) -> Result<(u64, Expected), Failure> {
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
    pub(super) async fn queued(&self, realm: RealmId) -> Result<u64, Failure> {
        let log = records::queue(realm);
        let (settled, _) = self.settled(realm).await?;
        let one = PageLimit {
            entries: 1,
            bytes: 1,
        };
        let mut count = 0;
        for bit in (0..=COUNTED_MAX.ilog2()).rev() {
            let more = count + (1 << bit);
            let page = self
                .storage
                .store
                .read(&log, Position(settled + more - 1), one);
            let is_there = match page.await {
                Ok(page) => !page.entries.is_empty(),
                // An unreadable entry also waits.
                Err(error) if error.is_of_one_record() => true,
                Err(error) => return Err(error.into()),
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
        self.storage.store.subscribe(&queues)
    }
}
