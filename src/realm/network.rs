//! The realm's way to other realms: what it asks them for somebody who waits is carried out by whoever has the sockets; what is to be done
//! with them else, by whoever keeps in touch with them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{limits::ERRANDS_MAX, peers::Peer};
use crate::{
    crypto::PublicKey,
    wire::{GroupName, RealmId},
};

/// How long to ask who is at an address: a round trip may take a minute.
const WHO_PATIENCE: Duration = Duration::from_secs(75);

/// How the link to a peer stands, as `realms` tells it.
pub(super) const STATE_IDLE: u8 = 0;
pub(super) const STATE_OPEN: u8 = 1;
pub(super) const STATE_TRYING: u8 = 2;
const STATE_NOT_ACCEPTED: u8 = 3;

/// Whether a link to a peer may be opened to ask it something, where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialing {
    /// An operator has named the address, or the peer has answered there.
    Freely,
    /// The address is what the peer says of itself: nobody may be there who wants to hear of it (PEER-23). The question is whether the peer is
    /// there: it is asked there and nowhere else, and what is answered over another link is no answer to it.
    Once,
    /// There is no address: only a link that the peer has opened will do.
    Never,
}

/// Something to be asked of another realm.
#[derive(Debug)]
pub enum Errand {
    /// Ask who is at an address.
    Who {
        /// The host.
        address: String,
        /// The port.
        port: u16,
        /// Told the key, or dropped when nobody answers.
        answer: oneshot::Sender<PublicKey>,
    },
    /// Ask a peer.
    Ask {
        /// The peer.
        peer: Peer,
        /// The request.
        bytes: Vec<u8>,
        /// Somebody waits for it: better soon no answer than late one.
        is_awaited: bool,
        /// Whether a link may be opened for it.
        dialing: Dialing,
        /// Told the answer, or dropped when there is none in time.
        answer: oneshot::Sender<Vec<u8>>,
    },
}

/// How the link to a peer stands.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    is_trying: bool,
    /// It refuses the peering.
    is_refused: bool,
    /// When it was last heard, in seconds since 1970.
    heard: u32,
}

/// What is to be done for a group at a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupWork {
    /// Tell the peer that the group has grown.
    Tell(GroupName),
    /// Read the group, which lives there.
    Read(GroupName),
}

/// What has happened since it was last taken ([`Network::signals`]).
#[derive(Debug, Default)]
pub struct Signals {
    /// Peers have come, gone or changed.
    pub are_peers_changed: bool,
    /// Peers that have asked something, or have answered somebody who waits.
    pub heard: BTreeSet<RealmId>,
    /// What is to be done for groups at peers.
    pub work: BTreeSet<(RealmId, GroupWork)>,
    /// Peers that are to be tried at the address that they say of themselves.
    pub claims: BTreeSet<RealmId>,
}

impl Signals {
    fn is_empty(&self) -> bool {
        !self.are_peers_changed
            && self.heard.is_empty()
            && self.work.is_empty()
            && self.claims.is_empty()
    }
}

/// The way to other realms.
#[derive(Debug)]
pub struct Network {
    errands: mpsc::Sender<Errand>,
    standings: Mutex<HashMap<RealmId, Standing>>,
    signals: Mutex<Signals>,
    are_signals: Notify,
}

impl Network {
    /// The way, and where its errands come out.
    pub fn new() -> (Self, mpsc::Receiver<Errand>) {
        let (errands, taken) = mpsc::channel(ERRANDS_MAX);
        let network = Self {
            errands,
            standings: Mutex::default(),
            signals: Mutex::default(),
            are_signals: Notify::new(),
        };
        (network, taken)
    }

    pub(super) async fn who(&self, address: &str, port: u16) -> Option<PublicKey> {
        let (answer, answered) = oneshot::channel();
        let address = address.into();
        let errand = Errand::Who {
            address,
            port,
            answer,
        };
        self.errands.send(errand).await.ok()?;
        tokio::time::timeout(WHO_PATIENCE, answered)
            .await
            .ok()?
            .ok()
    }

    /// Asks a peer for somebody who waits; nothing, when it is silent. How long that takes to find out depends on
    /// the way to it.
    pub(super) async fn ask(&self, peer: &Peer, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let (peer, dialing) = (peer.clone(), peer.dialing());
        let errand = Errand::Ask {
            peer,
            bytes,
            is_awaited: true,
            dialing,
            answer,
        };
        self.errands.send(errand).await.ok()?;
        answered.await.ok()
    }

    fn signal(&self, add: impl FnOnce(&mut Signals)) {
        let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut signals);
        self.are_signals.notify_one();
    }

    /// What has happened since this was last called, once anything has.
    pub async fn signals(&self) -> Signals {
        loop {
            let taken = {
                let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *signals)
            };
            if !taken.is_empty() {
                return taken;
            }
            self.are_signals.notified().await;
        }
    }

    pub(super) fn peers_changed(&self) {
        self.signal(|signals| signals.are_peers_changed = true);
    }

    /// Something is to be done for a group at a peer.
    pub fn add_work(&self, realm: RealmId, work: GroupWork) {
        self.signal(|signals| {
            signals.work.insert((realm, work));
        });
    }

    /// The address that a peer says of itself is to be tried, once.
    pub(super) fn claim_to_try(&self, realm: RealmId) {
        self.signal(|signals| {
            signals.claims.insert(realm);
        });
    }

    fn standing<T>(&self, realm: RealmId, change: impl FnOnce(&mut Standing) -> T) -> T {
        let mut standings = self
            .standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(standings.entry(realm).or_default())
    }

    /// Notes that a peer has asked: what waits for it need not wait any longer.
    pub(super) fn heard(&self, realm: RealmId, now: u32) {
        self.answers(realm, now);
        self.signal(|signals| {
            signals.heard.insert(realm);
        });
    }

    /// Notes that a peer has answered somebody who waits.
    pub(super) fn reached(&self, realm: RealmId) {
        self.standing(realm, |standing| standing.is_trying = false);
        self.signal(|signals| {
            signals.heard.insert(realm);
        });
    }

    /// Notes that a peer answers.
    pub fn answers(&self, realm: RealmId, now: u32) {
        self.standing(realm, |standing| {
            standing.is_trying = false;
            standing.is_refused = false;
            standing.heard = now;
        });
    }

    /// Notes that a peer does not answer.
    pub fn silent(&self, realm: RealmId) {
        self.standing(realm, |standing| standing.is_trying = true);
    }

    /// Notes that a peer refuses the peering.
    pub fn refused(&self, realm: RealmId) {
        self.standing(realm, |standing| standing.is_refused = true);
    }

    /// A peer was removed: of whoever has its name next nothing is known.
    pub(super) fn forget(&self, realm: RealmId) {
        let mut standings = self
            .standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        standings.remove(&realm);
        drop(standings);
        self.signal(|signals| {
            signals.heard.remove(&realm);
            signals.claims.remove(&realm);
            signals.work.retain(|(other, _)| *other != realm);
            signals.are_peers_changed = true;
        });
    }

    /// How a peer stands, as `realms` tells it, and when it was last heard.
    pub(super) fn state_of(&self, peer: &Peer) -> (u8, u32) {
        self.standing(peer.realm, |standing| {
            let is_accepted = peer.is_introduced() && !standing.is_refused;
            let state = match (is_accepted, standing.is_trying) {
                (false, _) => STATE_NOT_ACCEPTED,
                (true, true) => STATE_TRYING,
                (true, false) if standing.heard > 0 => STATE_OPEN,
                (true, false) => STATE_IDLE,
            };
            (state, standing.heard)
        })
    }
}
