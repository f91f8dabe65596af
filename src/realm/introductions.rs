//! How realms get to know each other (PEER-2, PEER-3, PEER-13): introductions, and keys that change.

use super::{
    ATTEMPTS_MAX, CONTENDED_MS, Caller, Failure, Outcome, Realm,
    carrying::Carried,
    limits::PEERS_MAX,
    peers::{Peer, Peering},
    records::{self, PeerName, PeerRecord, Record as _},
    storing::Unnoted,
};
use crate::{
    crypto::{Possession, PublicKey, is_possession, show_possession},
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{Answer, ErrorCode, PeerRequest, Port, RealmId, Refusal, Text},
};

/// Keys that a peer may have had before; one that changes it more often has to be added anew.
const FORMER_MAX: usize = 64;

impl<S: Store> Realm<S> {
    /// Introduces this realm to a peer; its answer, if it gives one. `is_awaited`: somebody waits for it.
    pub(super) async fn introduce(&self, peer: &Peer, is_awaited: bool) -> Option<Answer> {
        let (address, port) = self.told_to(peer);
        let request = PeerRequest::Introduce {
            realm: self.own.id,
            address: Text(&address),
            port: Port(port),
        };
        let answer = if is_awaited {
            self.network.ask(peer, request.to_bytes()).await
        } else {
            self.network.ask_patiently(peer, request.to_bytes()).await
        };
        let Some(answer) = answer else {
            self.network.silent(peer.realm);
            return None;
        };
        self.network.reached(peer.realm);
        let answer = Answer::parse(&answer).ok()?;
        if let Answer::Refused(refusal) = &answer {
            tracing::warn!(peer = %peer.realm, code = %refusal.code, "a peer refuses the peering");
            self.network.refused(peer.realm);
        }
        Some(answer)
    }

    /// Introduces this realm to a peer that has not accepted it yet, or again when it has started. Settled
    /// when the peer has accepted it.
    pub async fn introduce_again(&self, peer: &Peer) -> Carried {
        let mut peer = peer.clone();
        if peer.knows() != self.own.key() {
            if !self.tell_new_key(&peer).await {
                return Carried::Silent;
            }
            peer.record.knows = self.own.key().0;
        }
        match self.introduce(&peer, false).await {
            None => return Carried::Silent,
            Some(Answer::Done) => {}
            Some(Answer::Refused(refusal)) if refusal.is_transient() => return Carried::Busy,
            Some(_) => return Carried::Refused,
        }
        let introduced = async || {
            let mut batch = Batch::new();
            let current = self.peer(&mut batch, peer.realm).await?;
            if current.first_key() != peer.first_key() {
                // Another realm has the name by now.
                return Ok(Outcome::Conflict);
            }
            let record = PeerRecord {
                introduced: true,
                knows: self.own.key().0,
                ..current.record
            };
            let key = records::peer(peer.realm);
            batch.put(key, record.to_value()?);
            self.commit(batch).await
        };
        // The peer may introduce itself or change its key at the same time: what waits for it need not wait longer for that.
        for _ in 0..ATTEMPTS_MAX {
            match introduced().await {
                Ok(Outcome::Durable) => return Carried::Settled,
                Ok(Outcome::Conflict) => {}
                Err(failure) => {
                    self.note("introduce", &failure);
                    break;
                }
            }
        }
        Carried::Failed
    }

    /// A realm introduces itself.
    pub(super) async fn introduced(
        &self,
        caller: &Caller,
        key: &PublicKey,
        realm: RealmId,
        (address, port): (&str, u16),
    ) -> Result<Answer, Failure> {
        if address.is_empty() != (port == 0) || self.own.is(key) {
            return Err(ErrorCode::BadRequest.into());
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            let name = match self.peer_of(&mut batch, key).await? {
                // It has told of a newer key itself.
                Some(known) if known.key() != *key => return Err(ErrorCode::PeerRefused.into()),
                Some(known) => {
                    // What comes early may be old; the key there is now is never given up for another.
                    let knows = if caller.own == Some(self.own.key()) {
                        self.own.key().0
                    } else {
                        known.record.knows
                    };
                    let record = PeerRecord {
                        address: address.into(),
                        port,
                        introduced: true,
                        knows,
                        ..known.record.clone()
                    };
                    if record != known.record {
                        let key = records::peer(known.realm);
                        batch.put(key, record.to_value()?);
                    }
                    known.realm
                }
                None => {
                    let of = (realm, *key);
                    let peer = self
                        .new_peer(caller, &mut batch, of, (address, port))
                        .await?;
                    self.put_new_peer(&peer, &mut batch).await?;
                    realm
                }
            };
            let is_new = !batch.changes.is_empty();
            if !is_new || matches!(self.commit(batch).await?, Outcome::Durable) {
                if is_new {
                    self.network.peers_changed();
                }
                self.network.heard(name, caller.now.wall);
                // It may have been away while its groups grew. If they cannot be listed, it is to introduce itself again.
                self.read_all_copies(name).await?;
                return Ok(Answer::Done);
            }
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }

    /// A realm that introduces itself and is not known, if it may become a peer.
    async fn new_peer(
        &self,
        caller: &Caller,
        batch: &mut Batch,
        (realm, key): (RealmId, PublicKey),
        (address, port): (&str, u16),
    ) -> Result<Peer, Failure> {
        if self.own.peering != Peering::Open || self.list_peers().await?.len() >= PEERS_MAX {
            return Err(ErrorCode::PeerRefused.into());
        }
        if realm == self.own.id || self.find_peer(&mut Unnoted, realm).await?.is_some() {
            return Err(ErrorCode::RealmExists.into());
        }
        let source = self.source(Text(""), Port(0))?;
        let mut peer = self
            .begin_peer(batch, (realm, key), (address.into(), port), source)
            .await?;
        peer.record.introduced = true;
        peer.record.knows = caller.own.unwrap_or(self.own.key()).0;
        Ok(peer)
    }

    /// Tells a peer over a link of the key by which it knows this realm that there is another. False when
    /// it is silent. One that does not know the old key (any more) may know the new one.
    async fn tell_new_key(&self, peer: &Peer) -> bool {
        let (old, to) = (peer.knows(), peer.key());
        let Some(proof) = show_possession(&self.own.secret, &old, &to) else {
            return false;
        };
        let key = self.own.key().0;
        let request = PeerRequest::Rotate { key, proof }.to_bytes();
        let Some(answer) = self.network.ask(peer, request).await else {
            self.network.silent(peer.realm);
            return false;
        };
        match Answer::parse(&answer) {
            Ok(Answer::Done) => tracing::info!(peer = %peer.realm, "a peer follows to the new key"),
            _ => tracing::debug!(peer = %peer.realm, "a peer does not follow to the new key"),
        }
        true
    }

    /// A peer goes by another key from now on: `old`, which it has proven, vouches for `new`, and `proof` shows that it has that, too.
    pub(super) async fn rotated(
        &self,
        caller: &Caller,
        old: &PublicKey,
        (new, proof): (&PublicKey, &Possession),
    ) -> Result<Answer, Failure> {
        let own = caller.own.and_then(|own| self.own.secret_of(&own));
        let is_theirs = own.is_some_and(|own| is_possession(proof, own, (old, new)));
        if !is_theirs && !is_planted(Fault::TakeAnyKey) {
            return Err(ErrorCode::PeerRefused.into());
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            let known = self.peer_of(&mut batch, old).await?;
            let known = known.ok_or(ErrorCode::PeerRefused)?;
            if known.key() == *new {
                return Ok(Answer::Done);
            }
            if known.key() != *old {
                // An old key vouches once: it may be in other hands by now.
                return Err(ErrorCode::PeerRefused.into());
            }
            if self.own.is(new) {
                return Err(ErrorCode::RealmExists.into());
            }
            if self.peer_of(&mut batch, new).await?.is_some() {
                // Unless the same was asked meanwhile.
                match self.commit(batch).await? {
                    Outcome::Durable => return Err(ErrorCode::RealmExists.into()),
                    Outcome::Conflict => continue,
                }
            }
            if known.record.former.len() >= FORMER_MAX {
                return Err(Refusal::too_large(FORMER_MAX as u64).into());
            }
            let mut record = known.record.clone();
            record.former.insert(0, record.key);
            record.key = new.0;
            let (key, name) = (records::peer(known.realm), records::peer_name(new));
            let realm = known.realm.as_str().into();
            batch
                .put(key, record.to_value()?)
                .put(name, PeerName { realm }.to_value()?);
            if let Outcome::Durable = self.commit(batch).await? {
                tracing::warn!(
                    peer = %known.realm,
                    fingerprint = new.fingerprint(),
                    "a peer has a new key, for which its old one vouches"
                );
                self.network.peers_changed();
                return Ok(Answer::Done);
            }
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }
}
