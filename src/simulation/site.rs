//! A realm of a run: its disk, and the processes that serve from it, one after another.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rand::Rng as _;
use tokio::sync::{mpsc, watch};

use super::{
    disk::{Disk, SimulatedStore},
    greedy,
    machine::Machine,
};
use crate::{
    allowance::Frequency,
    crypto::{ConnectionString, PublicKey, SecretKey},
    endpoint::{self, Endpoint, Identity},
    host::{Host, Listening},
    link::{Redundancy, Traits},
    realm::{Limits, Network, Own, Peering, Realm, Registration, Retention},
    server::{Admission, Beside, Clock, Links, Way, Ways, WorkLimits, Worker, keep_in_touch},
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
    pub address: SocketAddr,
}

/// A realm's place.
#[derive(Clone, Debug)]
pub struct Site {
    pub id: RealmId,
    pub address: SocketAddr,
    pub key: SecretKey,
    pub disk: Disk,
    pub neighbours: Vec<Neighbour>,
    pub early_data: bool,
    pub lifetime: Duration,
    /// What has been read is kept for so long, if it is not kept for ever.
    pub kept: Option<Duration>,
    /// Somebody takes all they can here.
    pub is_greedy: bool,
}

impl Site {
    pub fn connection_string(&self) -> ConnectionString {
        ConnectionString {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            key: Some(self.key.public()),
        }
    }

    fn endpoint(&self, machine: &Machine) -> Endpoint {
        let config = endpoint::Config {
            accept: Some(Protection::Sealed),
            hello: Some(self.id),
            early_data: self.early_data,
            place: endpoint::Place::ALONE,
            max_datagram: 1200,
            max_message: MESSAGE_MAX + 1024,
            rate: None,
            redundancy: Redundancy::Auto,
            lifetime: self.lifetime,
            links_max: if self.is_greedy {
                greedy::LINKS_MAX
            } else {
                1000
            },
            memory_max: 1 << 26,
            handshakes: endpoint::Handshakes::default(),
            idle: IDLE,
            shared_idle: PEER_IDLE,
        };
        let identity = Identity {
            current: self.key.clone(),
            former: Vec::new(),
            lasting: self.key.clone(),
        };
        let mut seed = [0; 32];
        machine.rng().fill_bytes(&mut seed);
        Endpoint::new(config, &identity, seed)
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
        let place = (self.address.ip().to_string(), self.address.port());
        let own = Own {
            id: self.id,
            secret: self.key.clone(),
            former: Vec::new(),
            peering: Peering::Listed,
            registration: Registration::Open,
            addresses: vec![place.clone()],
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
        let watch_memory = limits.watch_memory;
        let (network, errands) = Network::new();
        let store = self.disk.open(machine.clone());
        let realm = Realm::new(store, &self.key, own, limits, network, seed);
        let realm = Arc::new(realm.expect("nothing can be missing"));
        let Ok(clock) = Clock::start(host, &realm, false).await else {
            return Vec::new();
        };
        let retention = Retention {
            age: self.kept,
            ..Retention::FOREVER
        };
        realm.begin_keeping(Some(retention)).await;
        realm.begin_life(false).await;
        for peer in &self.neighbours {
            let address = (peer.address.ip().to_string(), peer.address.port());
            let listed = realm.list_peer(peer.realm, peer.key, address, None).await;
            if !listed.unwrap_or(false) {
                // As an operator would: the disk was full, or failed.
                return Vec::new();
            }
        }
        let Ok(socket) = machine.bind(self.address) else {
            return vec![format!("{} is taken", self.address)];
        };
        let (calls, to_call) = mpsc::channel(64);
        let ways = vec![Way {
            source: place,
            is_ipv6: false,
            calls: vec![calls],
        }];
        let links = Arc::new(Links::default());
        let limits = WorkLimits {
            commands_max: 1024,
            max_message: MESSAGE_MAX,
            per_link: Frequency::per_second(500),
            per_subnet: Frequency::per_second(2000),
        };
        let admission = Arc::new(Admission::new(limits, &mut machine.rng()));
        let (known, realms) = watch::channel(Vec::new());
        let beside = Beside::each((0, 1), &realms, &links, Traits::default().keepalive).remove(0);
        let endpoint = self.endpoint(&machine);
        let mut worker = Worker::new(
            endpoint,
            Arc::clone(&realm),
            admission,
            beside,
            clock.clone(),
        );
        let seed = machine.rng().next_u64();
        {
            let socket = Listening::Simulated(socket);
            let serving = worker.run(socket, to_call, told_to_stop);
            tokio::select! {
                biased;
                () = looked_at => {}
                error = realm.failed() => {
                    machine.note(|| format!("stops: {error}"));
                    return Vec::new();
                }
                _ = serving => {
                    machine.note(|| "has stopped".into());
                    return Vec::new();
                }
                () = keep_in_touch(Arc::clone(&realm), Ways::new(ways, links), errands, known, clock.clone(), seed) => {}
                () = clock.clone().tick(&realm) => {}
                () = clock.tidy(&realm) => {}
                () = look_at_watches(&realm, watch_memory) => {}
            }
        }
        worker.leftovers()
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
