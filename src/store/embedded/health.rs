//! Whether what the engine says can be relied on.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
};

use tokio::sync::Notify;

use super::{super::StoreError, flags::Flag};

/// After a write has failed nobody knows what is on the disk: the system may have dropped what it could not write, and
/// shows it to readers all the same, until it is read from the disk again. So from then on nothing is served.
#[derive(Debug)]
pub struct Health {
    /// The directory that holds the store.
    directory: PathBuf,
    failed: OnceLock<StoreError>,
    /// Wakes those who wait for that.
    failing: Notify,
}

impl Health {
    /// That of the store in a data directory, which is well.
    pub fn of(directory: &Path) -> Self {
        Self {
            directory: directory.into(),
            failed: OnceLock::new(),
            failing: Notify::new(),
        }
    }

    /// The directory that holds the store.
    #[cfg(test)]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// An error once a write has failed.
    pub fn check(&self) -> Result<(), StoreError> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Waits until a write has failed.
    pub async fn failed(&self) -> StoreError {
        loop {
            // Made before the look, so that none is missed.
            let failing = self.failing.notified();
            if let Err(error) = self.check() {
                return error;
            }
            failing.await;
        }
    }

    /// A write has failed. What the first has failed of is what everybody is told.
    pub fn fail(&self, error: &StoreError) {
        if self.failed.set(error.clone()).is_err() {
            return;
        }
        tracing::error!(%error, "a write of the store has failed: nothing is served before it is opened again");
        if let Err(error) = Flag::Distrusted.raise(&self.directory) {
            tracing::error!(%error, "this cannot be noted for the next start");
        }
        self.failing.notify_waiters();
    }
}

/// Whoever holds this writes. A writer that panics has failed to write.
#[derive(Debug)]
pub struct Writing(pub Arc<Health>);

impl Drop for Writing {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(&StoreError::Failed(
                "the store's writer has panicked".into(),
            ));
        }
    }
}

/// Writes that fail because a test wants them to.
#[cfg(test)]
pub mod scripted {
    use std::{
        path::{Path, PathBuf},
        sync::{Mutex, PoisonError, mpsc},
    };

    /// Where those who close a store in a directory wait for a test.
    type Held = (PathBuf, mpsc::Receiver<()>);

    static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());

    /// The engine of the store in a data directory is not closed before what this gives is dropped, as if it were merging.
    pub fn hold_closing(directory: &Path) -> mpsc::Sender<()> {
        let (hold, held) = mpsc::channel();
        let mut all = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((directory.into(), held));
        hold
    }

    /// What whoever closes this store waits for.
    pub fn held_closing(directory: &Path) -> Option<mpsc::Receiver<()>> {
        let mut all = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().position(|(at, _)| at == directory)?;
        Some(all.remove(found).1)
    }

    /// How a write fails.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Failing {
        Sync,
        Panic,
    }

    static FAILING: Mutex<Vec<(PathBuf, Failing)>> = Mutex::new(Vec::new());

    fn plant(directory: &Path, failing: Failing) {
        let mut all = FAILING.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((directory.into(), failing));
    }

    /// The next sync of the store in a data directory fails.
    pub fn fail_next_sync(directory: &Path) {
        plant(directory, Failing::Sync);
    }

    /// With the next write the writer of the store in a data directory panics.
    pub fn panic_at_next_write(directory: &Path) {
        plant(directory, Failing::Panic);
    }

    /// True when this sync is to fail.
    pub fn fails(directory: &Path) -> bool {
        let mut all = FAILING.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().position(|(at, _)| at == directory);
        let failing = found.map(|at| all.remove(at).1);
        drop(all);
        assert_ne!(failing, Some(Failing::Panic), "as scripted");
        failing.is_some()
    }
}
