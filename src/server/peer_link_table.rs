//! The table of links with peers, which all workers share: it gives [`PeerLinks`] the time, and
//! tells each worker which of its links it keeps open (PEER-24).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{
    crypto::PublicKey,
    endpoint::{Endpoint, LinkId, LinkStatus},
    faults::{Fault, is_planted},
    federation::{Opener, PeerLinkCounters, PeerLinks, Seat, SeatSearch},
    link::{Silence, Time},
};

/// The workers that have links with peers. [`PeerLinks`] documents the calls.
#[derive(Debug)]
pub struct PeerLinkTable {
    links: Mutex<PeerLinks<LinkId>>,
    began: Instant,
    changed: watch::Sender<()>,
}

impl PeerLinkTable {
    /// Creates the table of the realm with that key.
    pub fn new(own: PublicKey) -> Self {
        Self {
            links: Mutex::new(PeerLinks::new(own)),
            began: Instant::now(),
            changed: watch::Sender::new(()),
        }
    }

    fn links(&self) -> MutexGuard<'_, PeerLinks<LinkId>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Limits the table to these keys, which are those of all peers.
    pub fn keep_only(&self, keys: &[PublicKey]) {
        self.links().keep_only(self.now(), keys);
    }

    /// Returns the worker with an open link to the peer: at `listener`, or elsewhere if the search
    /// says so.
    pub fn seat(&self, peer: &PublicKey, listener: usize, search: SeatSearch) -> Option<Seat> {
        self.links().seat(peer, listener, search)
    }

    /// Records that the peer could not be dialled from that listener.
    pub fn not_reached(&self, peer: &PublicKey, listener: usize) {
        self.links().not_reached(peer, listener);
    }

    /// Returns the worker of the latest link that the peer has opened.
    pub fn latest(&self, peer: &PublicKey) -> Option<Seat> {
        self.links().latest(peer)
    }

    /// Handles a request of the peer that has been answered.
    pub fn heard(&self, peer: &PublicKey) {
        self.links().heard(self.now(), peer);
    }

    /// Handles an introduction from the peer.
    pub fn introduced(&self, peer: &PublicKey) {
        self.links().introduced(self.now(), peer);
        self.changed.send_replace(());
    }

    /// Requests new introductions that are due.
    pub fn reintroduce(&self) {
        if self.links().reintroduce(self.now()) {
            self.changed.send_replace(());
        }
    }

    /// Begins a request to the peer. It ends when the returned value is dropped.
    pub fn begin_request<'a>(&'a self, peer: &'a PublicKey) -> RequestGuard<'a> {
        self.links().request_begun(peer);
        RequestGuard { table: self, peer }
    }

    /// Returns the counters of a peer.
    pub fn counters(&self, peer: &PublicKey) -> PeerLinkCounters {
        self.links().counters(peer)
    }

    /// Returns when [`PeerLinkTable::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.links().poll_timeout()?;
        Some(self.began + due)
    }

    /// Handles timers that are due.
    pub fn handle_timeout(&self) {
        self.links().handle_timeout(self.now());
    }

    /// Returns a receiver that is notified when a counter or a timer may have changed.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn opened(&self, peer: &PublicKey, link: (Seat, LinkId), opener: Opener) -> bool {
        let is_peer = self.links().opened(self.now(), peer, link, opener);
        if is_peer {
            self.changed.send_replace(());
        }
        is_peer
    }

    fn closed(&self, peer: &PublicKey, link: (Seat, LinkId)) {
        self.links().closed(self.now(), peer, link);
        self.changed.send_replace(());
    }
}

/// A request to a peer in progress.
#[derive(Debug)]
pub struct RequestGuard<'a> {
    table: &'a PeerLinkTable,
    peer: &'a PublicKey,
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        let table = self.table;
        let has_timer = table.links().request_ended(table.now(), self.peer);
        if has_timer {
            table.changed.send_replace(());
        }
    }
}

/// One worker's view of the table.
#[derive(Debug)]
pub struct WorkerLinks {
    table: Arc<PeerLinkTable>,
    seat: Seat,
    /// The keep-alive setting for a link to a peer that cannot open one itself.
    silence: Silence,
    noted: BTreeMap<LinkId, (PublicKey, Opener)>,
    /// Notified when the table has changed.
    pub changed: watch::Receiver<()>,
}

impl WorkerLinks {
    pub fn new(table: &Arc<PeerLinkTable>, seat: Seat, silence: Silence) -> Self {
        Self {
            table: Arc::clone(table),
            seat,
            silence,
            noted: BTreeMap::new(),
            changed: table.changed.subscribe(),
        }
    }

    pub const fn table(&self) -> &Arc<PeerLinkTable> {
        &self.table
    }

    pub const fn seat(&self) -> Seat {
        self.seat
    }

    /// True if the peer has opened `link`, and later a link to another worker of this listener.
    pub fn is_superseded(&self, peer: &PublicKey, link: LinkId) -> bool {
        let link = (self.seat, link);
        self.table.links().is_superseded(peer, link)
    }

    /// Adds a link that a peer has opened, after its path is proven.
    pub fn proven(&mut self, link: LinkId, peer: PublicKey) {
        self.note(link, peer, Opener::Peer);
    }

    /// Adds a link to a peer that is open, or was opened anew.
    pub fn dialled(&mut self, now: Time, endpoint: &mut Endpoint, link: LinkId) {
        if let Some(peer) = endpoint.link(link).and_then(LinkStatus::peer) {
            self.note(link, peer, Opener::This);
            self.keep_open(now, endpoint);
        }
    }

    fn note(&mut self, link: LinkId, peer: PublicKey, opener: Opener) {
        // The planted fault: only the first worker sends requests.
        if is_planted(Fault::AskAtFirstOnly) && self.seat.worker > 0 {
            return;
        }
        if self.table.opened(&peer, (self.seat, link), opener) {
            self.noted.insert(link, (peer, opener));
        }
    }

    pub fn closed(&mut self, link: LinkId) {
        if let Some((peer, _)) = self.noted.remove(&link) {
            self.table.closed(&peer, (self.seat, link));
        }
    }

    /// Handles a new list of peers. The endpoint may already have links with them.
    pub fn peers_listed(&mut self, now: Time, endpoint: &mut Endpoint, peers: &[PublicKey]) {
        self.noted.retain(|_, (peer, _)| peers.contains(peer));
        for peer in peers {
            let links = endpoint.links_with(peer);
            let theirs = links.accepted.into_iter().map(|link| (link, Opener::Peer));
            let ours = links.dialed.into_iter().map(|link| (link, Opener::This));
            // This realm's links come first: a peer that was dialled needs no dial-back.
            for (link, opener) in ours.chain(theirs) {
                if !self.noted.contains_key(&link) {
                    self.note(link, *peer, opener);
                }
            }
        }
        self.keep_open(now, endpoint);
    }

    /// Keeps the links open that this worker has opened to peers that may be unable to open one.
    /// The other links may end.
    pub fn keep_open(&self, now: Time, endpoint: &mut Endpoint) {
        let ours = self.noted.iter().filter(|(_, (_, by))| *by == Opener::This);
        for (link, (peer, _)) in ours {
            let is_needed =
                self.table.links().keeps_open(peer) && !is_planted(Fault::LetLinksIdleOut);
            if endpoint.link(*link).is_some_and(LinkStatus::is_kept_alive) != is_needed {
                endpoint.keep_alive(now, *link, is_needed.then_some(self.silence));
            }
        }
    }
}
