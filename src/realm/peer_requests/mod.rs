//! Requests of other realms (PEER-2, PEER-4). A sender is known by the key that it has proven, and
//! by nothing else that it says.

pub(super) mod introductions;

use crate::realm::{
    ATTEMPTS_MAX, Caller, Realm, Secrecy,
    failure::Failure,
    idempotency::{FormerAnswer, NumberState},
    message_content::MessageContent,
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
        Answer, Body, ErrorCode, PeerRequest, RealmId, Refusal, Sender, Sent, Username,
        peer::{AboutGroup, Delivery, Grown, Introduction, Join, Kind, Leave, Read, Rotate},
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
        match request.kind() {
            Kind::Introduction(introduction) => {
                let answer = match introduction {
                    Introduction::Introduce(introduce) => {
                        self.introduced(caller, &key, introduce).await?
                    }
                    Introduction::Rotate(Rotate { key: new, proof }) => {
                        self.rotated(caller, &key, (&PublicKey(new), &proof))
                            .await?
                    }
                };
                Ok(answer.to_bytes())
            }
            Kind::Delivery(delivery) => {
                let peer = self.asking_peer(caller, &key).await?;
                let owner = Owner::peer(&peer.first_key(), delivery.epoch());
                let now = caller.now;
                self.admit_epoch(now, &peer, &owner).await?;
                self.limiter.may_store_from(now, peer.realm)?;
                let arrived = Arrived {
                    peer,
                    delivery,
                    now,
                };
                self.deliver(owner, bytes, &arrived).await
            }
            Kind::AboutGroup(request) => {
                let peer = self.asking_peer(caller, &key).await?;
                let answer = self.about_group(caller, &peer, request).await?;
                Ok(answer.to_bytes())
            }
        }
    }

    /// Returns the peer whose present key this is, which is heard by that.
    async fn asking_peer(&self, caller: &Caller, key: &PublicKey) -> Result<Peer, Failure> {
        let peer = self.peers.peer_of(&mut Unnoted, key).await?;
        let peer = peer.filter(|peer| peer.key() == *key);
        let peer = peer.ok_or(ErrorCode::PeerRefused)?;
        self.network.heard(peer.realm, caller.now.wall);
        Ok(peer)
    }

    /// Handles a peer's request about groups: groups here with its users, and groups there with
    /// users of this realm.
    async fn about_group(
        &self,
        caller: &Caller,
        peer: &Peer,
        request: AboutGroup<'_>,
    ) -> Result<Answer, Failure> {
        match request {
            AboutGroup::Join(Join {
                group,
                user,
                password,
            }) => {
                self.groups
                    .host_join(caller, peer, (group, user), &password)
                    .await
            }
            AboutGroup::Leave(Leave {
                group,
                user,
                membership,
            }) => {
                self.groups
                    .host_leave(peer, (group, user), membership)
                    .await
            }
            AboutGroup::Grown(Grown { group }) => {
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
            AboutGroup::Read(Read {
                group,
                group_epoch,
                after,
                offset,
                life,
            }) => {
                self.lives.check_life(life)?;
                self.mailboxes
                    .host_read(caller, peer, (group, group_epoch), (after, offset.0))
                    .await
            }
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
        request: &[u8],
        arrived: &Arrived<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let Arrived {
            peer,
            delivery,
            now,
        } = arrived;
        let fingerprint = match delivery {
            // Whatever has that number is withdrawn.
            Delivery::Withdraw(_) => None,
            Delivery::Deliver(_)
            | Delivery::Post(_)
            | Delivery::Expelled(_)
            | Delivery::Ended(_) => Some(short_hash(&[request])),
        };
        for _ in 0..ATTEMPTS_MAX {
            let mut operation = match self
                .idempotency
                .look_up(owner, delivery.sequence(), fingerprint)
                .await?
            {
                NumberState::Done(answer) => return answer_to_peer(answer),
                NumberState::New(operation) => operation,
            };
            let mut batch = Batch::new();
            // A peer's removal says nothing about the message.
            self.peers.rely_on_peer(&mut batch, peer).await?;
            let (answer, realms) = match self.decide_delivery(arrived, &mut batch).await {
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
                self.limiter.stored_from(*now, peer.realm, stored);
                match delivery {
                    Delivery::Post(post) => self.groups.tell_all(&realms, post.group),
                    Delivery::Ended(_) => self.chores.notify_one(),
                    Delivery::Deliver(_) | Delivery::Expelled(_) | Delivery::Withdraw(_) => {}
                }
                return Ok(bytes);
            }
        }
        Err(Failure::contended())
    }

    /// Decides about a delivery: the answer, with what is written in the batch, and which realms
    /// must be told.
    async fn decide_delivery(
        &self,
        arrived: &Arrived<'_>,
        batch: &mut Batch,
    ) -> Result<(Answer, Vec<RealmId>), Failure> {
        const STORED: Answer = Answer::Sent(Sent::Stored);
        let Arrived {
            peer,
            delivery,
            now,
        } = arrived;
        match delivery {
            Delivery::Deliver(deliver) => {
                let from = deliver.from;
                let content = self.content_of(deliver.content, deliver.message)?;
                let entry = entry_of(peer, from, content, *now).to_value()?;
                let user = deliver.to;
                self.accounts.check_exists(&mut Unnoted, user).await?;
                let mailboxes = [
                    MailboxLog::private(user),
                    MailboxLog::from_realm(user, peer.realm),
                ];
                let from = Sender {
                    user: from,
                    realm: Some(peer.realm),
                };
                let logs = self.blocks.logs_for(batch, mailboxes, (&from, user));
                for log in logs.await? {
                    batch.append(log, entry.clone());
                }
                Ok((STORED, Vec::new()))
            }
            Delivery::Post(post) => {
                let content = self.content_of(post.content, post.message)?;
                let entry = entry_of(peer, post.from, content, *now).to_value()?;
                let posted = self.groups.host_post(peer, post.from, post.group, batch);
                let (place, realms) = posted.await?;
                batch.append(place.log, entry);
                Ok((STORED, realms))
            }
            Delivery::Expelled(expelled) => {
                let which = (peer.realm, expelled.group);
                let who = (expelled.user, expelled.membership);
                self.groups.end_expelled(which, who, batch).await?;
                Ok((STORED, Vec::new()))
            }
            Delivery::Ended(ended) => {
                let which = (peer.realm, ended.group);
                self.groups
                    .end_replica(which, ended.group_epoch, batch)
                    .await?;
                Ok((STORED, Vec::new()))
            }
            // A message that was not delivered never will be. If it was delivered, the answer is
            // the one that it had.
            Delivery::Withdraw(_) => Ok((Answer::Done, Vec::new())),
        }
    }

    fn content_of<'a>(
        &self,
        content_type: u8,
        message: Body<'a>,
    ) -> Result<MessageContent<'a>, Refusal> {
        MessageContent::new(Some(content_type), message, self.limits.max_message)
    }
}

/// Returns the entry that a peer's message becomes.
fn entry_of(peer: &Peer, from: Username, content: MessageContent<'_>, now: Moment) -> EntryRecord {
    EntryRecord {
        time: now.wall,
        content: content.content_type(),
        user: from.as_str().into(),
        realm: Some(peer.realm.as_str().into()),
        body: content.body().to_vec(),
        alleged: None,
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

/// A delivery, with its sender and its time.
struct Arrived<'a> {
    peer: Peer,
    delivery: Delivery<'a>,
    now: Moment,
}
