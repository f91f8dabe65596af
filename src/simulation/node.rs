//! A realm of a run: its disk, and the processes that serve from it, one after another.

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
    server::{BuiltWorker, ConfiguredPeer, Reached, ServerBuilder, Starting, WorkLimits},
    store::Memory,
    wire::{Protection, RealmId},
};

/// The longest message, in bytes.
pub const MESSAGE_MAX: usize = 4000;
/// Links that are silent for so long end.
pub const IDLE: Duration = Duration::from_mins(30);
/// A link between realms is closed after so long.
const PEER_IDLE: Duration = Duration::from_mins(10);

/// How often to look at what is held.
const LOOK: Duration = Duration::from_secs(20);

/// Another realm, as this one's configuration names it.
#[derive(Clone, Debug)]
pub struct Neighbour {
    pub realm: RealmId,
    pub key: PublicKey,
    /// None is known where nobody can call it.
    pub address: Option<SocketAddr>,
}

/// An address as it is told.
pub fn host_and_port(address: SocketAddr) -> (String, u16) {
    (address.ip().to_string(), address.port())
}

/// What changes about a realm while it is served from by one process after another.
#[derive(Debug, Default)]
pub struct Standing {
    /// The process there is serves this realm.
    pub realm: Option<Arc<Realm<SimulatedStore>>>,
    /// Its operator has added the peers, and need not do so again.
    pub has_peers: bool,
    /// It is to be stopped, and then copied.
    pub is_to_be_copied: bool,
    /// A copy of the disk, what had been said by then, and whether a process was using the disk.
    pub copy: Option<(Memory, Snapshot, bool)>,
    /// The next process is to find the copy on the disk.
    pub is_to_be_restored: bool,
    /// The disk has been restored from a copy that was taken in use, and devices have not been told yet.
    pub is_restored: bool,
}

/// A realm's place.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: RealmId,
    /// Where it serves at the next start.
    pub address: Arc<Mutex<SocketAddr>>,
    /// Its users know it by this name, or else by its address.
    pub name: Option<&'static str>,
    /// It tells other realms where it is.
    pub is_told: bool,
    pub workers: usize,
    pub standing: Arc<Mutex<Standing>>,
    pub key: SecretKey,
    pub disk: Disk,
    pub neighbours: Vec<Neighbour>,
    /// Its operator adds the peers once, and not again at each start.
    pub adds_once: bool,
    pub early_data: bool,
    pub lifetime: Duration,
    /// What has been read is kept for so long, if it is not kept for ever.
    pub kept: Option<Duration>,
    /// Somebody takes all they can here.
    pub is_greedy: bool,
    /// One of its peers lies, and has no more kept here than anybody who takes all they can.
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

    /// One for each worker.
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
            let place =
                |of| endpoint::WorkerId::new(u32::try_from(own).ok()?, u32::try_from(of).ok()?);
            let config = endpoint::Config {
                accept: Some(Protection::Sealed),
                hello: Some(self.id),
                early_data: self.early_data,
                resumes: false,
                place: place(count).expect("there are so many"),
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

    /// The peers that the configuration names. Once they have been added, realms that move tell each other where they are.
    fn configured_peers(&self) -> Vec<ConfiguredPeer> {
        if self.adds_once && self.standing.lock().unwrap().has_peers {
            return Vec::new();
        }
        let each = self.neighbours.iter().map(|peer| ConfiguredPeer {
            realm: peer.realm,
            key: peer.key,
            address: peer.address.map(host_and_port).unwrap_or_default(),
            source: None,
        });
        each.collect()
    }

    /// Serves as one process, until told to stop (in order, or to be looked at) or until the store fails. What it
    /// still held when looked at.
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
        let place = host_and_port(address);
        let own = RealmIdentity {
            id: self.id,
            secret: self.key.clone(),
            former: Vec::new(),
            peering: Peering::Listed,
            registration: Registration::Open,
            addresses: vec![if self.is_told {
                place.clone()
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
        let (network, errands) = Network::new();
        let store = self.disk.open(machine.clone());
        let realm = Realm::new(store, &self.key, own, limits, network, seed);
        let realm = Arc::new(realm.expect("nothing can be missing"));
        let is_restored = self.standing.lock().unwrap().is_restored;
        let starting = Starting {
            is_restored,
            retention: Some(Retention {
                age: self.kept,
                ..Retention::FOREVER
            }),
            peers: self.configured_peers(),
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
        let begun = ServerBuilder::start(own, host, starting, (work, keepalive)).await;
        let Ok((mut builder, started)) = begun else {
            return Vec::new();
        };
        {
            let mut standing = self.standing.lock().unwrap();
            standing.is_restored &= !started.is_life_begun;
            standing.has_peers |= started.peers_as_before.is_empty();
        }
        if !started.peers_as_before.is_empty() {
            // The disk was full: an operator starts it again.
            return Vec::new();
        }
        let Ok(sockets) = machine.bind_all(address, self.workers) else {
            return vec![format!("{address} is taken")];
        };
        self.standing.lock().unwrap().realm = Some(Arc::clone(&realm));
        let mut rng = machine.rng();
        let reached = Reached {
            is_local: false,
            source: place,
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
                error = realm.failed() => {
                    machine.note(|| format!("stops: {error}"));
                    return Vec::new();
                }
                _ = join_all(serving) => {
                    machine.note(|| "has stopped".into());
                    return Vec::new();
                }
                () = builder.keep(errands, seed) => {}
                () = look_at_watches(&realm, watch_memory) => {}
            }
        }
        workers.iter().flat_map(BuiltWorker::leftovers).collect()
    }
}

/// What watches hold is never more than they may.
async fn look_at_watches(realm: &Realm<SimulatedStore>, most: usize) {
    loop {
        tokio::time::sleep(LOOK).await;
        let held = realm.watched_bytes();
        assert!(held <= most, "watches hold {held} bytes of {most}");
    }
}
