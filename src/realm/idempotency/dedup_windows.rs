//! The operation numbers that are used or in use (EXACT-3, EXACT-4). For each owner it remembers
//! the last [`WINDOW`] numbers, which are read from the store when they are first needed.
//!
//! Nobody else writes this realm's store, so memory and store agree, and a fresh number needs no
//! look-up. A command with a number that is already in use waits until that use is over.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, futures::OwnedNotified};

use crate::faults::{Fault, is_planted};
use crate::realm::records::{Owner, slot};

/// The number of numbers up to the highest that are told apart. Older ones count as used (EXACT-3).
pub const WINDOW: u64 = 256;
/// The most owners whose numbers are remembered. When there are more, the half that was unused for
/// longest is dropped. Owners unused for long are dropped too.
pub const OWNERS_MAX: usize = 1 << 16;
/// The approximate memory of one owner's numbers, in bytes.
pub const OWNER_BYTES: usize = size_of::<(Owner, DedupWindow)>() + 2 * size_of::<Working>();

const WORDS: usize = (WINDOW / 64) as usize;

/// The numbers of one owner.
#[derive(Debug, Default)]
struct DedupWindow {
    highest: u64,
    /// The used numbers up to the highest, as a bit per slot.
    used: [u64; WORDS],
    working: Vec<Working>,
    /// True if the result of a commit is unknown: the store must be read.
    is_stale: bool,
}

/// A number in use by a running command.
#[derive(Debug)]
struct Working {
    number: u64,
    ended: Option<Arc<Notify>>,
}

impl DedupWindow {
    fn is_used(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.used.get(word).is_some_and(|word| word & bit != 0)
    }

    fn is_old(&self, number: u64) -> bool {
        number + WINDOW <= self.highest
    }

    fn note_used(&mut self, number: u64) {
        if self.is_old(number) {
            return;
        }
        // The slots in between held numbers that are too old now.
        for skipped in self.highest.max(number.saturating_sub(WINDOW)) + 1..=number {
            self.mark(skipped, false);
        }
        self.highest = self.highest.max(number);
        self.mark(number, true);
    }

    /// Adds the used numbers that the store has.
    fn take_in(&mut self, numbers: impl Iterator<Item = u64>) {
        numbers.for_each(|number| self.note_used(number));
        self.is_stale = false;
    }

    fn mark(&mut self, number: u64, is_used: bool) {
        let (word, bit) = place(number);
        if let Some(word) = self.used.get_mut(word) {
            *word = if is_used { *word | bit } else { *word & !bit };
        }
    }
}

/// Returns the word and the bit of a number.
const fn place(number: u64) -> (usize, u64) {
    let slot = slot(number);
    ((slot / 64) as usize, 1 << (slot % 64))
}

/// All windows in memory, in a younger and an older generation. Used windows move to the younger
/// one. The older one is dropped when there are many.
#[derive(Debug, Default)]
struct Table {
    young: HashMap<Owner, DedupWindow>,
    old: HashMap<Owner, DedupWindow>,
    /// How often windows have been dropped.
    forgotten: u64,
}

impl Table {
    fn find(&mut self, owner: &Owner) -> Option<&mut DedupWindow> {
        if self.young.len() >= OWNERS_MAX / 2 {
            self.age();
        }
        match self.young.entry(*owner) {
            Entry::Occupied(window) => Some(window.into_mut()),
            Entry::Vacant(place) => Some(place.insert(self.old.remove(owner)?)),
        }
    }

    /// Makes the younger generation the older one, and drops the former older one.
    fn age(&mut self) {
        // Numbers in use are known nowhere else.
        let is_working = |window: &DedupWindow| !window.working.is_empty();
        let young = std::mem::take(&mut self.young);
        let (kept, aged) = young
            .into_iter()
            .partition(|(_, window)| is_working(window));
        let gone = std::mem::replace(&mut self.old, aged);
        self.young = kept;
        let kept = gone.into_iter().filter(|(_, window)| is_working(window));
        self.young.extend(kept);
        self.forgotten += 1;
    }
}

/// The numbers of all owners.
#[derive(Debug, Default)]
pub struct DedupWindows(Mutex<Table>);

/// The answer to a request for a number.
#[derive(Debug)]
pub enum Turn<'a> {
    /// The number is new and reserved for the caller.
    New(Reservation<'a>),
    /// The number is used: the store has the answer.
    Used,
    /// The number is too old to be told apart.
    Old,
    /// The number, or one that uses its slot, is in use: wait and try again.
    Wait(OwnedNotified),
    /// The used numbers must be read from the store first, and passed to [`DedupWindows::fill`]
    /// with this value.
    Unread(u64),
}

impl DedupWindows {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops the owners that were not used since the last call but one.
    pub fn age(&self) {
        self.table().age();
    }

    /// Requests a number.
    pub fn take(&self, owner: Owner, number: u64) -> Turn<'_> {
        let mut table = self.table();
        let table = &mut *table;
        let Some(window) = table.find(&owner).filter(|window| !window.is_stale) else {
            return Turn::Unread(table.forgotten);
        };
        // A number that uses the same record must also end first.
        let in_the_way = |working: &&mut Working| slot(working.number) == slot(number);
        if let Some(working) = window.working.iter_mut().find(in_the_way) {
            let ended = working.ended.get_or_insert_default();
            return Turn::Wait(Arc::clone(ended).notified_owned());
        }
        if window.is_old(number) {
            return Turn::Old;
        }
        if number <= window.highest && window.is_used(number) {
            return Turn::Used;
        }
        window.working.push(Working {
            number,
            ended: None,
        });
        Turn::New(Reservation {
            windows: self,
            owner,
            number,
            is_committing: false,
            is_over: false,
        })
    }

    /// Returns the highest used number, if it is in memory.
    pub fn highest(&self, owner: &Owner) -> Result<u64, u64> {
        let mut table = self.table();
        match table.find(owner).filter(|window| !window.is_stale) {
            Some(window) => Ok(window.highest),
            None => Err(table.forgotten),
        }
    }

    /// Adds the used numbers that the store has. `forgotten` is the value of [`Turn::Unread`].
    pub fn fill(&self, owner: Owner, numbers: impl Iterator<Item = u64>, forgotten: u64) {
        let mut table = self.table();
        if table.forgotten != forgotten {
            // The window may have been used and dropped meanwhile: it is read again.
            return;
        }
        match table.find(&owner) {
            // What is in memory is true and may be newer than the store's: only add to it.
            Some(known) => known.take_in(numbers),
            None => {
                let mut fresh = DedupWindow::default();
                fresh.take_in(numbers);
                table.young.insert(owner, fresh);
            }
        }
    }
}

/// A number that is reserved for one command.
#[derive(Debug)]
pub struct Reservation<'a> {
    windows: &'a DedupWindows,
    pub owner: Owner,
    pub number: u64,
    is_committing: bool,
    is_over: bool,
}

impl Reservation<'_> {
    /// Notes that its effect is being written: until [`Reservation::settle`] the result is unknown.
    pub const fn begin_commit(&mut self) {
        self.is_committing = true;
    }

    /// Notes whether the commit took effect. If so, commands that wait for the number get an
    /// answer.
    pub fn settle(&mut self, stands: bool) {
        self.is_committing = false;
        if stands {
            self.end(true);
        }
    }

    fn end(&mut self, is_used: bool) {
        if core::mem::replace(&mut self.is_over, true) {
            return;
        }
        let mut table = self.windows.table();
        let Some(window) = table.find(&self.owner) else {
            return;
        };
        if is_used && !is_planted(Fault::ForgetAnswer) {
            window.note_used(self.number);
        }
        window.is_stale |= self.is_committing;
        let mine = |working: &Working| working.number == self.number;
        if let Some(at) = window.working.iter().position(mine)
            && let Some(ended) = window.working.swap_remove(at).ended
        {
            ended.notify_waiters();
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::PublicKey;

    fn owner(n: u8) -> Owner {
        Owner::Device(PublicKey([n; 32]))
    }

    fn filled(numbers: &[u64]) -> DedupWindows {
        let windows = DedupWindows::default();
        let Turn::Unread(forgotten) = windows.take(owner(1), 1) else {
            panic!("it is not known")
        };
        windows.fill(owner(1), numbers.iter().copied(), forgotten);
        windows
    }

    fn done(windows: &DedupWindows, number: u64) {
        match windows.take(owner(1), number) {
            Turn::New(mut reservation) => reservation.settle(true),
            other => panic!("{number}: {other:?}"),
        }
    }

    /// EXACT-3: agrees with a naive model, over numbers that jump and come back.
    #[test]
    fn dedup_window_with_jumping_numbers_agrees_with_naive_model() {
        let windows = filled(&[]);
        let mut used = std::collections::BTreeSet::new();
        let mut highest = 0;
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let jump = if state >> 60 == 0 { 700 } else { 40 };
            let number = (highest + (state >> 33) % jump).saturating_sub(30).max(1);
            let is_old = number + WINDOW <= highest;
            match windows.take(owner(1), number) {
                Turn::Old => assert!(is_old, "{number} of {highest}"),
                Turn::Used => assert!(!is_old && used.contains(&number), "{number}"),
                Turn::New(mut reservation) => {
                    assert!(!is_old && !used.contains(&number), "{number} of {highest}");
                    if state >> 62 == 0 {
                        continue;
                    }
                    reservation.settle(true);
                    used.insert(number);
                    highest = highest.max(number);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(windows.highest(&owner(1)), Ok(highest));
        }
    }

    /// EXACT-1: of two commands with one number the second waits. So does one whose record has the
    /// same place.
    #[tokio::test]
    async fn dedup_number_in_work_makes_second_command_wait() {
        let windows = filled(&[3]);
        let Turn::New(first) = windows.take(owner(1), 5) else {
            panic!("it is new")
        };
        let Turn::Wait(same) = windows.take(owner(1), 5) else {
            panic!("it is in work")
        };
        let Turn::Wait(in_the_way) = windows.take(owner(1), 5 + WINDOW) else {
            panic!("its record would overwrite that of one in work")
        };
        done(&windows, 6);
        drop(first);
        same.await;
        in_the_way.await;
        // The first has had no effect: the next may try.
        done(&windows, 5);
        assert!(matches!(windows.take(owner(1), 5), Turn::Used));
    }

    /// EXACT-2: if nobody was told the result of a commit, the store is asked.
    #[test]
    fn dedup_commit_with_unknown_result_makes_store_be_read() {
        let windows = filled(&[3]);
        let Turn::New(mut one) = windows.take(owner(1), 5) else {
            panic!("it is new")
        };
        let Turn::New(mut other) = windows.take(owner(1), 6) else {
            panic!("it is new")
        };
        one.begin_commit();
        drop(one);
        let Turn::Unread(forgotten) = windows.take(owner(1), 7) else {
            panic!("it is not known")
        };
        assert!(matches!(windows.take(owner(1), 6), Turn::Unread(_)));
        // A read from before this commit does not undo it.
        other.settle(true);
        windows.fill(owner(1), [3, 5].into_iter(), forgotten);
        assert!(matches!(windows.take(owner(1), 5), Turn::Used));
        drop(other);
        for (number, is_used) in [(3, true), (4, false), (6, true)] {
            let turn = windows.take(owner(1), number);
            assert_eq!(matches!(turn, Turn::Used), is_used, "{number}");
        }
    }

    /// EXACT-4: owners unused for longest are dropped, but never one with a number in use; and a
    /// read from before is ignored.
    #[test]
    fn dedup_windows_are_bounded_and_keep_owners_in_use() {
        let windows = filled(&[1]);
        let Turn::New(working) = windows.take(owner(1), 2) else {
            panic!("it is new")
        };
        let Turn::Unread(before) = windows.take(owner(2), 1) else {
            panic!("it is not known")
        };
        for n in 0..2 * OWNERS_MAX as u64 {
            let mut queue = [0; 40];
            queue[..8].copy_from_slice(&n.to_be_bytes());
            let Turn::Unread(forgotten) = windows.take(Owner::Peer(queue), 1) else {
                panic!("it is not known")
            };
            windows.fill(Owner::Peer(queue), [1].into_iter(), forgotten);
        }
        let count = {
            let table = windows.table();
            table.young.len() + table.old.len()
        };
        assert!(count <= OWNERS_MAX + 1, "{count}");
        assert!(matches!(windows.take(owner(1), 2), Turn::Wait(_)));
        windows.fill(owner(2), [9].into_iter(), before);
        assert!(matches!(windows.take(owner(2), 9), Turn::Unread(_)));
        // Owners unused for long are dropped too.
        for _ in 0..2 {
            windows.age();
        }
        let count = {
            let table = windows.table();
            table.young.len() + table.old.len()
        };
        assert_eq!(count, 1);
        assert!(matches!(windows.take(owner(1), 2), Turn::Wait(_)));
        drop(working);
    }
}
