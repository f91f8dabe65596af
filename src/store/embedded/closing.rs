//! Closes the engine. This waits for the engine's worker, which may be merging tables of hundreds
//! of MiB. An unfinished merge is of no use, so a process that must end need not wait for it: the
//! next start begins the merge anew.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use fjall::Database;

/// The longest wait for the engine's worker when a store is dropped. Service managers kill a
/// process that has not ended after ten seconds or more.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// Closes the engine of the store in a data directory, and waits for at most `CLOSE_WAIT`. The
/// lock is held until the engine is closed, so no other process opens the store before.
pub fn close(directory: &Path, engine: Database, lock: Arc<File>) {
    let (done, closed) = mpsc::channel::<()>();
    #[cfg(test)]
    let held = super::health::scripted::held_closing(directory);
    let closing = thread::Builder::new()
        .name("store closing".into())
        .spawn(move || {
            #[cfg(test)]
            if let Some(held) = held {
                // Bounded, so that a test that would wait for itself ends.
                let _ = held.recv_timeout(Duration::from_mins(1));
            }
            drop(engine);
            drop(lock);
            drop(done);
        });
    // If the thread could not be started, the engine was closed here.
    if closing.is_ok() && closed.recv_timeout(CLOSE_WAIT) == Err(RecvTimeoutError::Timeout) {
        tracing::info!(
            directory = %directory.display(),
            "close did not wait for a merge of tables: it is finished after the next start"
        );
    }
}
