//! Lets the engine merge tables only when the disk has room for the merge. A merge that runs out of
//! room ends the engine's worker and leaves its partial files: the disk is full then, and stays
//! full until the store is opened again.
//!
//! The engine calls a filter for each value that it merges, while it holds no lock. Before the
//! first value, this filter waits for room.

use std::{
    io,
    panic::AssertUnwindSafe,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};

use super::disk_space::Disk;

/// The wait before the free space is checked again.
const ROOM_AGAIN: Duration = Duration::from_millis(500);

/// The state of the gate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passage {
    /// The number of merges that have passed.
    #[cfg(test)]
    pub passed: u64,
    /// True while a merge waits for room.
    pub waits: bool,
    is_closed: bool,
}

/// The gate at which merges wait for room.
pub struct CompactionGate {
    disk: Disk,
    passage: Mutex<Passage>,
    changed: Condvar,
}

impl CompactionGate {
    /// Returns a gate for the tables on `disk`.
    pub fn new(disk: Disk) -> Arc<Self> {
        Arc::new(Self {
            disk,
            passage: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Returns the filters that make the engine's merges wait at this gate.
    #[expect(clippy::type_complexity, reason = "the engine asks for it")]
    pub fn filters(
        self: &Arc<Self>,
    ) -> Arc<dyn Fn(&str) -> Option<Arc<dyn Factory>> + Send + Sync> {
        let filters: Arc<dyn Factory> = Arc::new(Filters(AssertUnwindSafe(Arc::clone(self))));
        Arc::new(move |_| Some(Arc::clone(&filters)))
    }

    /// True once the store is being closed: a waiting merge then fails, which is no fault.
    pub fn is_closed(&self) -> bool {
        self.passage().is_closed
    }

    /// Waits until a merge has reached the gate.
    #[cfg(test)]
    pub fn arrival(&self) -> Passage {
        let nobody = |passage: &mut Passage| passage.passed == 0 && !passage.waits;
        let passage = self.changed.wait_while(self.passage(), nobody);
        *passage.unwrap()
    }

    fn passage(&self) -> MutexGuard<'_, Passage> {
        self.passage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for a merge.
    ///
    /// # Errors
    /// If the store is closed before.
    fn pass(&self) -> io::Result<()> {
        let mut passage = self.passage();
        loop {
            if passage.is_closed {
                passage.waits = false;
                return Err(io::Error::other("the store is being closed"));
            }
            let Some((free, needed)) = self.disk.lacks() else {
                break;
            };
            if !passage.waits {
                tracing::error!(
                    free,
                    needed,
                    "merge of tables was postponed: it needs more free space, in bytes, a quarter of `reserve` included; make room"
                );
                passage.waits = true;
                self.changed.notify_all();
            }
            let waited = self.changed.wait_timeout(passage, ROOM_AGAIN);
            passage = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        passage.waits = false;
        #[cfg(test)]
        {
            passage.passed += 1;
            self.changed.notify_all();
        }
        Ok(())
    }
}

/// Closes a gate when dropped. The engine can be closed only after that: closing waits for the
/// engine's worker, which may wait at the gate.
pub struct Closing(pub Arc<CompactionGate>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.passage().is_closed = true;
        self.0.changed.notify_all();
    }
}

struct Filters(AssertUnwindSafe<Arc<CompactionGate>>);

impl Factory for Filters {
    fn name(&self) -> &'static str {
        "room"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Filter {
            gate: Arc::clone(&self.0),
            has_passed: false,
        })
    }
}

/// The filter of one merge.
struct Filter {
    gate: Arc<CompactionGate>,
    has_passed: bool,
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        if !self.has_passed {
            self.gate.pass()?;
            self.has_passed = true;
        }
        Ok(Verdict::Keep)
    }
}
