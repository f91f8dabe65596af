//! The rules of chat: accounts, sessions, mailboxes, and that every command takes effect once.
//!
//! A [`Realm`] is handed commands as bytes, with who asks and what time it is, and hands back answers.
//! It knows no packets and no sockets; whatever it must remember is in its [`Store`]. What it answers
//! `ok` to is durable. Normative text: `spec/commands.md`.

mod account;
mod accounts;
mod carrying;
mod copies;
mod cursors;
mod departing;
mod ended;
mod expiry;
mod failure;
mod groups;
mod hosting;
mod housekeeping;
mod incoming;
mod introductions;
mod known;
pub mod limits;
mod lives;
mod mail;
mod memberships;
mod moderation;
mod network;
mod operations;
mod outgoing;
mod passwords;
mod peers;
mod posts;
mod reading;
mod records;
mod retention;
mod sessions;
mod shares;
mod storing;
mod time;
mod verdicts;
mod watch_memory;
mod watching;
mod windows;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, OnceLock, PoisonError, atomic::AtomicBool};

pub use account::{Account, Greeting};
pub use carrying::{Carried, Outgoing};
pub use copies::ReadOutcome;
pub use failure::Failure;
pub use housekeeping::Pass;
use limits::{Guess, Limiter};
pub use limits::{Limits, Rates};
pub use lives::LifeNews;
pub use network::{Dialing, Errand, GroupWork, Network};
pub use peers::{Own, Peer, Peering, Registration};
pub use retention::{Keeping, Retention};
pub use time::Moment;
pub use watching::{Push, Watch};

use rand::{Rng as _, SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, watch};

use self::{
    expiry::Expiries,
    lives::Lives,
    operations::{Known, fingerprint, options_fit},
    outgoing::is_queued,
    passwords::Passwords,
    records::{Owner, QueuedRecord, RecordedAnswer},
    shares::{Arriving, Shares},
    storing::Outcome,
    verdicts::Verdicts,
    watch_memory::WatchMemory,
    watching::{Watched, watched_of},
    windows::Windows,
};
use crate::{
    crypto::{MacKey, PublicKey, SecretKey},
    store::{Batch, Position, Store, StoreError},
    subnet::Subnet,
    wire::{
        Answer, Command, ErrorCode, GroupName, OperationNumber, PeerRequest, RealmId, Refusal,
        Request, SessionRef, Username,
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

/// The rules, over a store.
#[derive(Debug)]
pub struct Realm<S> {
    store: S,
    lives: OnceLock<Lives>,
    retention: OnceLock<retention::Decided>,
    own: Own,
    limits: Limits,
    limiter: Limiter,
    network: Network,
    /// Commands that wait for what a peer says of their message.
    verdicts: Verdicts,
    /// When messages to other realms are not worth delivering any more.
    expiries: Expiries,
    shares: Shares,
    watched: Watched,
    watch_memory: WatchMemory,
    /// Something is to be done for the members of a group that has ended.
    chores: Notify,
    /// The copies that a user is in are listed by user.
    are_copies_listed: AtomicBool,
    passwords: Passwords,
    windows: Windows,
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

/// What hashing has found out so far, so that deciding anew does not hash anew.
#[derive(Debug, Default)]
struct Hashed {
    /// The hash of the new password.
    made: Option<String>,
    /// The hash that the given password was compared with, and how that ended.
    compared: Option<(Option<String>, bool)>,
}

/// A command in work.
struct Work<'a> {
    caller: &'a Caller,
    request: &'a Request<'a>,
    batch: Batch,
    hashed: Hashed,
    /// The realms that are to hear that a group has grown, once it has.
    hints: Vec<(RealmId, GroupName)>,
    /// What it has queued for another realm.
    queued: Option<(RealmId, QueuedRecord, Arriving)>,
    /// Whose groups or sessions are others than before.
    affected: Option<Username>,
    /// For whom it makes the store larger, if it does.
    adds_for: Option<Username>,
    /// It ends a group: something is to be done for its members.
    ends: bool,
    /// Its number is not written down: nothing can be done under it any more.
    is_unrecorded: bool,
}

impl Work<'_> {
    /// Nothing of it is to be done. What was decided depends on the same.
    fn forget(&mut self) {
        self.batch.changes.clear();
        self.hints.clear();
        (self.queued, self.affected, self.ends) = (None, None, false);
    }
}

/// An epoch of the queues to peers.
fn epoch(rng: &mut StdRng) -> u64 {
    // 0 stands for none.
    rng.next_u64().max(1)
}

impl<S: Store> Realm<S> {
    /// The realm over what `store` holds. `lasting` is a secret that stays whatever key the realm has: it
    /// makes session ids. Randomness comes from `seed`.
    pub fn new(
        store: S,
        lasting: &SecretKey,
        own: Own,
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
            verdicts: Verdicts::default(),
            expiries: Expiries::default(),
            shares: Shares::new(lasting),
            watched: Watched::default(),
            watch_memory: WatchMemory::new(limits.watch_memory),
            chores: Notify::new(),
            are_copies_listed: AtomicBool::new(false),
            passwords: Passwords::start(limits.password_threads)?,
            windows: Windows::default(),
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

    /// The way to other realms.
    pub const fn network(&self) -> &Network {
        &self.network
    }

    /// Carries a command out and gives the answer's bytes. Whatever the bytes are, there is an answer.
    pub async fn handle(&self, caller: &Caller, command: &[u8]) -> Vec<u8> {
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
            Ok(answer) if answer.len() <= caller.longest => answer,
            Ok(_) => Answer::Refused(Refusal::too_large(caller.longest as u64)).to_bytes(),
            Err(failure) => {
                self.note(name, &failure);
                Answer::Refused(failure.refusal(is_numbered)).to_bytes()
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
            Command::Realms { session } => self.realms(caller, session).await,
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

    /// Carries out a command that changes something, or gives the answer it had when it was.
    async fn change(
        &self,
        caller: &Caller,
        request: &Request<'_>,
        number: OperationNumber,
    ) -> Result<Vec<u8>, Failure> {
        let owner = self.owner(caller, request.command.session());
        let fingerprint = fingerprint(request);
        let caller = &Caller {
            operation: number,
            ..*caller
        };
        let mut work = Work {
            caller,
            request,
            batch: Batch::new(),
            hashed: Hashed::default(),
            hints: Vec::new(),
            queued: None,
            affected: None,
            adds_for: None,
            ends: false,
            is_unrecorded: false,
        };
        let mut operation = None;
        for _ in 0..ATTEMPTS_MAX {
            let fresh = operation.take();
            operation = match owner {
                None => None,
                Some(_) if fresh.is_some() => fresh,
                Some(owner) => match self.look_up_command(owner, number, fingerprint).await? {
                    Known::New(operation) => Some(operation),
                    Known::Done(answer) => {
                        let answer = self.recall(&work, answer)?;
                        if is_queued(&request.command, &answer) {
                            let wait = self.verdicts.join(&owner, number.0);
                            return Box::pin(self.verdict(&work, owner, wait, answer)).await;
                        }
                        return Ok(answer);
                    }
                },
            };
            work.batch = Batch::new();
            let answer = match self.decide(&mut work).await {
                Err(Failure::Refused(refusal)) => {
                    let is_remembered = self.is_remembered(&work, refusal).await?;
                    work.forget();
                    if !is_remembered {
                        if self.is_outdated(&mut work, refusal).await? {
                            continue;
                        }
                        return Err(refusal.into());
                    }
                    self.note(request.command.name(), &refusal.into());
                    Answer::Refused(refusal)
                }
                decided => decided?,
            };
            let bytes = answer.to_bytes();
            if let Some(operation) = operation.as_ref().filter(|_| !work.is_unrecorded) {
                let recorded = match answer {
                    Answer::Session(_) => RecordedAnswer::Session,
                    _ => RecordedAnswer::Bytes(bytes.clone()),
                };
                operation.record(recorded, &mut work.batch)?;
            }
            let is_queued = is_queued(&request.command, &bytes);
            let waits = owner.filter(|_| is_queued);
            let wait = waits.map(|owner| (owner, self.verdicts.expect(&owner, number.0)));
            // On a conflict, what the decision relied on has changed: it is made anew.
            let batch = core::mem::take(&mut work.batch);
            let stored = batch.bytes();
            let placed = match &mut operation {
                Some(operation) => self.commit_operation(operation, batch).await?,
                None => self.commit_placed(batch).await?,
            };
            if let Some(positions) = placed {
                if let Some(user) = work.adds_for {
                    self.limiter.stored(caller, &user, stored);
                }
                self.begin_effects(&mut work, &positions);
                return match wait {
                    Some((owner, wait)) => {
                        Box::pin(self.verdict(&work, owner, Some(wait), bytes)).await
                    }
                    None => Ok(bytes),
                };
            }
        }
        Err(Refusal::busy(CONTENDED_MS).into())
    }

    /// What follows from a command that is durable now: who is woken, and what is to be asked of other realms.
    fn begin_effects(&self, work: &mut Work<'_>, positions: &[Position]) {
        if let (Some((realm, queued, _)), Some(position)) = (work.queued.take(), positions.first())
        {
            self.expiries.note(realm, position.0, &queued);
        }
        if let Some(user) = work.affected.take() {
            self.watched.notify(&watched_of(user));
        }
        if work.ends {
            self.chores.notify_one();
        }
        for (realm, group) in work.hints.drain(..) {
            self.network.add_work(realm, GroupWork::Tell(group));
        }
        match &work.request.command {
            Command::JoinGroupRealm { realm, group, .. } => {
                self.network.add_work(*realm, GroupWork::Read(*group));
            }
            Command::AddRealm { .. } | Command::RemoveRealm { .. } => {
                self.network.peers_changed();
            }
            _ => {}
        }
    }

    /// Decides about a command that changes something: what is to be written, and the answer.
    async fn decide(&self, work: &mut Work<'_>) -> Result<Answer, Failure> {
        match work.request.command {
            Command::Send { .. } => self.send(work).await,
            Command::SendGroup { .. } => self.sendgroup(work).await,
            // Seldom, and large: apart, so that messages need not carry its room about.
            _ => Box::pin(self.decide_other(work)).await,
        }
    }

    async fn decide_other(&self, work: &mut Work<'_>) -> Result<Answer, Failure> {
        match work.request.command {
            Command::Register { .. } => self.register(work).await,
            Command::Auth { .. } => self.auth(work).await,
            Command::Logout { session, .. } => self.logout(work, session).await,
            Command::SendRealm { .. } => self.sendrealm(work).await,
            Command::SendGroupRealm { .. } => self.sendgrouprealm(work).await,
            Command::JoinGroupRealm { .. } => self.joingrouprealm(work).await,
            Command::LeaveGroupRealm {
                session,
                realm,
                group,
                ..
            } => self.leavegrouprealm(work, session, realm, group).await,
            Command::Claim { session, code, .. } => self.claim(work, session, code.0).await,
            Command::AddRealm { .. } => self.addrealm(work).await,
            Command::RemoveRealm { session, realm, .. } => {
                self.removerealm(work, session, realm).await
            }
            Command::AddGroup { .. } => self.addgroup(work).await,
            Command::JoinGroup { .. } => self.joingroup(work).await,
            Command::LeaveGroup { session, group, .. } => {
                self.leavegroup(work, session, group).await
            }
            Command::Kick { group, user, .. } => self.kick(work, group, user).await,
            Command::Ban { group, user, .. } => self.ban(work, group, user).await,
            Command::Unban { group, user, .. } => self.unban(work, group, user).await,
            Command::SetRole {
                group, user, role, ..
            } => self.set_role(work, group, user, role).await,
            Command::GroupPasswd {
                group, password, ..
            } => self.grouppasswd(work, group, password).await,
            Command::DelGroup { group, .. } => self.delgroup(work, group).await,
            Command::Revoke {
                session, handle, ..
            } => self.revoke(work, session, handle).await,
            Command::Passwd { .. } => self.passwd(work).await,
            Command::Void { session, .. } => self.void(work, session).await,
            _ => Err(ErrorCode::Unsupported.into()),
        }
    }

    /// The answer to a repeated command.
    fn recall(&self, work: &Work<'_>, answer: RecordedAnswer) -> Result<Vec<u8>, Failure> {
        match answer {
            RecordedAnswer::Bytes(bytes) => Ok(bytes),
            RecordedAnswer::Session => match &work.request.command {
                Command::Register { username, .. } | Command::Auth { username, .. } => {
                    let id = self.session_id(work, *username);
                    Ok(Answer::Session(id).to_bytes())
                }
                _ => Err(ErrorCode::Internal.into()),
            },
            RecordedAnswer::Closed(_) => Err(ErrorCode::AlreadyDone.into()),
        }
    }

    /// True when something has changed that a refusal was decided by: of what was read before and after a change, no order of
    /// the two commands would have refused.
    async fn is_outdated(&self, work: &mut Work<'_>, refusal: Refusal) -> Result<bool, Failure> {
        let batch = core::mem::take(&mut work.batch);
        if refusal.is_transient() || batch == Batch::new() {
            return Ok(false);
        }
        match self.commit(batch).await {
            Ok(Outcome::Conflict) => Ok(true),
            // Nothing is written: a full disk keeps nobody from being refused.
            Ok(Outcome::Durable) | Err(Failure::Refused(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// EXACT-6: true when a refusal is written down like what is done. The command may have travelled early, and then
    /// anybody can send it again: what its sender was told would not happen must not happen later. Of who has no
    /// session nothing is written; their numbers end with the next session they open.
    async fn is_remembered(&self, work: &Work<'_>, refusal: Refusal) -> Result<bool, Failure> {
        let command = &work.request.command;
        match command.session() {
            Some(session) if refusal.is_final() && !command.carries_password() => {
                let found = self.find_session(work.caller, session).await?;
                Ok(matches!(found, sessions::Found::Open(_)))
            }
            _ => Ok(false),
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
