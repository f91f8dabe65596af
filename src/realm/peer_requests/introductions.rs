//! Introductions between realms, and changes of their keys (PEER-2, PEER-3, PEER-13).

use crate::realm::{
    ATTEMPTS_MAX, Caller, Realm,
    failure::Failure,
    identity::Peering,
    peer::Peer,
    peer_quota::Newcomer,
    peers::Peers,
    storage::{Outcome, Unnoted, Written},
    time::Moment,
};
use crate::{
    crypto::{Possession, PublicKey, is_possession},
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{Answer, ErrorCode, Numbered, Port, RealmId, Refusal, Text, peer::Introduce},
};

/// The most former keys of a peer. A peer that changes its key more often must be added anew.
const FORMER_MAX: usize = 64;
/// The longest host that a realm may claim, in bytes. With it, the list of all peers fits one
/// answer.
pub const HOST_MAX: usize = 64;

impl<S: Store> Realm<S> {
    /// Records that a peer has accepted the peering, by which key it knows this realm, and how it
    /// numbers the peering, if it has `said` that.
    ///
    /// On a conflict the peer must be introduced to again.
    pub async fn note_introduced(
        &self,
        peer: &Peer,
        said: Option<Numbered>,
        now: Moment,
    ) -> Written {
        let noted = async {
            if let Some(numbered) = said
                && !self
                    .peers
                    .take_numbered(now, &mut peer.clone(), numbered)
                    .await?
            {
                // It is introduced to again, with its present number.
                return Ok(Written::Conflict);
            }
            // The peer may introduce itself or change its key at the same time. Its messages should
            // not wait longer for that.
            for _ in 0..ATTEMPTS_MAX {
                let mut batch = Batch::new();
                let mut current = self.peers.peer(&mut batch, peer.realm).await?;
                // Another realm may have the name by now, or this one another number: it is
                // introduced to again.
                if current.identity() != peer.identity()
                    || current.record.number != peer.record.number
                {
                    break;
                }
                // If it already knows the present key, a late answer does not undo that.
                let knows_now = current.record.knows == self.own.key().0;
                if !knows_now {
                    current.record.knows = peer.record.knows;
                }
                current.record.introduced = true;
                // If a peer says no number (any more), nothing waits for its agreement.
                current.record.apart &= said.is_some();
                current.put(&mut batch)?;
                if let Outcome::Durable = self.storage.commit(batch).await? {
                    return Ok(Written::Durable);
                }
            }
            Ok(Written::Conflict)
        };
        noted.await.unwrap_or_else(|failure: Failure| {
            self.storage.log_failure("introduce", &failure);
            Written::Failed
        })
    }

    /// Handles a realm's introduction.
    pub(super) async fn introduced(
        &self,
        caller: &Caller,
        key: &PublicKey,
        introduction: Introduce<'_>,
    ) -> Result<Answer, Failure> {
        let Introduce {
            realm,
            address: Text(address),
            port: Port(port),
            numbers,
        } = introduction;
        let is_odd = address.is_empty() != (port == 0) || address.len() > HOST_MAX;
        if is_odd || self.own.is(key) {
            return Err(ErrorCode::BadRequest.into());
        }
        let mut is_counted = false;
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            let (mut peer, is_new) = match self.peers.peer_of(&mut batch, key).await? {
                // It has announced a newer key itself.
                Some(known) if known.key() != *key => return Err(ErrorCode::PeerRefused.into()),
                Some(known) => (known, false),
                None => {
                    let peer = self
                        .new_peer(caller, &mut batch, (realm, *key), &mut is_counted)
                        .await;
                    let peer = peer.inspect_err(|_| {
                        self.keep_pending(caller, (realm, *key), (address, port));
                    })?;
                    (peer, true)
                }
            };
            let was = peer.record.clone();
            peer.record = Peers::<S>::with_claim(&was, (address, port));
            peer.record.introduced = true;
            // It uses the key of this realm that it knows. That is a former key again if it was
            // restored from a backup that is older than the last change of this realm's key.
            if let Some(own) = caller.own()
                && (own == self.own.key() || !is_planted(Fault::TrustKnownKey))
            {
                peer.record.knows = own.0;
            }
            let is_claim = peer.record.claimed.is_some();
            let mut answer = Answer::Done;
            if let Some(numbers) = numbers {
                peer.record = self
                    .peers
                    .renumbered(caller.now, &peer, numbers, &mut batch)?;
                let numbered = Numbered {
                    number: peer.record.number,
                    is_apart: peer.record.apart,
                };
                answer = numbered.to_answer(peer.realm);
            } else {
                // It was downgraded to a release without numbers: no agreement about them is
                // possible or waited for.
                peer.record.apart = false;
            }
            let ends = was.number != peer.record.number;
            let knows_former = was.knows != peer.record.knows && peer.knows() != self.own.key();
            if is_new {
                self.peers.put_new_peer(&peer, &mut batch).await?;
            } else if peer.record != was {
                peer.put(&mut batch)?;
            }
            let changes = !batch.changes.is_empty();
            if !changes || matches!(self.storage.commit(batch).await?, Outcome::Durable) {
                if is_new {
                    tracing::info!(peer = %peer.realm, fingerprint = key.fingerprint(), from = %caller.subnet, "realm introduced itself and became a peer");
                }
                if ends {
                    tracing::warn!(peer = %peer.realm, "peer began to peer anew; what was of the former peering ends");
                }
                if is_new || ends {
                    // Another peer may have been evicted.
                    self.chores.notify_one();
                }
                // Other changes can wait until the peer is next looked at: any peer may change its
                // address as often as it likes.
                if is_new || ends {
                    self.network.peers_changed();
                }
                if ends || knows_former {
                    // If the answer is lost, the former peering would have ended on this side only.
                    // A peer that knows this realm by a former key has to be told the present one.
                    self.network.introduction_due(peer.realm);
                }
                self.network.heard(peer.realm, caller.now.wall);
                if is_claim {
                    self.peers.has_claimed(caller, &peer);
                }
                // Its groups may have grown while it was away. If they cannot be listed, it must
                // introduce itself again.
                self.groups.read_all_replicas(peer.realm).await?;
                return Ok(answer);
            }
        }
        Err(Failure::contended())
    }

    /// Returns a new peer for an unknown realm that introduces itself, if it may become one.
    async fn new_peer(
        &self,
        caller: &Caller,
        batch: &mut Batch,
        (realm, key): (RealmId, PublicKey),
        is_counted: &mut bool,
    ) -> Result<Peer, Failure> {
        // A peer that an operator has removed does not come back by itself.
        let is_refused = self.network.pending(|pending| pending.is_refused(&key));
        if self.own.peering != Peering::Open || is_refused {
            return Err(ErrorCode::PeerRefused.into());
        }
        if realm == self.own.id || self.peers.find_peer(&mut Unnoted, realm).await?.is_some() {
            return Err(ErrorCode::RealmExists.into());
        }
        if !*is_counted && !is_planted(Fault::UnaskedWithoutEnd) {
            self.limiter.unasked(caller)?;
            *is_counted = true;
        }
        let source = self.peers.source(Text(""), Port(0))?;
        // Its address is unknown until it has shown it.
        let nowhere = (String::new(), 0);
        let mut peer = self
            .peers
            .begin_peer(batch, (realm, key), nowhere, source)
            .await?;
        if let Some(gone) = self.quota.make_place(Newcomer::Uninvited, batch).await? {
            tracing::info!(peer = %gone, "uninvited peer without use here was evicted; another took its place");
        }
        peer.record.knows = caller.own().unwrap_or(self.own.key()).0;
        Ok(peer)
    }

    /// Handles a peer's change of key: `old`, which the peer has proven, vouches for `new`, and
    /// `proof` shows that the peer also has the secret of `new`.
    pub(super) async fn rotated(
        &self,
        caller: &Caller,
        old: &PublicKey,
        (new, proof): (&PublicKey, &Possession),
    ) -> Result<Answer, Failure> {
        let own = caller.own().and_then(|own| self.own.secret_of(&own));
        let is_theirs = own.is_some_and(|own| is_possession(proof, own, (old, new)));
        if !is_theirs && !is_planted(Fault::TakeAnyKey) {
            return Err(ErrorCode::PeerRefused.into());
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            let known = self.peers.peer_of(&mut batch, old).await?;
            let known = known.ok_or(ErrorCode::PeerRefused)?;
            if known.key() == *new {
                return Ok(Answer::Done);
            }
            if known.key() != *old {
                // An old key vouches only once: by now it may be in other hands.
                return Err(ErrorCode::PeerRefused.into());
            }
            if self.own.is(new) {
                return Err(ErrorCode::RealmExists.into());
            }
            if self.peers.peer_of(&mut batch, new).await?.is_some() {
                // The same change may have been made meanwhile: then the commit conflicts.
                match self.storage.commit(batch).await? {
                    Outcome::Durable => return Err(ErrorCode::RealmExists.into()),
                    Outcome::Conflict => continue,
                }
            }
            if known.record.former.len() >= FORMER_MAX {
                return Err(Refusal::too_large(FORMER_MAX as u64).into());
            }
            Peers::<S>::put_new_key(&known, new, &mut batch)?;
            if let Outcome::Durable = self.storage.commit(batch).await? {
                tracing::warn!(
                    peer = %known.realm,
                    fingerprint = new.fingerprint(),
                    from = %caller.subnet,
                    "peer changed its key; its former one vouched for it"
                );
                // Its links use the new key from now on.
                self.network.peers_changed();
                return Ok(Answer::Done);
            }
        }
        Err(Failure::contended())
    }
}
