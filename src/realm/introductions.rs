//! How realms get to know each other (PEER-2, PEER-3, PEER-13): introductions, and keys that change.

use super::{
    ATTEMPTS_MAX, CONTENDED_MS, Caller, Dialing, Failure, Moment, Outcome, Realm,
    carrying::Carried,
    peers::{NUMBERS_TOLD, Peer, Peering},
    records::{self, PeerName, PeerRecord, Record as _},
    repeering::{Numbered, is_same},
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
        let (address, port) = peer.source();
        let request = PeerRequest::Introduce {
            realm: self.own.id,
            address: Text(address),
            port: Port(port),
            numbers: Some((peer.record.number, peer.record.theirs)),
        };
        let answer = self.ask_introduced(peer, &request, is_awaited).await?;
        let answer = if answer == Answer::Refused(ErrorCode::Unsupported.into()) {
            // It is of a release from before there were numbers.
            let request = PeerRequest::Introduce {
                realm: self.own.id,
                address: Text(address),
                port: Port(port),
                numbers: None,
            };
            self.ask_introduced(peer, &request, is_awaited).await?
        } else {
            answer
        };
        if let Answer::Refused(refusal) = &answer {
            tracing::warn!(peer = %peer.realm, code = %refusal.code, "a peer refuses the peering");
            self.network.refused(peer.realm, refusal.code);
        }
        Some(answer)
    }

    async fn ask_introduced(
        &self,
        peer: &Peer,
        request: &PeerRequest<'_>,
        is_awaited: bool,
    ) -> Option<Answer> {
        let answer = if is_awaited || peer.dialing() == Dialing::Once {
            self.network.ask(peer, request.to_bytes()).await
        } else {
            self.network.ask_patiently(peer, request.to_bytes()).await
        };
        let Some(answer) = answer else {
            // At an address where it may never have been: that says nothing.
            if peer.dialing() != Dialing::Once {
                self.network.silent(peer.realm);
            }
            return None;
        };
        self.network.reached(peer.realm);
        Answer::parse(&answer).ok()
    }

    /// Introduces this realm to a peer that has not accepted it yet, or again when it has started. Settled
    /// when the peer has accepted it.
    pub async fn introduce_again(&self, peer: &Peer, now: Moment) -> Carried {
        let mut peer = peer.clone();
        if peer.knows() != self.own.key() {
            if !self.tell_new_key(&peer).await {
                return Carried::Silent;
            }
            peer.record.knows = self.own.key().0;
        }
        match self.come_to_terms(&mut peer, now).await {
            Carried::Settled => {}
            carried => return carried,
        }
        let introduced = async {
            let mut batch = Batch::new();
            let current = self.peer(&mut batch, peer.realm).await?;
            // Another realm may have the name by now, or this one another number: it is told again.
            if !is_same(&current, &peer) || current.record.number != peer.record.number {
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
        match introduced.await {
            Ok(Outcome::Durable) => Carried::Settled,
            Ok(Outcome::Conflict) => Carried::Failed,
            Err(failure) => {
                self.note("introduce", &failure);
                Carried::Failed
            }
        }
    }

    /// Introduces this realm until both sides know each other's number, but a few times at most. Settled when they do.
    async fn come_to_terms(&self, peer: &mut Peer, now: Moment) -> Carried {
        for _ in 0..NUMBERS_TOLD {
            let answer = match self.introduce(peer, false).await {
                None => return Carried::Silent,
                Some(Answer::Done) => return Carried::Settled,
                Some(Answer::Refused(refusal)) if refusal.is_transient() => return Carried::Busy,
                Some(answer) => answer,
            };
            let Some(numbered) = Numbered::of(&answer) else {
                return Carried::Refused;
            };
            match self.take_numbered(now, peer, numbered).await {
                Ok(true) => return Carried::Settled,
                // It is told again, with the numbers that there are now.
                Ok(false) => {}
                Err(failure) => {
                    self.note("introduce", &failure);
                    return Carried::Failed;
                }
            }
        }
        self.network.introduction_due(peer.realm);
        Carried::Busy
    }

    /// A realm introduces itself.
    pub(super) async fn introduced(
        &self,
        caller: &Caller,
        key: &PublicKey,
        realm: RealmId,
        (address, port): (&str, u16),
        numbers: Option<(u64, u64)>,
    ) -> Result<Answer, Failure> {
        if address.is_empty() != (port == 0) || self.own.is(key) {
            return Err(ErrorCode::BadRequest.into());
        }
        let mut is_counted = false;
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            let (mut peer, is_new) = match self.peer_of(&mut batch, key).await? {
                // It has told of a newer key itself.
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
            peer.record = Self::with_claim(&was, (address, port));
            peer.record.introduced = true;
            // The key there is now is never given up for another.
            if caller.own == Some(self.own.key()) {
                peer.record.knows = self.own.key().0;
            }
            let is_claim = peer.record.claimed.is_some();
            let mut answer = Answer::Done;
            if let Some(numbers) = numbers {
                peer.record = self.renumbered(caller.now, &peer, numbers, &mut batch)?;
                let numbered = Numbered {
                    number: peer.record.number,
                    is_apart: peer.record.apart,
                };
                answer = numbered.answer(peer.realm);
            }
            let ends = was.number != peer.record.number;
            if is_new {
                self.put_new_peer(&peer, &mut batch).await?;
            } else if peer.record != was {
                batch.put(records::peer(peer.realm), peer.record.to_value()?);
            }
            let changes = !batch.changes.is_empty();
            if !changes || matches!(self.commit(batch).await?, Outcome::Durable) {
                if is_new {
                    tracing::info!(peer = %peer.realm, fingerprint = key.fingerprint(), "a realm has introduced itself and is a peer");
                }
                if ends {
                    tracing::warn!(peer = %peer.realm, "a peer has begun to peer anew: what was of the former peering ends");
                }
                if is_new || ends {
                    // Another may have given way.
                    self.chores.notify_one();
                }
                if changes {
                    self.network.peers_changed();
                }
                self.network.heard(peer.realm, caller.now.wall);
                if is_claim {
                    self.has_claimed(caller, key, peer.realm, address);
                }
                // It may have been away while its groups grew. If they cannot be listed, it is to introduce itself again.
                self.read_all_copies(peer.realm).await?;
                return Ok(answer);
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
        is_counted: &mut bool,
    ) -> Result<Peer, Failure> {
        if self.own.peering != Peering::Open {
            return Err(ErrorCode::PeerRefused.into());
        }
        if realm == self.own.id || self.find_peer(&mut Unnoted, realm).await?.is_some() {
            return Err(ErrorCode::RealmExists.into());
        }
        if !*is_counted && !is_planted(Fault::UnaskedWithoutEnd) {
            self.limiter.unasked(caller)?;
            *is_counted = true;
        }
        let source = self.source(Text(""), Port(0))?;
        // Where it is is for it to show.
        let nowhere = (String::new(), 0);
        let mut peer = self
            .begin_peer(batch, (realm, key), nowhere, source)
            .await?;
        if let Some(gone) = self.make_place(false, batch).await? {
            tracing::info!(peer = %gone, "a peer that nobody here has asked for, or had anything to do with, gives way to another");
        }
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
                return Ok(Answer::Done);
            }
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }
}
