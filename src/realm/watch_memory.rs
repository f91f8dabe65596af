//! What all watches hold together, and those of one account: there is an end to both, so that nobody's watches take others' memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    faults::{Fault, is_planted},
    wire::Username,
};

/// One account has so large a part at most of what nobody holds: however many accounts hold as much as they may, something is left for
/// the next.
const SHARE: usize = 8;
/// What a watch takes before it has mailboxes, about: its task, what wakes it, and its place in the tables.
pub const WATCH_BYTES: usize = 8 << 10;

#[derive(Debug, Default)]
struct Table {
    total: usize,
    by_user: HashMap<Username, usize>,
}

/// The memory of all watches.
#[derive(Clone, Debug)]
pub struct WatchMemory {
    table: Arc<Mutex<Table>>,
    /// In bytes.
    max: usize,
}

/// What one watch holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    memory: WatchMemory,
    user: Username,
    bytes: usize,
}

impl WatchMemory {
    /// Memory of so many bytes.
    pub fn new(max: usize) -> Self {
        Self {
            table: Arc::default(),
            max,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when all may hold so much together, and one user of it.
    fn may_hold(&self, total: usize, theirs: usize) -> bool {
        if is_planted(Fault::WatchWithoutShare) {
            return total <= self.max;
        }
        theirs <= self.max.saturating_sub(total) / SHARE
    }

    /// True when a watch of a user may begin that takes so many bytes.
    pub fn has_room(&self, user: Username, bytes: usize) -> bool {
        let table = self.table();
        let theirs = table.by_user.get(&user).copied().unwrap_or_default();
        self.may_hold(table.total + bytes, theirs + bytes)
    }

    /// What all hold, in bytes.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.table().total
    }

    /// A watch of a user that holds nothing yet.
    pub fn watch(&self, user: Username) -> Held {
        Held {
            memory: self.clone(),
            user,
            bytes: 0,
        }
    }
}

impl Held {
    /// Holds so many bytes from now on, if there are so many; else as many as before.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let mut table = self.memory.table();
        let total = table.total - self.bytes + bytes;
        let theirs = table.by_user.get(&self.user).copied().unwrap_or_default();
        let theirs = theirs - self.bytes + bytes;
        let is_more = bytes > self.bytes;
        if is_more && !self.memory.may_hold(total, theirs) {
            return false;
        }
        table.total = total;
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

    #[test]
    fn there_is_an_end_for_each_and_something_left_for_the_next() {
        let memory = WatchMemory::new(900 << 10);
        let user = |n: u8| format!("u{n}").parse::<Username>().unwrap();
        let mut one = memory.watch(user(0));
        assert!(one.hold(60 << 10));
        assert!(
            !one.hold(101 << 10),
            "an eighth of what is left is for each"
        );
        assert!(memory.has_room(user(0), WATCH_BYTES));
        let mut other = memory.watch(user(0));
        assert!(!other.hold(41 << 10));
        assert!(other.hold(40 << 10));
        assert!(!memory.has_room(user(0), WATCH_BYTES) && memory.has_room(user(1), WATCH_BYTES));
        // Others take all that they may.
        let all: Vec<Held> = (1..20)
            .map(|n| {
                let mut held = memory.watch(user(n));
                let mut bytes = 0;
                while held.hold(bytes + 1024) {
                    bytes += 1024;
                }
                held
            })
            .collect();
        assert!(
            memory.has_room(user(99), WATCH_BYTES),
            "who holds nothing may begin"
        );
        drop(all);
        drop((one, other));
        assert!(memory.has_room(user(0), WATCH_BYTES));
        assert_eq!(memory.table().total, 0);
        assert!(memory.table().by_user.is_empty());
    }
}
