//! The federation state machine: decides which work this realm does for its peers, and when
//! (PEER-2, PEER-5 … PEER-7, PEER-10, PEER-11, PEER-13, PEER-14). Events and time drive it.
//!
//! [`Federation`] takes events as [`Input`]s and emits [`Step`]s: to read, to ask a peer, or to
//! write. The result of each step comes back as an input. The machine never blocks inside a
//! decision. It has no store, no sockets and no clock, so any sequence of events between realms can
//! be replayed in a test. `server/peering.rs` drives it and carries out the steps.
//!
//! Each peer has one step under way at a time (`peer.rs`):
//!
//! ```text
//!  ┌─▶ Look ──┬─▶ (RotateKey) ─▶ Introduce ─▶ StoreIntroduction ────────┬─▶ more to do: Look
//!  │          ├─▶ SendHint, or LookAtReplica ─▶ ReadGroup ─▶            │
//!  │          │   StoreEntries, for its groups and ours                 ├─▶ nothing to do: Idle
//!  │          └─▶ AskAboutMessage ─▶ StoreOutcome, for its queue ───────┤
//!  └────────────────────────────────────────────────────────────────────┴─▶ not now: Waiting
//! ```

mod backoff;
mod listing;
mod maintenance;
mod peer;
mod peer_links;
mod queue;
mod reader;
mod side_tasks;
mod step_queue;
mod steps;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};

pub use self::peer_links::{Opener, PeerLinkCounters, PeerLinks, Seat, SeatSearch};
use self::{
    listing::Listing,
    maintenance::Maintenance,
    peer::PeerTask,
    step_queue::{Owner, StepQueue},
    steps::{Decision, PendingStep},
};
#[cfg(test)]
pub use self::{
    queue::{Content, Refusals, Turn, Verdict, turn, verdict},
    reader::{Reader, Reading},
};
use crate::{
    realm::{
        Failure, Glance, GroupWork, Kept, Moment, Outgoing, Peer, RealmIdentity, ReplicaLook,
        ReplicaState, Settling, Written,
    },
    wire::{ErrorCode, GroupName, Numbered, RealmId},
};

/// How long the machine waits before it retries a read or write that the store failed.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest wait before a failed read is retried. The wait doubles after each failure.
const AGAIN_MAX: Duration = Duration::from_mins(5);

/// The guaranteed buffer of each peer for incomplete entries, in bytes.
const HELD_OF_EACH: usize = 128 << 10;
/// The shared buffer of all peers for incomplete entries beyond [`HELD_OF_EACH`], in bytes.
const HELD_OF_ALL: usize = 64 << 20;

/// Identifies a step. The machine ignores the result of a step that it no longer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(u64);

/// A step that the driver has to carry out. The named [`StepResult`] variant is its result.
#[derive(Debug)]
pub enum Step {
    /// Read the list of peers: [`StepResult::Peers`].
    ListPeers,
    /// Read which groups of a peer have a replica here: [`StepResult::Replicas`].
    ListReplicas(RealmId),
    /// Search the queues of these peers for messages that will expire: [`StepResult::Searched`].
    FindExpiries(Vec<RealmId>),
    /// Finish pending cleanup for ended groups and removed realms: [`StepResult::CleanedUp`].
    CleanUp,
    /// Return messages to their senders that expired before their turn:
    /// [`StepResult::ExpiredReturned`].
    ReturnExpired,
    /// Read the stored state of a peer and the message at the head of its queue:
    /// [`StepResult::Looked`].
    Look {
        /// The peer.
        peer: RealmId,
        /// True to also read whether other messages wait behind that message.
        more: bool,
    },
    /// Send a request to a peer: [`StepResult::Answered`].
    Ask {
        /// The peer.
        peer: Arc<Peer>,
        /// The request.
        bytes: Vec<u8>,
    },
    /// Read how far the replica of a peer's group goes: [`StepResult::Replica`].
    LookAtReplica(Arc<Peer>, GroupName),
    /// Store that a peer has accepted the peering, and its peering number if it gave one:
    /// [`StepResult::Written`].
    StoreIntroduction(Arc<Peer>, Option<Numbered>),
    /// Send a request to a peer at its claimed address only: [`StepResult::Tried`].
    TryClaim {
        /// The peer, with the claimed address as its address.
        peer: Arc<Peer>,
        /// The request.
        bytes: Vec<u8>,
    },
    /// Store that a peer has answered at its claimed address, and the IP address that this resolves
    /// to: [`StepResult::Written`].
    StoreClaim(Arc<Peer>, IpAddr),
    /// Store the outcome of the message at the head of the queue: [`StepResult::Written`].
    StoreOutcome(Arc<Peer>, Box<Outgoing>, Settling),
    /// Store the entries that a peer has in a group: [`StepResult::Written`].
    StoreEntries(Arc<Peer>, GroupName, Box<(ReplicaState, Kept)>),
}

/// The result of a step.
#[derive(Debug)]
pub enum StepResult {
    /// The readable peers, and true if these are all peers.
    Peers(Vec<Peer>, bool),
    /// The groups that have a replica here. None when not all of them can be read.
    Replicas(Option<Vec<GroupName>>),
    /// The peers whose whole queue could be read.
    Searched(Vec<RealmId>),
    /// True if no cleanup is left.
    CleanedUp(bool),
    /// When the next message expires, in seconds of the realm's running time.
    ExpiredReturned(Option<u32>),
    /// The stored state of the peer. None if that realm is no peer.
    Looked(Result<Option<Box<Glance>>, Failure>),
    /// The peer's answer. None when it is silent.
    Answered(Option<Vec<u8>>),
    /// The peer's answer and its IP address. None when nobody answers there.
    Tried(Option<(Vec<u8>, IpAddr)>),
    /// How far the replica goes.
    Replica(Box<ReplicaLook>),
    /// The result of a write.
    Written(Written),
}

/// An event.
#[derive(Debug)]
pub enum Input {
    /// Peers were added, removed or changed.
    PeersChanged,
    /// A message was added to the queue of a peer.
    QueueGrown(RealmId),
    /// There is work for a group at a peer.
    GroupWork(RealmId, GroupWork),
    /// A peer has sent a request, or has answered a request outside this machine.
    Heard(RealmId),
    /// This realm has to introduce itself to a peer again. Either the two disagree about the
    /// peering (PEER-27), or this realm's links to the peer are lost and the peer opens none itself
    /// (PEER-24).
    Reintroduce(RealmId),
    /// A peer claims another address than the stored one (PEER-23).
    AddressClaimed(RealmId),
    /// A peer has opened a link. This realm should check that it can open a link back (PEER-24).
    DialBack(RealmId),
    /// There is more cleanup for ended groups or removed realms.
    CleanupAdded,
    /// The set of waiting messages has changed. Holds when the next one expires, in seconds of the
    /// realm's running time.
    Expires(Option<u32>),
    /// The result of a step.
    StepDone(StepId, StepResult),
}

/// The state of a peer, for log and status output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerStatus {
    /// The peer has answered.
    Answering,
    /// The peer does not answer.
    Silent,
    /// The peer refuses the peering, with this error code.
    Refusing(ErrorCode),
    /// The peer is retried after this time.
    Waiting(Duration),
}

/// The federation state machine.
#[derive(Debug)]
pub struct Federation {
    own: RealmIdentity,
    peers: BTreeMap<RealmId, PeerTask>,
    steps: StepQueue,
    statuses: VecDeque<(RealmId, PeerStatus)>,
    listing: Listing,
    maintenance: Maintenance,
    rng: StdRng,
}

impl Federation {
    /// Creates the machine at the start of a realm. Its first step lists the peers.
    pub fn new(own: RealmIdentity, seed: u64) -> Self {
        let (maintenance, first) = Maintenance::new();
        let mut machine = Self {
            own,
            peers: BTreeMap::new(),
            steps: StepQueue::default(),
            statuses: VecDeque::new(),
            listing: Listing::new(),
            maintenance,
            rng: StdRng::seed_from_u64(seed),
        };
        machine.list();
        machine.steps.push(Owner::Maintenance, first);
        machine
    }

    /// Returns the next step. Steps of one peer come in order. Steps of different peers may run at
    /// the same time.
    pub fn poll_step(&mut self) -> Option<(StepId, Step)> {
        self.steps.pop()
    }

    /// Returns the next change in the state of a peer.
    pub fn poll_status(&mut self) -> Option<(RealmId, PeerStatus)> {
        self.statuses.pop_front()
    }

    /// Returns the next cancelled step. The driver must stop sending its request.
    pub fn poll_cancelled(&mut self) -> Option<StepId> {
        self.steps.pop_cancelled()
    }

    /// Returns when [`Federation::handle_timeout`] must be called next, in time since the start
    /// ([`Moment::since_start`]).
    pub fn poll_timeout(&self) -> Option<Duration> {
        let timeouts = self.peers.values().filter_map(PeerTask::timeout);
        let listing = self.listing.timeout().into_iter();
        let others = listing.chain(self.maintenance.timeout());
        timeouts.chain(others).min()
    }

    /// Handles an event.
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::PeersChanged => self.list(),
            Input::QueueGrown(realm) => self.with_peer(now, realm, |_, peer| peer.grown()),
            Input::Heard(realm) => self.with_peer(now, realm, |_, peer| peer.heard(now)),
            Input::Reintroduce(realm) => self.with_peer(now, realm, |_, peer| peer.reintroduce()),
            Input::AddressClaimed(realm) => self.with_peer(now, realm, |_, peer| peer.claimed()),
            Input::DialBack(realm) => self.with_peer(now, realm, |_, peer| peer.dial_back()),
            Input::GroupWork(realm, work) if self.peers.contains_key(&realm) => {
                self.with_peer(now, realm, |_, peer| peer.add_work(work));
            }
            Input::GroupWork(realm, work) => {
                self.listing.add_early(realm, work);
            }
            Input::CleanupAdded => {
                let step = self.maintenance.added();
                self.push_maintenance(step);
            }
            Input::Expires(at) => self.maintenance.expires(now, at),
            Input::StepDone(step, result) => match (self.steps.ended(step), result) {
                (Some(Owner::Listing), StepResult::Peers(peers, are_all)) => {
                    self.listed(now, &peers, are_all);
                }
                (Some(Owner::Maintenance), StepResult::CleanedUp(is_all)) => {
                    let step = self.maintenance.done(now, is_all);
                    self.push_maintenance(step);
                }
                (Some(Owner::Maintenance), StepResult::Searched(peers)) => {
                    self.maintenance.found(now, peers);
                }
                (Some(Owner::Maintenance), StepResult::ExpiredReturned(next)) => {
                    self.maintenance.returned();
                    self.maintenance.expires(now, next);
                }
                (Some(Owner::Peer(realm)), result) => {
                    self.with_peer(now, realm, |own, peer| peer.done(own, now, step, result));
                }
                // A cancelled step.
                (None, _) => {}
                // A step never returns the result of another step.
                (Some(owner @ (Owner::Listing | Owner::Maintenance)), result) => {
                    debug_assert!(false, "a step of {owner:?} came back as {result:?}");
                }
            },
        }
    }

    /// Handles timers that are due.
    pub fn handle_timeout(&mut self, now: Moment) {
        if self
            .listing
            .timeout()
            .is_some_and(|at| at <= now.since_start())
        {
            self.list();
        }
        for step in self.maintenance.handle_timeout(now) {
            self.push_maintenance(step);
        }
        let is_due = |peer: &PeerTask| peer.timeout().is_some_and(|at| at <= now.since_start());
        let due: Vec<RealmId> = self
            .peers
            .iter()
            .filter(|(_, peer)| is_due(peer))
            .map(|(realm, _)| *realm)
            .collect();
        for realm in due {
            self.with_peer(now, realm, |_, peer| peer.handle_timeout(now));
        }
    }

    /// Reads the list of peers. If a read is under way, another one follows it.
    fn list(&mut self) {
        if self.listing.begin() {
            self.steps.push(Owner::Listing, Step::ListPeers);
        }
    }

    fn listed(&mut self, now: Moment, peers: &[Peer], are_all: bool) {
        self.listing.ended();
        // A peer that could not be read keeps its task.
        self.peers.retain(|realm, task| {
            let listed = peers.iter().find(|peer| peer.realm == *realm);
            listed.map_or(!are_all, |peer| task.is_of(peer))
        });
        self.cancel_steps();
        for peer in peers {
            if self.peers.contains_key(&peer.realm) {
                continue;
            }
            // After a start, this realm introduces itself to every peer, so that their queued
            // messages arrive at once. A peer that is added later has just been in contact.
            let is_introduced = peer.is_introduced() && !self.listing.is_start();
            let mut task = PeerTask::new(peer, is_introduced);
            // The peer may have claimed an address before it was listed or before the last stop.
            // The event for that may have been lost.
            let _ = task.claimed();
            for work in self.listing.take_early(&peer.realm) {
                let _ = task.add_work(work);
            }
            self.peers.insert(peer.realm, task);
            self.with_peer(now, peer.realm, |_, peer| Some(peer.begin()));
        }
        let names = peers.iter().map(|peer| peer.realm);
        let step = self.maintenance.listed(names, are_all);
        self.push_maintenance(step);
        if self.listing.handled(now.since_start(), are_all) {
            self.list();
        }
    }

    /// Calls `what` on a peer's task and carries out the decision it returns.
    fn with_peer(
        &mut self,
        now: Moment,
        realm: RealmId,
        what: impl FnOnce(&RealmIdentity, &mut PeerTask) -> Option<Decision>,
    ) {
        let Some(peer) = self.peers.get_mut(&realm) else {
            return;
        };
        let next = what(&self.own, peer);
        while let Some(status) = peer.take_status() {
            self.statuses.push_back((realm, status));
        }
        if let Some(next) = next {
            self.apply(now, realm, next);
        }
        let peer = self.peers.get_mut(&realm);
        if let Some(step) = peer.and_then(|peer| peer.take_side_step(now)) {
            let id = self.steps.push(Owner::Peer(realm), step);
            if let Some(peer) = self.peers.get_mut(&realm) {
                peer.began_side_step(id);
            }
        }
    }

    fn apply(&mut self, now: Moment, realm: RealmId, decision: Decision) {
        match decision {
            Decision::Begin(act) => {
                let (step, pending) = *act;
                if let PendingStep::ReadGroup(_, reading) = &pending
                    && !self.may_hold(realm, reading.0.held())
                {
                    let group = reading.0.group();
                    if let Some(peer) = self.peers.get_mut(&realm) {
                        let next = peer.lacks_room(now, group);
                        self.apply(now, realm, next);
                    }
                    return;
                }
                let id = self.steps.push(Owner::Peer(realm), step);
                if let Some(peer) = self.peers.get_mut(&realm) {
                    peer.begun(now, id, pending);
                }
            }
            Decision::Wait(until) => {
                if let Some(peer) = self.peers.get_mut(&realm) {
                    let wait = peer.wait(now, until, &mut self.rng);
                    self.statuses.push_back((realm, PeerStatus::Waiting(wait)));
                }
            }
            Decision::Idle(again) => {
                if let Some(peer) = self.peers.get_mut(&realm) {
                    peer.idle(again);
                }
            }
            Decision::Remove => {
                // Another realm may use this name now.
                self.peers.remove(&realm);
                self.cancel_steps();
                self.list();
            }
        }
    }

    /// Cancels the steps of removed peers. A removed peer could otherwise still carry out a request
    /// that was reported as failed here.
    fn cancel_steps(&mut self) {
        let peers = &self.peers;
        self.steps.cancel_unless(|realm| peers.contains_key(realm));
    }

    /// True if there is buffer space for `held` bytes of an incomplete entry of a peer's group.
    /// Each peer has [`HELD_OF_EACH`]; all peers share [`HELD_OF_ALL`] beyond that.
    fn may_hold(&self, realm: RealmId, held: usize) -> bool {
        let others = self.peers.iter().filter(|(other, _)| **other != realm);
        let over = |held: usize| held.saturating_sub(HELD_OF_EACH);
        let all: usize = others.map(|(_, peer)| over(peer.held())).sum();
        over(held) == 0 || all + over(held) <= HELD_OF_ALL
    }

    fn push_maintenance(&mut self, step: Option<Step>) {
        if let Some(step) = step {
            self.steps.push(Owner::Maintenance, step);
        }
    }
}
