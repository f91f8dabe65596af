//! Assembles a serving realm: the workers of each listener, and the tasks that run beside them.
//! Both the server program, which runs the workers on threads, and the simulator, which runs them
//! side by side, use it.

use std::sync::Arc;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::{mpsc, watch};

use super::{
    admission::{Admission, WorkLimits},
    clock::Clock,
    handoff::Handoff,
    limits::CALLS_MAX,
    outbound::OutboundRequest,
    peer_link_table::Links,
    peering::keep_in_touch,
    routes::{Route, Routes},
    worker::Worker,
};
use crate::{
    crypto::PublicKey,
    endpoint::Endpoint,
    host::Listening,
    link::Silence,
    realm::{PeerCall, Realm},
    store::Store,
};

/// How other realms reach a listener over sealed links.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The advertised host and port.
    pub source: (String, u16),
    /// True if its socket reaches IPv6 addresses, false for IPv4.
    pub is_ipv6: bool,
    /// True if it serves this machine only.
    pub is_local: bool,
}

/// A worker with its queue of requests to other realms.
pub struct Post<S> {
    worker: Worker<S>,
    to_call: mpsc::Receiver<OutboundRequest>,
}

impl<S: Store> Post<S> {
    /// Serves from its socket until told to stop, then until all commands in progress are answered.
    pub async fn run(
        &mut self,
        socket: Listening,
        told_to_stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let to_call = &mut self.to_call;
        self.worker.run(socket, to_call, told_to_stop).await
    }

    /// Returns a description of resources still held after all links have ended. Empty if nothing
    /// leaks.
    #[cfg(test)]
    pub fn leftovers(&self) -> Vec<String> {
        self.worker.leftovers()
    }
}

/// A realm that is being assembled.
pub struct Assembly<S> {
    realm: Arc<Realm<S>>,
    clock: Clock,
    work: WorkLimits,
    /// The keep-alive setting for a link to a peer that cannot open one itself.
    keepalive: Silence,
    ways: Vec<Route>,
    links: Arc<Links>,
    /// Identifies this start. No two starts have the same number.
    start: Option<u64>,
    known: watch::Sender<Vec<PublicKey>>,
    /// The keys of all peers, for every worker.
    realms: watch::Receiver<Vec<PublicKey>>,
}

impl<S: Store> Assembly<S> {
    /// Starts with a realm whose life has begun and which has no listener yet.
    pub fn new(realm: Arc<Realm<S>>, clock: Clock, work: WorkLimits, keepalive: Silence) -> Self {
        let (known, realms) = watch::channel(Vec::new());
        Self {
            realm,
            clock,
            work,
            keepalive,
            ways: Vec::new(),
            links: Arc::default(),
            start: None,
            known,
            realms,
        }
    }

    /// Adds a listener with an endpoint for each of its workers. Without `reached` its links are
    /// plain: such links are not authenticated, and no requests between realms use them.
    pub fn listen(
        &mut self,
        reached: Option<Reached>,
        endpoints: Vec<Endpoint>,
        rng: &mut StdRng,
    ) -> Vec<Post<S>> {
        let count = endpoints.len();
        let (calls, each_to_call): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(CALLS_MAX)).unzip();
        let place = (self.ways.len(), count);
        let nobody = Arc::default();
        let start = *self.start.get_or_insert_with(|| rng.random());
        let listener = reached.as_ref().map(|reached| {
            let family = u32::from(reached.is_ipv6) << 16;
            (family | u32::from(reached.source.1), start)
        });
        let links = if reached.is_some() {
            &self.links
        } else {
            &nobody
        };
        let beside = Handoff::each(place, &self.realms, links, self.keepalive);
        if let Some(reached) = reached {
            self.ways.push(Route {
                source: reached.source,
                is_ipv6: reached.is_ipv6,
                is_local: reached.is_local,
                calls,
            });
        }
        let admission = Arc::new(Admission::new(self.work, rng));
        let each = endpoints.into_iter().zip(beside).zip(each_to_call);
        each.map(|((endpoint, beside), to_call)| {
            let (realm, admission) = (Arc::clone(&self.realm), Arc::clone(&admission));
            let clock = self.clock.clone();
            let worker = Worker::new(endpoint, realm, admission, beside, (clock, listener));
            Post { worker, to_call }
        })
        .collect()
    }

    /// Runs the tasks beside the workers: federation and the clock. Ends when the realm is gone.
    pub async fn keep(self, errands: mpsc::Receiver<PeerCall>, seed: u64) {
        let Self { realm, clock, .. } = self;
        let mut rng = StdRng::seed_from_u64(seed);
        let ways = Routes::new(self.ways, self.links, &mut rng);
        tokio::select! {
            biased;
            () = keep_in_touch(Arc::clone(&realm), ways, errands, self.known, clock.clone(), seed) => {}
            () = clock.clone().tick(&realm) => {}
            () = clock.tidy(&realm) => {}
        }
    }
}
