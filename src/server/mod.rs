//! A realm that listens: joins the sockets and the endpoints to the [`Realm`], and stops in order.
//!
//! Knows nothing of the rules of chat. [`Server::start`] opens the store and binds the sockets, so
//! that whoever holds a [`Server`] knows its addresses; [`Server::run`] serves until told to stop.

mod admission;
mod calls;
mod clock;
pub mod config;
mod done;
mod keys;
mod limits;
mod memory;
mod peering;
pub mod unit;
mod watches;
mod worker;

use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

pub(crate) use admission::{Admission, WorkLimits};
pub(crate) use clock::Clock;
pub use config::{Config, ConfigError};
use config::{ListenConfig, PeerConfig, RegistrationConfig, Security, host_and_port};
use limits::{CALLS_MAX, SOCKET_BUFFER_BYTES};
pub use memory::{Holder, Holding, holdings};
pub(crate) use peering::{Way, keep_in_touch};
use rand::Rng as _;
use tokio::sync::{mpsc, watch};
pub(crate) use worker::Worker;

use crate::{
    crypto::{ConnectionString, IdentityError, PublicKey, SecretKey},
    endpoint::{self, Identity},
    host::{Host, Socket},
    realm::{Errand, Network, Own, Realm, Registration},
    store::{Embedded, OpenError, StoreError},
    wire::{Protection, RealmId},
};

/// Bytes of a command around the message that it carries, at most.
const AROUND_MESSAGE: usize = 1024;

/// Why a server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store's directory cannot be made.
    #[error("cannot make the directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The realm's key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is no key that could be renewed.
    #[error("there is no key at {}: nothing has been served from there yet", .0.display())]
    NoKey(PathBuf),
    /// A realm answers to so many former keys only.
    #[error("the realm has too many former keys: delete the oldest, the last lines of {}", .0.display())]
    ManyFormer(PathBuf),
    /// The file with the registration code says something else.
    #[error(
        "{} is no registration code; correct it, or delete it and start again for a fresh one", .0.display()
    )]
    RegistrationCode(PathBuf),
    /// The store cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is another server there? give --listen another address"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no randomness or no threads.
    #[error("the system refuses what a server needs: {0}")]
    System(#[from] io::Error),
    /// The configuration names a peer that is known under another key, or a key that is known under
    /// another name.
    #[error(
        "the [[peer]] {0} cannot be made: its name or its key is known as another's, or its src is none of \
         this realm's addresses; correct the table, or remove the old peer with `removerealm`"
    )]
    Peer(RealmId),
    /// The store failed while serving.
    #[error("{0}; the server stops, so that starting it again can recover the store")]
    Store(StoreError),
}

/// A realm that is ready to serve.
#[derive(Debug)]
pub struct Server {
    id: RealmId,
    key: PublicKey,
    former: usize,
    listeners: Vec<Listener>,
    realm: Arc<Realm<Embedded>>,
    errands: mpsc::Receiver<Errand>,
    peers: Vec<PeerConfig>,
    work: WorkLimits,
    seed: u64,
}

#[derive(Debug)]
struct Listener {
    socket: UdpSocket,
    address: SocketAddr,
    config: ListenConfig,
    endpoint: endpoint::Endpoint,
}

impl Server {
    /// Opens the store, loads or makes the realm's key, and binds the sockets.
    pub fn start(config: &Config) -> Result<Self, ServerError> {
        make_directory(&config.store.path)?;
        let mut rng = Host::Real.rng()?;
        let identity = keys::load(&config.store.path, &mut rng)?;
        let key = identity.current.public();
        let id = config.realm.id.unwrap_or_else(|| default_id(&key));
        let store = Embedded::open(&config.store.path)?;
        let listeners = config
            .listeners()
            .into_iter()
            .map(|listen| bind(config, listen, id, &identity, &mut rng))
            .collect::<Result<Vec<Listener>, _>>()?;
        let own = Own {
            id,
            key,
            former: identity.former.iter().map(SecretKey::public).collect(),
            peering: config.realm.peering.into(),
            registration: match config.realm.registration {
                RegistrationConfig::Open => Registration::Open,
                RegistrationConfig::Closed => Registration::Closed,
                RegistrationConfig::Code => {
                    Registration::Code(keys::registration_code(&config.store.path, &mut rng)?)
                }
            },
            addresses: listeners.iter().map(Listener::reached_at).collect(),
            operator_code: keys::operator_code(&config.store.path, &mut rng)?,
        };
        let (network, errands) = Network::new();
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let lasting = &identity.lasting;
        let realm = Realm::new(store, lasting, own, config.realm_limits(), network, seed)?;
        Ok(Self {
            id,
            key,
            former: identity.former.len(),
            listeners,
            realm: Arc::new(realm),
            errands,
            peers: config.peer.clone(),
            work: config.limits.work(),
            seed: rng.next_u64(),
        })
    }

    /// How the realm introduces itself.
    pub const fn id(&self) -> RealmId {
        self.id
    }

    /// Gives the realm in the directory `data` a new key, from the next start on; the old one vouches for
    /// it. Gives both.
    ///
    /// # Errors
    /// When there is no key yet, or there are too many former ones, or a file cannot be used.
    pub fn rotate_key(data: &Path) -> Result<(PublicKey, PublicKey), ServerError> {
        keys::rotate(data, &mut Host::Real.rng()?)
    }

    /// How many former keys it still answers to.
    pub const fn former_keys(&self) -> usize {
        self.former
    }

    /// The realm's key.
    pub const fn key(&self) -> PublicKey {
        self.key
    }

    /// The addresses it is bound to.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .map(|listener| listener.address)
            .collect()
    }

    /// What to give to a client: the first listener's connection string.
    pub fn connection_string(&self) -> Option<ConnectionString> {
        let listener = self.listeners.first()?;
        let key = match listener.config.security {
            Security::Sealed => Some(self.key),
            Security::Plain => None,
        };
        let (host, port) = listener.reached_at();
        Some(ConnectionString { host, port, key })
    }

    /// Serves until `stop` ends; then answers what is in work, closes the links and comes back.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ServerError> {
        let clock = Clock::start(Host::Real, &self.realm).await;
        let (stopping, told_to_stop) = watch::channel(false);
        for peer in &self.peers {
            if !self
                .realm
                .list_peer(peer.realm, peer.key, peer.address(), peer.source())
                .await
            {
                return Err(ServerError::Peer(peer.realm));
            }
        }
        let mut ways = Vec::new();
        let mut rng = Host::Real.rng()?;
        let mut workers = Vec::with_capacity(self.listeners.len());
        for listener in self.listeners {
            let (calls, to_call) = mpsc::channel(CALLS_MAX);
            if listener.config.security == Security::Sealed {
                ways.push(Way {
                    source: listener.reached_at(),
                    is_ipv6: listener.address.is_ipv6(),
                    calls,
                });
            }
            let realm = Arc::clone(&self.realm);
            let admission = Admission::new(self.work, &mut rng);
            let mut worker = Worker::new(listener.endpoint, realm, admission, clock.clone());
            let socket = listener.socket;
            let told_to_stop = told_to_stop.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let name = format!("listener {}", listener.address);
            let work = move || {
                runtime.block_on(async {
                    let socket = Socket::from_std(socket)?;
                    worker.run(socket, to_call, told_to_stop).await
                })
            };
            workers.push(thread::Builder::new().name(name).spawn(work)?);
        }
        let outcome = tokio::select! {
            () = stop => Ok(()),
            error = self.realm.failed() => Err(ServerError::Store(error)),
            () = keep_in_touch(Arc::clone(&self.realm), ways, self.errands, clock.clone(), self.seed) => Ok(()),
            () = clock.write_down(&self.realm) => Ok(()),
        };
        tracing::info!("stopping");
        stopping.send_replace(true);
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                // A worker that panicked has said so on standard error.
                let _ = worker.join();
            }
        });
        let _ = joined.await;
        tracing::info!("stopped");
        outcome
    }
}

impl Listener {
    /// The host and port at which others reach it.
    fn reached_at(&self) -> (String, u16) {
        let advertised = self.config.advertise.as_deref();
        let place = advertised.and_then(|text| host_and_port(text).ok());
        place.unwrap_or_else(|| {
            let ip = reachable(self.address.ip());
            (ip.to_string(), self.address.port())
        })
    }
}

/// Makes the store's directory, which is nobody else's business.
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

/// `r-` and the first characters of the key's fingerprint: always a valid name.
fn default_id(key: &PublicKey) -> RealmId {
    let text = format!("r-{}", key.short());
    #[expect(
        clippy::expect_used,
        reason = "it is made of small letters and digits, which every name may have"
    )]
    text.parse().expect("a fingerprint makes a name")
}

fn bind(
    config: &Config,
    listen: ListenConfig,
    id: RealmId,
    identity: &Identity,
    rng: &mut rand::rngs::StdRng,
) -> Result<Listener, ServerError> {
    let failed = |source| ServerError::Bind {
        address: listen.address,
        source,
    };
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(listen.address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )
    .map_err(failed)?;
    // The kernel may give less; that costs repeats, not messages.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    if listen.address.is_ipv6() {
        // One listener, one kind of address, whatever the system's default is.
        socket.set_only_v6(true).map_err(failed)?;
    }
    socket.set_nonblocking(true).map_err(failed)?;
    socket.bind(&listen.address.into()).map_err(failed)?;
    let socket = UdpSocket::from(socket);
    let address = socket.local_addr().map_err(failed)?;
    let accept = match listen.security {
        Security::Sealed => Protection::Sealed,
        Security::Plain => Protection::Plain,
    };
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let traits = config.link.traits();
    let endpoint_config = endpoint::Config {
        accept: Some(accept),
        hello: config.realm.hello.then_some(id),
        early_data: config.link.early_data,
        max_datagram: traits.max_datagram,
        max_message: usize::try_from(config.limits.max_message.0).unwrap_or(usize::MAX)
            + AROUND_MESSAGE,
        rate: traits.rate,
        redundancy: traits.redundancy,
        lifetime: config.link.lifetime.0,
        links_max: config.limits.links,
        memory_max: usize::try_from(config.limits.link_memory.0).unwrap_or(usize::MAX),
        handshakes: config.limits.handshakes(),
        idle: config.link.idle.0,
        shared_idle: config.link.peer_idle.0,
    };
    Ok(Listener {
        socket,
        address,
        config: listen,
        endpoint: endpoint::Endpoint::new(endpoint_config, identity, seed),
    })
}

/// An address that a client on this machine can use for a listener on all addresses.
fn reachable(ip: std::net::IpAddr) -> std::net::IpAddr {
    match ip {
        std::net::IpAddr::V4(v4) if v4.is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}
