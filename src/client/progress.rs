//! What a process knows of the entries of the outbox beyond their records: which of them it waits
//! for, why they are not finished, and how they were answered so far. It is lost with the process.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::{CallError, EntryId, lock};

/// The progress of entries in this process.
#[derive(Debug, Default)]
pub struct Progress {
    added: Notify,
    settled: Notify,
    /// A command of this process with a number that was new to the realm has been answered.
    is_answered: AtomicBool,
    /// Why entries that this process has tried are not finished yet.
    troubles: Mutex<BTreeMap<EntryId, CallError>>,
    /// Entries that were never sent before this process started, and that the realm has always
    /// answered with a request to retry later.
    deferred: Mutex<Vec<EntryId>>,
    /// How often and when unfinished entries got a new number.
    renumbered: Mutex<BTreeMap<EntryId, (u32, Instant)>>,
    /// Entries that this process waits for, and since when.
    waited: Mutex<BTreeMap<EntryId, Instant>>,
}

impl Progress {
    /// Wakes the carrier: an entry was added or changed.
    pub fn notify_added(&self) {
        self.added.notify_one();
    }

    /// Waits until an entry was added or changed.
    pub fn added(&self) -> Notified<'_> {
        self.added.notified()
    }

    /// Wakes the waiting calls: an entry may be settled.
    pub fn notify_settled(&self) {
        self.settled.notify_waiters();
    }

    /// Waits until an entry may be settled.
    pub fn settled(&self) -> Notified<'_> {
        self.settled.notified()
    }

    /// Records that a command with a number that was new to the realm has been answered: no other
    /// copy of the profile is ahead of this one.
    pub fn note_answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    /// True once such a command has been answered.
    pub fn is_answered(&self) -> bool {
        self.is_answered.load(Ordering::Relaxed)
    }

    /// Records that a call waits for an entry from now on.
    pub fn begin_waiting(&self, id: EntryId) {
        lock(&self.waited).insert(id, Instant::now());
    }

    /// Records that the call has stopped waiting.
    pub fn end_waiting(&self, id: EntryId) {
        lock(&self.waited).remove(&id);
    }

    /// Returns the entries that this process waits for, and since when.
    pub fn waited(&self) -> BTreeMap<EntryId, Instant> {
        lock(&self.waited).clone()
    }

    /// Records why an entry is not finished.
    pub fn note_trouble(&self, id: EntryId, error: CallError) {
        lock(&self.troubles).insert(id, error);
    }

    /// Takes the reason why an entry is not finished.
    pub fn take_trouble(&self, id: EntryId) -> Option<CallError> {
        lock(&self.troubles).remove(&id)
    }

    /// True if further attempts to send an entry are pointless.
    pub fn has_failed(&self, id: EntryId) -> bool {
        let troubles = lock(&self.troubles);
        troubles.get(&id).is_some_and(CallError::is_final)
    }

    /// Returns the trouble of any entry, which may block another one.
    pub fn any_trouble(&self) -> Option<String> {
        let troubles = lock(&self.troubles);
        let told = troubles.values().find(|told| told.says_why());
        told.map(ToString::to_string)
    }

    /// Records that the realm has always asked for a retry of an entry, and so has not executed it.
    pub fn defer(&self, id: EntryId) {
        lock(&self.deferred).push(id);
    }

    /// True if an entry is deferred.
    pub fn is_deferred(&self, id: EntryId) -> bool {
        lock(&self.deferred).contains(&id)
    }

    /// Records that the realm may have executed an entry. True if it was deferred before.
    pub fn forget_deferred(&self, id: EntryId) -> bool {
        let mut deferred = lock(&self.deferred);
        let before = deferred.len();
        deferred.retain(|other| *other != id);
        deferred.len() < before
    }

    /// Counts that an entry got another number. Returns how often that happened before, with no
    /// more than `within` from each time to the next.
    pub fn count_renumbering(&self, id: EntryId, within: Duration) -> u32 {
        let mut renumbered = lock(&self.renumbered);
        let before = renumbered.get(&id).filter(|(_, at)| at.elapsed() <= within);
        let count = before.map_or(0, |(count, _)| count + 1);
        renumbered.insert(id, (count, Instant::now()));
        count
    }

    /// Forgets an entry, which is settled.
    pub fn forget(&self, id: EntryId) {
        lock(&self.troubles).remove(&id);
        self.forget_deferred(id);
        lock(&self.renumbered).remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_of_settled_entry_is_forgotten() {
        let (progress, id) = (Progress::default(), EntryId(7));
        let often = Duration::from_hours(1);
        assert_eq!(
            [(); 3].map(|()| progress.count_renumbering(id, often)),
            [0, 1, 2]
        );
        progress.note_trouble(id, CallError::NoServer);
        progress.defer(id);
        assert!(progress.has_failed(id) && progress.is_deferred(id));
        assert!(progress.any_trouble().is_some());
        progress.forget(id);
        assert!(!progress.has_failed(id) && !progress.is_deferred(id));
        assert_eq!(progress.count_renumbering(id, often), 0);
        assert!(!progress.forget_deferred(id));
    }
}
