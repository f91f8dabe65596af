//! The server: connects sockets and endpoints to the [`Realm`], and stops in an orderly way.
//!
//! It does not know the rules of chat. [`Server::over`] binds the sockets for a realm over any
//! store, so that the addresses of a [`Server`] are known. With the feature `embedded`,
//! `Server::start` opens the embedded store for that. [`Server::run`] serves until told to stop.

mod admission;
mod builder;
mod clock;
mod completion;
pub mod config;
#[cfg(feature = "embedded")]
mod embedded;
mod handoff;
mod host_port;
mod keys;
mod limits;
mod listener;
mod memory;
mod outbound;
mod peer_link_table;
mod peering;
#[cfg(feature = "embedded")]
mod permissions;
mod process_state;
mod routes;
mod sockets;
#[cfg(feature = "embedded")]
mod store_reopen;
mod subscriptions;
#[cfg(feature = "embedded")]
mod system_limits;
#[cfg(test)]
mod tests;
mod tickets;
pub mod units;
mod watchers;
mod worker;

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, thread};

pub(crate) use admission::WorkLimits;
#[cfg(test)]
pub(crate) use builder::ConfiguredPeer;
use builder::PeerError;
pub(crate) use builder::{Reached, ServerBuilder, Starting};
pub(crate) use clock::Clock;
pub use config::{Config, ConfigError};
use config::{HostPort, PeerConfig, Security};
use listener::{Ending, Listener};
pub use memory::{Holder, Holding, holdings, keepings};
use process_state::ProcessState;
pub use process_state::Secrets;
use rand::Rng as _;
use sockets::Sockets;
use tokio::sync::{mpsc, watch};
#[cfg(test)]
pub(crate) use worker::Worker;

#[cfg(feature = "embedded")]
use crate::store::{Embedded, OpenError};
use crate::{
    crypto::{ConnectionString, IdentityError, PublicKey},
    host::{Host, Listening},
    link::Silence,
    realm::{Keeping, Network, PeerCall, Realm, RealmIdentity, Retention},
    store::{Store, StoreError},
    wire::RealmId,
};

/// The reason why a server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The data directory cannot be created.
    #[error("cannot make the directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The realm's key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is no key to rotate.
    #[error("there is no key at {}: nothing has been served from there yet", .0.display())]
    NoKey(PathBuf),
    /// The realm has the largest possible number of former keys.
    #[error("the realm has too many former keys: delete the oldest, the last lines of {}", .0.display())]
    ManyFormer(PathBuf),
    /// The file with the realm's name does not hold a name.
    #[error(
        "{} holds no name of a realm: write there what its users and peers know it by, or `id` into [realm]", .0.display()
    )]
    RealmName(PathBuf),
    /// The file with the registration code does not hold a code.
    #[error(
        "{} is no registration code; correct it, or delete it and start again for a fresh one", .0.display()
    )]
    RegistrationCode(PathBuf),
    /// A secret that belongs to the store is missing.
    #[error(
        "there is a store in {}, and no {} beside it: without it this would be another realm. Restore that file from a backup, or move \
         the directory away to begin anew as another realm", data.display(), file
    )]
    Missing {
        /// The data directory.
        data: PathBuf,
        /// The file.
        file: &'static str,
    },
    /// A file cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// The store existed when the server started and is gone now.
    #[error("the store in {} is gone, which was there when the server started; bring it back, and start the server again", .0.display())]
    Gone(PathBuf),
    /// The file with the operator's code is empty or truncated.
    #[error(
        "{} holds no operator's code: write one of at least {} characters into it, or delete it and start again for a fresh one",
        .0.display(), keys::CODE_MIN
    )]
    OperatorCode(PathBuf),
    /// The store cannot be used.
    #[cfg(feature = "embedded")]
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A socket cannot be bound.
    #[error(
        "cannot listen on {address}: {source}; is another server there? give --listen another address"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The I/O error.
        source: io::Error,
    },
    /// A listener's advertised address is not one.
    #[error("advertise: {0}")]
    Advertised(#[from] config::InvalidHost),
    /// The limit of open files is too low.
    #[error(
        "this process may have {current} files open at once, and a server needs {needed}: raise the limit (ulimit -n, or LimitNOFILE \
         of its service)"
    )]
    Files {
        /// The limit.
        current: u64,
        /// The number that the server needs.
        needed: u64,
    },
    /// The limit of address space is too low.
    #[error(
        "this process may use {current} MiB of address space, and a server needs {needed}: raise the limit (ulimit -v, or LimitAS of \
         its service); `merpati limits` says what is held"
    )]
    Memory {
        /// The limit, in MiB.
        current: u64,
        /// The amount that the server needs, in MiB.
        needed: u64,
    },
    /// The system provides no randomness or no threads.
    #[error("the system refuses what a server needs: {0}")]
    System(#[from] io::Error),
    /// The configuration names a peer that is known under another key, or a key that is known under
    /// another name.
    #[error(
        "the [[peer]] {0} cannot be made: its name or its key is known as another's, or its src is none of \
         this realm's addresses; correct the table, or remove the old peer with `removerealm`"
    )]
    Peer(RealmId),
    /// A listener's thread has ended unexpectedly.
    #[error(
        "the listener at {0} has ended, which it never should; the log says why; start the server again"
    )]
    Ended(SocketAddr),
    /// The realm's running time cannot be read.
    #[error(
        "the running time of this realm cannot be read: {0}. Without it nothing that is kept would age. If starting again does not help, restore the whole data directory from a backup, or start once with --accept-damage to go on from when a session was used last (docs/disk.md)"
    )]
    Time(StoreError),
    /// The store failed while serving.
    #[error("{0}; the server stops, so that starting it again can recover the store")]
    Store(StoreError),
}

/// The state of the store, as far as the caller knows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// Serve without the unreadable parts of the store.
    pub accepts_damage: bool,
    /// The store is a copy of one that was in use, such as a snapshot. Positions that clients
    /// remember are not trusted (READ-9).
    pub is_restored: bool,
    /// A write has failed since the store was last opened. The embedded store then examines itself
    /// more closely.
    pub is_after_failure: bool,
}

/// A key that was given to a realm, and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RotatedKey {
    /// The former key, which vouches for the new one.
    pub old: PublicKey,
    /// The key from the next start on.
    pub new: PublicKey,
}

/// Forgets that a store is a restored one, where its engine keeps that.
type ForgetRestored = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A realm that is ready to serve, over a store: the embedded one if the type names no other.
pub struct Server<#[cfg(feature = "embedded")] S = Embedded, #[cfg(not(feature = "embedded"))] S> {
    id: RealmId,
    key: PublicKey,
    state: Arc<ProcessState>,
    listeners: Vec<Listener>,
    realm: Arc<Realm<S>>,
    peer_calls: mpsc::Receiver<PeerCall>,
    peers: Vec<PeerConfig>,
    work: WorkLimits,
    /// The keep-alive setting for a link to a peer that cannot open one itself.
    keepalive: Silence,
    seed: u64,
    /// Positions may be assigned twice, so positions that clients remember are not trusted.
    is_restored: bool,
    /// Serve without the lost data.
    accepts_damage: bool,
    /// Called once a life is stored that tells positions of the lost store from those of this one.
    forget_restored: Option<ForgetRestored>,
    /// The configured retention of messages.
    retention: Option<Retention>,
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Server");
        shown.field("id", &self.id).field("key", &self.key);
        shown.finish_non_exhaustive()
    }
}

impl<S: Store> Server<S> {
    /// Binds the sockets that the configuration names, for a realm over an open store.
    ///
    /// The secrets belong to this store, and are kept with it. Of the configuration's `[store]`,
    /// nothing is used. The limits of this process (open files, memory) stay as they are.
    ///
    /// # Errors
    /// Fails if an address cannot be bound or an advertised one is none, if a thread or a socket
    /// cannot be made, or if the system provides no randomness. Nothing is served then.
    pub fn over(
        store: S,
        secrets: Secrets,
        config: &Config,
        start: Start,
    ) -> Result<Self, ServerError> {
        let state = Arc::new(ProcessState::new(secrets, Sockets::bind_all(config)?));
        Self::with(config, start, state, store)
    }

    fn with(
        config: &Config,
        start: Start,
        state: Arc<ProcessState>,
        store: S,
    ) -> Result<Self, ServerError> {
        let mut rng = Host::Real.rng()?;
        let Secrets {
            id,
            identity,
            operator_code,
            registration,
        } = &state.secrets;
        let key = identity.current.public();
        let id = *id;
        let sockets = state.sockets.iter();
        let listeners = sockets
            .map(|sockets| Listener::new(config, sockets, id, identity, &mut rng))
            .collect::<Result<Vec<Listener>, _>>()?;
        let own = RealmIdentity {
            id,
            secret: identity.current.clone(),
            former: identity.former.clone(),
            peering: config.realm.peering.into(),
            registration: *registration,
            addresses: listeners
                .iter()
                .map(|listener| listener.announced().into())
                .collect(),
            operator_code: operator_code.clone(),
        };
        let (network, peer_calls) = Network::new();
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let lasting = &identity.lasting;
        let realm = Realm::new(store, lasting, own, config.realm_limits(), network, seed)?;
        Ok(Self {
            id,
            key,
            state,
            listeners,
            realm: Arc::new(realm),
            peer_calls,
            peers: config.peer.clone(),
            work: config.limits.work(),
            keepalive: config.link.parameters().keepalive,
            seed: rng.next_u64(),
            is_restored: start.is_restored,
            accepts_damage: start.accepts_damage,
            forget_restored: None,
            retention: config.retention.configured(),
        })
    }

    /// Returns the realm's name.
    pub const fn id(&self) -> RealmId {
        self.id
    }

    /// Returns the number of former keys that the realm still answers to.
    pub fn former_keys(&self) -> usize {
        self.state.secrets.identity.former.len()
    }

    /// Returns the realm's key.
    pub const fn key(&self) -> PublicKey {
        self.key
    }

    /// Returns the bound addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .map(|listener| listener.address)
            .collect()
    }

    /// Returns the connection string of the first listener, for clients.
    pub fn connection_string(&self) -> Option<ConnectionString> {
        let listener = self.listeners.first()?;
        let key = match listener.config.security {
            Security::Sealed => Some(self.key),
            Security::Plain => None,
        };
        let HostPort { host, port } = listener.reached_at();
        Some(ConnectionString { host, port, key })
    }

    /// Serves until `stop` completes. Then answers the commands in progress, closes the links and
    /// returns.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let starting = Starting {
            accepts_damage: self.accepts_damage,
            is_restored: self.is_restored,
            ran: self.state.ran(),
            retention: self.retention,
        };
        let realm = Arc::clone(&self.realm);
        let begun =
            ServerBuilder::start(realm, Host::Real, starting, self.work, self.keepalive).await;
        let (mut builder, started) = begun.map_err(time_unknown)?;
        let clock = builder.clock();
        let _kept_time = self.state.keep_time(clock.clone());
        log_retention(started.keeping);
        if self.is_restored
            && started.is_life_begun
            && let Some(forget) = self.forget_restored
            && let Err(error) = forget()
        {
            tracing::warn!(%error, "store was not marked as known: the next start takes it for a restored one again");
        }
        let peers = self.peers.iter().map(PeerConfig::configured).collect();
        let added = builder.add_peers(peers).await;
        for (peer, failure) in added.map_err(peers_unusable)? {
            tracing::warn!(
                %peer, ?failure,
                "configured peer was not stored: it stays as it was until the next start"
            );
        }
        let (stopping, told_to_stop) = watch::channel(false);
        let mut rng = Host::Real.rng()?;
        let mut workers = Vec::new();
        let (ending, mut ended) = mpsc::unbounded_channel();
        for listener in self.listeners {
            let is_sealed = listener.config.security == Security::Sealed;
            let reached = is_sealed.then(|| Reached {
                source: listener.announced(),
                is_ipv6: listener.address.is_ipv6(),
                is_local: listener.address.ip().is_loopback(),
            });
            let (sockets, endpoints): (Vec<_>, _) = listener.workers.into_iter().unzip();
            let built = builder.listen(reached, endpoints, &mut rng);
            for (socket, mut worker) in sockets.into_iter().zip(built) {
                let told_to_stop = told_to_stop.clone();
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                let name = format!("listener {}", listener.address);
                let ending = Ending::new(listener.address, &ending);
                let work = move || {
                    let _ending = ending;
                    runtime.block_on(async {
                        let socket = Listening::start(socket)?;
                        worker.run(socket, told_to_stop).await
                    })
                };
                let worker = thread::Builder::new().name(name).spawn(work)?;
                workers.push((listener.address, worker));
            }
        }
        let outcome = tokio::select! {
            () = stop => Ok(()),
            error = self.realm.storage.failed() => Err(ServerError::Store(error)),
            Some(address) = ended.recv() => Err(ServerError::Ended(address)),
            () = builder.keep(self.peer_calls, self.seed) => Ok(()),
        };
        tracing::info!("server began to stop");
        stopping.send_replace(true);
        let joined = tokio::task::spawn_blocking(move || {
            for (address, worker) in workers {
                // A worker that panicked has reported that on standard error.
                if let Ok(Err(error)) = worker.join() {
                    tracing::error!(%address, %error, "listener failed");
                }
            }
        });
        let _ = joined.await;
        // A failed store accepts no writes.
        if !matches!(outcome, Err(ServerError::Store(_))) {
            clock.stop(&self.realm).await;
        }
        tracing::info!("server stopped");
        outcome
    }
}

/// Converts the reason why the configured peers could not be added.
fn peers_unusable(error: PeerError) -> ServerError {
    match error {
        PeerError::Known(realm) => ServerError::Peer(realm),
        PeerError::Store(error) => ServerError::Store(error),
    }
}

/// Converts a failure to read the running time. A failed store is reopened, which may help.
fn time_unknown(error: StoreError) -> ServerError {
    if error.is_of_one_record() {
        ServerError::Time(error)
    } else {
        ServerError::Store(error)
    }
}

/// Logs the retention of messages, and who has set it.
fn log_retention((keeping, retention): (Keeping, Retention)) {
    let span = |span: Option<_>| span.map_or_else(|| "for ever".into(), units::whole);
    let (age, unread_age) = (span(retention.age), span(retention.unread_age));
    let (entries, bytes) = (retention.entries, retention.bytes);
    match keeping {
        Keeping::Configured => {
            tracing::info!(
                age,
                unread_age,
                entries,
                bytes,
                "retention was set as configured"
            );
        }
        Keeping::Default => tracing::info!(
            age,
            unread_age,
            entries,
            bytes,
            "retention was set to its default; [retention] changes it"
        ),
        Keeping::Forever => tracing::warn!(
            "retention was left off: the store is from before [retention], which is not set; set age = \"90d\", or age = \"off\" and \
             bytes = \"off\" to leave it so"
        ),
    }
}
