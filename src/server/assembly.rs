//! The parts of a realm that serves, put together: the workers of each of its listeners, and what runs beside them. Whoever runs the
//! workers, the program on threads or the simulator side by side, gets them from here.

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

/// How others reach a listener over sealed links.
#[derive(Clone, Debug)]
pub struct Reached {
    /// The host and port that it goes by.
    pub source: (String, u16),
    /// Its socket leads to IPv6 addresses, or else to IPv4 ones.
    pub is_ipv6: bool,
    /// It is for this machine alone.
    pub is_local: bool,
}

/// A worker, and what it is to ask of other realms.
pub struct Post<S> {
    worker: Worker<S>,
    to_call: mpsc::Receiver<OutboundRequest>,
}

impl<S: Store> Post<S> {
    /// Serves from its socket until told to stop, and then until what is in work is answered.
    pub async fn run(
        &mut self,
        socket: Listening,
        told_to_stop: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let to_call = &mut self.to_call;
        self.worker.run(socket, to_call, told_to_stop).await
    }

    /// What is still held of what others asked for, once all of them are gone; nothing, if all is well.
    #[cfg(test)]
    pub fn leftovers(&self) -> Vec<String> {
        self.worker.leftovers()
    }
}

/// A realm that is being put together.
pub struct Assembly<S> {
    realm: Arc<Realm<S>>,
    clock: Clock,
    work: WorkLimits,
    /// How a link to a peer is kept open that cannot open one itself.
    keepalive: Silence,
    ways: Vec<Route>,
    links: Arc<Links>,
    /// Stands for this start: no two have the same.
    start: Option<u64>,
    known: watch::Sender<Vec<PublicKey>>,
    /// Those of all workers, from the first on.
    realms: watch::Receiver<Vec<PublicKey>>,
}

impl<S: Store> Assembly<S> {
    /// Begins with a realm whose life has begun, and which has no listener yet.
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

    /// Adds a listener with an endpoint for each of its workers. Without `reached` its links are plain: over those nobody is known, and
    /// no realm asks or is asked.
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

    /// Does what is done beside the workers: keeps in touch with peers, and with the time. Runs until the realm is gone.
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
