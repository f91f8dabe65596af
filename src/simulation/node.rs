//! A node: the disk of a realm, and the processes that serve from it, one after another.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::Rng as _;
use tokio::sync::watch;

use super::{
    disk::{Disk, SimulatedStore},
    greedy,
    judging::join_all,
    machine::Machine,
    restoring::Snapshot,
};
use crate::{
    crypto::{ConnectionString, PublicKey, SecretKey},
    endpoint::{self, Endpoint, Identity},
    host::{Host, Listening},
    link::{LinkParameters, Redundancy},
    rate_limit::RateLimit,
    realm::{Limits, Network, Peering, Realm, RealmIdentity, Registration, Retention},
    server::{ConfiguredPeer, Reached, ServerBuilder, Starting, WorkLimits, Worker},
    store::Memory,
    wire::{Protection, RealmId},
};

/// The longest message, in bytes.
pub const MESSAGE_MAX: usize = 4000;
/// Links that are silent for this long end.
pub const IDLE: Duration = Duration::from_mins(30);
/// A link between realms is closed when it is idle for this long.
const PEER_IDLE: Duration = Duration::from_mins(10);

/// The interval of looks at the memory of watches.
const LOOK: Duration = Duration::from_secs(20);

/// Another realm, as the configuration of this one lists it.
#[derive(Clone, Debug)]
pub struct Neighbour {
    pub realm: RealmId,
    pub key: PublicKey,
    /// The address. None if the other realm cannot be called.
    pub address: Option<SocketAddr>,
}

/// Returns an address as host and port.
pub fn host_and_port(address: SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

/// The state of a realm that its processes change.
#[derive(Debug, Default)]
pub struct NodeState {
    /// The realm that the running process serves.
    pub realm: Option<Arc<Realm<SimulatedStore>>>,
    /// The operator has added the peers, and need not do so again.
    pub has_peers: bool,
    /// The process is to be stopped, and then the disk copied.
    pub is_to_be_copied: bool,
    /// A copy of the disk, what had been acknowledged by then, and whether a process was using the
    /// disk.
    pub copy: Option<(Memory, Snapshot, bool)>,
    /// The next process is to find the copy on the disk.
    pub is_to_be_restored: bool,
    /// The disk was restored from a copy that was taken in use, and the devices have not been told
    /// yet.
    pub is_restored: bool,
}

/// A realm with its disk and configuration.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: RealmId,
    /// The address at which the next process serves.
    pub address: Arc<Mutex<SocketAddr>>,
    /// The name by which its users know it. Without one, they know its address.
    pub name: Option<&'static str>,
    /// It tells other realms its address.
    pub is_told: bool,
    pub workers: usize,
    pub state: Arc<Mutex<NodeState>>,
    pub key: SecretKey,
    pub disk: Disk,
    pub neighbours: Vec<Neighbour>,
    /// The operator adds the peers once, and not again at each start.
    pub adds_once: bool,
    pub early_data: bool,
    pub lifetime: Duration,
    /// Read entries are kept for this time. None if they are kept for ever.
    pub kept: Option<Duration>,
    /// A greedy account uses this realm.
    pub is_greedy: bool,
    /// One of its peers is malicious. Each peer may store no more than a greedy account.
    pub is_lied_to: bool,
}

impl Node {
    pub fn address(&self) -> SocketAddr {
        *self.address.lock().unwrap()
    }

    pub fn connection_string(&self) -> ConnectionString {
        let (host, port) = host_and_port(self.address());
        ConnectionString {
            host: self.name.map_or(host, Into::into),
            port,
            key: Some(self.key.public()),
        }
    }

    /// Creates an endpoint for each worker.
    fn endpoints(&self, machine: &Machine) -> Vec<Endpoint> {
        let count = self.workers;
        let identity = Identity {
            current: self.key.clone(),
            former: Vec::new(),
            lasting: self.key.clone(),
        };
        let links_max = if self.is_greedy {
            greedy::LINKS_MAX
        } else {
            1000
        };
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(count);
        for own in 0..count {
            let worker = |of| {
                let of = u32::try_from(of).ok()?.try_into().ok()?;
                endpoint::WorkerId::new(u32::try_from(own).ok()?, of)
            };
            let config = endpoint::Config {
                accept: Some(Protection::Sealed),
                hello: Some(self.id),
                early_data: self.early_data,
                resumes: false,
                worker: worker(count).expect("there are so many"),
                max_datagram: 1200,
                max_message: MESSAGE_MAX + 1024,
                rate: None,
                redundancy: Redundancy::Auto,
                lifetime: self.lifetime,
                links_max: links_max.div_ceil(count),
                memory_max: (1 << 26) / count,
                handshakes: endpoint::Handshakes::default(),
                idle: IDLE,
                shared_idle: PEER_IDLE,
            };
            let mut seed = [0; 32];
            machine.rng().fill_bytes(&mut seed);
            let mut endpoint = Endpoint::new(config, &identity, seed);
            if let Some(first) = endpoints.first() {
                endpoint.count_with(first);
            }
            endpoints.push(endpoint);
        }
        endpoints
    }

    /// Returns the peers of the configuration. Once they have been added, realms that move tell
    /// each other their addresses.
    fn configured_peers(&self) -> Vec<ConfiguredPeer> {
        if self.adds_once && self.state.lock().unwrap().has_peers {
            return Vec::new();
        }
        let each = self.neighbours.iter().map(|peer| ConfiguredPeer {
            realm: peer.realm,
            key: peer.key,
            address: peer.address.map(Into::into),
            source: None,
        });
        each.collect()
    }

    /// Serves as one process, until it is told to stop, until `looked_at` is ready, or until the
    /// store fails. Returns what it still held when it was looked at.
    pub async fn serve(
        &self,
        machine: Machine,
        told_to_stop: watch::Receiver<bool>,
        looked_at: impl Future<Output = ()>,
    ) -> Vec<String> {
        let host = Host::Simulated(machine.clone());
        let mut seed = [0; 32];
        machine.rng().fill_bytes(&mut seed);
        let address = self.address();
        let own = RealmIdentity {
            id: self.id,
            secret: self.key.clone(),
            former: Vec::new(),
            peering: Peering::Listed,
            registration: Registration::Open,
            addresses: vec![if self.is_told {
                host_and_port(address)
            } else {
                host_and_port(SocketAddr::from(([0, 0, 0, 0], address.port())))
            }],
            operator_code: "code".into(),
        };
        let mut limits = Limits {
            max_message: MESSAGE_MAX,
            password_threads: 0,
            ..Limits::default()
        };
        if self.is_greedy {
            limits.watch_memory = greedy::WATCH_MEMORY;
            limits.rates.stored_account = greedy::STORED;
        }
        if self.is_lied_to {
            limits.rates.stored_peer = greedy::STORED;
        }
        let watch_memory = limits.watch_memory;
        let (network, peer_calls) = Network::new();
        let store = self.disk.open(machine.clone());
        let realm = Realm::new(store, &self.key, own, limits, network, seed);
        let realm = Arc::new(realm.expect("nothing can be missing"));
        let is_restored = self.state.lock().unwrap().is_restored;
        let starting = Starting {
            is_restored,
            retention: Some(Retention {
                age: self.kept,
                ..Retention::FOREVER
            }),
            ..Starting::default()
        };
        let work = WorkLimits {
            commands_max: 1024,
            max_message: MESSAGE_MAX,
            per_link: RateLimit::per_second(500),
            per_subnet: RateLimit::per_second(2000),
        };
        let keepalive = LinkParameters::default().keepalive;
        let own = Arc::clone(&realm);
        let begun = ServerBuilder::start(own, host, starting, work, keepalive).await;
        let Ok((mut builder, started)) = begun else {
            return Vec::new();
        };
        if started.is_life_begun {
            self.state.lock().unwrap().is_restored = false;
        }
        match builder.add_peers(self.configured_peers()).await {
            Ok(as_before) if as_before.is_empty() => {
                self.state.lock().unwrap().has_peers = true;
            }
            // The disk was full, or failed: an operator starts it again.
            Ok(_) | Err(_) => return Vec::new(),
        }
        let Ok(sockets) = machine.bind_all(address, self.workers) else {
            return vec![format!("{address} is taken")];
        };
        self.state.lock().unwrap().realm = Some(Arc::clone(&realm));
        let mut rng = machine.rng();
        let reached = Reached {
            is_local: false,
            source: address.into(),
            is_ipv6: false,
        };
        let endpoints = self.endpoints(&machine);
        let mut workers = builder.listen(Some(reached), endpoints, &mut rng);
        let seed = machine.rng().next_u64();
        {
            let serving = workers.iter_mut().zip(sockets).map(|(worker, socket)| {
                worker.run(Listening::Simulated(socket), told_to_stop.clone())
            });
            tokio::select! {
                biased;
                () = looked_at => {}
                error = realm.storage.failed() => {
                    machine.note(|| format!("stops: {error}"));
                    return Vec::new();
                }
                _ = join_all(serving) => {
                    machine.note(|| "has stopped".into());
                    return Vec::new();
                }
                () = builder.keep(peer_calls, seed) => {}
                () = look_at_watches(&realm, watch_memory) => {}
            }
        }
        workers.iter().flat_map(Worker::leftovers).collect()
    }
}

/// Checks that watches never hold more memory than they may.
async fn look_at_watches(realm: &Realm<SimulatedStore>, most: usize) {
    loop {
        tokio::time::sleep(LOOK).await;
        let held = realm.watched_bytes();
        assert!(held <= most, "watches hold {held} bytes of {most}");
    }
}
