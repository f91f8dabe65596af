//! The lives of the store (HS-14, READ-9).
//!
//! A store that is restored from a backup gives out positions again that the lost store gave to other entries. A
//! client that remembers a cursor from the lost store would never be shown those. So each opening of the store by a
//! server is a *life* with a random name, which is kept in the store: a restored store does not know the lives that
//! began after its backup, and believes no cursor of a client that remembers one of them.

use super::{
    Caller, Failure, Realm,
    records::{self, LivesRecord, Record as _},
};
use crate::{
    crypto::LifeClaim,
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::Life,
};

/// Lives that are kept, the current one included. Of a client that was away for longer no cursor is believed.
const LIVES_MAX: usize = 1024;

/// The lives of the store.
#[derive(Debug)]
pub(super) struct Lives {
    /// Those that it knows, the latest first.
    pub known: Vec<Life>,
    /// The current one, where it could not be written.
    pub unwritten: Option<Life>,
}

impl Lives {
    /// The current one, as devices are told.
    pub fn current(&self) -> Option<Life> {
        self.unwritten.or_else(|| self.known.first().copied())
    }
}

/// What a device that opens a link is told about the life that it claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifeNews {
    /// The current life, where another was claimed.
    pub life: Option<Life>,
    /// The store knows nothing of the life that was claimed: cursors of the device are not to be believed.
    pub is_unknown: bool,
}

impl Caller {
    /// A cursor that the caller names, if it is to be believed (READ-9). 0 is always: it is no memory of the caller's
    /// but asks for the beginning, and confirms nothing.
    pub(super) fn believed(&self, cursor: Option<u64>) -> Option<u64> {
        match cursor {
            Some(position) if self.trusts_cursors || position == 0 => cursor,
            Some(_) if is_planted(Fault::BelieveOldCursors) => cursor,
            _ => None,
        }
    }
}

impl<S: Store> Realm<S> {
    /// Begins a life of the store, once for each opening of the store and before anybody is let in. Without this, no
    /// claim is looked at.
    ///
    /// `is_restored`: the store was copied while it was in use, and so may know the life from which others remember
    /// what the copy does not hold. All former lives are forgotten, and no cursor from before is believed.
    ///
    /// A life that cannot be written, as where not even the store's own room is left, is told to devices all the same, which are shown again after the next start what they have not confirmed:
    /// what is written in it is in no copy of the life before. Peers are told the life before, by which nothing ends. True when the life is on the disk; until then
    /// a store that was restored is to begin one as such.
    pub async fn begin_life(&self, is_restored: bool) -> bool {
        let begun = async {
            let found = self.record::<LivesRecord>(&records::lives()).await?;
            let former = found.map_or_else(Vec::new, |(record, _)| record.lives);
            let fresh = self.fresh_life(&former);
            let mut lives = vec![fresh];
            lives.extend(former.iter().filter(|_| !is_restored));
            lives.truncate(LIVES_MAX);
            // Written also on a full disk: a start writes over what stands there, and four bytes more.
            let mut batch = Batch::tidying();
            let record = LivesRecord { lives };
            batch.put(records::lives(), record.to_value()?);
            self.put_keeping(&mut batch)?;
            Ok::<_, Failure>(match self.commit(batch).await {
                // On a store that has had none there is nothing to compare a claim with.
                Err(failure) if former.is_empty() && !is_restored => return Err(failure),
                Err(failure @ Failure::Refused(_)) if !is_restored => {
                    (former, (Some(fresh), Some(failure)))
                }
                // The store is to be opened again.
                Err(failure) if !is_restored => (former, (None, Some(failure))),
                Err(failure) => (record.lives, (Some(fresh), Some(failure))),
                Ok(_) => (record.lives, (None, None)),
            })
        };
        let (known, (unwritten, failure)) = match begun.await {
            Ok(begun) => begun,
            // No claim is looked at.
            Err(failure) => {
                self.note("begin life", &failure);
                return false;
            }
        };
        if let Some(failure) = &failure {
            self.note("begin life", failure);
        }
        let lives = Lives {
            known: known.into_iter().map(Life).collect(),
            unwritten: unwritten.map(Life),
        };
        // A second call would be a mistake of the server's; the first life goes on.
        let _ = self.lives.set(lives);
        failure.is_none()
    }

    /// What a device is told that makes `claim`. None claims nothing: it has a plain link, or is a realm.
    pub fn judge_claim(&self, claim: Option<&LifeClaim>) -> LifeNews {
        let (Some(lives), Some(claim)) = (self.lives.get(), claim) else {
            return LifeNews::default();
        };
        let current = lives.current();
        let Some(current) = current.filter(|current| !claim.is_for(*current)) else {
            return LifeNews::default();
        };
        let is_known =
            claim.is_for(Life::NONE) || lives.known.iter().any(|life| claim.is_for(*life));
        LifeNews {
            life: Some(current),
            is_unknown: !is_known,
        }
    }

    fn fresh_life(&self, former: &[[u8; 4]]) -> [u8; 4] {
        loop {
            let life = self.random();
            if life != Life::NONE.0 && !former.contains(&life) {
                return life;
            }
        }
    }
}
