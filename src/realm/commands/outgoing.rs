//! `sendrealm` and `sendgrouprealm`: messages for users and groups of other realms.

use crate::realm::{
    Realm,
    commands::work::Work,
    current_session::Current,
    failure::Failure,
    idempotency::{Known, fingerprint},
    peer::Peer,
    queues::{delivery::QUEUED_LIFETIME_SECONDS, receipts::Wait},
    records::{
        self, Owner, QueuedKind, QueuedOperation, QueuedRecord, Record as _, RecordedAnswer,
    },
};
use crate::{
    store::Store,
    wire::{Answer, Body, ErrorCode, GroupName, Options, Port, Sent, Text, command},
};

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn sendrealm(
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
        let current = self.session_noted(work, session).await?;
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
        let current = self.session_noted(work, session).await?;
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
            epoch: self.queues.epoch(),
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
            epoch: self.queues.epoch(),
            membership: 0,
        };
        work.batch
            .append(records::queue(peer.realm), queued.to_value()?);
        Ok(())
    }

    /// Returns the answer to a command that has `queued` a message: the peer's verdict, if it comes
    /// while the command waits.
    pub(in crate::realm) async fn verdict(
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
