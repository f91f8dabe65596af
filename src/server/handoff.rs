//! The hand-off between the workers of one listener: a datagram for another worker's link goes to
//! that worker.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{
    limits::HANDED_MAX,
    peer_link_table::{PeerLinkTable, WorkerLinks},
};
use crate::{crypto::PublicKey, endpoint::Path, federation::Seat, link::Silence};

/// A datagram that arrived at another worker.
#[derive(Debug)]
pub struct HandedOff {
    pub path: Path,
    pub bytes: Vec<u8>,
}

/// One worker's connections to the others.
#[derive(Debug)]
pub struct Handoff {
    /// The queues of all workers by number, including this one.
    workers: Vec<mpsc::Sender<HandedOff>>,
    pub received: mpsc::Receiver<HandedOff>,
    /// The keys of all peers. Links of these belong to the first worker.
    pub realms: watch::Receiver<Vec<PublicKey>>,
    /// The table of links with peers, which all workers share.
    pub links: WorkerLinks,
}

impl Handoff {
    /// Creates one for each of `count` workers of listener number `listener`, with the keep-alive
    /// setting for links to peers that cannot open one.
    pub fn each(
        listener: usize,
        count: usize,
        realms: &watch::Receiver<Vec<PublicKey>>,
        links: &Arc<PeerLinkTable>,
        silence: Silence,
    ) -> Vec<Self> {
        let (workers, received): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(HANDED_MAX)).unzip();
        let each = received.into_iter().enumerate();
        let each = each.map(|(worker, received)| Self {
            workers: workers.clone(),
            received,
            realms: realms.clone(),
            links: WorkerLinks::new(links, Seat { listener, worker }, silence),
        });
        each.collect()
    }

    /// Hands a datagram over. If the other worker's queue is full, the datagram is dropped.
    pub fn hand_over(&self, to: u32, path: Path, datagram: &[u8]) {
        let worker = usize::try_from(to).ok().and_then(|to| self.workers.get(to));
        if let Some(worker) = worker {
            let bytes = datagram.to_vec();
            let _ = worker.try_send(HandedOff { path, bytes });
        }
    }
}
