//! Fair shares of the queues to peers (PEER-25): one account cannot take all the room.
//!
//! The senders of the messages in a peer's queue are read from the queue, each entry once, and are
//! then kept in memory. So there is no second record that could become wrong, and a writer does not
//! wait for other writers' counts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::realm::{
    failure::Failure,
    queues::PeerQueues,
    records::{QueuedRecord, Record as _},
};
use crate::{
    crypto::{MacKey, SecretKey},
    faults::{Fault, is_planted},
    store::Store,
    wire::{ErrorCode, RealmId, Username},
};

/// The most messages that may wait for a peer: 64 MiB if each has the largest size.
pub const QUEUE_MAX: usize = 4096;
/// The memory for each of them, in bytes, including unused capacity of the list.
pub const SHARE_BYTES: usize = 2 * size_of::<Whose>();
/// The number of places, the last ones, that are reserved for accounts without waiting messages.
const QUEUE_RESERVED: usize = 256;

/// The sender of a message, as a keyed hash of the account. Two accounts with the same hash share
/// one share.
type Whose = u32;
/// An entry that takes no user's room: a membership report, which is the realm's own, or one that
/// has left the queue.
const NOBODY: Whose = 0;
/// An unreadable entry.
const UNREADABLE: Whose = 1;

/// Returns the most messages of one account that may wait for a peer when `waiting` messages wait
/// in all. It shrinks as the queue fills, so that the account with the most messages is refused
/// first.
const fn own_max(waiting: usize) -> usize {
    if waiting < QUEUE_MAX / 2 {
        return QUEUE_MAX;
    }
    match QUEUE_MAX.saturating_sub(waiting) {
        0 => 0,
        1..=QUEUE_RESERVED => 1,
        257..=512 => 8,
        513..=1024 => 32,
        _ => 256,
    }
}

/// The messages that wait for one peer.
#[derive(Debug, Default)]
struct Queue {
    /// The position up to which entries have left the queue.
    settled: u64,
    /// The senders of the messages behind that position, in order.
    waiting: VecDeque<Whose>,
    /// The senders of the messages that are being written.
    arriving: Vec<Whose>,
}

impl Queue {
    /// Returns the last known position.
    fn end(&self) -> u64 {
        self.settled + self.waiting.len() as u64
    }

    /// Notes that entries up to a position have left.
    fn settle(&mut self, settled: u64) {
        // A log that begins anew is a different log.
        let gone = settled.checked_sub(self.settled);
        let gone = gone.and_then(|gone| usize::try_from(gone).ok());
        match gone.filter(|gone| *gone <= self.waiting.len()) {
            Some(gone) => drop(self.waiting.drain(..gone)),
            None => self.waiting.clear(),
        }
        self.settled = settled;
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
        }
    }

    /// True if the queue has room for another message of an account.
    fn has_room(&self, whose: Whose) -> bool {
        let (mut all, mut own) = (0, 0);
        for one in self.waiting.iter().chain(&self.arriving) {
            all += usize::from(*one != NOBODY);
            own += usize::from(*one == whose);
        }
        if is_planted(Fault::QueueWithoutShare) {
            return all < QUEUE_MAX;
        }
        own < own_max(all)
    }
}

/// The senders of the messages that wait for peers.
#[derive(Clone, Debug)]
pub(in crate::realm) struct QueueShares {
    queues: Arc<Mutex<BTreeMap<RealmId, Queue>>>,
    hashes: MacKey,
}

impl QueueShares {
    pub fn new(lasting: &SecretKey) -> Self {
        Self {
            queues: Arc::default(),
            hashes: MacKey::derive(lasting, "queue shares"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RealmId, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn whose(&self, user: &str) -> Whose {
        let [a, b, c, d, ..] = self.hashes.mac16(&[user.as_bytes()]);
        Whose::from_be_bytes([a, b, c, d]).max(UNREADABLE + 1)
    }

    /// Returns the sender of an entry of a queue.
    fn whose_entry(&self, value: &[u8]) -> Whose {
        match QueuedRecord::from_value(value) {
            Ok(record) if record.kind.is_membership_report() => NOBODY,
            Ok(record) => self.whose(&record.from),
            Err(_) => UNREADABLE,
        }
    }

    /// Notes that entries of a queue up to a position have left. Returns the last known position.
    fn settle(&self, realm: RealmId, settled: u64) -> u64 {
        let mut all = self.lock();
        let Some(queue) = all.get_mut(&realm) else {
            return settled;
        };
        queue.settle(settled);
        let end = queue.end();
        if queue.waiting.is_empty() && queue.arriving.is_empty() {
            all.remove(&realm);
        }
        end
    }

    /// Adds the senders of the entries behind a position, unless they are known by now. Returns the
    /// last known position.
    fn extend(&self, realm: RealmId, behind: u64, found: &[Whose]) -> u64 {
        if found.is_empty() {
            return behind;
        }
        let mut all = self.lock();
        let queue = all.entry(realm).or_default();
        if queue.waiting.is_empty() && queue.settled < behind {
            queue.settled = behind;
        }
        if queue.end() == behind {
            queue.waiting.extend(found);
        }
        queue.end()
    }

    /// Reserves a place in a queue for a message that is about to be written. Returns `None` if
    /// there is none for its sender.
    fn reserve(&self, realm: RealmId, whose: Whose) -> Option<Arriving> {
        let mut all = self.lock();
        let queue = all.entry(realm).or_default();
        let has_room = queue.has_room(whose);
        if has_room {
            queue.arriving.push(whose);
        }
        has_room.then(|| Arriving {
            shares: self.clone(),
            realm,
            whose,
        })
    }
}

/// A place for a message that is being written. After this is dropped, the message is in its queue
/// or never will be.
#[derive(Debug)]
pub(in crate::realm) struct Arriving {
    shares: QueueShares,
    realm: RealmId,
    whose: Whose,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut all = self.shares.lock();
        if let Some(queue) = all.get_mut(&self.realm) {
            let place = queue.arriving.iter().position(|one| *one == self.whose);
            place.map(|place| queue.arriving.swap_remove(place));
        }
    }
}

impl<S: Store> PeerQueues<S> {
    /// Reserves a place in the queue to a peer for a message of `user`, if there is one for them.
    pub(in crate::realm) async fn queue_share(
        &self,
        realm: RealmId,
        user: Username,
    ) -> Result<Arriving, Failure> {
        let (settled, _) = self.settled(realm).await?;
        let mut known = self.shares.settle(realm, settled);
        loop {
            let Ok(page) = self.read_queue(realm, known, QUEUE_MAX).await? else {
                // Its sender is unknown, but the entries behind it are still read.
                known = self.shares.extend(realm, known, &[UNREADABLE]);
                continue;
            };
            let mut found = Vec::with_capacity(page.entries.len());
            let mut last = known;
            for (position, value) in &page.entries {
                // Missing entries have left the queue meanwhile.
                let missing = position.0.saturating_sub(last + 1).min(QUEUE_MAX as u64);
                found.extend((0..missing).map(|_| NOBODY));
                found.push(self.shares.whose_entry(value));
                last = position.0;
            }
            known = self.shares.extend(realm, known, &found);
            if !page.more {
                break;
            }
        }
        let whose = self.shares.whose(user.as_str());
        let place = self.shares.reserve(realm, whose);
        place.ok_or_else(|| ErrorCode::QueueFull.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BETA: &str = "beta";

    fn shares() -> (QueueShares, RealmId) {
        let secret = SecretKey::from_bytes([7; 32]);
        (QueueShares::new(&secret), BETA.parse().unwrap())
    }

    /// Returns how many more messages of an account fit a queue.
    fn fill(shares: &QueueShares, realm: RealmId, whose: Whose) -> usize {
        let mut count = 0;
        while let Some(place) = shares.reserve(realm, whose) {
            let end = shares.lock()[&realm].end();
            shares.extend(realm, end, &[whose]);
            drop(place);
            count += 1;
        }
        count
    }

    /// PEER-25
    #[test]
    fn queue_share_of_account_shrinks_as_queue_fills() {
        let (shares, beta) = shares();
        assert_eq!(fill(&shares, beta, 10), 2048, "half of it is anybody's");
        let mut greedy = 0;
        let mut accounts = 11..;
        // However many accounts one person has, the last places are for accounts without waiting
        // messages.
        while greedy < QUEUE_MAX - 2048 {
            let next = fill(&shares, beta, accounts.next().unwrap());
            assert!(next > 0, "who has nothing there finds room");
            greedy += next;
        }
        assert_eq!(accounts.start, 11 + 1024 / 256 + 512 / 32 + 256 / 8 + 256);
        assert_eq!(fill(&shares, beta, accounts.next().unwrap()), 0);
        assert_eq!(fill(&shares, beta, 10), 0);
        // Messages that leave make room, first for the account with the fewest.
        shares.settle(beta, 1);
        assert_eq!(fill(&shares, beta, 10), 0);
        assert_eq!(fill(&shares, beta, accounts.next().unwrap()), 1);
    }

    /// PEER-25: concurrent commands get no more places than commands one after another.
    #[test]
    fn queue_share_counts_messages_being_written() {
        let (shares, beta) = shares();
        fill(&shares, beta, 10);
        let places: Vec<_> = (0..QUEUE_MAX)
            .map_while(|_| shares.reserve(beta, 11))
            .collect();
        assert_eq!(places.len(), 256);
        drop(places);
        assert_eq!(fill(&shares, beta, 11), 256);
    }

    #[test]
    fn queue_share_of_empty_or_new_queue_takes_no_memory() {
        let (shares, beta) = shares();
        fill(&shares, beta, 10);
        assert_eq!(shares.settle(beta, 5000), 5000);
        assert!(shares.lock().is_empty());
        shares.extend(beta, 5000, &[10, 11]);
        assert_eq!(shares.settle(beta, 3), 3, "another log of that name");
        assert!(shares.lock().is_empty());
    }
}
