//! Peerings that begin anew (PEER-27): each side numbers them, so that neither goes on from what the other has ended.
//!
//! A number has two halves. The upper one names the peering. The lower one is the life of the store (HS-14): by what the other side knew last, a
//! realm that was restored from a copy sees that the other remembers what it does not, and begins anew.
//!
//! A side draws its number when it makes the record of the peer, and again when it hears another number from the other side than it knew: all
//! that was of the former peering ends here then, step by step, as when a realm is removed, but for what waits in the queue. The other
//! side learns the new number from the answer, and ends what is left of it there. Until it has said that it knows, nobody
//! joins a group across the two: what one side would begin the other might end.

use super::{
    ATTEMPTS_MAX, CONTENDED_MS, Failure, Moment, Outcome, Realm,
    lives::Lives,
    peers::Peer,
    records::{self, ChangedRecord, PeerRecord, Record as _},
};
use crate::{
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{Answer, ErrorCode, Life, RealmId, Refusal},
};

/// The half of a number that names the peering.
const PEERING: u64 = 0xffff_ffff << 32;
/// What a user who was in a group of such a realm is told.
const NOTICE: &str = "the realm of this group has begun to peer anew: you are not in it any more";
/// What whoever would join is asked to wait while the former peering ends, in milliseconds.
const ENDING_MS: u64 = 1000;

/// What a realm says when it is introduced to: its number of the peering, and whether the other is to say that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its number.
    pub number: u64,
    /// It has not heard yet that this number is known.
    pub is_apart: bool,
}

impl Numbered {
    /// What is answered to the realm known here as `known_as`.
    pub(super) fn answer(self, known_as: RealmId) -> Answer {
        Answer::Joined {
            epoch: self.number,
            membership: self.is_apart.into(),
            known_as,
        }
    }

    /// What such an answer says; nothing where the other has no numbers.
    pub const fn of(answer: &Answer) -> Option<Self> {
        match answer {
            Answer::Joined {
                epoch, membership, ..
            } => Some(Self {
                number: *epoch,
                is_apart: *membership != 0,
            }),
            _ => None,
        }
    }
}

impl<S: Store> Realm<S> {
    /// The record of a peer that says which number it has, and which it knows this realm's to be. What was of another peering ends.
    pub(super) fn renumbered(
        &self,
        now: Moment,
        peer: &Peer,
        (number, known): (u64, u64),
        batch: &mut Batch,
    ) -> Result<PeerRecord, Failure> {
        let mut record = peer.record.clone();
        if number == 0 {
            return Err(ErrorCode::BadRequest.into());
        }
        let is_other = record.theirs != 0 && !is_of_peering(record.theirs, number);
        let is_forgotten = self.was_forgotten(known);
        if (is_other || is_forgotten) && !is_planted(Fault::KeepFormerPeering) {
            self.limiter.begin_peering(now, peer.realm)?;
            begin_void(peer.realm, batch)?;
            if is_forgotten {
                tracing::warn!(peer = %peer.realm, "a peer remembers what this realm does not, which was restored from a copy: peering with it begins anew");
            }
            record.number = self.draw_number();
            record.apart = true;
        }
        if record.theirs == 0 || is_other {
            record.theirs = number;
        } else if record.theirs != number {
            // It has restarted. What this side knew is to be judged there before it is forgotten here.
            self.network.introduction_due(peer.realm);
        }
        if is_of_peering(known, record.number) {
            record.apart = false;
        } else if known != 0 {
            record.apart = true;
        }
        Ok(record)
    }

    /// A number for another peering.
    pub(super) fn draw_number(&self) -> u64 {
        self.in_this_life(u64::from_be_bytes(self.random()).max(1 << 32))
    }

    /// What a number is in this life of the store; its lower half is 0 where none has begun, as on a full disk.
    pub(super) fn in_this_life(&self, number: u64) -> u64 {
        let lives = self.lives.get();
        let current = lives.and_then(|lives| lives.known.first());
        current.map_or(number & PEERING, |Life(name)| {
            (number & PEERING) | u64::from(u32::from_be_bytes(*name))
        })
    }

    /// Refuses to be read by a side that believes this one's store to be in another life (PEER-29): it introduces itself then, and learns of this one.
    pub(super) fn check_life(&self, believed: Option<Life>) -> Result<(), Failure> {
        let current = self.lives.get().and_then(|lives| lives.known.first());
        match (believed, current) {
            (Some(believed), Some(current)) if believed != *current => {
                Err(ErrorCode::PeerRefused.into())
            }
            _ => Ok(()),
        }
    }

    /// True when the other side knew this one in a life that the store has no memory of.
    fn was_forgotten(&self, known: u64) -> bool {
        let Some(Lives { known: lives, .. }) = self.lives.get() else {
            return false;
        };
        let is_life = |Life(name): &Life| u64::from(u32::from_be_bytes(*name)) == known & !PEERING;
        let is_known =
            known & !PEERING == 0 || lives.iter().any(is_life) || is_planted(Fault::ForgetLives);
        // Also under another peering's number: the store may have been restored from that copy before.
        known != 0 && !is_known
    }

    /// Takes up what a peer has answered when it was introduced to as `peer`, which has its numbers from then on. True when both sides know
    /// each other's.
    pub(super) async fn take_numbered(
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
                // It comes late: there is another peering since this was asked.
                return Ok(false);
            }
            // What it was told is what is so: by its answer it knows.
            let is_told = current.record.number == peer.record.number;
            // What this side knows is forgotten once the other has judged it.
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
                begin_void(peer.realm, &mut batch)?;
            }
            let is_settled = is_told && !numbered.is_apart;
            if record != current.record {
                batch.put(records::peer(peer.realm), record.to_value()?);
                if !matches!(self.commit(batch).await?, Outcome::Durable) {
                    continue;
                }
            }
            if is_other {
                tracing::warn!(peer = %peer.realm, "a peer has begun to peer anew: what was of the former peering ends");
                self.chores.notify_one();
            }
            (peer.record.number, peer.record.theirs) = (record.number, record.theirs);
            return Ok(is_settled);
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }

    /// Refuses to let anybody join a group across a peering whose two sides may not agree about which it is.
    pub(super) async fn check_peering(
        &self,
        realm: RealmId,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let void = records::void(realm);
        let is_ending = self.noted::<ChangedRecord>(batch, &void).await?.is_some();
        let peer = self.find_peer(batch, realm).await?;
        let peer = peer.ok_or(ErrorCode::PeerRefused)?;
        if peer.record.apart {
            // Should the other not come back to it.
            self.network.introduction_due(realm);
        }
        match self.network.trouble_with(realm) {
            // It has never agreed, and will not soon.
            Some(code) if peer.record.apart && peer.record.theirs == 0 => Err(code.into()),
            _ if is_ending || peer.record.apart => Err(Refusal::busy(ENDING_MS).into()),
            _ => Ok(()),
        }
    }

    /// Ends what was of former peerings. False when some of it is still to end.
    pub(super) async fn do_voids(&self, now: u32) -> bool {
        let prefix = records::voids();
        let mut realms: Vec<RealmId> = Vec::new();
        let found = self
            .list_readable(&prefix, 256, |key, _| {
                realms.extend(records::name_in::<RealmId>(key, &prefix));
            })
            .await;
        let mut are_done = found.is_none();
        if let Some(error) = found {
            self.note("peerings", &error.into());
        }
        for realm in realms {
            if let Err(failure) = self.end_former_peering(realm, now).await {
                self.note("peering", &failure);
                are_done = false;
            }
        }
        are_done
    }

    async fn end_former_peering(&self, realm: RealmId, now: u32) -> Result<(), Failure> {
        // Who is banned stays so: else a peer would lift bans of its users by beginning anew.
        self.leave_groups(realm, true).await?;
        self.end_copies(realm, (NOTICE, now), true).await?;
        let mut batch = Batch::new();
        batch.delete(records::void(realm));
        self.commit(batch).await?;
        tracing::info!(peer = %realm, "all that was of the former peering has ended");
        Ok(())
    }
}

/// True when both are numbers of one peering, in whichever lives of a store.
const fn is_of_peering(one: u64, other: u64) -> bool {
    one & PEERING == other & PEERING
}

/// The life that a number names; none where its lower half is 0.
pub(super) const fn life_in(number: u64) -> Option<Life> {
    match (number & !PEERING) as u32 {
        0 => None,
        name => Some(Life(name.to_be_bytes())),
    }
}

fn begin_void(realm: RealmId, batch: &mut Batch) -> Result<(), Failure> {
    batch.put(records::void(realm), ChangedRecord {}.to_value()?);
    Ok(())
}
