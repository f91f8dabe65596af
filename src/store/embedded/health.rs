//! Whether the engine's data can be trusted.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
};

use tokio::sync::Notify;

use super::{super::StoreError, flags::Flag};

/// The health of the engine. After a failed write nobody knows what is on the disk: the system may
/// have dropped the data that it could not write, and still shows it to readers until it is read
/// from the disk again. So from then on nothing is served.
#[derive(Debug)]
pub struct Health {
    /// The directory that holds the store.
    directory: PathBuf,
    failed: OnceLock<StoreError>,
    /// Wakes the tasks that wait for a failure.
    failing: Notify,
}

impl Health {
    /// Returns the health of the store in a data directory, without a failure.
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

    /// Returns an error once a write has failed.
    pub fn check(&self) -> Result<(), StoreError> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Waits until a write has failed, and returns the error.
    pub async fn failed(&self) -> StoreError {
        loop {
            // Created before the check, so that no failure is missed.
            let failing = self.failing.notified();
            if let Err(error) = self.check() {
                return error;
            }
            failing.await;
        }
    }

    /// Notes that a write has failed. Later calls report the first error.
    pub fn fail(&self, error: &StoreError) {
        if self.failed.set(error.clone()).is_err() {
            return;
        }
        tracing::error!(%error, "write failed; the store serves nothing until it is reopened");
        if let Err(error) = Flag::Distrusted.raise(&self.directory) {
            tracing::error!(%error, "failed write could not be noted for the next start");
        }
        self.failing.notify_waiters();
    }
}

/// The right to write. A writer that panics counts as a failed write.
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

/// Write failures for tests.
#[cfg(test)]
pub mod scripted {
    use std::{
        path::{Path, PathBuf},
        sync::{Mutex, PoisonError, mpsc},
    };

    /// The directory of a store, and the channel on which its closing waits.
    type Held = (PathBuf, mpsc::Receiver<()>);

    static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());

    /// Delays the closing of the engine of the store in a data directory until the returned sender
    /// is dropped, as a running merge would.
    pub fn hold_closing(directory: &Path) -> mpsc::Sender<()> {
        let (hold, held) = mpsc::channel();
        let mut all = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((directory.into(), held));
        hold
    }

    /// Returns the channel that the closing of this store waits for.
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

    /// Makes the next sync of the store in a data directory fail.
    pub fn fail_next_sync(directory: &Path) {
        plant(directory, Failing::Sync);
    }

    /// Makes the writer of the store in a data directory panic at the next write.
    pub fn panic_at_next_write(directory: &Path) {
        plant(directory, Failing::Panic);
    }

    /// True if this sync must fail.
    pub fn fails(directory: &Path) -> bool {
        let mut all = FAILING.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().position(|(at, _)| at == directory);
        let failing = found.map(|at| all.remove(at).1);
        drop(all);
        assert_ne!(failing, Some(Failing::Panic), "as scripted");
        failing.is_some()
    }
}
