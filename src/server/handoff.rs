//! The workers of one listener, side by side: what comes to one of them and belongs to another is handed over.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{
    limits::HANDED_MAX,
    peer_link_table::{Links, Seat, Seated},
};
use crate::{crypto::PublicKey, endpoint::Path, link::Silence};

/// A datagram that came to another worker.
#[derive(Debug)]
pub struct HandedOff {
    pub path: Path,
    pub bytes: Vec<u8>,
}

/// What one worker has of the others.
#[derive(Debug)]
pub struct Handoff {
    /// By their numbers, this one among them.
    workers: Vec<mpsc::Sender<HandedOff>>,
    pub handed: mpsc::Receiver<HandedOff>,
    /// The keys of the realms that are peers: the first worker's.
    pub realms: watch::Receiver<Vec<PublicKey>>,
    /// What all of them know of the links with peers.
    pub seated: Seated,
}

impl Handoff {
    /// For each of so many workers of listener number `listener`. A link to a peer that can open none is kept open with such silences.
    pub fn each(
        (listener, count): (usize, usize),
        realms: &watch::Receiver<Vec<PublicKey>>,
        links: &Arc<Links>,
        silence: Silence,
    ) -> Vec<Self> {
        let (workers, handed): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(HANDED_MAX)).unzip();
        let each = handed.into_iter().enumerate();
        let each = each.map(|(worker, handed)| Self {
            workers: workers.clone(),
            handed,
            realms: realms.clone(),
            seated: Seated::new(links, Seat { listener, worker }, silence),
        });
        each.collect()
    }

    /// Hands a datagram over. When the other has too much to do, it is as good as lost on the way.
    pub fn hand_over(&self, to: u32, path: Path, datagram: &[u8]) {
        let worker = usize::try_from(to).ok().and_then(|to| self.workers.get(to));
        if let Some(worker) = worker {
            let bytes = datagram.to_vec();
            let _ = worker.try_send(HandedOff { path, bytes });
        }
    }
}
