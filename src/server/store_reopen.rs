//! Recovers from a store failure as a start does: the store is reopened and checked before it is
//! used. The outcome of commands in progress is unknown to their senders, which repeat them under
//! the same numbers (EXACT-6).

use std::{
    io,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Runtime},
    sync::{oneshot, watch},
    time::timeout,
};

use super::{Config, Server, ServerError};
use crate::store::{Embedded, OpenError, may_pass};

/// The wait before a restart after a second failure in a short time. It doubles each time.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// The wait before the next restart is at least this many times the duration of the last one.
const STARTS_SHARE: u32 = 3;
/// A server that has served for this time has recovered from the failure before.
const RECOVERED_AFTER: Duration = Duration::from_mins(5);

/// Serves until `stop` is set. See [`Server::serve`].
pub fn serve(
    mut server: Server,
    config: &Config,
    stop: &watch::Receiver<bool>,
) -> Result<(), ServerError> {
    let state = Arc::clone(&server.state);
    // Created while memory and files are available.
    let waiting = Builder::new_current_thread().enable_all().build()?;
    let mut wait = Duration::ZERO;
    let mut is_renewed = false;
    loop {
        let since = Instant::now();
        let error = match serve_once(server, stop) {
            Err(error) if may_recover(&error, is_renewed) => match error {
                // Without the advice for a first start.
                ServerError::Store(error) | ServerError::Time(error) => error.to_string(),
                error => error.to_string(),
            },
            served => return served,
        };
        if since.elapsed() >= RECOVERED_AFTER {
            wait = Duration::ZERO;
        }
        tracing::error!(
            %error,
            ?wait,
            "store failed; it is reopened and examined before it serves"
        );
        server = loop {
            if waiting.block_on(pause(&config.store.path, stop, wait)) {
                return Ok(());
            }
            wait = (wait * 2).clamp(BACKOFF_MIN, BACKOFF_MAX);
            let began = Instant::now();
            let started = {
                let (config, state) = (config.clone(), Arc::clone(&state));
                let starting = move || Server::start_again(&config, state);
                unless_stopped(&waiting, stop, starting)
            };
            // The restart may have read the whole store: the disk needs time for other work,
            // too.
            wait = wait.max(began.elapsed() * STARTS_SHARE);
            let error = match started {
                Ok(Some(Ok(server))) => break server,
                Ok(None) => {
                    distrust(&config.store.path);
                    return Ok(());
                }
                Ok(Some(Err(error))) => error,
                Err(error) => error.into(),
            };
            if !is_passing(&error) {
                distrust(&config.store.path);
                return Err(error);
            }
            if matches!(error, ServerError::Open(OpenError::Locked(_))) {
                // If another process has the store, its own start has logged that.
                tracing::warn!(
                    ?wait,
                    "store was still locked, by its engine, which finishes first, or by another process; it is tried again"
                );
            } else {
                tracing::error!(%error, ?wait, "store could not be reopened; it is tried again");
            }
        };
        is_renewed = true;
        tracing::warn!("store was examined and reopened");
    }
}

/// Serves until told to stop. Each call has its own runtime, so that no task of the former server
/// is left when the next one opens the store.
fn serve_once(server: Server, stop: &watch::Receiver<bool>) -> Result<(), ServerError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server.run(stopped(stop.clone())))
}

/// True if a server that ended with this error may continue after its store is reopened.
/// `is_renewed` is true if the store was reopened before, so that there are clients already.
fn may_recover(error: &ServerError, is_renewed: bool) -> bool {
    match error {
        ServerError::Store(_) => true,
        // When files or memory run out, a read fails as on a damaged disk.
        ServerError::Time(_) => is_renewed,
        ServerError::System(error) => is_renewed && may_pass(error),
        _ => false,
    }
}

/// True if waiting may help.
fn is_passing(error: &ServerError) -> bool {
    match error {
        ServerError::Open(error) => error.may_pass(),
        ServerError::System(error) => may_pass(error),
        _ => false,
    }
}

/// Records for the next start that data read from the store may not be on the disk. The disk that
/// failed the write may reject this record, too, so the callers repeat this until it succeeds.
fn distrust(data: &Path) {
    if let Err(error) = Embedded::distrust(data) {
        tracing::error!(%error, "failed write could not be noted for the next start");
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender is gone and nobody can stop the server: it goes on.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits. Returns true if told to stop in the meantime.
async fn pause(data: &Path, stop: &watch::Receiver<bool>, wait: Duration) -> bool {
    distrust(data);
    let is_stopped = timeout(wait, stopped(stop.clone())).await.is_ok();
    if is_stopped {
        distrust(data);
    }
    is_stopped
}

/// Runs work that may read the whole store on its own thread. Returns None if told to stop in the
/// meantime. The work then goes on until the process ends, which a store must survive at any
/// moment.
fn unless_stopped<T: Send + 'static>(
    waiting: &Runtime,
    stop: &watch::Receiver<bool>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Option<T>> {
    let (done, finished) = oneshot::channel();
    thread::Builder::new().name("start".into()).spawn(move || {
        // After a stop nobody receives this.
        let _ = done.send(work());
    })?;
    let stopped = stopped(stop.clone());
    let outcome = waiting.block_on(async {
        tokio::select! {
            biased;
            () = stopped => Ok(None),
            outcome = finished => outcome.map(Some),
        }
    });
    outcome.map_err(|_| io::Error::other("opening the store has panicked"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::Start, *};
    use crate::store::{Batch, Store as _, StoreError, fail_next_sync};

    fn config(directory: &Path, reserve: u64) -> Config {
        let mut config = Config::parse("[[listen]]\naddress = \"127.0.0.1:0\"").unwrap();
        config.store.path = directory.join("data");
        config.store.reserve.0 = reserve;
        config
    }

    /// Runs a server in its own runtime, so that no task is left.
    fn run(server: Server, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(server.run(stop))
    }

    /// docs/disk.md: an engine that has stopped by itself ends a server without traffic.
    #[test]
    fn engine_stopped_ends_server_without_traffic() {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(&config(directory.path(), 0)).unwrap();
        let realm = Arc::clone(&server.realm);
        let others_turns = || async {
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
        };
        // The serving server polls this future. By then the store reads of the start are done.
        let stop = async move {
            // Both wait by then and are notified at once.
            let failed = tokio::spawn({
                let realm = Arc::clone(&realm);
                async move { realm.store().failed().await }
            });
            for _ in 0..4 {
                others_turns().await;
                // After the writes of others.
                realm.store().commit(Batch::new()).await.unwrap();
            }
            realm.store().stop_engine();
            failed.await.unwrap();
            // If it does not end by itself, it is told to stop.
            others_turns().await;
        };
        let ended = run(server, stop).unwrap_err();
        let has_failed = matches!(ended, ServerError::Store(StoreError::Failed(_)));
        assert!(has_failed, "{ended}");
    }

    /// A stop takes effect while a large store is being read.
    #[test]
    fn shutdown_takes_effect_while_store_is_read() {
        let waiting = Builder::new_current_thread().enable_all().build().unwrap();
        let (stop, told) = watch::channel(false);
        let (looked, looking) = std::sync::mpsc::channel::<()>();
        let stopped = unless_stopped(&waiting, &told, move || {
            stop.send_replace(true);
            looking.recv()
        });
        assert!(stopped.unwrap().is_none());
        drop(looked);
        let (_stop, told) = watch::channel(false);
        assert_eq!(unless_stopped(&waiting, &told, || 7).unwrap(), Some(7));
        let panicked = unless_stopped(&waiting, &told, || -> u8 { panic!("as an engine may") });
        assert!(!may_pass(&panicked.unwrap_err()));
    }

    #[test]
    fn store_reopen_after_passing_system_error_is_retried() {
        use io::ErrorKind::{
            InvalidData, NotFound, OutOfMemory, PermissionDenied, QuotaExceeded,
            ReadOnlyFilesystem, StorageFull, WouldBlock,
        };

        let errors = |kind: io::ErrorKind| {
            let (path, source) = ("store".into(), io::Error::from(kind));
            [
                OpenError::Io { path, source }.into(),
                io::Error::from(kind).into(),
            ]
        };
        let passing = [
            StorageFull,
            QuotaExceeded,
            ReadOnlyFilesystem,
            OutOfMemory,
            WouldBlock,
        ];
        for error in passing.into_iter().flat_map(errors) {
            assert!(is_passing(&error), "{error}");
        }
        let lasting = [PermissionDenied, NotFound, InvalidData];
        for error in lasting.into_iter().flat_map(errors) {
            assert!(!is_passing(&error), "{error}");
        }
        #[cfg(unix)]
        for error in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE] {
            assert!(is_passing(&io::Error::from(error).into()), "{error}");
        }
        assert!(is_passing(&OpenError::Locked("store".into()).into()));
        assert!(!is_passing(&OpenError::Held("store".into()).into()));
    }

    /// An unreadable running time ends a first start; a server that was serving retries.
    #[test]
    fn running_time_unreadable_ends_first_start_only() {
        let damaged = || crate::store::StoreError::Damaged("too many open files".into());
        assert!(!may_recover(&ServerError::Time(damaged()), false));
        assert!(may_recover(&ServerError::Time(damaged()), true));
        for is_renewed in [false, true] {
            assert!(may_recover(&ServerError::Store(damaged()), is_renewed));
            let full = io::Error::from(io::ErrorKind::OutOfMemory);
            assert_eq!(may_recover(&full.into(), is_renewed), is_renewed);
            let gone = ServerError::Gone("store".into());
            assert!(!may_recover(&gone, is_renewed));
        }
    }

    /// A failed write is recorded again while the server waits for the store. The disk that
    /// rejected a write may also have rejected this record. It is written when there is space, and
    /// at the latest before the process ends, because the next one would trust what it reads.
    #[cfg(unix)]
    #[test]
    fn distrust_after_failed_write_is_recorded_while_waiting_for_store() {
        use std::{fs, os::unix::fs::symlink};

        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().to_path_buf();
        let noted = data.join("store.distrusted");
        let waiting = || Builder::new_current_thread().enable_all().build().unwrap();
        let (stop, told) = watch::channel(false);
        // No file can be created under this name.
        symlink(data.join("nowhere/file"), &noted).unwrap();
        assert!(!waiting().block_on(pause(&data, &told, Duration::ZERO)));
        assert!(!noted.exists());
        fs::remove_file(&noted).unwrap();
        assert!(!waiting().block_on(pause(&data, &told, Duration::ZERO)));
        assert!(noted.exists());
        fs::remove_file(&noted).unwrap();
        symlink(data.join("nowhere/file"), &noted).unwrap();
        let paused = thread::spawn({
            let (data, told) = (data.clone(), told.clone());
            move || waiting().block_on(pause(&data, &told, Duration::from_hours(1)))
        });
        // Two receivers are here, and a third shows that the server has tried and now waits.
        while stop.receiver_count() < 3 {
            thread::yield_now();
        }
        fs::remove_file(&noted).unwrap();
        stop.send_replace(true);
        assert!(paused.join().unwrap());
        assert!(noted.exists());
    }

    /// The store is reopened with the keys, codes and sockets of before. Changes to the files or
    /// the address of a serving realm take effect at the next start of its process, not when the
    /// store is reopened.
    #[test]
    fn store_reopen_keeps_keys_codes_and_sockets() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), 0);
        let server = Server::start(&config).unwrap();
        let (addresses, key, state) = (server.addresses(), server.key(), Arc::clone(&server.state));
        run(server, std::future::ready(())).unwrap();
        let taken = std::net::UdpSocket::bind(&*addresses).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let new = Server::rotate_key(&config.store.path).unwrap().new;
        let code = config.store.path.join("operator-code");
        let written = std::fs::read(&code).unwrap();
        std::fs::write(&code, "half").unwrap();
        let server = Server::start_again(&config, state).unwrap();
        assert_eq!((server.addresses(), server.key()), (addresses, key));
        run(server, std::future::ready(())).unwrap();
        let refused = Server::start(&config).unwrap_err();
        assert!(matches!(refused, ServerError::OperatorCode(_)), "{refused}");
        std::fs::write(&code, written).unwrap();
        let server = Server::start(&config).unwrap();
        assert_eq!((server.key(), server.former_keys()), (new, 1));
    }

    /// SES-7: a failed write does not set the running time back. Otherwise everything with a
    /// lifetime would become younger each time that the store is reopened.
    #[test]
    fn running_time_does_not_go_back_at_store_reopen() {
        const RAN: u32 = 100_000;
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), 0);
        let server = Server::start(&config).unwrap();
        let state = Arc::clone(&server.state);
        // Each server has its own runtime: answers go to the current one.
        let waiting = || Builder::new_current_thread().build().unwrap();
        waiting().block_on(server.realm.running.note(RAN));
        let (realm, path) = (Arc::clone(&server.realm), config.store.path.clone());
        let stop = async move {
            fail_next_sync(&path);
            realm.running.note(RAN).await;
            std::future::pending::<()>().await;
        };
        let failed = run(server, stop).unwrap_err();
        assert!(matches!(failed, ServerError::Store(_)), "{failed}");
        let server = Server::start_again(&config, state).unwrap();
        // The store then holds the value of a young realm.
        waiting().block_on(server.realm.running.note(7));
        run(server, std::future::ready(())).unwrap();
        let server = Server::start(&config).unwrap();
        let running = waiting().block_on(server.realm.running.read()).unwrap();
        assert!(running >= RAN, "{running}");
    }

    /// A store that was moved away under a serving realm is not replaced by an empty one.
    #[test]
    fn store_reopen_of_missing_store_creates_none() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path(), 0);
        let server = Server::start(&config).unwrap();
        let state = Arc::clone(&server.state);
        run(server, std::future::ready(())).unwrap();
        std::fs::remove_dir_all(config.store.path.join("store")).unwrap();
        let gone = Server::start_again(&config, state).unwrap_err();
        assert!(matches!(gone, ServerError::Gone(_)), "{gone}");
        assert!(!config.store.path.join("store").exists());
    }

    /// READ-9: a restored or damaged store counts as such until a life that records this has begun,
    /// however many starts that takes.
    #[test]
    fn life_of_restored_store_is_declared_until_it_is_recorded() {
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
