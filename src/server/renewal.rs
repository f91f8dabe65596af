//! Serves on after the store has failed, as a start does: the store is opened anew and looked at before anything of it is
//! served. What was under way meanwhile is unknown to its senders, who ask again under the same numbers (EXACT-6).

use std::{
    io, thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Builder,
    sync::{oneshot, watch},
    time::timeout,
};

use super::{Config, Server, ServerError, Start};
use crate::store::OpenError;

/// The first start after a failure that comes soon after another waits so long, the next twice as long.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// The next start after a failure waits at least so many times as long as this one took.
const STARTS_SHARE: u32 = 3;
/// A server that has served for so long has recovered from the failure before.
const RECOVERED_AFTER: Duration = Duration::from_mins(5);

impl Server {
    /// Serves until `stop` says so, and starts anew from `config` whenever the store has failed, at the same addresses.
    ///
    /// # Errors
    /// When it cannot be started anew, but for a full disk, which is waited for; and as [`Server::run`].
    pub fn serve(
        self,
        mut config: Config,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), ServerError> {
        // Where any free port was taken, it is that one from now on.
        config.listen = config.listeners();
        for (listen, address) in config.listen.iter_mut().zip(self.addresses()) {
            listen.address = address;
        }
        let mut wait = Duration::ZERO;
        let mut server = self;
        loop {
            let since = Instant::now();
            // One runtime for each, so that nothing of the former server is left when the next opens the store.
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let served = runtime.block_on(server.run(stopped(stop.clone())));
            drop(runtime);
            let Err(ServerError::Store(error)) = served else {
                return served;
            };
            if since.elapsed() >= RECOVERED_AFTER {
                wait = Duration::ZERO;
            }
            server = loop {
                tracing::error!(%error, ?wait, "the store has failed: it is opened again and looked at before it is served");
                if pause(&mut stop, wait)? {
                    return Ok(());
                }
                wait = (wait * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
                let start = Start {
                    is_after_failure: true,
                    ..Start::default()
                };
                let began = Instant::now();
                let config = config.clone();
                let starting = move || Server::start_as(&config, start);
                let Some(started) = unless_stopped(&stop, starting)? else {
                    return Ok(());
                };
                // It may have read all of the store: the disk is to have time for others, too.
                wait = wait.max(began.elapsed() * STARTS_SHARE);
                match started {
                    Err(ServerError::Open(error)) if is_full(&error) => {
                        tracing::error!(%error, ?wait, "the disk is full: make room");
                    }
                    started => break started?,
                }
            };
            tracing::warn!("the store is open again, and was looked at");
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // Nobody is left who could stop it: then it goes on.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits; true when told to stop meanwhile.
fn pause(stop: &mut watch::Receiver<bool>, wait: Duration) -> io::Result<bool> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let stopped = stopped(stop.clone());
    Ok(runtime.block_on(async { timeout(wait, stopped).await.is_ok() }))
}

/// Does what may take long, as it may read all of the store, on a thread of its own. None when told to stop meanwhile: then it goes on until
/// the process ends, which a store has to stand at any moment.
fn unless_stopped<T: Send + 'static>(
    stop: &watch::Receiver<bool>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, finished) = oneshot::channel();
    thread::Builder::new().name("start".into()).spawn(move || {
        // Nobody waits any more once told to stop.
        let _ = done.send(work());
    })?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let stopped = stopped(stop.clone());
    let outcome = runtime.block_on(async {
        tokio::select! {
            biased;
            () = stopped => Ok(None),
            outcome = finished => outcome.map(Some),
        }
    });
    outcome.map_err(|_| io::Error::other("opening the store has panicked"))
}

fn is_full(error: &OpenError) -> bool {
    let OpenError::Io { source, .. } = error else {
        return false;
    };
    matches!(
        source.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::fail_next_sync;

    fn config(directory: &Path, reserve: u64) -> Config {
        let mut config = Config::parse("[[listen]]\naddress = \"127.0.0.1:0\"").unwrap();
        config.store.path = directory.join("data");
        config.store.reserve.0 = reserve;
        config
    }

    /// With a runtime of its own, so that nothing is left of it.
    fn run(server: Server, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.run(stop))
    }

    /// A store may be large, and its operator in a hurry.
    #[test]
    fn stop_is_heard_while_the_store_is_looked_at() {
        let (stop, told) = watch::channel(false);
        let (looked, looking) = std::sync::mpsc::channel::<()>();
        let stopped = unless_stopped(&told, move || {
            stop.send_replace(true);
            looking.recv()
        });
        assert!(stopped.unwrap().is_none());
        drop(looked);
        let (_stop, told) = watch::channel(false);
        assert_eq!(unless_stopped(&told, || 7).unwrap(), Some(7));
        unless_stopped(&told, || -> u8 { panic!("as an engine may") }).unwrap_err();
    }

    #[test]
    fn full_disk_and_full_quota_are_waited_for() {
        for (kind, is_waited_for) in [
            (io::ErrorKind::StorageFull, true),
            (io::ErrorKind::QuotaExceeded, true),
            (io::ErrorKind::PermissionDenied, false),
        ] {
            let (path, source) = ("store".into(), kind.into());
            assert_eq!(
                is_full(&OpenError::Io { path, source }),
                is_waited_for,
                "{kind}"
            );
        }
    }

    /// READ-9: that a store was restored, or damage accepted, is known until a life has begun that says so, however many starts
    /// that takes.
    #[test]
    fn restored_store_is_known_as_such_until_its_life_has_begun() {
        let directory = tempfile::tempdir().unwrap();
        let (config, full) = (
            config(directory.path(), 0),
            config(directory.path(), u64::MAX),
        );
        let restored = Start {
            is_restored: true,
            ..Start::default()
        };
        let damaged = Start {
            accepts_damage: true,
            ..Start::default()
        };
        let after_failure = Start {
            is_after_failure: true,
            ..Start::default()
        };
        for declared in [restored, damaged] {
            assert!(!Server::start(&config).unwrap().is_restored);
            // It ends before it serves.
            drop(Server::start_as(&config, declared).unwrap());
            let server = Server::start(&config).unwrap();
            assert!(server.is_restored);
            // The life cannot be written.
            fail_next_sync(&config.store.path);
            run(server, std::future::pending()).unwrap_err();
            let server = Server::start_as(&full, after_failure).unwrap();
            assert!(server.is_restored);
            run(server, std::future::ready(())).unwrap();
            let server = Server::start(&config).unwrap();
            assert!(server.is_restored);
            run(server, std::future::ready(())).unwrap();
        }
        assert!(!Server::start(&config).unwrap().is_restored);
    }
}
