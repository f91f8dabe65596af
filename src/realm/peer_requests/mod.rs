//! Requests of other realms (PEER-2, PEER-4). A sender is known by the key that it has proven, and
//! by nothing else that it says.

pub(super) mod introductions;

use crate::realm::{
    ATTEMPTS_MAX, Caller, Realm, Secrecy,
    failure::Failure,
    idempotency::{FormerAnswer, NumberState},
    network::GroupWork,
    peer::Peer,
    records::{EntryRecord, MailboxLog, Owner, Record as _, RecordedAnswer},
    short_hash::short_hash,
    storage::Unnoted,
    time::Moment,
};
use crate::{
    crypto::PublicKey,
    faults::{Fault, is_planted},
    store::{Batch, Store, StoreError},
    wire::{
        Answer, Body, CONTENT_TEXT, ErrorCode, GroupName, OperationNumber, PeerRequest, RealmId,
        Refusal, Sender, Sent, Username, is_of_realm,
    },
};

impl<S: Store> Realm<S> {
    /// Executes another realm's request.
    pub(in crate::realm) async fn peer_request(
        &self,
        caller: &Caller,
        bytes: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let Some(key) = caller.device() else {
            // Realms know each other by their keys, which a plain link does not prove.
            return Err(ErrorCode::PeerRefused.into());
        };
        let Ok(request) = PeerRequest::parse(bytes) else {
            return Err(ErrorCode::Unsupported.into());
        };
        if caller.secrecy == Secrecy::Early
            && !request.may_travel_early()
            && !is_planted(Fault::TakeAllEarly)
        {
            return Err(ErrorCode::BadRequest.into());
        }
        if let PeerRequest::Introduce {
            realm,
            address,
            port,
            numbers,
        } = request
        {
            let place = (address.0, port.0);
            let answer = self.introduced(caller, &key, realm, place, numbers).await?;
            return Ok(answer.to_bytes());
        }
        if let PeerRequest::Rotate { key: new, proof } = request {
            let answer = self
                .rotated(caller, &key, (&PublicKey(new), &proof))
                .await?;
            return Ok(answer.to_bytes());
        }
        let peer = self.peers.peer_of(&mut Unnoted, &key).await?;
        let peer = peer.filter(|peer| peer.key() == key);
        let peer = peer.ok_or(ErrorCode::PeerRefused)?;
        self.network.heard(peer.realm, caller.now.wall);
        let (epoch, sequence, what) = match request {
            PeerRequest::Deliver {
                epoch,
                sequence,
                content,
                from,
                to,
                message,
            } => {
                let message = (content, from, message);
                (epoch, sequence, What::Message(To::User(to), message))
            }
            PeerRequest::Post {
                epoch,
                sequence,
                content,
                from,
                group,
                message,
            } => {
                let message = (content, from, message);
                (epoch, sequence, What::Message(To::Group(group), message))
            }
            PeerRequest::Expelled {
                epoch,
                sequence,
                group,
                user,
                membership,
            } => {
                let what = What::Expelled((group, user), membership);
                (epoch, sequence, what)
            }
            PeerRequest::Ended {
                epoch,
                sequence,
                group,
                life,
            } => (epoch, sequence, What::Ended(group, life)),
            PeerRequest::Withdraw { epoch, sequence } => (epoch, sequence, What::Withdrawal),
            about_group => {
                let answer = self.about_group(caller, &peer, about_group).await?;
                return Ok(answer.to_bytes());
            }
        };
        let owner = Owner::peer(&peer.first_key(), epoch);
        let delivery = Delivery {
            peer,
            what,
            now: caller.now,
        };
        self.admit_epoch(caller.now, &delivery.peer, &owner).await?;
        self.limiter
            .may_store_from(caller.now, delivery.peer.realm)?;
        self.deliver(owner, sequence, bytes, &delivery).await
    }

    /// Handles a peer's request about groups: groups here with its users, and groups there with
    /// users of this realm.
    async fn about_group(
        &self,
        caller: &Caller,
        peer: &Peer,
        request: PeerRequest<'_>,
    ) -> Result<Answer, Failure> {
        match request {
            PeerRequest::Join {
                group,
                user,
                password,
            } => {
                self.groups
                    .host_join(caller, peer, (group, user), &password)
                    .await
            }
            PeerRequest::Leave {
                group,
                user,
                membership,
            } => {
                self.groups
                    .host_leave(peer, (group, user), membership)
                    .await
            }
            PeerRequest::Grown { group } => {
                // Nothing is remembered about a group that no user here is in.
                if self
                    .groups
                    .find_replica(&mut Unnoted, peer.realm, group)
                    .await?
                    .is_some()
                {
                    self.network.add_work(peer.realm, GroupWork::Read(group));
                }
                Ok(Answer::Done)
            }
            PeerRequest::Read {
                group,
                epoch,
                after,
                offset,
                life,
            } => {
                self.lives.check_life(life)?;
                self.mailboxes
                    .host_read(caller, peer, (group, epoch), (after, offset))
                    .await
            }
            // These are about something else.
            PeerRequest::Introduce { .. }
            | PeerRequest::Rotate { .. }
            | PeerRequest::Deliver { .. }
            | PeerRequest::Post { .. }
            | PeerRequest::Expelled { .. }
            | PeerRequest::Ended { .. }
            | PeerRequest::Withdraw { .. } => Err(ErrorCode::Unsupported.into()),
        }
    }

    /// Limits how many new epochs a peer may begin: something is remembered of each, and a peer
    /// could invent any number of them.
    async fn admit_epoch(&self, now: Moment, peer: &Peer, owner: &Owner) -> Result<(), Failure> {
        if self.idempotency.highest(owner).await?.0 == 0 {
            self.limiter.epoch(now, peer.realm)?;
        }
        Ok(())
    }

    /// Delivers a message once. Refusals are remembered too: the sender has been told, and the same
    /// message must not be delivered later.
    async fn deliver(
        &self,
        owner: Owner,
        sequence: OperationNumber,
        request: &[u8],
        delivery: &Delivery<'_>,
    ) -> Result<Vec<u8>, Failure> {
        // Whatever has that number is withdrawn.
        let fingerprint = match delivery.what {
            What::Withdrawal => None,
            What::Message(..) | What::Expelled(..) | What::Ended(..) => {
                Some(short_hash(&[request]))
            }
        };
        for _ in 0..ATTEMPTS_MAX {
            let mut operation = match self
                .idempotency
                .look_up(owner, sequence, fingerprint)
                .await?
            {
                NumberState::Done(answer) => return answer_to_peer(answer),
                NumberState::New(operation) => operation,
            };
            let mut batch = Batch::new();
            // A peer's removal says nothing about the message.
            self.peers.rely_on_peer(&mut batch, &delivery.peer).await?;
            let (answer, realms) = match self.decide_delivery(delivery, &mut batch).await {
                Ok(decided) => decided,
                Err(Failure::Refused(refusal)) => {
                    // The refusal depends on the same values.
                    batch.changes.clear();
                    (Answer::Refused(refusal), Vec::new())
                }
                Err(failure) => return Err(failure),
            };
            let bytes = answer.to_bytes();
            operation.record(RecordedAnswer::Bytes(bytes.clone()), &mut batch)?;
            let stored = batch.bytes();
            let placed = self
                .idempotency
                .commit_operation(&mut operation, batch)
                .await?;
            if placed.is_some() {
                let (now, realm) = (delivery.now, delivery.peer.realm);
                self.limiter.stored_from(now, realm, stored);
                match delivery.what {
                    What::Message(To::Group(group), _) => self.groups.tell_all(&realms, group),
                    What::Ended(..) => self.chores.notify_one(),
                    What::Message(To::User(_), _) | What::Expelled(..) | What::Withdrawal => {}
                }
                return Ok(bytes);
            }
        }
        Err(Failure::contended())
    }

    /// Decides about a message: the answer, with what is written in the batch, and which realms
    /// must be told.
    async fn decide_delivery(
        &self,
        delivery: &Delivery<'_>,
        batch: &mut Batch,
    ) -> Result<(Answer, Vec<RealmId>), Failure> {
        const STORED: Answer = Answer::Sent(Sent::Stored);
        let Delivery { peer, what, now } = delivery;
        let (to, (content, from, message)) = match what {
            What::Message(to, message) => (to, message),
            What::Withdrawal => return Ok((Answer::Done, Vec::new())),
            What::Expelled((group, user), membership) => {
                let which = (peer.realm, *group);
                self.groups
                    .end_expelled(which, (*user, *membership), batch)
                    .await?;
                return Ok((STORED, Vec::new()));
            }
            What::Ended(group, life) => {
                let which = (peer.realm, *group);
                self.groups.end_replica(which, *life, batch).await?;
                return Ok((STORED, Vec::new()));
            }
        };
        if message.0.len() > self.limits.max_message {
            return Err(Refusal::too_large(self.limits.max_message as u64).into());
        }
        let is_text = *content == CONTENT_TEXT;
        let is_known = *content <= 0x7f && !is_of_realm(*content);
        if !is_known || (is_text && core::str::from_utf8(message.0).is_err()) {
            return Err(ErrorCode::BadRequest.into());
        }
        let entry = EntryRecord {
            time: now.wall,
            content: *content,
            user: from.as_str().into(),
            realm: Some(peer.realm.as_str().into()),
            body: message.0.to_vec(),
            alleged: None,
        }
        .to_value()?;
        match to {
            To::User(user) => {
                self.accounts.check_exists(&mut Unnoted, *user).await?;
                let mailboxes = [
                    MailboxLog::private(*user),
                    MailboxLog::from_realm(*user, peer.realm),
                ];
                let from = Sender {
                    user: *from,
                    realm: Some(peer.realm),
                };
                let logs = self.blocks.logs_for(batch, mailboxes, (&from, *user));
                for log in logs.await? {
                    batch.append(log, entry.clone());
                }
                Ok((STORED, Vec::new()))
            }
            To::Group(group) => {
                let (place, realms) = self.groups.host_post(peer, *from, *group, batch).await?;
                batch.append(place.log, entry);
                Ok((STORED, realms))
            }
        }
    }
}

/// Returns the answer that a peer's message had.
fn answer_to_peer(answer: FormerAnswer) -> Result<Vec<u8>, Failure> {
    match answer {
        FormerAnswer::Bytes(bytes) => Ok(bytes),
        // No message opens a session.
        FormerAnswer::Session => {
            let what = "the answer to a message of a peer";
            Err(StoreError::Damaged(what.into()).into())
        }
    }
}

/// The recipient of a message.
#[derive(Clone, Copy)]
enum To {
    User(Username),
    Group(GroupName),
}

/// What a peer delivers, once and in order.
#[derive(Clone, Copy)]
enum What<'a> {
    /// A message: its content type, its author and its body.
    Message(To, (u8, Username, Body<'a>)),
    /// A user here is no member of a group there any more. Holds the number of that membership.
    Expelled((GroupName, Username), u64),
    /// A group there, with this epoch, has ended.
    Ended(GroupName, u64),
    /// Nothing: a message that was not delivered never will be. If it was delivered, the answer is
    /// the one that it had.
    Withdrawal,
}

/// A delivery, with its sender and its time.
struct Delivery<'a> {
    peer: Peer,
    what: What<'a>,
    now: Moment,
}
