//! How realms get to know each other (PEER-2, PEER-3, PEER-13): introductions, and keys that change.

use super::{
    ATTEMPTS_MAX, CONTENDED_MS, Caller, Failure, Outcome, Realm,
    carrying::Written,
    limits::PEERS_MAX,
    peers::{Peer, Peering},
    records::{self, PeerName, PeerRecord, Record as _},
    storing::Unnoted,
};
use crate::{
    crypto::{Possession, PublicKey, is_possession},
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{Answer, ErrorCode, Port, RealmId, Refusal, Text},
};

/// Keys that a peer may have had before; one that changes it more often has to be added anew.
const FORMER_MAX: usize = 64;

impl<S: Store> Realm<S> {
    /// Writes down that a peer has accepted the peering, and by which key it knows this realm.
    pub async fn note_introduced(&self, peer: &Peer) -> Written {
        let introduced = async || {
            let mut batch = Batch::new();
            let current = self.peer(&mut batch, peer.realm).await?;
            if current.identity() != peer.identity() {
                // Another realm has the name by now.
                return Ok(None);
            }
            let record = PeerRecord {
                introduced: true,
                knows: peer.record.knows,
                ..current.record
            };
            let key = records::peer(peer.realm);
            batch.put(key, record.to_value()?);
            self.commit(batch).await.map(Some)
        };
        // The peer may introduce itself or change its key at the same time: what waits for it need not wait longer for that.
        for _ in 0..ATTEMPTS_MAX {
            match introduced().await {
                Ok(Some(Outcome::Durable)) => return Written::Durable,
                Ok(Some(Outcome::Conflict)) => {}
                Ok(None) => break,
                Err(failure) => {
                    self.note("introduce", &failure);
                    return Written::Failed;
                }
            }
        }
        Written::Conflict
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
                return Ok(Answer::Done);
            }
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }
}
