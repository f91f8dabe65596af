//! Whether what the engine says can be relied on.

use std::sync::OnceLock;

use super::super::StoreError;

/// After a write has failed nobody knows what is on the disk: the system may have dropped what it could not write, and
/// shows it to readers all the same, until it is read from the disk again. So from then on nothing is served.
#[derive(Debug, Default)]
pub struct Health(OnceLock<StoreError>);

impl Health {
    /// An error once a write has failed.
    pub fn check(&self) -> Result<(), StoreError> {
        self.0.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// A write has failed. What the first has failed of is what everybody is told.
    pub fn fail(&self, error: StoreError) {
        let _ = self.0.set(error);
    }
}

/// Writes that fail because a test wants them to.
#[cfg(test)]
pub mod scripted {
    use std::{
        path::{Path, PathBuf},
        sync::{Mutex, PoisonError},
    };

    static FAILING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    /// The next sync of the store in a data directory fails.
    pub fn fail_next_sync(directory: &Path) {
        let mut failing = FAILING.lock().unwrap_or_else(PoisonError::into_inner);
        failing.push(directory.into());
    }

    /// True when this sync is to fail.
    pub fn fails(directory: &Path) -> bool {
        let mut failing = FAILING.lock().unwrap_or_else(PoisonError::into_inner);
        let found = failing.iter().position(|at| at == directory);
        found.is_some_and(|at| {
            failing.remove(at);
            true
        })
    }
}
