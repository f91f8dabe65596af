//! `addrealm`: an operator makes another realm a peer (PEER-1).

use crate::realm::{
    Realm,
    commands::{
        asking::Decided,
        peer_admin::shown,
        work::{Act, Decision, Question, Work},
    },
    failure::Failure,
    peer::{NUMBERS_TOLD, Peer},
    peer_quota::Newcomer,
    peer_requests::introductions::HOST_MAX,
};
use crate::{
    crypto::PublicKey,
    store::Store,
    wire::{
        Answer, AnsweredByPeer as _, ErrorCode, PeerAddition, Peered, Port, Text, Username,
        command, peer,
    },
};

impl<S: Store> Realm<S> {
    pub(super) async fn addrealm(
        &self,
        work: &mut Work<'_>,
        command: &command::AddRealm<'_>,
    ) -> Result<Decided<Peered>, Failure> {
        let &command::AddRealm {
            session,
            realm,
            address,
            port,
            src_address,
            src_port,
            ..
        } = command;
        let who = self.operator(work, session).await?;
        let named = self.named_source(src_address, src_port)?;
        let (src_address, src_port) = self.peers.source(src_address, src_port)?;
        let key = match command.form(&work.request.options)? {
            PeerAddition::Move { key } => {
                let (of, place) = ((realm, key.map(PublicKey)), (address, port));
                let moved = self.move_peer(work, of, place, (named, who)).await;
                return moved.map(Decided::Answer);
            }
            PeerAddition::Add { key: Some(key) } if (address.0, port.0) == ("", 0) => {
                let (of, source) = ((realm, PublicKey(key)), (src_address, src_port));
                let accepted = self.accept_pending(work, of, source, who).await;
                return accepted.map(Decided::Answer);
            }
            PeerAddition::Add { key } => key.map(PublicKey),
        };
        if address.0.is_empty() || address.0.len() > HOST_MAX || port.0 == 0 {
            return Err(ErrorCode::BadRequest.into());
        }
        if realm == self.own.id {
            return Err(ErrorCode::RealmExists.into());
        }
        if let Some(known) = self.peers.find_peer(&mut work.batch, realm).await? {
            let at = ((address, port), (src_address, src_port));
            return Self::want(work, (known, key), at, who);
        }
        let key = match key {
            Some(key) => key,
            None => match work.who(address.0, port.0) {
                Ok(found) => found.ok_or(ErrorCode::RealmUnreachable)?,
                Err(question) => return Ok(Decided::Ask(question)),
            },
        };
        if self.own.is(&key) || self.peers.peer_of(&mut work.batch, &key).await?.is_some() {
            return Err(ErrorCode::RealmExists.into());
        }
        work.ends |= self
            .quota
            .make_place(Newcomer::Invited, &mut work.batch)
            .await?
            .is_some();
        let place = (address.0.into(), port.0);
        let of = (realm, key);
        let mut peer = self
            .peers
            .begin_peer(&mut work.batch, of, place, (src_address, src_port))
            .await?;
        peer.record.added = true;
        // The number stays the same in each decision, because the other realm is told it.
        peer.record.number = *work.drawn.get_or_insert(peer.record.number);
        let said = match self.introduced_first(work, &mut peer) {
            Ok(said) => said,
            Err(question) => return Ok(Decided::Ask(question)),
        };
        // It may know this realm from before: no user joins before the two agree on the peering.
        peer.record.apart = !peer.record.introduced;
        let answer = self.added(&peer, said.as_ref())?;
        self.peers.put_new_peer(&peer, &mut work.batch).await?;
        work.decision = Some(Decision {
            act: Act::Added,
            peer: realm,
            key,
            address: shown((address.0, port.0)),
            who,
        });
        Ok(Decided::Answer(answer))
    }

    /// Marks a realm that has introduced itself as added by an operator.
    fn want(
        work: &mut Work<'_>,
        (mut known, key): (Peer, Option<PublicKey>),
        ((address, port), (src_address, src_port)): ((Text<'_>, Port), (String, u16)),
        who: Username,
    ) -> Result<Decided<Peered>, Failure> {
        if known.record.added {
            return Err(ErrorCode::RealmExists.into());
        }
        // A realm that introduced itself under that name need not be the one that the operator
        // means.
        let meant = match key {
            Some(key) => Some(key),
            None => match work.who(address.0, port.0) {
                Ok(found) => found,
                Err(question) => return Ok(Decided::Ask(question)),
            },
        };
        let meant = meant.ok_or(ErrorCode::RealmUnreachable)?;
        if meant != known.key() {
            return Err(ErrorCode::RealmExists.into());
        }
        // It has introduced itself, perhaps because of this very command, and is now added here
        // too.
        work.decision = Some(Decision {
            act: Act::Added,
            peer: known.realm,
            key: known.key(),
            address: shown((address.0, port.0)),
            who,
        });
        known.record.added = true;
        let source = (src_address, src_port);
        known.put_moved((address.0, port.0), source, &mut work.batch)?;
        Ok(Decided::Answer(Peered::Accepted))
    }

    /// Returns the answer to an operator that has added a peer: it has accepted, or it is asked
    /// again until it does.
    fn added(&self, peer: &Peer, said: Option<&Answer>) -> Result<Peered, Failure> {
        Ok(match said {
            Some(Answer::Done | Answer::Joined { .. }) if peer.record.introduced => {
                Peered::Accepted
            }
            Some(Answer::Refused(refusal)) if refusal.code == ErrorCode::RealmExists => {
                return Err((*refusal).into());
            }
            // It has not listed this realm yet.
            Some(Answer::Refused(refusal)) => {
                tracing::warn!(peer = %peer.realm, code = %refusal.code, "peer refused the peering");
                self.network.refused(peer.realm, refusal.code);
                Peered::Queued
            }
            // It does not answer, or does not agree on the peering yet.
            Some(_) | None => Peered::Queued,
        })
    }

    /// Returns another realm's answer to the introduction by which it becomes a peer, and what it
    /// says about the peering; or the question that must be asked first.
    fn introduced_first(
        &self,
        work: &Work<'_>,
        peer: &mut Peer,
    ) -> Result<Option<Answer>, Question> {
        let mut said = None;
        // Introduced once more if the other knows this realm from before: it must hear that its
        // number is known.
        for _ in 0..=NUMBERS_TOLD {
            said = work.answer_of(peer, self.own.introduction(peer, true))?;
            if said == Some(Answer::Refused(ErrorCode::Unsupported.into())) {
                // Its release is older than peering numbers.
                said = work.answer_of(peer, self.own.introduction(peer, false))?;
            }
            let answer = said.clone().map(peer::Introduce::answered);
            let Some(Ok(Ok(Some(numbered)))) = answer else {
                break;
            };
            peer.record.theirs = numbered.number;
            peer.record.introduced = !numbered.is_apart;
            if !numbered.is_apart {
                break;
            }
        }
        peer.record.introduced |= said == Some(Answer::Done);
        Ok(said)
    }
}
