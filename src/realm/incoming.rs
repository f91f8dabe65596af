//! What other realms ask (PEER-2, PEER-4): who asks is the key that proved itself, and nothing else that is said.

use blake2::{Blake2s256, Digest};

use super::{
    ATTEMPTS_MAX, CONTENDED_MS, Caller, Failure, Known, Outcome, Realm,
    peers::Peer,
    records::{self, AccountRecord, EntryRecord, Owner, Place, Record as _, RecordedAnswer},
};
use crate::{
    store::{Batch, Store},
    wire::{
        Answer, Body, CONTENT_TEXT, ErrorCode, OperationNumber, PeerRequest, Refusal, Sent,
        Username,
    },
};

impl<S: Store> Realm<S> {
    /// Carries out what another realm asks.
    pub(super) async fn peer_request(
        &self,
        caller: &Caller,
        bytes: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let Some(key) = caller.device else {
            // Realms know each other by their keys, which a plain link does not prove.
            return Err(ErrorCode::PeerRefused.into());
        };
        match PeerRequest::parse(bytes) {
            Ok(PeerRequest::Introduce {
                realm,
                address,
                port,
            }) => {
                let answer = self.introduced(&key, realm, address, port).await?;
                Ok(answer.to_bytes())
            }
            Ok(PeerRequest::Deliver {
                epoch,
                sequence,
                content,
                from,
                to,
                message,
            }) => {
                let peer = self.peer_of(&key).await?.ok_or(ErrorCode::PeerRefused)?;
                self.network.heard(peer.realm, caller.now);
                let owner = Owner::peer(&key, epoch);
                let hash: [u8; 32] = Blake2s256::digest(bytes).into();
                let fingerprint = hash.first_chunk().copied().unwrap_or_default();
                let delivery = Delivery {
                    peer,
                    content,
                    from,
                    to,
                    message,
                    now: caller.now,
                };
                self.deliver(owner, sequence, fingerprint, &delivery).await
            }
            Err(_) => Err(ErrorCode::Unsupported.into()),
        }
    }

    /// Delivers a message once. Also what is refused is remembered: the sender has been told, and the
    /// same message must not come through later.
    async fn deliver(
        &self,
        owner: Owner,
        sequence: OperationNumber,
        fingerprint: [u8; 8],
        delivery: &Delivery<'_>,
    ) -> Result<Vec<u8>, Failure> {
        for _ in 0..ATTEMPTS_MAX {
            let operation = match self.look_up(owner, sequence, fingerprint).await? {
                Known::Done(RecordedAnswer::Bytes(answer)) => return Ok(answer),
                Known::Done(RecordedAnswer::Session) => return Err(ErrorCode::Internal.into()),
                Known::New(operation) => operation,
            };
            let mut batch = Batch::new();
            let answer = match self.decide_delivery(delivery, &mut batch).await {
                Ok(answer) => answer,
                Err(Failure::Refused(refusal)) => Answer::Refused(refusal),
                Err(failure) => return Err(failure),
            };
            let bytes = answer.to_bytes();
            operation.record(RecordedAnswer::Bytes(bytes.clone()), &mut batch)?;
            if let Outcome::Durable = self.commit(batch).await? {
                return Ok(bytes);
            }
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }

    async fn decide_delivery(
        &self,
        delivery: &Delivery<'_>,
        batch: &mut Batch,
    ) -> Result<Answer, Failure> {
        let Delivery {
            peer,
            content,
            from,
            to,
            message,
            now,
        } = delivery;
        if message.0.len() > self.limits.max_message {
            return Err(Refusal::too_large(self.limits.max_message as u64).into());
        }
        let is_text = *content == CONTENT_TEXT;
        if *content > 0x7f || (is_text && core::str::from_utf8(message.0).is_err()) {
            return Err(ErrorCode::BadRequest.into());
        }
        let account = self.record::<AccountRecord>(&records::account(*to)).await?;
        account.ok_or(ErrorCode::NoSuchUser)?;
        let entry = EntryRecord {
            time: *now,
            content: *content,
            user: from.as_str().into(),
            realm: Some(peer.realm.as_str().into()),
            body: message.0.to_vec(),
        };
        batch
            .append(Place::private(*to).log, entry.to_value()?)
            .append(Place::from_realm(*to, peer.realm).log, entry.to_value()?);
        Ok(Answer::Sent(Sent::Stored))
    }
}

/// A message that a peer brings.
struct Delivery<'a> {
    peer: Peer,
    content: u8,
    from: Username,
    to: Username,
    message: Body<'a>,
    now: u32,
}
