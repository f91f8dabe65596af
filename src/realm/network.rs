//! The realm's way to other realms: errands that whoever has the sockets carries out.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
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
/// A peer that has not answered for so long is shown as one that does not.
const SILENT_AFTER: Duration = Duration::from_secs(10);

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
#[derive(Debug, Default)]
struct Standing {
    is_trying: bool,
    /// It refuses the peering.
    is_refused: bool,
    /// When it was last heard, in seconds since 1970.
    heard: u32,
    contact: Arc<Notify>,
    /// Groups here that have grown, of which the peer is to be told.
    grown: BTreeSet<GroupName>,
    /// Groups there that are to be read.
    to_read: BTreeSet<GroupName>,
    work: Arc<Notify>,
    /// The address that it says of itself is to be tried.
    is_claim_due: bool,
}

/// What is to be done for a group at a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupWork {
    /// Tell the peer that the group has grown.
    Tell(GroupName),
    /// Read the group, which lives there.
    Read(GroupName),
}

/// The way to other realms.
#[derive(Debug)]
pub struct Network {
    errands: mpsc::Sender<Errand>,
    changed: Notify,
    standings: Mutex<HashMap<RealmId, Standing>>,
}

impl Network {
    /// The way, and where its errands come out.
    pub fn new() -> (Self, mpsc::Receiver<Errand>) {
        let (errands, taken) = mpsc::channel(ERRANDS_MAX);
        let network = Self {
            errands,
            changed: Notify::new(),
            standings: Mutex::default(),
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
        self.ask_if(peer, bytes, true).await?.await.ok()
    }

    /// Asks a peer when nobody waits: for as long as that may make sense on the longest and narrowest of ways.
    pub(super) async fn ask_patiently(&self, peer: &Peer, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let mut answered = self.ask_if(peer, bytes, false).await?;
        tokio::select! {
            biased;
            answer = &mut answered => answer.ok(),
            () = tokio::time::sleep(SILENT_AFTER) => {
                self.silent(peer.realm);
                answered.await.ok()
            }
        }
    }

    async fn ask_if(
        &self,
        peer: &Peer,
        bytes: Vec<u8>,
        is_awaited: bool,
    ) -> Option<oneshot::Receiver<Vec<u8>>> {
        let (answer, answered) = oneshot::channel();
        let (peer, dialing) = (peer.clone(), peer.dialing());
        let errand = Errand::Ask {
            peer,
            bytes,
            is_awaited,
            dialing,
            answer,
        };
        self.errands.send(errand).await.ok()?;
        Some(answered)
    }

    pub(super) fn peers_changed(&self) {
        self.changed.notify_one();
    }

    /// Waits until peers have come, gone or moved since it was last asked.
    pub async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    fn standing<T>(&self, realm: RealmId, change: impl FnOnce(&mut Standing) -> T) -> T {
        let mut standings = self
            .standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(standings.entry(realm).or_default())
    }

    /// Notes that a peer has answered or asked.
    pub(super) fn heard(&self, realm: RealmId, now: u32) {
        self.standing(realm, |standing| {
            standing.is_trying = false;
            standing.is_refused = false;
            standing.heard = now;
            standing.contact.notify_waiters();
        });
    }

    /// Notes that a peer has answered: what waits for it need not wait any longer.
    pub(super) fn reached(&self, realm: RealmId) {
        self.standing(realm, |standing| {
            standing.is_trying = false;
            standing.contact.notify_waiters();
        });
    }

    /// Waits until a peer has answered or asked.
    pub async fn wait_for_contact(&self, realm: RealmId) {
        let contact = self.standing(realm, |standing| Arc::clone(&standing.contact));
        contact.notified().await;
    }

    /// Notes that a peer does not answer.
    pub(super) fn silent(&self, realm: RealmId) {
        self.standing(realm, |standing| standing.is_trying = true);
    }

    /// Notes that a peer refuses the peering.
    pub(super) fn refused(&self, realm: RealmId) {
        self.standing(realm, |standing| standing.is_refused = true);
    }

    /// Something is to be done for a group at a peer, or still is.
    pub fn add_work(&self, realm: RealmId, work: GroupWork) {
        self.standing(realm, |standing| {
            match work {
                GroupWork::Tell(group) => standing.grown.insert(group),
                GroupWork::Read(group) => standing.to_read.insert(group),
            };
            standing.work.notify_one();
        });
    }

    /// The address that a peer says of itself is to be tried.
    pub fn claim_to_try(&self, realm: RealmId) {
        self.standing(realm, |standing| {
            standing.is_claim_due = true;
            standing.work.notify_one();
        });
    }

    /// Whether it is. It is tried once.
    pub(super) fn take_claim(&self, realm: RealmId) -> bool {
        self.standing(realm, |standing| {
            core::mem::take(&mut standing.is_claim_due)
        })
    }

    /// A peer was removed: of whoever has its name next nothing is known.
    pub(super) fn forget(&self, realm: RealmId) {
        let mut standings = self
            .standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        standings.remove(&realm);
    }

    /// What is to be done next for a group at a peer. It stays until [`Network::begin_work`].
    pub fn next_work(&self, realm: RealmId) -> Option<GroupWork> {
        self.standing(realm, |standing| {
            let tell = standing.grown.first().copied().map(GroupWork::Tell);
            tell.or_else(|| standing.to_read.first().copied().map(GroupWork::Read))
        })
    }

    /// Takes a piece of work up: should it come again meanwhile, it is done again.
    pub fn begin_work(&self, realm: RealmId, work: GroupWork) {
        self.standing(realm, |standing| match work {
            GroupWork::Tell(group) => standing.grown.remove(&group),
            GroupWork::Read(group) => standing.to_read.remove(&group),
        });
    }

    /// Waits until there is something to be done for a group at a peer.
    pub async fn wait_for_work(&self, realm: RealmId) {
        let work = self.standing(realm, |standing| Arc::clone(&standing.work));
        work.notified().await;
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
