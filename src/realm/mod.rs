//! The rules of chat: accounts, sessions, mailboxes, and commands that take effect exactly once.
//!
//! A [`Realm`] takes commands as bytes, with the caller and the time, and returns answers. It knows
//! no packets and no sockets. All that it must remember is in its [`Store`]. An answer of `ok`
//! means that the effect is durable. Normative text: `spec/commands.md`.

mod account;
mod accounts;
mod commands;
mod credentials;
mod current_session;
mod departures;
mod failure;
mod groups;
mod handling;
mod housekeeping;
mod idempotency;
mod identity;
pub(crate) mod limits;
mod link_owner;
mod lives;
mod mailboxes;
mod message_content;
mod network;
mod notice;
mod peer;
mod peer_quota;
mod peer_requests;
mod peers;
mod pending;
mod queues;
mod random;
mod records;
mod retention;
mod sessions;
mod shared;
mod short_hash;
mod storage;
mod time;
mod watchers;
mod watching;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use account::Account;
pub(crate) use commands::asking::refusal_of_peer;
pub use failure::Failure;
pub(crate) use groups::replicas::{Kept, ReplicaLook, ReplicaState};
pub use handling::{Effect, Handled};
pub use housekeeping::Pass;
pub(crate) use idempotency::dedup_windows::{OWNER_BYTES, OWNERS_MAX};
pub use identity::{Peering, RealmIdentity, Registration};
use limits::Limiter;
pub use limits::{Limits, Rates};
pub use link_owner::Greeting;
pub(crate) use lives::LifeNews;
pub(crate) use mailboxes::watch_memory::WATCH_BYTES;
pub use network::{GroupWork, Network, PeerCall, Signals};
pub use peer::{Dialing, Peer};
pub(crate) use peer_requests::introductions::HOST_MAX;
pub(crate) use queues::delivery::{Glance, NextOutgoing, Outgoing, Settling};
pub(crate) use queues::shares::{QUEUE_MAX, SHARE_BYTES};
pub use retention::{Keeping, Retention, RetentionPolicy};
pub(crate) use sessions::tickets::{FoundTicket, Returning};
pub use storage::Written;
pub use time::Moment;
pub use watchers::Watcher;
pub use watching::{Backlog, Push, Watch};

use rand::{Rng as _, SeedableRng, rngs::StdRng};
use tokio::sync::Notify;

use self::{
    accounts::Accounts,
    credentials::Credentials,
    departures::Departures,
    groups::{Groups, vouchers::Posts},
    idempotency::Idempotency,
    lives::Lives,
    mailboxes::{
        Mailboxes, blocks::Blocks, cursors::ReadCursors, sweep::Sweeper, watch_memory::WatchMemory,
    },
    peer_quota::PeerQuota,
    peers::Peers,
    queues::{PeerQueues, shares::QueueShares},
    random::Random,
    sessions::{Sessions, known_locations::KnownLocations, tickets::Tickets},
    shared::Shared,
    storage::Storage,
    time::RunningTime,
};
use crate::{
    crypto::{PublicKey, SecretKey},
    faults::{Fault, is_planted},
    store::Store,
    subnet::Subnet,
    wire::{Answer, Refusal},
};

/// How often a command is decided at most, when the values that it read have changed meanwhile.
const ATTEMPTS_MAX: u32 = 16;
/// How long a client is asked to wait when the disk is full, in milliseconds.
const DISK_FULL_MS: u64 = 10_000;

/// What a link has proven about the sender of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A plain link: it has no keys.
    Plain,
    /// A sealed link: both sides have proven their keys.
    Sealed {
        /// The device's key.
        device: PublicKey,
        /// The realm's key that the link uses.
        own: PublicKey,
    },
}

impl Origin {
    /// Returns the origin of the commands that come over a link with these keys. A plain link has
    /// none.
    pub const fn of_link(device: Option<PublicKey>, own: Option<PublicKey>) -> Self {
        match (device, own) {
            (Some(device), Some(own)) => Self::Sealed { device, own },
            // A link with only one key proves nothing.
            (Some(_), None) | (None, Some(_) | None) => Self::Plain,
        }
    }
}

/// Whether what a command carries stays secret when a key becomes known later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// It does.
    Forward,
    /// It does not: the command came in the first message of a handshake, which anybody may have
    /// recorded, or over a resumed link.
    Early,
}

/// How long an answer may be, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    /// The inline answer limit: a longer answer does not fit one datagram.
    pub inline: usize,
    /// The answer limit: a longer answer cannot travel at all.
    pub total: usize,
}

/// The sender of a command, and the time of the command.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// What its link has proven.
    pub origin: Origin,
    /// The subnet that the command comes from.
    pub subnet: Subnet,
    /// Whether the command stays secret.
    pub secrecy: Secrecy,
    /// How long the answer may be.
    pub answer_limits: AnswerLimits,
    /// True if the positions that the device remembers are of this store: it claimed no life that
    /// the store does not know (READ-9).
    pub trusts_cursors: bool,
    /// True if [`Handled::account`] is needed: the link has no account yet.
    pub asks_account: bool,
    /// The time.
    pub now: Moment,
}

impl Caller {
    /// Returns the device's key. `None` on a plain link.
    pub const fn device(&self) -> Option<PublicKey> {
        match self.origin {
            Origin::Sealed { device, .. } => Some(device),
            Origin::Plain => None,
        }
    }

    /// Returns the realm's key that the link uses. `None` on a plain link.
    const fn own(&self) -> Option<PublicKey> {
        match self.origin {
            Origin::Sealed { own, .. } => Some(own),
            Origin::Plain => None,
        }
    }
}

/// An answer is too long. Holds the length of the longest answer that can travel, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(usize);

impl TooLong {
    /// Returns the refusal that is sent instead.
    pub fn into_handled<S>(self) -> Handled<S> {
        Handled {
            answer: self.to_bytes(),
            effect: Effect::None,
            account: None,
            operation: None,
        }
    }

    /// Returns the answer that is sent instead.
    pub fn to_bytes(self) -> Vec<u8> {
        Answer::Refused(Refusal::too_large(self.0 as u64)).to_bytes()
    }
}

/// The rules of chat, over a store. Each service owns its part of the state, and knows only the
/// services above it in this list; commands and requests of peers, which are methods of the realm,
/// may use them all.
#[derive(Debug)]
pub struct Realm<S> {
    pub(crate) storage: Arc<Storage<S>>,
    pub(crate) running: Arc<RunningTime<S>>,
    policy: Arc<RetentionPolicy<S>>,
    pub(crate) lives: Arc<Lives<S>>,
    idempotency: Arc<Idempotency<S>>,
    credentials: Arc<Credentials>,
    accounts: Accounts<S>,
    pub(crate) peers: Arc<Peers<S>>,
    posts: Arc<Posts<S>>,
    pub(crate) groups: Arc<Groups<S>>,
    pub(crate) queues: Arc<PeerQueues<S>>,
    quota: PeerQuota<S>,
    cursors: Arc<ReadCursors<S>>,
    blocks: Arc<Blocks<S>>,
    mailboxes: Arc<Mailboxes<S>>,
    sweeper: Arc<Sweeper<S>>,
    locations: Arc<KnownLocations<S>>,
    sessions: Arc<Sessions<S>>,
    pub(crate) tickets: Tickets<S>,
    pub(crate) departures: Departures<S>,
    own: Arc<RealmIdentity>,
    limits: Limits,
    limiter: Arc<Limiter>,
    network: Arc<Network>,
    /// Wakes the work for the members of a group that has ended.
    chores: Arc<Notify>,
}

/// Draws an epoch for the queues to peers.
fn epoch(rng: &mut StdRng) -> u64 {
    if is_planted(Fault::OneEpoch) {
        return 1;
    }
    // 0 stands for none.
    rng.next_u64().max(1)
}

impl<S: Store> Realm<S> {
    /// Returns a realm over what `store` holds.
    ///
    /// `lasting` is a secret that stays the same when the realm's key changes: session ids are made
    /// with it. Randomness comes from `seed`.
    pub fn new(
        store: S,
        lasting: &SecretKey,
        own: RealmIdentity,
        limits: Limits,
        network: Network,
        seed: [u8; 32],
    ) -> std::io::Result<Self> {
        let mut rng = StdRng::from_seed(seed);
        let limiter = Arc::new(Limiter::new(limits.rates, &mut rng));
        let epoch = epoch(&mut rng);
        let shared = Shared {
            storage: Arc::new(Storage::new(store)),
            random: Arc::new(Random::new(rng)),
            own: Arc::new(own),
            limits,
            limiter,
            network: Arc::new(network),
            chores: Arc::new(Notify::new()),
        };
        let storage = || shared.storage.clone();
        let running = Arc::new(RunningTime::new(storage()));
        let policy = Arc::new(RetentionPolicy::new(storage()));
        let lives = Lives::new(storage(), shared.random.clone(), policy.clone());
        let lives = Arc::new(lives);
        let idempotency = Arc::new(Idempotency::new(storage()));
        let (random, limiter) = (shared.random.clone(), shared.limiter.clone());
        let credentials = Credentials::start(random, limiter, limits.password_threads)?;
        let credentials = Arc::new(credentials);
        let accounts = Accounts::new(&shared, policy.clone(), credentials.clone());
        let peers = Arc::new(Peers::new(&shared, lives.clone()));
        let posts = Arc::new(Posts::new(&shared, running.clone()));
        let groups = Groups::new(&shared, posts.clone(), peers.clone(), credentials.clone());
        let groups = Arc::new(groups);
        let queues = Arc::new(PeerQueues::new(
            &shared,
            idempotency.clone(),
            peers.clone(),
            posts.clone(),
            groups.clone(),
            QueueShares::new(lasting),
            epoch,
        ));
        let quota = PeerQuota::new(&shared, peers.clone(), queues.clone());
        let cursors = ReadCursors::new(storage(), peers.clone(), groups.clone());
        let cursors = Arc::new(cursors);
        let blocks = Arc::new(Blocks::new(&shared));
        let memory = WatchMemory::new(limits.watch_memory);
        let mailboxes = Mailboxes::new(&shared, groups.clone(), cursors.clone(), memory);
        let mailboxes = Arc::new(mailboxes);
        let sweeper = Arc::new(Sweeper::new(
            storage(),
            policy.clone(),
            cursors.clone(),
            blocks.clone(),
            mailboxes.clone(),
        ));
        let locations = Arc::new(KnownLocations::new(storage(), lasting));
        let sessions = Arc::new(Sessions::new(
            &shared,
            idempotency.clone(),
            cursors.clone(),
            locations.clone(),
            lasting,
        ));
        let tickets = Tickets::new(storage(), sessions.clone());
        let departures = Departures::new(
            &shared,
            peers.clone(),
            posts.clone(),
            groups.clone(),
            queues.clone(),
            mailboxes.clone(),
            sweeper.clone(),
        );
        Ok(Self {
            storage: shared.storage,
            running,
            policy,
            lives,
            idempotency,
            credentials,
            accounts,
            peers,
            posts,
            groups,
            queues,
            quota,
            cursors,
            blocks,
            mailboxes,
            sweeper,
            locations,
            sessions,
            tickets,
            departures,
            own: shared.own,
            limits,
            limiter: shared.limiter,
            network: shared.network,
            chores: shared.chores,
        })
    }

    /// Frees the memory of users and peers that have not been heard of since the last call but one.
    pub fn age(&self) {
        self.idempotency.age();
        self.storage.age();
    }

    /// Returns the store.
    #[cfg(test)]
    pub fn store(&self) -> &S {
        self.storage.store()
    }

    /// Returns how much memory watches hold, in bytes.
    #[cfg(test)]
    pub fn watched_bytes(&self) -> usize {
        self.mailboxes.watched_bytes()
    }

    /// Returns what this realm says of itself to others.
    pub fn own(&self) -> &RealmIdentity {
        &self.own
    }

    /// Returns for how long messages are kept.
    pub fn policy(&self) -> &RetentionPolicy<S> {
        &self.policy
    }

    /// Returns the way to other realms.
    pub fn network(&self) -> &Network {
        &self.network
    }
}
