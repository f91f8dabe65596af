//! The rules of chat: accounts, sessions, mailboxes, and that every command takes effect once.
//!
//! A [`Realm`] is handed commands as bytes, with who asks and what time it is, and hands back answers.
//! It knows no packets and no sockets; whatever it must remember is in its [`Store`]. What it answers
//! `ok` to is durable. Normative text: `spec/commands.md`.

mod accounts;
mod add_peer;
mod asking;
mod cursors;
mod dedup_windows;
mod delivery;
mod expiry;
mod failure;
mod group_host;
mod group_teardown;
mod groups;
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
pub use delivery::{Glance, NextOutgoing, Outgoing, Settling, Written};
pub use failure::Failure;
pub use housekeeping::Pass;
pub use introductions::HOST_MAX;
use limits::{Guess, Limiter};
pub use limits::{Limits, Rates};
pub use link_owner::{Account, Greeting};
pub use lives::LifeNews;
pub use network::{Dialing, GroupWork, Network, PeerCall, Signals};
pub use peering_numbers::Numbered;
pub use peers::{Peer, Peering, RealmIdentity, Registration};
pub use replicas::{Kept, ReplicaLook, ReplicaState};
pub use retention::{Keeping, Retention};
pub use tickets::{FoundTicket, Returning};
pub use time::Moment;
pub use watchers::Watcher;
pub use watching::{Push, Watch};

use rand::{Rng as _, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, watch};

use self::{
    dedup_windows::DedupWindows,
    expiry::Expiries,
    lives::Lives,
    mutations::{Hashed, Work},
    operations::{Known, fingerprint, options_fit},
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
        Answer, Command, ErrorCode, OperationNumber, PeerRequest, Refusal, Request, SessionRef,
    },
};

/// How often a command decides anew because what it had read was changed meanwhile.
const ATTEMPTS_MAX: u32 = 16;
/// What a client is asked to wait when all attempts met a change, in milliseconds.
const CONTENDED_MS: u64 = 100;
/// What a client is asked to wait when the disk is full, in milliseconds.
const DISK_FULL_MS: u64 = 10_000;

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The device's key; none on a plain link.
    pub device: Option<PublicKey>,
    /// Where it comes from.
    pub subnet: Subnet,
    /// Which of the realm's keys the link is with; none on a plain link.
    pub own: Option<PublicKey>,
    /// The command came in a handshake's first message, which may have been recorded by anyone.
    pub early: bool,
    /// The number of the command, where it has one: the realm sees to it.
    pub operation: OperationNumber,
    /// The longest answer that fits one datagram, in bytes.
    pub room: usize,
    /// The longest that can travel at all.
    pub longest: usize,
    /// The positions that it remembers are of this store: it claimed no life that the store does not know (READ-9).
    pub trusts_cursors: bool,
    /// When.
    pub now: Moment,
}

/// An answer is longer than so many bytes, which is the longest that can travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(usize);

impl TooLong {
    /// What is answered instead.
    pub fn to_bytes(self) -> Vec<u8> {
        Answer::Refused(Refusal::too_large(self.0 as u64)).to_bytes()
    }
}

/// The rules, over a store.
#[derive(Debug)]
pub struct Realm<S> {
    store: S,
    lives: OnceLock<Lives>,
    retention: OnceLock<retention::Decided>,
    own: RealmIdentity,
    limits: Limits,
    limiter: Limiter,
    network: Network,
    /// Commands that wait for what a peer says of their message.
    verdicts: Receipts,
    /// When messages to other realms are not worth delivering any more.
    expiries: Expiries,
    /// How often in vain what removed realms leave behind could not be read.
    unread_departures: AtomicU32,
    shares: QueueShares,
    watched: Watched,
    watch_memory: WatchMemory,
    /// Something is to be done for the members of a group that has ended.
    chores: Notify,
    /// The copies that a user is in are listed by user.
    are_copies_listed: AtomicBool,
    passwords: Passwords,
    windows: DedupWindows,
    /// Makes session ids.
    session_ids: MacKey,
    /// Makes what stands for them in the store.
    session_hashes: MacKey,
    /// In which all is numbered that is queued for peers until this realm is made again: a store may have been restored by then.
    epoch: u64,
    rng: Mutex<StdRng>,
    /// Set for good when the store fails.
    failed: watch::Sender<Option<StoreError>>,
}

/// An epoch of the queues to peers.
fn epoch(rng: &mut StdRng) -> u64 {
    if is_planted(Fault::OneEpoch) {
        return 1;
    }
    // 0 stands for none.
    rng.next_u64().max(1)
}

impl<S: Store> Realm<S> {
    /// The realm over what `store` holds. `lasting` is a secret that stays whatever key the realm has: it
    /// makes session ids. Randomness comes from `seed`.
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

    /// Gives back memory of who has not been heard of since this was called the last time but one.
    pub fn age(&self) {
        self.windows.age();
        self.store.age();
    }

    /// The store.
    #[cfg(test)]
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// What watches hold, in bytes.
    #[cfg(test)]
    pub fn watched_bytes(&self) -> usize {
        self.watch_memory.held()
    }

    /// What this realm says of itself to others.
    pub const fn own(&self) -> &RealmIdentity {
        &self.own
    }

    /// The way to other realms.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Carries a command out and gives the answer's bytes. Whatever the bytes are, there is an answer.
    pub async fn handle(&self, caller: &Caller, command: &[u8]) -> Vec<u8> {
        let outcome = self.carry_out(caller, command).await;
        outcome.unwrap_or_else(TooLong::to_bytes)
    }

    /// The same, for callers that do something about an answer that is too long.
    ///
    /// # Errors
    /// [`TooLong`] for one that is longer than [`Caller::longest`].
    pub async fn carry_out(&self, caller: &Caller, command: &[u8]) -> Result<Vec<u8>, TooLong> {
        let mut is_numbered = false;
        let (name, outcome) = if PeerRequest::is_one(command) {
            ("peer", Box::pin(self.peer_request(caller, command)).await)
        } else if let Ok(request) = Request::parse(command) {
            is_numbered = request.command.operation().is_some();
            let outcome = self.execute(caller, &request).await;
            (request.command.name(), outcome)
        } else {
            ("unknown", Err(ErrorCode::BadRequest.into()))
        };
        match outcome {
            Ok(answer) if answer.len() <= caller.longest => Ok(answer),
            Ok(_) => Err(TooLong(caller.longest)),
            Err(failure) => {
                self.note(name, &failure);
                Ok(Answer::Refused(failure.refusal(is_numbered)).to_bytes())
            }
        }
    }

    async fn execute(&self, caller: &Caller, request: &Request<'_>) -> Result<Vec<u8>, Failure> {
        // HS-7: a password in early data has no forward secrecy; a client never sends one there.
        if caller.early && request.command.carries_password() {
            return Err(ErrorCode::BadRequest.into());
        }
        if !options_fit(request) {
            return Err(ErrorCode::Unsupported.into());
        }
        match request.command.operation() {
            None => Ok(Box::pin(self.read(caller, request)).await?.to_bytes()),
            Some(operation) => self.change(caller, request, operation.number).await,
        }
    }

    /// Carries out a command that changes nothing.
    async fn read(&self, caller: &Caller, request: &Request<'_>) -> Result<Answer, Failure> {
        match request.command {
            Command::Inbox { session } => self.inbox(caller, session, &request.options).await,
            Command::InboxGroup { session, group } => {
                self.inboxgroup(caller, session, group, &request.options)
                    .await
            }
            Command::InboxRealm { session, realm } => {
                self.inboxrealm(caller, session, realm, &request.options)
                    .await
            }
            Command::InboxGroupRealm {
                session,
                realm,
                group,
            } => {
                let which = (session, realm, group);
                self.inboxgrouprealm(caller, which, &request.options).await
            }
            Command::Realms { session } => self.realms(caller, session, request.options.form).await,
            Command::Groups { session } => self.groups(caller, session, &request.options).await,
            Command::Members { session, group } => {
                self.members(caller, session, group, &request.options).await
            }
            Command::Sessions { session } => self.sessions(caller, session).await,
            Command::WhoAmI { session } => self.whoami(caller, session).await,
            Command::Watch {
                session,
                ref cursors,
            } => self.begin_watch(caller, session, cursors).await,
            Command::Unwatch { session } => {
                self.session(caller, session).await?;
                Ok(Answer::Done)
            }
            Command::Unread {
                session,
                ref cursors,
            } => self.unread(caller, session, cursors).await,
            _ => Err(ErrorCode::Unsupported.into()),
        }
    }

    /// Whose operation numbers a command counts among; nobody's when a plain link opens a session.
    fn owner(&self, caller: &Caller, session: Option<SessionRef>) -> Option<Owner> {
        match (caller.device, session) {
            (Some(device), _) => Some(Owner::Device(device)),
            (None, Some(SessionRef::Named(id))) => Some(Owner::Session(self.session_hash(&id))),
            (None, _) => None,
        }
    }

    /// Waits until the store fails, be it by itself, while nobody asks for anything. From then on nothing can be written: only starting anew
    /// helps.
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

    /// An operator has to hear of a store that fails; what users do wrong is their own affair.
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
