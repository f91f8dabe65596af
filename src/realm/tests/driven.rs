//! Single steps with peers, as [`Federation`](crate::federation::Federation) has the realm do them.

use super::*;
use crate::{
    crypto::show_possession,
    federation::{Content, Reader, Reading, Refusals, Turn, Verdict, turn, verdict},
    wire::AnsweredByPeer as _,
};

/// The outcome of delivering a message to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The message has left its place in the queue.
    Settled,
    /// The peer accepts no message now.
    Busy,
    /// The peer does not accept this message.
    Refused,
    /// The peer did not answer.
    Silent,
    /// This realm cannot read or write the message's records.
    Failed,
}

impl From<Written> for Carried {
    fn from(written: Written) -> Self {
        match written {
            Written::Durable => Self::Settled,
            Written::Conflict => Self::Refused,
            Written::Failed => Self::Failed,
        }
    }
}

/// The outcome of reading a group from its home realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// The replica is complete.
    Equal,
    /// There is nothing to read any more.
    Gone,
    /// The other realm does not answer.
    Silent,
    /// The answer brings nothing new now, or this realm cannot store it now.
    Unread,
}

impl<S: Store> Realm<S> {
    /// Returns the signalled work for groups at a peer.
    pub async fn group_work(&self, realm: RealmId) -> Vec<GroupWork> {
        // This makes sure that there is a signal.
        self.network.heard(realm, 0);
        let signals = self.network.signals().await;
        let work = signals.work.into_iter();
        work.filter(|(at, _)| *at == realm)
            .map(|(_, work)| work)
            .collect()
    }

    /// Returns the message whose turn it is.
    pub async fn next_outgoing(&self, realm: RealmId) -> Result<Option<Outgoing>, Failure> {
        self.queues.find_outgoing(realm).await
    }

    /// Delivers a message to its peer, and records the outcome.
    pub async fn deliver_outgoing(
        &self,
        peer: &Peer,
        outgoing: &Outgoing,
        refused: u32,
        now: Moment,
    ) -> Carried {
        let looked = self.queues.look(peer.realm, true).await;
        let Ok(Some(Glance { peer, next })) = looked else {
            return Carried::Failed;
        };
        let next = match next {
            Ok(Some(next)) => NextOutgoing {
                outgoing: outgoing.clone(),
                ..next
            },
            Ok(None) => return Carried::Refused,
            Err(_) => return Carried::Failed,
        };
        let settling = match turn(&peer, &next, &Refusals::sample(refused), now) {
            Turn::Nothing => return Carried::Refused,
            Turn::Settle(settling) => settling,
            Turn::Ask(purpose, bytes) => {
                let answer = self.network.ask(&outgoing.asks(&peer), bytes).await;
                match verdict(purpose, Content::of(outgoing), answer.as_deref()) {
                    Verdict::Settle(settling) => settling,
                    Verdict::Busy => return Carried::Busy,
                    Verdict::Refused | Verdict::Unknown => return Carried::Refused,
                    Verdict::Silent => return Carried::Silent,
                }
            }
        };
        let is_again = settling == Settling::Anew && outgoing.has_own_epoch();
        let settled = self
            .queues
            .settle_outgoing(&peer, outgoing, &settling, now)
            .await;
        match settled.into() {
            Carried::Settled if is_again => Carried::Refused,
            carried => carried,
        }
    }

    /// Notes that the peer of that name has agreed about the peering.
    pub async fn agree_with(&self, realm: RealmId) {
        let mut batch = Batch::new();
        let mut peer = self.peers.peer(&mut batch, realm).await.unwrap();
        peer.record.apart = false;
        batch.put(records::peer(realm), peer.record.to_value().unwrap());
        self.storage.commit(batch).await.unwrap();
    }

    /// Returns the peer known by that name.
    pub async fn peer_now(&self, realm: RealmId) -> Result<Option<Peer>, Failure> {
        let looked = self.queues.look(realm, false).await?;
        Ok(looked.map(|glance| glance.peer))
    }

    /// Introduces this realm until both realms know each other's number, but a few times at most.
    /// Rotates to the new key first if the peer knows a former one.
    pub async fn introduce_again(&self, peer: &Peer, now: Moment) -> Carried {
        let own = self.own.key();
        if peer.knows() != own {
            let proof = show_possession(&self.own.secret, &peer.knows(), &peer.key()).unwrap();
            let request = PeerRequest::Rotate(peer::Rotate { key: own.0, proof });
            if self.network.ask(peer, request.to_bytes()).await.is_none() {
                return Carried::Silent;
            }
        }
        let mut carried = Carried::Busy;
        for _ in 0..=3 {
            let current = self.peer_now(peer.realm).await.unwrap();
            let mut tried = current.unwrap_or_else(|| peer.clone()).known_by(own);
            if peer.dialing() == Dialing::Once {
                tried = tried.at_claim().unwrap_or(tried);
            }
            carried = self.introduce_once(&tried, now).await;
            if carried != Carried::Busy {
                break;
            }
        }
        carried
    }

    async fn introduce_once(&self, peer: &Peer, now: Moment) -> Carried {
        for is_numbered in [true, false] {
            let request = self.own.introduction(peer, is_numbered);
            let answer = self.network.ask(peer, request).await;
            let Some(answer) = answer else {
                self.network.silent(peer.realm);
                return Carried::Silent;
            };
            return match peer::Introduce::read_answer(&answer) {
                Ok(Ok(said)) => match self.note_introduced(peer, said, now).await {
                    Written::Durable => Carried::Settled,
                    Written::Conflict => Carried::Busy,
                    Written::Failed => Carried::Failed,
                },
                Ok(Err(refusal)) if refusal.is_transient() => Carried::Busy,
                Ok(Err(refusal)) if is_numbered && refusal.code == ErrorCode::Unsupported => {
                    continue;
                }
                Ok(Err(_)) | Err(_) => Carried::Refused,
            };
        }
        Carried::Refused
    }

    /// True if this realm is due to introduce itself to the peer again. Takes the signal.
    pub async fn take_introduction(&self, realm: RealmId) -> bool {
        // This makes sure that there is a signal.
        self.network.heard(realm, 0);
        let signals = self.network.signals().await;
        signals.introductions.contains(&realm)
    }

    /// True if the address that a peer claims is to be tried. Takes the signal.
    pub async fn take_claim(&self, peer: &Peer) -> bool {
        // This makes sure that there is a signal.
        self.network.heard(peer.realm, 0);
        let signals = self.network.signals().await;
        for other in signals.claims.iter().filter(|other| **other != peer.realm) {
            self.network.claim_to_try(*other);
        }
        peer.record.claimed.is_some() && signals.claims.contains(&peer.realm)
    }

    /// Tries the address that a peer claims.
    pub async fn try_claim(&self, peer: &Peer, now: Moment) {
        if let Some(tried) = peer.at_claim()
            && self.introduce_again(&tried, now).await != Carried::Silent
        {
            let at = tried.address().0.parse().unwrap();
            self.peers.note_claim(&tried, at).await;
        }
    }

    /// Reads a group from its home realm until the replica is complete.
    pub async fn read_copy(&self, peer: &Peer, group: GroupName, now: Moment) -> ReadOutcome {
        loop {
            let state = match self.groups.look_at_replica(peer, group, now).await {
                ReplicaLook::At(state) => state,
                ReplicaLook::Gone => return ReadOutcome::Gone,
                ReplicaLook::NotNow => return ReadOutcome::Unread,
            };
            let mut reader = Reader::new(group, state.epoch(), state.position(), peer.life());
            let (kept, more) = loop {
                let answer = self.network.ask(peer, reader.request()).await;
                match reader.take(answer.as_deref()) {
                    Reading::Ask(_) => {}
                    Reading::Silent => return ReadOutcome::Silent,
                    Reading::Unread | Reading::Busy | Reading::Unknown => {
                        return ReadOutcome::Unread;
                    }
                    Reading::Gone => break (Kept::Gone, false),
                    Reading::Entries(entries, _) if entries.is_empty() => {
                        return ReadOutcome::Equal;
                    }
                    Reading::Entries(entries, more) => break (Kept::Entries(entries), more),
                }
            };
            let is_gone = matches!(kept, Kept::Gone);
            match self.groups.keep(peer, group, (state, kept), now).await {
                Written::Durable if is_gone => return ReadOutcome::Gone,
                Written::Durable if !more => return ReadOutcome::Equal,
                Written::Durable | Written::Conflict => {}
                Written::Failed => return ReadOutcome::Unread,
            }
        }
    }

    /// Tells a peer that a group here has grown.
    pub async fn tell_grown(&self, peer: &Peer, group: GroupName) -> Carried {
        let request = PeerRequest::Grown(peer::Grown { group });
        let Some(answer) = self.network.ask(peer, request.to_bytes()).await else {
            return Carried::Silent;
        };
        match Answer::parse(&answer) {
            Ok(Answer::Refused(refusal)) if refusal.is_final() => Carried::Settled,
            Ok(Answer::Done) => Carried::Settled,
            _ => Carried::Busy,
        }
    }
}
