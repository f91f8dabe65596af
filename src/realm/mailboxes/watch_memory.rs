//! The memory of all watches, and of one account's. Both are bounded, so that nobody's watches take
//! others' memory.
//!
//! While any memory is left, each account may have what one watch with few mailboxes needs. All
//! beyond that comes from one half of the memory, and an account gets at most an eighth of what is
//! free there. So it takes thousands of accounts to leave a user without a watch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    faults::{Fault, is_planted},
    wire::Username,
};

/// One account may use at most this fraction of the free memory beyond [`FIRST_BYTES`].
const SHARE: usize = 8;
/// What each account may use while there is memory, in bytes: a watch, some mailboxes, and one read
/// ahead.
const FIRST_BYTES: usize = 32 << 10;
/// The approximate memory of a watch without mailboxes, in bytes: its task, its wakers, and its
/// entries in the tables.
pub const WATCH_BYTES: usize = 8 << 10;

#[derive(Debug, Default)]
struct Table {
    total: usize,
    /// The memory that accounts use beyond [`FIRST_BYTES`].
    beyond: usize,
    by_user: HashMap<Username, usize>,
}

/// The memory of all watches.
#[derive(Clone, Debug)]
pub struct WatchMemory {
    table: Arc<Mutex<Table>>,
    /// The size, in bytes.
    max: usize,
}

/// The memory of one watch. Released on drop.
#[derive(Debug)]
pub struct Held {
    memory: WatchMemory,
    user: Username,
    bytes: usize,
}

impl WatchMemory {
    /// Returns a memory of `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            table: Arc::default(),
            max,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the table's values after a user changes from `before` to `after` bytes, or `None` if
    /// that is not allowed.
    fn with(&self, table: &Table, before: usize, after: usize) -> Option<(usize, usize)> {
        let beyond = |bytes: usize| bytes.saturating_sub(FIRST_BYTES);
        let total = table.total - before + after;
        let all_beyond = table.beyond - beyond(before) + beyond(after);
        let free_beyond = (self.max / 2).saturating_sub(all_beyond);
        let may = is_planted(Fault::WatchWithoutShare) || beyond(after) <= free_beyond / SHARE;
        (after <= before || (total <= self.max && may)).then_some((total, all_beyond))
    }

    /// True if a watch of a user that needs `bytes` may begin.
    pub fn has_room(&self, user: Username, bytes: usize) -> bool {
        let table = self.table();
        let theirs = table.by_user.get(&user).copied().unwrap_or_default();
        self.with(&table, theirs, theirs + bytes).is_some()
    }

    /// Returns the memory in use, in bytes.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.table().total
    }

    /// Returns the memory of a user's watch, which is empty at first.
    pub fn watch(&self, user: Username) -> Held {
        Held {
            memory: self.clone(),
            user,
            bytes: 0,
        }
    }
}

impl Held {
    /// Changes the reservation to `bytes`, if there is room. Otherwise it stays as before.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let mut table = self.memory.table();
        let before = table.by_user.get(&self.user).copied().unwrap_or_default();
        let theirs = before - self.bytes + bytes;
        let Some((total, beyond)) = self.memory.with(&table, before, theirs) else {
            return false;
        };
        (table.total, table.beyond) = (total, beyond);
        if theirs == 0 {
            table.by_user.remove(&self.user);
        } else {
            table.by_user.insert(self.user, theirs);
        }
        drop(table);
        self.bytes = bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u16) -> Username {
        format!("u{n}").parse().unwrap()
    }

    /// Reserves all that a user may have.
    fn all_of(memory: &WatchMemory, n: u16) -> Held {
        let mut held = memory.watch(user(n));
        let mut bytes = 0;
        while held.hold(bytes + 1024) {
            bytes += 1024;
        }
        held
    }

    #[test]
    fn watch_memory_bounds_each_account_and_leaves_room_for_next() {
        let memory = WatchMemory::new(1800 << 10);
        let mut one = memory.watch(user(0));
        assert!(one.hold(92 << 10));
        assert!(
            !one.hold(133 << 10),
            "an eighth of what is left of the half is for each, beside what everybody has"
        );
        assert!(memory.has_room(user(0), WATCH_BYTES));
        let mut other = memory.watch(user(0));
        assert!(!other.hold(41 << 10));
        assert!(other.hold(40 << 10));
        assert!(!memory.has_room(user(0), WATCH_BYTES) && memory.has_room(user(1), WATCH_BYTES));
        // Others reserve all that they may.
        let all: Vec<Held> = (1..20).map(|n| all_of(&memory, n)).collect();
        assert!(
            memory.has_room(user(99), FIRST_BYTES),
            "who holds nothing may begin"
        );
        drop(all);
        drop((one, other));
        assert!(memory.has_room(user(0), WATCH_BYTES));
        let table = memory.table();
        assert_eq!((table.total, table.beyond), (0, 0));
        assert!(table.by_user.is_empty());
    }

    /// As many accounts as one subnet may make at once and in a day leave a watch to everybody
    /// else.
    #[test]
    fn watch_memory_of_greedy_accounts_leaves_others_one_watch() {
        let memory = WatchMemory::new(256 << 20);
        let greedy: Vec<Held> = (0..560).map(|n| all_of(&memory, n)).collect();
        let honest: Vec<Held> = (1000..4000)
            .map(|n| {
                let mut held = memory.watch(user(n));
                assert!(held.hold(FIRST_BYTES), "{n}");
                held
            })
            .collect();
        assert!(memory.held() <= 256 << 20);
        drop((greedy, honest));
        let table = memory.table();
        assert_eq!((table.total, table.beyond), (0, 0));
    }
}
