//! A server over the embedded store, in a data directory of its own: what it looks at before it
//! opens the store, and how it opens it again. Never serves by itself: [`Server::run`] does.

use std::{fs, path::Path, sync::Arc};

use tokio::sync::watch;

use super::{
    Config, RotatedKey, Server, ServerError, Start, keys, permissions,
    process_state::{ProcessState, Secrets},
    sockets::Sockets,
    store_reopen, system_limits,
};
use crate::{
    crypto::IdentityError,
    store::{Embedded, OpenError, Opening, is_full},
};

impl Server {
    /// Opens the store, loads or creates the realm's key, and binds the sockets. From then on,
    /// files that the process creates are accessible to their owner only (umask 077), and its limit
    /// of open files fits the server.
    ///
    /// # Errors
    /// Fails if a system limit is too low, if a secret is missing beside a store, or if anything
    /// cannot be used. Nothing is served then.
    pub fn start(config: &Config) -> Result<Self, ServerError> {
        Self::start_as(config, Start::default())
    }

    /// As [`Server::start`], for a store that may be damaged or restored.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_as(config: &Config, start: Start) -> Result<Self, ServerError> {
        system_limits::check(config)?;
        let is_new = !Embedded::exists(&config.store.path);
        let no_room = |error| no_room(error, is_new);
        make_directory(&config.store.path).map_err(no_room)?;
        permissions::close(&config.store.path).map_err(|source| ServerError::File {
            path: config.store.path.clone(),
            source,
        })?;
        if Embedded::exists(&config.store.path) {
            keys::refuse_missing(&config.store.path)?;
        }
        let secrets = Secrets::load(config).map_err(no_room)?;
        let store = open_store(config, start)?;
        let state = Arc::new(ProcessState::new(secrets, Sockets::bind_all(config)?));
        Self::over_embedded(config, start, state, store)
    }

    /// Reopens the store after a failed write, with the secrets and sockets of the former server.
    pub(super) fn start_again(
        config: &Config,
        state: Arc<ProcessState>,
    ) -> Result<Self, ServerError> {
        if !Embedded::exists(&config.store.path) {
            // No new store is created: the current users would lose their data.
            return Err(ServerError::Gone(config.store.path.clone()));
        }
        let start = Start {
            is_after_failure: true,
            ..Start::default()
        };
        Self::over_embedded(config, start, state, open_store(config, start)?)
    }

    /// Serves until `stop` is set. Reopens the store whenever it has failed, and keeps the keys,
    /// codes and sockets of the first start.
    ///
    /// # Errors
    /// Fails if the store cannot be reopened and waiting cannot help, and as [`Server::run`].
    pub fn serve(self, config: &Config, stop: &watch::Receiver<bool>) -> Result<(), ServerError> {
        store_reopen::serve(self, config, stop)
    }

    fn over_embedded(
        config: &Config,
        start: Start,
        state: Arc<ProcessState>,
        store: Embedded,
    ) -> Result<Self, ServerError> {
        // Declared at this start, or at an earlier one that ended too soon.
        let is_restored = Embedded::is_restored(&config.store.path)?;
        let start = Start {
            is_restored,
            ..start
        };
        let mut server = Self::with(config, start, state, store)?;
        let data = config.store.path.clone();
        server.forget_restored = Some(Box::new(move || Embedded::forget_restored(&data)));
        Ok(server)
    }

    /// Gives the realm in the directory `data` a new key, which takes effect at the next start. The
    /// old key vouches for it.
    ///
    /// # Errors
    /// Fails if there is no key yet, if there are too many former keys, or if a file cannot be
    /// used.
    pub fn rotate_key(data: &Path) -> Result<RotatedKey, ServerError> {
        Secrets::rotate_key(data)
    }
}

/// Converts a disk-full error of any file to [`OpenError::Full`].
fn no_room(error: ServerError, is_new: bool) -> ServerError {
    match error {
        ServerError::Directory { path, source }
        | ServerError::File { path, source }
        | ServerError::Identity(IdentityError::Io { path, source })
            if is_full(&source) =>
        {
            OpenError::Full {
                path,
                source,
                is_new,
            }
            .into()
        }
        error => error,
    }
}

/// Opens the store with the configured options.
fn open_store(config: &Config, start: Start) -> Result<Embedded, OpenError> {
    let opening = Opening {
        reserve: config.store.reserve.0,
        accepts_damage: start.accepts_damage,
        is_restored: start.is_restored,
        is_after_failure: start.is_after_failure,
        scrub: Some(config.store.scrub.0),
    };
    Embedded::open_as(&config.store.path, opening)
}

/// Creates the data directory, accessible to its owner only.
fn make_directory(path: &Path) -> Result<(), ServerError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder
        .create(path)
        .map_err(|source| ServerError::Directory {
            path: path.into(),
            source,
        })
}
