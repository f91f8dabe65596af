//! Closes the engine. That waits for its worker, which may be merging tables of hundreds of MiB; what it makes of them is of no use
//! before it is whole, so that a process that is to end need not wait for it: the next start begins with it anew.

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

/// How long a store that is dropped waits for the engine's worker. Who manages services kills what has not ended after ten seconds or
/// more.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// Closes the engine of the store in a data directory, and waits for that a little. Until it is closed nobody else opens the store, as
/// the lock is held so long.
pub fn close(directory: &Path, engine: Database, lock: Arc<File>) {
    let (done, closed) = mpsc::channel::<()>();
    #[cfg(test)]
    let held = super::health::scripted::held_closing(directory);
    let closing = thread::Builder::new()
        .name("store closing".into())
        .spawn(move || {
            #[cfg(test)]
            if let Some(held) = held {
                // Bounded, so that a test of this ends where it would wait for itself.
                let _ = held.recv_timeout(Duration::from_mins(1));
            }
            drop(engine);
            drop(lock);
            drop(done);
        });
    // Where there is no thread, it was closed here.
    if closing.is_ok() && closed.recv_timeout(CLOSE_WAIT) == Err(RecvTimeoutError::Timeout) {
        tracing::info!(
            directory = %directory.display(),
            "the store is not waited for, which is still merging tables: what it has not finished is done after the next start"
        );
    }
}
