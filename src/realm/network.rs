//! The realm's way to other realms. The task that owns the sockets sends its questions for callers
//! that wait. The task that keeps in touch with peers does all other work with them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::Instant,
};

use super::{
    limits::PEER_CALLS_MAX,
    peer::{Dialing, LinkState, Peer},
    pending::Pending,
};
use crate::{
    crypto::PublicKey,
    wire::{self, ErrorCode, GroupName, RealmId},
};

/// How long to wait for the key at an address: a round trip may take a minute.
const WHO_PATIENCE: Duration = Duration::from_secs(75);

/// A question to another realm.
#[derive(Debug)]
pub enum PeerCall {
    /// Ask for the key of the realm at an address.
    Who {
        /// The host.
        address: String,
        /// The port.
        port: u16,
        /// Receives the key. Dropped if nothing answers.
        answer: oneshot::Sender<PublicKey>,
    },
    /// Ask a peer.
    Ask {
        /// The peer.
        peer: Box<Peer>,
        /// The request.
        bytes: Vec<u8>,
        /// True if a caller waits for it: no answer soon is better than a late one.
        is_awaited: bool,
        /// Whether a link may be opened for it.
        dialing: Dialing,
        /// Receives the answer. Dropped if there is none in time.
        answer: oneshot::Sender<Vec<u8>>,
    },
}

/// The state of the link to a peer.
#[derive(Clone, Copy, Debug, Default)]
struct Reachability {
    is_trying: bool,
    /// The error by which it refuses the peering, if it does.
    refused: Option<ErrorCode>,
    /// When the state or the refusal last changed.
    since: Option<Instant>,
    /// When the next attempt is.
    next: Option<Instant>,
    /// When it was last heard, in seconds since 1970.
    heard: u32,
}

impl Reachability {
    fn turn(&mut self, is_trying: bool, refused: Option<ErrorCode>) {
        if (self.is_trying, self.refused) != (is_trying, refused) || self.since.is_none() {
            self.since = Some(Instant::now());
        }
        (self.is_trying, self.refused) = (is_trying, refused);
    }
}

/// The state of a peer, for operators. Times are in seconds since 1970, or 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub state: wire::PeeringState,
    pub why: Option<ErrorCode>,
    pub since: u32,
    pub next: u32,
    pub heard: u32,
}

/// Work for a group at a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GroupWork {
    /// Tell the peer that the group has grown.
    Tell(GroupName),
    /// Read the group, which lives there.
    Read(GroupName),
}

/// What has happened since the last call of [`Network::signals`].
#[derive(Debug, Default)]
pub struct Signals {
    /// True if peers were added, removed or changed.
    pub are_peers_changed: bool,
    /// Peers that have sent a request, or have answered a caller that waits.
    pub heard: BTreeSet<RealmId>,
    /// Work for groups at peers.
    pub work: BTreeSet<(RealmId, GroupWork)>,
    /// Peers to try at the address that they claim.
    pub claims: BTreeSet<RealmId>,
    /// Peers to introduce this realm to again.
    pub introductions: BTreeSet<RealmId>,
}

impl Signals {
    fn is_empty(&self) -> bool {
        !self.are_peers_changed
            && self.heard.is_empty()
            && self.work.is_empty()
            && self.claims.is_empty()
            && self.introductions.is_empty()
    }
}

/// The way to other realms.
#[derive(Debug)]
pub struct Network {
    peer_calls: mpsc::Sender<PeerCall>,
    /// Where questions go instead, once a test has reconnected.
    #[cfg(test)]
    reconnected: Mutex<Option<mpsc::Sender<PeerCall>>>,
    reachability: Mutex<HashMap<RealmId, Reachability>>,
    signals: Mutex<Signals>,
    are_signals: Notify,
    pending: Mutex<Pending>,
}

impl Network {
    /// Returns the way to other realms, and the receiver of its questions.
    pub fn new() -> (Self, mpsc::Receiver<PeerCall>) {
        let (peer_calls, taken) = mpsc::channel(PEER_CALLS_MAX);
        let network = Self {
            peer_calls,
            #[cfg(test)]
            reconnected: Mutex::default(),
            reachability: Mutex::default(),
            signals: Mutex::default(),
            are_signals: Notify::new(),
            pending: Mutex::default(),
        };
        (network, taken)
    }

    /// Returns a new receiver of its questions, in place of the former one.
    #[cfg(test)]
    pub fn reconnect(&self) -> mpsc::Receiver<PeerCall> {
        let (peer_calls, taken) = mpsc::channel(PEER_CALLS_MAX);
        *self.reconnected.lock().unwrap() = Some(peer_calls);
        *self.signals.lock().unwrap() = Signals::default();
        self.reachability.lock().unwrap().clear();
        *self.pending.lock().unwrap() = Pending::default();
        taken
    }

    /// Puts a question. `None` if nobody takes questions any more.
    async fn call(&self, call: PeerCall) -> Option<()> {
        #[cfg(test)]
        let reconnected = self.reconnected.lock().unwrap().clone();
        #[cfg(test)]
        if let Some(reconnected) = reconnected {
            return reconnected.send(call).await.ok();
        }
        self.peer_calls.send(call).await.ok()
    }

    pub(super) async fn who(&self, address: &str, port: u16) -> Option<PublicKey> {
        let (answer, answered) = oneshot::channel();
        let address = address.into();
        let call = PeerCall::Who {
            address,
            port,
            answer,
        };
        self.call(call).await?;
        tokio::time::timeout(WHO_PATIENCE, answered)
            .await
            .ok()?
            .ok()
    }

    /// Asks a peer on behalf of a caller that waits. Returns `None` if the peer is silent; how long
    /// this takes depends on the path to it.
    pub(super) async fn ask(&self, peer: &Peer, bytes: Vec<u8>) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let (peer, dialing) = (Box::new(peer.clone()), peer.dialing());
        let call = PeerCall::Ask {
            peer,
            bytes,
            is_awaited: true,
            dialing,
            answer,
        };
        self.call(call).await?;
        answered.await.ok()
    }

    fn signal(&self, add: impl FnOnce(&mut Signals)) {
        let mut signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        add(&mut signals);
        self.are_signals.notify_one();
    }

    /// Waits until something has happened, and returns all that has happened since the last call.
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

    /// Adds work for a group at a peer.
    pub fn add_work(&self, realm: RealmId, work: GroupWork) {
        self.signal(|signals| {
            signals.work.insert((realm, work));
        });
    }

    /// Requests another introduction to a peer.
    pub(super) fn introduction_due(&self, realm: RealmId) {
        self.signal(|signals| {
            signals.introductions.insert(realm);
        });
    }

    /// Requests one attempt at the address that a peer claims.
    pub(super) fn claim_to_try(&self, realm: RealmId) {
        self.signal(|signals| {
            signals.claims.insert(realm);
        });
    }

    fn with_link<T>(&self, realm: RealmId, change: impl FnOnce(&mut Reachability) -> T) -> T {
        let mut reachability = self
            .reachability
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        change(reachability.entry(realm).or_default())
    }

    /// Notes that a peer has sent a request: its queue need not wait any longer.
    pub(super) fn heard(&self, realm: RealmId, now: u32) {
        self.answers(realm, now);
        self.signal(|signals| {
            signals.heard.insert(realm);
        });
    }

    /// Notes that a peer has answered a caller that waits.
    pub(super) fn reached(&self, realm: RealmId) {
        self.with_link(realm, |link| link.turn(false, link.refused));
        self.signal(|signals| {
            signals.heard.insert(realm);
        });
    }

    /// Returns why a peer does not take deliveries, if that is known.
    pub(super) fn trouble_with(&self, realm: RealmId) -> Option<ErrorCode> {
        self.with_link(realm, |link| {
            let silent = link.is_trying.then_some(ErrorCode::RealmUnreachable);
            link.refused.or(silent)
        })
    }

    /// Notes that a peer has moved, as an operator says: it is tried there now.
    pub(super) fn moved(&self, realm: RealmId) {
        self.with_link(realm, |link| link.turn(true, link.refused));
        self.signal(|signals| {
            signals.introductions.insert(realm);
            signals.heard.insert(realm);
        });
    }

    /// Notes that a peer answers.
    pub fn answers(&self, realm: RealmId, now: u32) {
        self.with_link(realm, |link| {
            link.turn(false, None);
            link.heard = now;
        });
    }

    /// Notes that a peer does not answer.
    pub fn silent(&self, realm: RealmId) {
        self.with_link(realm, |link| link.turn(true, link.refused));
    }

    /// Notes that a peer refuses the peering.
    pub fn refused(&self, realm: RealmId, why: ErrorCode) {
        self.with_link(realm, |link| {
            link.turn(link.is_trying, Some(why));
        });
    }

    /// Notes that a peer is tried again after a wait.
    pub fn waits(&self, realm: RealmId, wait: Duration) {
        self.with_link(realm, |link| {
            link.next = Some(Instant::now() + wait);
        });
    }

    /// Runs `change` on the realms that have introduced themselves and wait for a decision.
    pub(super) fn pending<T>(&self, change: impl FnOnce(&mut Pending) -> T) -> T {
        let pending = self.pending.lock();
        change(&mut pending.unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the state of a peer, for operators.
    pub(super) fn seen(&self, peer: &Peer, now: u32) -> Seen {
        let (state, heard) = self.state_of(peer);
        self.with_link(peer.realm, |link| {
            let state = match state {
                LinkState::Idle => wire::PeeringState::Idle,
                LinkState::Open => wire::PeeringState::Open,
                LinkState::Trying | LinkState::NotAccepted if link.refused.is_some() => {
                    wire::PeeringState::Refused
                }
                LinkState::Trying => wire::PeeringState::Trying,
                LinkState::NotAccepted if link.is_trying => wire::PeeringState::Trying,
                LinkState::NotAccepted => wire::PeeringState::Introduced,
            };
            let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            let since = link.since.map(|since| seconds(since.elapsed()));
            let next = link
                .next
                .map(|at| at.saturating_duration_since(Instant::now()));
            Seen {
                state,
                why: link.refused,
                since: since.map_or(0, |ago| now.saturating_sub(ago)),
                next: match next {
                    None | Some(Duration::ZERO) => 0,
                    Some(left) => now.saturating_add(seconds(left)),
                },
                heard,
            }
        })
    }

    /// Drops the state of all realms that are not in `peers`; it may have been noted late.
    pub fn know_only(&self, peers: &[Peer]) {
        let names: BTreeSet<RealmId> = peers.iter().map(|peer| peer.realm).collect();
        let reachability = self.reachability.lock();
        let mut reachability = reachability.unwrap_or_else(PoisonError::into_inner);
        reachability.retain(|realm, _| names.contains(realm));
    }

    /// Drops the state of a removed peer, so that the next realm of that name begins without it.
    pub(super) fn forget(&self, realm: RealmId) {
        let mut reachability = self
            .reachability
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        reachability.remove(&realm);
        drop(reachability);
        self.signal(|signals| {
            signals.heard.remove(&realm);
            signals.claims.remove(&realm);
            signals.introductions.remove(&realm);
            signals.work.retain(|(other, _)| *other != realm);
            signals.are_peers_changed = true;
        });
    }

    /// Returns the state of a peer as `realms` returns it, and when it was last heard.
    pub(super) fn state_of(&self, peer: &Peer) -> (LinkState, u32) {
        self.with_link(peer.realm, |link| {
            let is_accepted = peer.is_introduced() && link.refused.is_none();
            let state = match (is_accepted, link.is_trying) {
                (false, _) => LinkState::NotAccepted,
                (true, true) => LinkState::Trying,
                (true, false) if link.heard > 0 => LinkState::Open,
                (true, false) => LinkState::Idle,
            };
            (state, link.heard)
        })
    }
}
