//! `sendrealm` and `sendgrouprealm`: messages for users and groups of other realms.

use crate::realm::{
    Realm,
    commands::{reply::Reply, work::Work},
    current_session::Current,
    failure::Failure,
    idempotency::{FormerAnswer, NumberState, fingerprint},
    message_content::MessageContent,
    peer::Peer,
    queues::{NewOutgoing, delivery::QUEUED_LIFETIME_SECONDS, receipts::Wait},
    records::{Owner, QueuedKind, QueuedOperation},
};
use crate::{
    store::Store,
    wire::{Body, ErrorCode, Options, Port, Sent, Text, command},
};

impl<S: Store> Realm<S> {
    pub(in crate::realm) async fn sendrealm(
        &self,
        work: &mut Work<'_>,
        command: &command::SendRealm<'_>,
    ) -> Result<Sent, Failure> {
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
    ) -> Result<Sent, Failure> {
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
        let (replica, member) = self
            .groups
            .replica_for(&mut work.batch, which, current.user)
            .await?;
        if replica.has_ended() {
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
    ) -> Result<Sent, Failure> {
        let options = &work.request.options;
        let content = MessageContent::new(options.content, *message, self.limits.max_message)?;
        // The reservation of an earlier attempt is released.
        work.queued = None;
        let place = self.queues.queue_share(peer.realm, current.user).await?;
        let owner = self
            .sessions
            .owner(work.caller, work.request.command.session());
        let number = work.number().0;
        let new = NewOutgoing {
            now: work.caller.now,
            content,
            kind,
            from: current.user,
            to,
            source,
            lifetime: lifetime(options)?,
            operation: owner.map(|owner| QueuedOperation {
                owner: owner.bytes().to_vec(),
                number,
            }),
            membership,
        };
        let queued = self.queues.enqueue(peer, new, &mut work.batch).await?;
        work.queued = Some((peer.realm, queued, place));
        Ok(Sent::Queued)
    }

    /// Returns the answer to a command that has `queued` a message: the message's receipt, if it
    /// comes while the command waits.
    pub(in crate::realm) async fn receipt(
        &self,
        work: &Work<'_>,
        owner: Owner,
        wait: Option<Wait>,
        queued: Reply<'static>,
    ) -> Result<Reply<'static>, Failure> {
        if let Some(wait) = wait
            && let Some(receipt) = wait.receipt().await
        {
            return Ok(Reply::recorded(work.change, receipt));
        }
        // The receipt may have come just before or after.
        let number = work.number();
        match self
            .idempotency
            .look_up_command(owner, number, fingerprint(work.request))
            .await?
        {
            NumberState::Done(FormerAnswer::Bytes(answer)) => {
                Ok(Reply::recorded(work.change, answer))
            }
            NumberState::Done(FormerAnswer::Session) | NumberState::New(_) => Ok(queued),
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
