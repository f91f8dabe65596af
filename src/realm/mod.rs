//! The rules of chat: accounts, sessions, mailboxes, and commands that take effect exactly once.
//!
//! A [`Realm`] takes commands as bytes, with the caller and the time, and returns answers. It knows
//! no packets and no sockets. All that it must remember is in its [`Store`]. An answer of `ok`
//! means that the effect is durable. Normative text: `spec/commands.md`.

mod accounts;
mod add_peer;
mod asking;
mod blocks;
mod cursors;
mod dedup_windows;
mod delivery;
mod expiry;
mod failure;
mod group_host;
mod group_teardown;
mod groups;
mod handling;
mod housekeeping;
mod introductions;
mod known_locations;
pub mod limits;
mod link_owner;
mod lives;
mod mail;
mod memberships;
mod moderation;
mod mutations;
mod network;
mod operations;
mod outgoing;
mod passwords;
mod peer_admin;
mod peer_quota;
mod peer_removal;
mod peer_requests;
mod peering_numbers;
mod peers;
mod posts;
mod queue_shares;
mod reading;
mod receipts;
mod records;
mod replicas;
mod retention;
mod sessions;
mod storage;
mod tickets;
mod time;
mod watch_memory;
mod watchers;
mod watching;

#[cfg(test)]
mod tests;

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU32},
};

pub use asking::refusal_of_peer;
pub use dedup_windows::{OWNER_BYTES, OWNERS_MAX};
pub use delivery::{Glance, NextOutgoing, Outgoing, Settling, Written};
pub use failure::Failure;
pub use handling::{Effect, Handled};
pub use housekeeping::Pass;
pub use introductions::HOST_MAX;
use limits::{Guess, Limiter};
pub use limits::{Limits, Rates};
pub use link_owner::{Account, Greeting};
pub use lives::LifeNews;
pub use network::{Dialing, GroupWork, Network, PeerCall, Signals};
pub use peering_numbers::Numbered;
pub use peers::{Peer, Peering, RealmIdentity, Registration};
pub use queue_shares::{QUEUE_MAX, SHARE_BYTES};
pub use replicas::{Kept, ReplicaLook, ReplicaState};
pub use retention::{Keeping, Retention};
pub use tickets::{FoundTicket, Returning};
pub use time::Moment;
pub use watch_memory::WATCH_BYTES;
pub use watchers::Watcher;
pub use watching::{Push, Watch};

use rand::{Rng as _, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, watch};

use self::{
    dedup_windows::DedupWindows,
    expiry::Expiries,
    lives::Lives,
    mutations::{Hashed, Work},
    operations::{Known, fingerprint},
    outgoing::is_queued,
    passwords::Passwords,
    queue_shares::QueueShares,
    receipts::Receipts,
    records::Owner,
    storage::Outcome,
    watch_memory::WatchMemory,
    watching::{Watched, watched_of},
};
use crate::{
    crypto::{MacKey, PublicKey, SecretKey},
    faults::{Fault, is_planted},
    store::{Store, StoreError},
    subnet::Subnet,
    wire::{
        Answer, ErrorCode, OperationNumber, Options, Refusal, Request, SessionRef, command,
        command::{Kind, Read},
    },
};

/// How often a command is decided at most, when the values that it read have changed meanwhile.
const ATTEMPTS_MAX: u32 = 16;
/// How long a client is asked to wait after all attempts met a conflict, in milliseconds.
const CONTENDED_MS: u64 = 100;
/// How long a client is asked to wait when the disk is full, in milliseconds.
const DISK_FULL_MS: u64 = 10_000;

/// The sender of a command, and the time of the command.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The device's key. `None` on a plain link.
    pub device: Option<PublicKey>,
    /// The subnet that the command comes from.
    pub subnet: Subnet,
    /// The realm's key that the link uses. `None` on a plain link.
    pub own: Option<PublicKey>,
    /// True if the command came in the first message of a handshake, which anybody may have
    /// recorded.
    pub early: bool,
    /// The command's operation number, if it has one. The realm sets it.
    pub operation: OperationNumber,
    /// The longest answer that fits one datagram, in bytes.
    pub room: usize,
    /// The longest answer that can travel at all, in bytes.
    pub longest: usize,
    /// True if the positions that the device remembers are of this store: it claimed no life that
    /// the store does not know (READ-9).
    pub trusts_cursors: bool,
    /// True if [`Handled::account`] is needed: the link has no account yet.
    pub asks_account: bool,
    /// The time.
    pub now: Moment,
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

/// The rules of chat, over a store.
#[derive(Debug)]
pub struct Realm<S> {
    store: S,
    lives: OnceLock<Lives>,
    retention: OnceLock<retention::Decided>,
    own: RealmIdentity,
    limits: Limits,
    limiter: Limiter,
    network: Network,
    /// Commands that wait for a peer's verdict on their message.
    verdicts: Receipts,
    /// When messages to other realms expire.
    expiries: Expiries,
    /// How many reads of the leftovers of removed realms have failed.
    unread_departures: AtomicU32,
    shares: QueueShares,
    watched: Watched,
    watch_memory: WatchMemory,
    /// Wakes the work for the members of a group that has ended.
    chores: Notify,
    /// True if the replicas are listed by user.
    are_copies_listed: AtomicBool,
    passwords: Passwords,
    windows: DedupWindows,
    /// Makes session ids.
    session_ids: MacKey,
    /// Makes the hashes under which sessions are stored.
    session_hashes: MacKey,
    /// The epoch of all messages that are queued for peers until this realm is constructed again.
    /// Each construction draws a new one, because the store may have been restored from a backup.
    epoch: u64,
    rng: Mutex<StdRng>,
    /// Set for good when the store fails.
    failed: watch::Sender<Option<StoreError>>,
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
        Ok(Self {
            limiter: Limiter::new(limits.rates, &mut rng),
            store,
            lives: OnceLock::new(),
            retention: OnceLock::new(),
            own,
            network,
            verdicts: Receipts::default(),
            expiries: Expiries::default(),
            unread_departures: AtomicU32::new(0),
            shares: QueueShares::new(lasting),
            watched: Watched::default(),
            watch_memory: WatchMemory::new(limits.watch_memory),
            chores: Notify::new(),
            are_copies_listed: AtomicBool::new(false),
            passwords: Passwords::start(limits.password_threads)?,
            windows: DedupWindows::default(),
            limits,
            session_ids: MacKey::derive(lasting, "session ids"),
            session_hashes: MacKey::derive(lasting, "session hashes"),
            epoch: epoch(&mut rng),
            rng: Mutex::new(rng),
            failed: watch::Sender::new(None),
        })
    }

    /// Frees the memory of users and peers that have not been heard of since the last call but one.
    pub fn age(&self) {
        self.windows.age();
        self.store.age();
    }

    /// Returns the store.
    #[cfg(test)]
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Returns how much memory watches hold, in bytes.
    #[cfg(test)]
    pub fn watched_bytes(&self) -> usize {
        self.watch_memory.held()
    }

    /// Returns what this realm says of itself to others.
    pub const fn own(&self) -> &RealmIdentity {
        &self.own
    }

    /// Returns the way to other realms.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    async fn execute(&self, caller: &Caller, request: &Request<'_>) -> Result<Vec<u8>, Failure> {
        // HS-7: a password in early data has no forward secrecy; a client never sends one there.
        if caller.early && request.command.carries_password() {
            return Err(ErrorCode::BadRequest.into());
        }
        if !request.has_only_own_options() {
            return Err(ErrorCode::Unsupported.into());
        }
        match request.command.kind() {
            Kind::Read(read) => {
                let answer = Box::pin(self.read(caller, read, &request.options)).await?;
                Ok(answer.to_bytes())
            }
            Kind::Change(change) => self.change(caller, request, change).await,
        }
    }

    /// Executes a command that changes nothing.
    async fn read(
        &self,
        caller: &Caller,
        read: Read<'_>,
        options: &Options,
    ) -> Result<Answer, Failure> {
        match read {
            Read::Inbox(&command::Inbox { session }) => self.inbox(caller, session, options).await,
            Read::InboxGroup(&command::InboxGroup { session, group }) => {
                self.inboxgroup(caller, session, group, options).await
            }
            Read::InboxRealm(&command::InboxRealm { session, realm }) => {
                self.inboxrealm(caller, session, realm, options).await
            }
            Read::InboxGroupRealm(&command::InboxGroupRealm {
                session,
                realm,
                group,
            }) => {
                let which = (session, realm, group);
                self.inboxgrouprealm(caller, which, options).await
            }
            Read::Realms(&command::Realms { session }) => {
                self.realms(caller, session, options.form).await
            }
            Read::Groups(&command::Groups { session }) => {
                self.groups(caller, session, options).await
            }
            Read::Members(&command::Members { session, group }) => {
                self.members(caller, session, group, options).await
            }
            Read::Sessions(&command::Sessions { session }) => self.sessions(caller, session).await,
            Read::WhoAmI(&command::WhoAmI { session }) => self.whoami(caller, session).await,
            Read::Watch(watch) => {
                self.begin_watch(caller, watch.session, &watch.cursors)
                    .await
            }
            Read::Unwatch(&command::Unwatch { session }) => {
                self.session(caller, session).await?;
                Ok(Answer::Done)
            }
            Read::Blocks(&command::Blocks { session }) => {
                self.blocks(caller, session, options).await
            }
            Read::Unread(unread) => self.unread(caller, unread.session, &unread.cursors).await,
        }
    }

    /// Returns the owner of the command's operation number. `None` if a plain link opens a session.
    fn owner(&self, caller: &Caller, session: Option<SessionRef>) -> Option<Owner> {
        match (caller.device, session) {
            (Some(device), _) => Some(Owner::Device(device)),
            (None, Some(SessionRef::Named(id))) => Some(Owner::Session(self.session_hash(&id))),
            (None, _) => None,
        }
    }

    /// Waits until the store fails, also while no command arrives. After a failure nothing can be
    /// written; only a restart helps.
    pub async fn failed(&self) -> StoreError {
        let mut failed = self.failed.subscribe();
        tokio::select! {
            biased;
            failed = failed.wait_for(Option::is_some) => match failed.as_deref() {
                Ok(Some(error)) => error.clone(),
                _ => StoreError::Closed,
            },
            error = self.store.failed() => error,
        }
    }

    /// Logs a failure. A store failure is an error that the operator must see; a refusal is only a
    /// debug message.
    fn note(&self, command: &str, failure: &Failure) {
        match failure {
            Failure::Refused(refusal) => tracing::debug!(command, code = %refusal.code, "refused"),
            Failure::Store(error) | Failure::Unknown(error) => {
                tracing::error!(command, %error, "a command failed");
                if matches!(error, StoreError::Failed(_)) {
                    self.failed.send_replace(Some(error.clone()));
                }
            }
        }
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(&mut bytes);
        bytes
    }
}
