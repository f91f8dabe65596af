//! The lives of the store (HS-14, READ-9).
//!
//! A store that is restored from a backup assigns positions again that the lost store assigned to
//! other entries. A client with a cursor from the lost store would never see the new entries. So
//! each opening of the store by a server is a *life* with a random name, which the store keeps. A
//! restored store does not know the lives that began after its backup, and trusts no cursor of a
//! client that remembers one of them.

use std::sync::{Arc, OnceLock};

use super::{
    Caller,
    failure::Failure,
    peer::PEERING,
    random::Random,
    records::{self, LivesRecord, Record as _},
    retention::RetentionPolicy,
    storage::Storage,
};
use crate::{
    crypto::LifeClaim,
    faults::{Fault, is_planted},
    store::{Batch, Store},
    wire::{ErrorCode, Life},
};

/// The number of former lives of the store that are accepted in resumptions.
const FORMER_LIVES: usize = 8;

/// The most lives that are kept, including the current one. A client that was away for longer has
/// no trusted cursors.
const LIVES_MAX: usize = 1024;

/// The lives of the store, as they were read when it was opened.
#[derive(Debug)]
pub(super) struct KnownLives {
    /// The lives that the store knows, the latest first.
    pub known: Vec<Life>,
    /// The current life, if it could not be written.
    pub unwritten: Option<Life>,
}

impl KnownLives {
    /// Returns the current life, as devices are told.
    pub fn current(&self) -> Option<Life> {
        self.unwritten.or_else(|| self.known.first().copied())
    }
}

/// The answer to a device that claims a life when it opens a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LifeNews {
    /// The current life, if another was claimed.
    pub life: Option<Life>,
    /// True if the store does not know the claimed life: the device's cursors are not trusted.
    pub is_unknown: bool,
}

impl Caller {
    /// Returns a cursor that the caller names, if it is trusted (READ-9). 0 always is: it is no
    /// memory of the caller's but asks for the beginning, and confirms nothing.
    pub(super) fn believed(&self, cursor: Option<u64>) -> Option<u64> {
        match cursor {
            Some(position) if self.trusts_cursors || position == 0 => cursor,
            Some(_) if is_planted(Fault::BelieveOldCursors) => cursor,
            Some(_) | None => None,
        }
    }
}

/// The lives of the store. Each opening of the store begins one.
#[derive(Debug)]
pub struct Lives<S> {
    storage: Arc<Storage<S>>,
    random: Arc<Random>,
    policy: Arc<RetentionPolicy<S>>,
    pub(super) known: OnceLock<KnownLives>,
}

impl<S> Lives<S> {
    /// Returns the lives before one has begun: no claim is checked.
    pub(super) const fn new(
        storage: Arc<Storage<S>>,
        random: Arc<Random>,
        policy: Arc<RetentionPolicy<S>>,
    ) -> Self {
        Self {
            storage,
            random,
            policy,
            known: OnceLock::new(),
        }
    }
}

impl<S: Store> Lives<S> {
    /// Begins a life of the store. Called once for each opening of the store, before any link is
    /// accepted. Before this call, no claim is checked.
    ///
    /// `is_restored`: the store was copied while in use. It may then know a life from which clients
    /// remember entries that the copy lacks. All former lives are forgotten, and no earlier cursor
    /// is trusted.
    ///
    /// Returns true if the life is on disk. Until then a restored store must begin its life as a
    /// restored one.
    ///
    /// A life may not be written, for example if even the store's own reserve is full. Devices are
    /// still told this life: after the next start they see again what they have not confirmed, and
    /// what is written in this life is in no copy of the life before. Peers are told the life
    /// before, which ends nothing.
    pub async fn begin_life(&self, is_restored: bool) -> bool {
        let begun = async {
            let found = self
                .storage
                .record::<LivesRecord>(&records::lives())
                .await?;
            let former = found.map_or_else(Vec::new, |(record, _)| record.lives);
            let fresh = self.fresh_life(&former);
            let mut lives = vec![fresh];
            lives.extend(former.iter().filter(|_| !is_restored));
            lives.truncate(LIVES_MAX);
            // This is also written on a full disk: a start overwrites the old value, with four
            // bytes more.
            let mut batch = Batch::tidying();
            let record = LivesRecord { lives };
            batch.put(records::lives(), record.to_value()?);
            self.policy.put_keeping(&mut batch)?;
            Ok::<_, Failure>(match self.storage.commit(batch).await {
                // A store without former lives has nothing to compare a claim with.
                Err(failure) if former.is_empty() && !is_restored => return Err(failure),
                Err(failure @ Failure::Refused(_)) if !is_restored => {
                    (former, (Some(fresh), Some(failure)))
                }
                // The store must be opened again.
                Err(failure) if !is_restored => (former, (None, Some(failure))),
                Err(failure) => (record.lives, (Some(fresh), Some(failure))),
                Ok(_) => (record.lives, (None, None)),
            })
        };
        let (known, (unwritten, failure)) = match begun.await {
            Ok(begun) => begun,
            // No claim is checked.
            Err(failure) => {
                self.storage.log_failure("begin life", &failure);
                return false;
            }
        };
        if let Some(failure) = &failure {
            self.storage.log_failure("begin life", failure);
        }
        let lives = KnownLives {
            known: known.into_iter().map(Life).collect(),
            unwritten: unwritten.map(Life),
        };
        // A second call would be a bug in the server. The first life goes on.
        let _ = self.known.set(lives);
        failure.is_none()
    }

    /// Returns the answer to a device's `claim`. `None` claims nothing: the device has a plain
    /// link, or is a realm.
    pub fn judge_claim(&self, claim: Option<&LifeClaim>) -> LifeNews {
        let (Some(lives), Some(claim)) = (self.known.get(), claim) else {
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
            let life = self.random.random();
            if life != Life::NONE.0 && !former.contains(&life) {
                return life;
            }
        }
    }

    /// Returns a number with this life of the store as its lower half, or 0 there if no life has
    /// begun, as on a full disk.
    pub(super) fn in_this_life(&self, number: u64) -> u64 {
        let lives = self.known.get();
        let current = lives.and_then(|lives| lives.known.first());
        current.map_or(number & PEERING, |Life(name)| {
            (number & PEERING) | u64::from(u32::from_be_bytes(*name))
        })
    }

    /// Refuses a read by a side that believes this store to be in another life (PEER-29). That side
    /// then introduces itself and learns of this life.
    pub(super) fn check_life(&self, believed: Option<Life>) -> Result<(), Failure> {
        let current = self.known.get().and_then(|lives| lives.known.first());
        match (believed, current) {
            (Some(believed), Some(current)) if believed != *current => {
                Err(ErrorCode::PeerRefused.into())
            }
            _ => Ok(()),
        }
    }

    /// True if the other side knew this one in a life that the store does not remember.
    pub(in crate::realm) fn was_forgotten(&self, known: u64) -> bool {
        let Some(KnownLives { known: lives, .. }) = self.known.get() else {
            return false;
        };
        let is_life = |Life(name): &Life| u64::from(u32::from_be_bytes(*name)) == known & !PEERING;
        let is_known =
            known & !PEERING == 0 || lives.iter().any(is_life) || is_planted(Fault::ForgetLives);
        // This also holds under another peering's number: the store may have been restored from
        // that copy before.
        known != 0 && !is_known
    }

    /// Returns the lives of the store that a resuming device may know, the current one first.
    pub fn lives_to_come_back_to(&self) -> Vec<Life> {
        let Some(lives) = self.known.get() else {
            return Vec::new();
        };
        let current = lives.current();
        let former = lives.known.iter().copied();
        let former = former.filter(|life| Some(*life) != current);
        current
            .into_iter()
            .chain(former.take(FORMER_LIVES))
            .collect()
    }
}
