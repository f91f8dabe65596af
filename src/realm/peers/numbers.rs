//! Peerings that begin anew (PEER-27). Each side numbers them, so that neither continues a peering
//! that the other has ended.
//!
//! A number has two halves. The upper half names the peering. The lower half is the life of the
//! store (HS-14). Suppose a realm was restored from a copy: from the number that the other side
//! knew last, it sees that the other side remembers what it does not, and begins anew.
//!
//! A side draws its number when it makes the peer's record, and again when the other side says
//! another number than it knew. Then everything of the former peering ends here, step by step, as
//! when a realm is removed, except the messages in the queue. The other side learns the new number
//! from the answer, and ends its part of the former peering. Until it has said that it knows the
//! number, no user joins a group across the two: one side might end what the other begins.

use crate::realm::{
    ATTEMPTS_MAX,
    failure::Failure,
    peer::{PEERING, Peer},
    peers::Peers,
    records::{self, ChangedRecord, PeerRecord, Record as _},
    storage::Outcome,
    time::Moment,
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{ErrorCode, Numbered, PeeringNumbers, RealmId, Refusal},
};

/// How long a user that wants to join is asked to wait while the former peering ends, in
/// milliseconds.
const ENDING_MS: u64 = 1000;

impl<S: Store> Peers<S> {
    /// Returns the peer's record after it has said its number, and the number of this realm that it
    /// knows. If the number is of another peering, what was of the former one ends.
    pub(in crate::realm) fn renumbered(
        &self,
        now: Moment,
        peer: &Peer,
        said: PeeringNumbers,
        batch: &mut Batch,
    ) -> Result<PeerRecord, Failure> {
        let (number, known) = (said.own, said.other);
        let mut record = peer.record.clone();
        if number == 0 {
            return Err(ErrorCode::BadRequest.into());
        }
        let is_other = record.theirs != 0 && !is_of_peering(record.theirs, number);
        let is_forgotten = self.lives.was_forgotten(known);
        if (is_other || is_forgotten) && !is_planted(Fault::KeepFormerPeering) {
            self.limiter.begin_peering(now, peer.realm)?;
            end_former_peering(peer.realm, batch)?;
            if is_forgotten {
                tracing::warn!(peer = %peer.realm, "peer remembered what this realm does not, which was restored from a copy; peering with it began anew");
            }
            record.number = self.draw_number();
            record.apart = true;
        }
        if record.theirs == 0 || is_other {
            record.theirs = number;
        } else if record.theirs != number {
            // The peer has restarted. It must judge what this side knew before this side forgets
            // it.
            self.network.introduction_due(peer.realm);
        }
        if is_of_peering(known, record.number) {
            record.apart = false;
        } else if known != 0 {
            record.apart = true;
        }
        Ok(record)
    }

    /// Draws a number for another peering.
    pub(super) fn draw_number(&self) -> u64 {
        self.lives
            .in_this_life(u64::from_be_bytes(self.random.random()).max(1 << 32))
    }

    /// Stores a peer's answer to an introduction. `peer` is the peer as it was introduced to, and
    /// gets the peer's numbers. True if both sides know each other's numbers.
    pub(in crate::realm) async fn take_numbered(
        &self,
        now: Moment,
        peer: &mut Peer,
        numbered: Numbered,
    ) -> Result<bool, Failure> {
        for _ in 0..ATTEMPTS_MAX {
            let mut batch = Batch::new();
            let current = self.peer(&mut batch, peer.realm).await?;
            if current.identity() != peer.identity() || numbered.number == 0 {
                return Err(ErrorCode::PeerRefused.into());
            }
            let theirs = current.record.theirs;
            let is_other = theirs != 0 && !is_of_peering(theirs, numbered.number);
            if is_other && !is_of_peering(theirs, peer.record.theirs) {
                // The answer is late: another peering has begun since the introduction.
                return Ok(false);
            }
            // It was told the present number, and its answer shows that it knows it.
            let is_told = current.record.number == peer.record.number;
            // This side's knowledge is forgotten only after the other side has judged it.
            let is_judged = peer.record.theirs == theirs;
            let record = PeerRecord {
                theirs: if is_judged || is_other {
                    numbered.number
                } else {
                    theirs
                },
                apart: current.record.apart && !is_told,
                ..current.record.clone()
            };
            if is_other {
                self.limiter.begin_peering(now, peer.realm)?;
                end_former_peering(peer.realm, &mut batch)?;
            }
            let is_settled = is_told && !numbered.is_apart;
            if record != current.record {
                batch.put(records::peer(peer.realm), record.to_value()?);
                if !matches!(self.storage.commit(batch).await?, Outcome::Durable) {
                    continue;
                }
            }
            if is_other {
                tracing::warn!(peer = %peer.realm, "peer began to peer anew; what was of the former peering ends");
                self.chores.notify_one();
            }
            (peer.record.number, peer.record.theirs) = (record.number, record.theirs);
            return Ok(is_settled);
        }
        Err(Failure::contended())
    }

    /// Refuses a join across a peering if its two sides may not agree on which peering it is.
    pub(in crate::realm) async fn check_peering(
        &self,
        realm: RealmId,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let former = records::former_peering(realm);
        let is_ending = self
            .storage
            .noted::<ChangedRecord>(batch, &former)
            .await?
            .is_some();
        let peer = self.find_peer(batch, realm).await?;
        let peer = peer.ok_or(ErrorCode::PeerRefused)?;
        if peer.record.apart {
            // The other may not come back to it by itself.
            self.network.introduction_due(realm);
        }
        match self.network.trouble_with(realm) {
            // It has never agreed, and will not do so soon.
            Some(code) if peer.record.apart && peer.record.theirs == 0 => Err(code.into()),
            _ if is_ending || peer.record.apart => Err(Refusal::busy(ENDING_MS).into()),
            _ => Ok(()),
        }
    }
}

/// True if both are numbers of one peering, in whichever lives of a store.
const fn is_of_peering(one: u64, other: u64) -> bool {
    one & PEERING == other & PEERING
}

/// Adds to `batch` that what is left of the former peering with a realm ends.
fn end_former_peering(realm: RealmId, batch: &mut Batch) -> Result<(), Failure> {
    batch.put(records::former_peering(realm), ChangedRecord {}.to_value()?);
    Ok(())
}
