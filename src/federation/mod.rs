//! What this realm has to do with its peers, and when (PEER-2, PEER-5 … PEER-7, PEER-10, PEER-11, PEER-13, PEER-14): one machine, driven by
//! events and time.
//!
//! [`Federation`] is handed what has happened as an [`Input`], and hands out what is to be done as [`Step`]s: to read, to ask a peer, or to
//! write. Each comes back as an input once it is done. It never waits in the middle of a decision, and knows no store, no sockets and no
//! clock, so that whatever happened between realms can be played again. Whoever has those drives it (`server/peering.rs`).
//!
//! For each peer one step is under way at a time (`peer.rs`):
//!
//! ```text
//!  ┌─▶ Looking ──┬─▶ (TellingKey) ─▶ Introducing ─▶ Noting ────┬─▶ more to do: Looking
//!  │             ├─▶ Telling, or LookingAtCopy ─▶ Reading ─▶   │
//!  │             │   Keeping, for its groups and ours          ├─▶ nothing to do: Idle
//!  │             └─▶ Asking ─▶ Settling, for its queue ────────┤
//!  └───────────────────────────────────────────────────────────┴─▶ not now: Waiting
//! ```

mod backoff;
mod maintenance;
mod peer;
mod queue;
mod reader;
mod side_tasks;
mod steps;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use rand::{SeedableRng as _, rngs::StdRng};

use self::{
    maintenance::Upkeep,
    peer::PeerTask,
    steps::{Doing, Next},
};
use crate::{
    realm::{
        Failure, Glance, GroupWork, Kept, Moment, Numbered, Outgoing, Peer, RealmIdentity,
        ReplicaLook, ReplicaState, Settling, Written,
    },
    wire::{ErrorCode, GroupName, RealmId},
};

/// How long what the store did not take, or could not read, is left alone.
const AGAIN: Duration = Duration::from_secs(10);
/// The longest time for which that which still cannot be read is left alone: it is twice as long each time.
const AGAIN_MAX: Duration = Duration::from_mins(5);

/// What is held of entries that are not whole yet, in bytes: of each peer in any case,
const HELD_OF_EACH: usize = 128 << 10;
/// and of all beyond that.
const HELD_OF_ALL: usize = 64 << 20;

/// Which step: what comes back of one that nobody waits for any more is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepId(u64);

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    /// Read which peers there are: [`Done::Peers`].
    ListPeers,
    /// Read which groups of a peer are copied here: [`Done::Copies`].
    ListCopies(RealmId),
    /// Look through what waits for these peers for messages whose time will be over: [`Done::Searched`].
    FindExpiries(Vec<RealmId>),
    /// Do what is left to be done for groups that have ended and realms that were removed: [`Done::Chores`].
    DoChores,
    /// Give messages back whose time is over before their turn: [`Done::GivenBack`].
    GiveBack,
    /// Read what is kept of a peer, and the message whose turn it is: [`Done::Looked`].
    Look {
        /// The peer.
        peer: RealmId,
        /// Whether others wait behind that message is asked, too.
        more: bool,
    },
    /// Ask a peer: [`Done::Answered`].
    Ask {
        /// The peer.
        peer: Arc<Peer>,
        /// The request.
        bytes: Vec<u8>,
    },
    /// Read how far the copy of a peer's group goes: [`Done::Copy`].
    LookAtCopy(Arc<Peer>, GroupName),
    /// Write down that a peer has accepted the peering, and how it numbers that if it has said so: [`Done::Written`].
    Introduced(Arc<Peer>, Option<Numbered>),
    /// Ask a peer at the address that it says of itself, and nowhere else: [`Done::Tried`].
    Try {
        /// The peer, as if it were there.
        peer: Arc<Peer>,
        /// The request.
        bytes: Vec<u8>,
    },
    /// Write down that a peer has answered at the address that it says of itself, and to which IP address that leads: [`Done::Written`].
    Claimed(Arc<Peer>, IpAddr),
    /// Write down what becomes of the message whose turn it is: [`Done::Written`].
    Settle(Arc<Peer>, Box<Outgoing>, Settling),
    /// Write down what a peer has in a group: [`Done::Written`].
    Keep(Arc<Peer>, GroupName, Box<(ReplicaState, Kept)>),
}

/// What has come of a step.
#[derive(Debug)]
pub enum Done {
    /// The peers that can be read, and whether these are all.
    Peers(Vec<Peer>, bool),
    /// The groups that are copied here. None when not all of them can be read.
    Copies(Option<Vec<GroupName>>),
    /// The peers of which all that waits could be read.
    Searched(Vec<RealmId>),
    /// Whether all of it is done.
    Chores(bool),
    /// When the next message's time is over, in seconds of the realm's running time.
    GivenBack(Option<u32>),
    /// What is kept of a peer, if it is one.
    Looked(Result<Option<Box<Glance>>, Failure>),
    /// What the peer has answered. None when it is silent.
    Answered(Option<Vec<u8>>),
    /// What the peer has answered, and from where. None when nobody is there.
    Tried(Option<(Vec<u8>, IpAddr)>),
    /// How far a copy goes.
    Copy(Box<ReplicaLook>),
    /// What has come of writing.
    Written(Written),
}

/// What has happened.
#[derive(Debug)]
pub enum Input {
    /// Peers have come, gone or changed.
    PeersChanged,
    /// More waits in the queue of a peer.
    Grown(RealmId),
    /// Something is to be done for a group at a peer.
    Work(RealmId, GroupWork),
    /// A peer has asked something, or has answered somebody who waits.
    Heard(RealmId),
    /// A peer is to be introduced to again: the two do not agree about the peering (PEER-27), or the links that this realm had opened to it are
    /// lost and it opens none itself (PEER-24).
    Lost(RealmId),
    /// A peer says of itself that it is at another address than is believed (PEER-23).
    Claimed(RealmId),
    /// A peer has opened a link, and is to see whether it can be called back (PEER-24).
    CallBack(RealmId),
    /// There is more to be done for groups that have ended, or realms that were removed.
    ChoreAdded,
    /// Other messages wait than before: when the next one's time is over, in seconds of the realm's running time.
    Expires(Option<u32>),
    /// A step is done.
    Done(StepId, Done),
}

/// Whose step one is.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Listing,
    Upkeep,
    Peer(RealmId),
}

/// How it stands with a peer, for people to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It has answered.
    Answers,
    /// It does not answer.
    Silent,
    /// It refuses the peering, and why.
    Refuses(ErrorCode),
    /// It is tried again after so long.
    Waits(Duration),
}

/// Federation as one machine.
#[derive(Debug)]
pub struct Federation {
    own: RealmIdentity,
    peers: BTreeMap<RealmId, PeerTask>,
    steps: VecDeque<(StepId, Step)>,
    news: VecDeque<(RealmId, News)>,
    /// Steps of which nothing is wanted any more.
    given_up: VecDeque<StepId>,
    under_way: BTreeMap<StepId, Whose>,
    last_step: u64,
    listing: Listing,
    upkeep: Upkeep,
    /// Peers that are listed now are told that this realm has started.
    is_start: bool,
    /// What is to be done for groups at peers that are not listed yet.
    early: BTreeMap<RealmId, BTreeSet<GroupWork>>,
    rng: StdRng,
}

/// How it stands with the list of peers.
#[derive(Debug, Default)]
struct Listing {
    is_under_way: bool,
    /// There has been a change since it was begun.
    is_outdated: bool,
    /// When it is read again, because not all of it could be read.
    again: Option<Duration>,
    wait: Duration,
}

impl Federation {
    /// The machine at a start of a realm. Its first step lists the peers.
    pub fn new(own: RealmIdentity, seed: u64) -> Self {
        let (upkeep, first) = Upkeep::new();
        let mut machine = Self {
            own,
            peers: BTreeMap::new(),
            steps: VecDeque::new(),
            news: VecDeque::new(),
            given_up: VecDeque::new(),
            under_way: BTreeMap::new(),
            last_step: 0,
            listing: Listing {
                wait: AGAIN,
                ..Listing::default()
            },
            upkeep,
            is_start: true,
            early: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
        };
        machine.list();
        machine.push(Whose::Upkeep, first);
        machine
    }

    /// The next thing to be done. Those of one peer are in order; those of several may be done at once.
    pub fn poll_step(&mut self) -> Option<(StepId, Step)> {
        self.steps.pop_front()
    }

    /// How it stands with a peer by now.
    pub fn poll_news(&mut self) -> Option<(RealmId, News)> {
        self.news.pop_front()
    }

    /// The next step that is of no interest any more: what it asks is to be asked no longer.
    pub fn poll_given_up(&mut self) -> Option<StepId> {
        self.given_up.pop_front()
    }

    /// When [`Federation::handle_timeout`] wants to be called next, in time since the start ([`Moment::since_start`]).
    pub fn poll_timeout(&self) -> Option<Duration> {
        let timeouts = self.peers.values().filter_map(PeerTask::timeout);
        let others = self.listing.again.into_iter().chain(self.upkeep.timeout());
        timeouts.chain(others).min()
    }

    /// Takes in what has happened.
    pub fn handle(&mut self, now: Moment, input: Input) {
        match input {
            Input::PeersChanged => self.list(),
            Input::Grown(realm) => self.tell(now, realm, |_, peer| peer.grown()),
            Input::Heard(realm) => self.tell(now, realm, |_, peer| peer.heard(now)),
            Input::Lost(realm) => self.tell(now, realm, |_, peer| peer.lost()),
            Input::Claimed(realm) => self.tell(now, realm, |_, peer| peer.claimed()),
            Input::CallBack(realm) => self.tell(now, realm, |_, peer| peer.call_back()),
            Input::Work(realm, work) if self.peers.contains_key(&realm) => {
                self.tell(now, realm, |_, peer| peer.add_work(work));
            }
            Input::Work(realm, work) => {
                if self.listing.is_under_way {
                    self.early.entry(realm).or_default().insert(work);
                }
            }
            Input::ChoreAdded => {
                let step = self.upkeep.added();
                self.keep_up(step);
            }
            Input::Expires(at) => self.upkeep.expires(now, at),
            Input::Done(step, done) => match (self.under_way.remove(&step), done) {
                (Some(Whose::Listing), Done::Peers(peers, are_all)) => {
                    self.listed(now, &peers, are_all);
                }
                (Some(Whose::Upkeep), Done::Chores(is_all)) => {
                    let step = self.upkeep.done(now, is_all);
                    self.keep_up(step);
                }
                (Some(Whose::Upkeep), Done::Searched(peers)) => self.upkeep.found(now, peers),
                (Some(Whose::Upkeep), Done::GivenBack(next)) => {
                    self.upkeep.given_back();
                    self.upkeep.expires(now, next);
                }
                (Some(Whose::Peer(realm)), done) => {
                    self.tell(now, realm, |own, peer| peer.done(own, now, step, done));
                }
                (Some(Whose::Listing | Whose::Upkeep) | None, _) => {}
            },
        }
    }

    /// Takes in that time has passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        if self.listing.again.is_some_and(|at| at <= now.since_start()) {
            self.list();
        }
        for step in self.upkeep.handle_timeout(now) {
            self.keep_up(step);
        }
        let is_due = |peer: &PeerTask| peer.timeout().is_some_and(|at| at <= now.since_start());
        let due: Vec<RealmId> = self
            .peers
            .iter()
            .filter(|(_, peer)| is_due(peer))
            .map(|(realm, _)| *realm)
            .collect();
        for realm in due {
            self.tell(now, realm, |_, peer| peer.handle_timeout(now));
        }
    }

    /// Reads the list of peers, or does so again once it is read.
    fn list(&mut self) {
        if self.listing.is_under_way {
            self.listing.is_outdated = true;
            return;
        }
        self.listing.is_under_way = true;
        self.listing.again = None;
        self.push(Whose::Listing, Step::ListPeers);
    }

    fn listed(&mut self, now: Moment, peers: &[Peer], are_all: bool) {
        self.listing.is_under_way = false;
        // Those that cannot be read are as they were.
        self.peers.retain(|realm, task| {
            let listed = peers.iter().find(|peer| peer.realm == *realm);
            listed.map_or(!are_all, |peer| task.is_of(peer))
        });
        self.give_up();
        for peer in peers {
            if self.peers.contains_key(&peer.realm) {
                continue;
            }
            // A start is told to all: what they have waiting then comes at once. Whoever becomes a peer later has just been talked to.
            let is_introduced = peer.is_introduced() && !self.is_start;
            let mut task = PeerTask::new(peer, is_introduced);
            // What it says of its address came before it was listed, or before the stop: that it is to be tried may have met nobody.
            let _ = task.claimed();
            for work in self.early.remove(&peer.realm).unwrap_or_default() {
                let _ = task.add_work(work);
            }
            self.peers.insert(peer.realm, task);
            self.tell(now, peer.realm, |_, peer| Some(peer.begin()));
        }
        let names = peers.iter().map(|peer| peer.realm);
        let step = self.upkeep.listed(names, are_all);
        self.keep_up(step);
        // Those that can be read later are told then.
        self.is_start &= !are_all;
        if are_all {
            self.early.clear();
            self.listing.wait = AGAIN;
        } else {
            self.listing.again = Some(now.since_start() + self.listing.wait);
            self.listing.wait = (self.listing.wait * 2).min(AGAIN_MAX);
        }
        if std::mem::take(&mut self.listing.is_outdated) {
            self.list();
        }
    }

    /// Lets a peer's task know something, and does what it wants done then.
    fn tell(
        &mut self,
        now: Moment,
        realm: RealmId,
        what: impl FnOnce(&RealmIdentity, &mut PeerTask) -> Option<Next>,
    ) {
        let Some(peer) = self.peers.get_mut(&realm) else {
            return;
        };
        let next = what(&self.own, peer);
        while let Some(news) = peer.take_news() {
            self.news.push_back((realm, news));
        }
        if let Some(next) = next {
            self.go_on(now, realm, next);
        }
        let peer = self.peers.get_mut(&realm);
        if let Some(step) = peer.and_then(|peer| peer.take_aside(now)) {
            let id = self.push(Whose::Peer(realm), step);
            if let Some(peer) = self.peers.get_mut(&realm) {
                peer.began_aside(id);
            }
        }
    }

    fn go_on(&mut self, now: Moment, realm: RealmId, next: Next) {
        match next {
            Next::Do(act) => {
                let (step, doing) = *act;
                if let Doing::Reading(_, reading) = &doing
                    && !self.may_hold(realm, reading.0.held())
                {
                    let group = reading.0.group();
                    if let Some(peer) = self.peers.get_mut(&realm) {
                        let next = peer.lacks_room(now, group);
                        self.go_on(now, realm, next);
                    }
                    return;
                }
                let id = self.push(Whose::Peer(realm), step);
                if let Some(peer) = self.peers.get_mut(&realm) {
                    peer.does(now, id, doing);
                }
            }
            Next::Wait(until) => {
                if let Some(peer) = self.peers.get_mut(&realm) {
                    let wait = peer.waits(now, until, &mut self.rng);
                    self.news.push_back((realm, News::Waits(wait)));
                }
            }
            Next::Nothing(again) => {
                if let Some(peer) = self.peers.get_mut(&realm) {
                    peer.rests(again);
                }
            }
            Next::End => {
                // Another may have the name by now.
                self.peers.remove(&realm);
                self.give_up();
                self.list();
            }
        }
    }

    /// What peers are asked that are none any more is asked no longer: it would be done there, though it is said here that it was not.
    fn give_up(&mut self) {
        let (peers, given_up) = (&self.peers, &mut self.given_up);
        self.under_way.retain(|id, whose| {
            let is_wanted = !matches!(whose, Whose::Peer(realm) if !peers.contains_key(realm));
            if !is_wanted {
                given_up.push_back(*id);
            }
            is_wanted
        });
    }

    /// True when there is room for so much of an entry of a peer's group that is not whole yet: each peer has a little, and all share the rest.
    fn may_hold(&self, realm: RealmId, held: usize) -> bool {
        let others = self.peers.iter().filter(|(other, _)| **other != realm);
        let over = |held: usize| held.saturating_sub(HELD_OF_EACH);
        let all: usize = others.map(|(_, peer)| over(peer.held())).sum();
        over(held) == 0 || all + over(held) <= HELD_OF_ALL
    }

    fn keep_up(&mut self, step: Option<Step>) {
        if let Some(step) = step {
            self.push(Whose::Upkeep, step);
        }
    }

    fn push(&mut self, whose: Whose, step: Step) -> StepId {
        self.last_step += 1;
        let id = StepId(self.last_step);
        self.under_way.insert(id, whose);
        self.steps.push_back((id, step));
        id
    }
}
