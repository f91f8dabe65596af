//! The one way to start a server, over any store: the order of a start, the workers of each
//! listener, and the tasks that run beside them. The server program runs the workers on threads,
//! the simulator runs them side by side.

use std::sync::Arc;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::{mpsc, watch};

use super::{
    admission::{Admission, WorkLimits},
    clock::Clock,
    handoff::Handoff,
    host_port::HostPort,
    limits::REQUESTS_MAX,
    peer_link_table::PeerLinkTable,
    peering::keep_in_touch,
    routes::{Route, Routes},
    watchers::ListenerStart,
    worker::Worker,
};
use crate::{
    crypto::PublicKey,
    endpoint::Endpoint,
    host::Host,
    link::Silence,
    realm::{Failure, Keeping, PeerCall, Realm, Retention},
    store::{Store, StoreError},
    wire::RealmId,
};

/// How other realms reach a listener over sealed links.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The advertised host and port.
    pub source: HostPort,
    /// True if its socket reaches IPv6 addresses, false for IPv4.
    pub is_ipv6: bool,
    /// True if it serves this machine only.
    pub is_local: bool,
}

/// A peer that the configuration names.
#[derive(Clone, Debug)]
pub struct ConfiguredPeer {
    pub realm: RealmId,
    pub key: PublicKey,
    /// Its host and port, if they are known.
    pub address: Option<HostPort>,
    /// The address that it is told of this realm, if one is chosen.
    pub source: Option<HostPort>,
}

/// How a realm starts.
#[derive(Clone, Debug, Default)]
pub struct Starting {
    /// Continue from the last use of a session if the record of the running time is damaged.
    pub accepts_damage: bool,
    /// The store is a copy of one that was in use, so positions that clients remember are not
    /// trusted (READ-9).
    pub is_restored: bool,
    /// The running time at the end of an earlier server of this process, in seconds.
    pub ran: u32,
    /// The configured retention of messages.
    pub retention: Option<Retention>,
}

/// Why the configured peers could not be added.
#[derive(Debug)]
pub enum PeerError {
    /// The peer's name or key is known as another's.
    Known(RealmId),
    /// The store has failed.
    Store(StoreError),
}

/// The outcome of the start of a realm.
#[derive(Debug)]
pub struct Started {
    /// The retention in force, and who has set it.
    pub keeping: (Keeping, Retention),
    /// A new life has begun and is stored.
    pub is_life_begun: bool,
}

/// A server that is being built.
pub struct ServerBuilder<S> {
    realm: Arc<Realm<S>>,
    clock: Clock,
    work: WorkLimits,
    /// The keep-alive setting for a link to a peer that cannot open one itself.
    keepalive: Silence,
    routes: Vec<Route>,
    links: Arc<PeerLinkTable>,
    /// Identifies this start. No two starts have the same number.
    start: Option<u64>,
    known: watch::Sender<Vec<PublicKey>>,
    /// The keys of all peers, for every worker.
    realms: watch::Receiver<Vec<PublicKey>>,
}

impl<S: Store> ServerBuilder<S> {
    /// Starts the realm: reads its running time and begins a life. The configured peers come next
    /// ([`ServerBuilder::add_peers`]), then the listeners.
    ///
    /// # Errors
    /// Fails if the running time cannot be read. Nothing is served then.
    pub async fn start(
        realm: Arc<Realm<S>>,
        host: Host,
        starting: Starting,
        work: WorkLimits,
        keepalive: Silence,
    ) -> Result<(Self, Started), StoreError> {
        let clock = Clock::start(host, &realm, starting.accepts_damage).await;
        let clock = clock?.not_before(starting.ran);
        let keeping = realm.policy().begin_keeping(starting.retention).await;
        let is_life_begun = realm.lives.begin_life(starting.is_restored).await;
        let (known, realms) = watch::channel(Vec::new());
        let links = Arc::new(PeerLinkTable::new(realm.own().key()));
        let builder = Self {
            realm,
            clock,
            work,
            keepalive,
            routes: Vec::new(),
            links,
            start: None,
            known,
            realms,
        };
        let started = Started {
            keeping,
            is_life_begun,
        };
        Ok((builder, started))
    }

    /// Adds the peers that the configuration names, after what an earlier start has left of removed
    /// ones. Returns those that cannot be stored now: they are as they were before.
    ///
    /// # Errors
    /// Fails if a peer is known as another, or if the store fails. Nothing is served then.
    pub async fn add_peers(
        &self,
        peers: Vec<ConfiguredPeer>,
    ) -> Result<Vec<(RealmId, Failure)>, PeerError> {
        // The configuration may name a peer that was removed. It starts anew.
        self.realm
            .departures
            .do_departures(self.clock.now().wall)
            .await;
        let mut as_before = Vec::new();
        for peer in peers {
            // A peer without an address has an empty one in its record.
            let address = peer.address.map(Into::into).unwrap_or_default();
            let source = peer.source.map(Into::into);
            let adding = self
                .realm
                .peers
                .list_peer(peer.realm, peer.key, address, source);
            match adding.await {
                Ok(true) => {}
                Ok(false) => return Err(PeerError::Known(peer.realm)),
                Err(
                    Failure::Store(error @ (StoreError::Failed(_) | StoreError::Closed))
                    | Failure::Unknown(error),
                ) => return Err(PeerError::Store(error)),
                Err(failure) => as_before.push((peer.realm, failure)),
            }
        }
        Ok(as_before)
    }

    /// Returns the clock of the realm.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Adds a listener with an endpoint for each of its workers. Without `reached` its links are
    /// plain: such links are not authenticated, and no requests between realms use them.
    pub fn listen(
        &mut self,
        reached: Option<Reached>,
        endpoints: Vec<Endpoint>,
        rng: &mut StdRng,
    ) -> Vec<Worker<S>> {
        let count = endpoints.len();
        let (workers, each_to_send): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(REQUESTS_MAX)).unzip();
        let number = self.routes.len();
        let nobody = Arc::new(PeerLinkTable::new(self.realm.own().key()));
        let start = *self.start.get_or_insert_with(|| rng.random());
        let start = reached.as_ref().map(|reached| {
            let family = u32::from(reached.is_ipv6) << 16;
            ListenerStart {
                listener: family | u32::from(reached.source.port),
                start,
            }
        });
        let links = if reached.is_some() {
            &self.links
        } else {
            &nobody
        };
        let handoffs = Handoff::each(number, count, &self.realms, links, self.keepalive);
        if let Some(reached) = reached {
            self.routes.push(Route {
                source: reached.source,
                is_ipv6: reached.is_ipv6,
                is_local: reached.is_local,
                workers,
            });
        }
        let admission = Arc::new(Admission::new(self.work, rng));
        let each = endpoints.into_iter().zip(handoffs).zip(each_to_send);
        each.map(|((endpoint, handoff), to_send)| {
            let (realm, admission) = (Arc::clone(&self.realm), Arc::clone(&admission));
            let clock = self.clock.clone();
            Worker::new(endpoint, realm, admission, handoff, to_send, clock, start)
        })
        .collect()
    }

    /// Runs the tasks beside the workers: federation and the clock. Ends when the realm is gone.
    pub async fn keep(self, peer_calls: mpsc::Receiver<PeerCall>, seed: u64) {
        let Self { realm, clock, .. } = self;
        let mut rng = StdRng::seed_from_u64(seed);
        let routes = Routes::new(self.routes, self.links, &mut rng);
        tokio::select! {
            biased;
            () = keep_in_touch(Arc::clone(&realm), routes, peer_calls, self.known, clock.clone(), seed) => {}
            () = clock.clone().tick(&realm) => {}
            () = clock.tidy(&realm) => {}
        }
    }
}
