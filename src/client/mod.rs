//! The library for applications: sends commands to a realm and returns their answers, each exactly once.
//!
//! A [`Profile`] is a directory with a device key and its records; a [`Client`] sends commands for it. A profile may be
//! used by several processes at once, copied and restored: each command still takes effect once (EXACT-8, EXACT-10).
//!
//! # What is kept
//!
//! Each command that changes something is an entry of the profile's outbox before its first byte leaves, and stays one
//! until its outcome is certain (EXACT-7). The call that added it waits for the answer until [`Options::deadline`], and
//! then returns [`CallError::Kept`]: the entry stays, and any later client of the profile sends it again under the same
//! number. So a call that failed with `Kept` must not be repeated; [`Client::outbox_wait`] waits for its entry, and
//! [`Client::outbox_cancel`] takes it back. Entries are given up after 28 days, or when the time that the message is worth
//! is over.
//!
//! [`Sending`], given to [`Client::with`], changes that: without `keep` a command is given up at its deadline, and under a
//! [`Token`] a command that is called for again is the same command, also in another process.
//!
//! Commands with a password are never written down. They are tried until the deadline, and then either certainly not done
//! ([`CallError::Unreachable`]) or not known ([`CallError::OutcomeUnknown`]).
//!
//! Reads are no entries, and wait for none.
//!
//! # Who sends
//!
//! A task of the client, the carrier, sends what is in the outbox. It starts with the first call and ends with the last
//! clone of the client. Of all processes of a profile one carries at a time. Before a program exits it calls
//! [`Client::drain`], which gives entries that are left over from before the time to go.
//!
//! # What is told
//!
//! [`Client::take_notices`] returns what happened beside the answers: above all [`Notice::Finished`], what became of an
//! entry for which no call waits any more. Each is returned once in all processes of the profile.
//!
//! A message counts as read when the program has called [`Client::shown`] for it, and not before: what was read and not
//! shown is read again.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use merpati::client::{CallError, Client, Options, Profile, default_home};
//! use merpati::wire::Mailbox;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rng = merpati::client::system_rng()?;
//! let profile = Profile::open(&default_home()?, "default", &mut rng)?;
//! let options = Options {
//!     // What `merpati serve` printed; remembered by the profile from then on.
//!     server: Some("merpati://127.0.0.1:6377#qP5…".parse()?),
//!     ..Options::default()
//! };
//! let client = Client::open(profile, options)?;
//! client.register("Ann Example", "id", "ann".parse()?, b"correct horse").await?;
//! match client.send("bob".parse()?, b"hello").await {
//!     Ok(receipt) => println!("{}", receipt.name()),
//!     // It goes on whenever a client of this profile runs: not to be repeated.
//!     Err(CallError::Kept { id, .. }) => println!("kept as number {}", id.0),
//!     Err(error) => return Err(error.into()),
//! }
//! for entry in client.unread(Mailbox::Private).await? {
//!     println!("{}: {}", entry.from, String::from_utf8_lossy(&entry.body));
//!     client.shown(&entry)?;
//! }
//! for entry in client.outbox()? {
//!     println!("number {} waits: {}", entry.id.0, entry.what);
//! }
//! client.drain(Duration::from_secs(1), Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The futures need a tokio runtime with its timers and I/O enabled; one thread is enough.

mod account;
mod ask;
mod calls;
mod carrier;
mod commands;
mod connection;
mod cursors;
mod driver;
mod entries;
mod error;
mod message;
mod meter;
mod outbox;
mod paths;
mod peerings;
mod profile;
mod reading;
mod route;
mod secrets;
mod state;
mod store;
#[cfg(feature = "sqlite")]
mod takeover;
mod tickets;
mod unmanaged;
mod watchdog;
mod watching;
mod who;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::rngs::StdRng;
use tokio::{sync::Notify, task::JoinHandle, time::Instant};

pub use ask::Status as LinkStatus;
use connection::Connection;
pub use entries::{Awaited, OutboxEntry, OutboxState, Withdrawn};
pub use error::{CallError, ProfileError};
pub use message::{Message, Receipt};
pub use meter::{Meter, Spending, Spent, Traffic};
pub use outbox::{EntryId, Token};
pub use profile::{Profile, default_home};
pub use reading::Delivery;
pub use state::State;
#[cfg(test)]
pub(crate) use store::Memory;
pub use unmanaged::{Direct, Outcome};
pub use watching::{WatchEvent, Watching};

pub use crate::link::trace::TARGET as TRACE_TARGET;
pub use crate::link::{
    Counters, DATAGRAM_MIN, LinkParameters, LinkProfile, LinkStats, Losses, PathMemory, Redundancy,
    Silence,
};

use state::{Account, RealmNumber};

use crate::{
    crypto::{ConnectionString, PublicKey},
    endpoint::LINK_LIFETIME,
    host::Host,
    wire::{Life, Refusal, SessionId},
};

/// How long a call goes on trying unless told otherwise.
pub const DEADLINE_DEFAULT: Duration = Duration::from_mins(2);

/// A generator of random numbers, seeded by the system.
pub fn system_rng() -> io::Result<StdRng> {
    Host::Real.rng()
}

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The realm; without it the one that the profile remembers.
    pub server: Option<ConnectionString>,
    /// Remember the realm once it has been heard from: commands are for it from then on. Where none is remembered yet, it
    /// is remembered in any case.
    pub remember: bool,
    /// Accept the key of whoever answers first, where the connection string names none.
    pub trust: bool,
    /// Do without encryption, for a realm that listens so. Whoever can see or send packets on the way
    /// can then read and forge everything.
    pub plain: bool,
    /// How long a call goes on trying. What becomes of a command after that is up to [`Sending::keep`].
    pub deadline: Duration,
    /// A session to be named in full, instead of the profile's own.
    pub session: Option<SessionId>,
    /// Commands may leave in the first packet. They are safe against being repeated, but have no
    /// forward secrecy; passwords never leave there.
    pub early_data: bool,
    /// A link in use is replaced by a fresh one, with fresh keys, after so long.
    pub lifetime: Duration,
    /// What the link begins with.
    pub traits: LinkParameters,
    /// Counts what is spent.
    pub meter: Meter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server: None,
            remember: true,
            trust: false,
            plain: false,
            deadline: DEADLINE_DEFAULT,
            session: None,
            early_data: true,
            lifetime: LINK_LIFETIME,
            traits: LinkParameters::default(),
            meter: Meter::default(),
        }
    }
}

/// Something a person should hear of beside the answer; returned by [`Client::take_notices`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The realm's word was taken for its key.
    Trusted(PublicKey),
    /// The realm has a new key, for which the one it was known by has vouched.
    KeyFollowed {
        /// The key it was known by.
        from: PublicKey,
        /// The key it is known by from now on.
        to: PublicKey,
    },
    /// An entry of the outbox is finished for which no call waited any more. Told once.
    Finished {
        /// Its entry in the outbox.
        id: EntryId,
        /// What it did, for people.
        what: String,
        /// What became of it.
        end: End,
    },
    /// The realm asks to come again later, and the call does.
    AskedToWait(Refusal),
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was done.
    Done(crate::wire::Answer),
    /// The realm refused.
    Refused(Refusal),
    /// It was taken back, and has not been done.
    Cancelled,
    /// It could not be delivered in the time that it was worth, and has not been done.
    Expired,
    /// It may have been done or not: the realm keeps no record of it any more. It is not sent again.
    Unknown,
}

/// How commands that change something are sent; given to [`Client::with`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Keep a command in the outbox that has no answer at its deadline, and send it again later. Otherwise it is given
    /// up: what has left is taken back when the realm is reached (EXACT-11).
    pub keep: bool,
    /// Names the command: a call under the same token is the same command, and returns its outcome. The same token with
    /// another command is [`CallError::TokenReused`]. Tokens are remembered for at least 30 days, up to 100,000. One
    /// whose command was refused because nobody was logged in, or given up, is free again. Commands
    /// with a password ignore it.
    pub token: Option<Token>,
}

impl Default for Sending {
    fn default() -> Self {
        Self {
            keep: true,
            token: None,
        }
    }
}

/// Sends commands for one profile. Clones share one link and one carrier; calls may be made at the same time.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    carrier: Arc<Carrier>,
    sending: Sending,
}

/// What calls and the carrier share.
#[derive(Debug)]
struct Shared {
    host: Host,
    profile: Profile,
    options: Options,
    /// Which realm commands are for, and how to reach it.
    target: Option<(RealmNumber, ConnectionString)>,
    connection: tokio::sync::Mutex<Option<Connection>>,
    notices: Mutex<Vec<Notice>>,
    /// Something in the outbox has changed: for the carrier, and for who waits.
    added: Notify,
    settled: Notify,
    /// This process is the one that sends what is in the outbox.
    is_carrier: AtomicBool,
    /// On which of the links that were opened the realm has been heard last, which is written down; 0 for none.
    heard: AtomicU64,
    /// The same of the one on which it has said which numbers it has seen, once that is written down.
    told: AtomicU64,
    /// The life of the realm's store to which the link was opened that has answered last.
    life: Mutex<Option<Life>>,
    /// A command of this process whose number was new to the realm has been answered.
    is_answered: AtomicBool,
    /// Why entries that this process has tried are not done yet.
    troubles: Mutex<BTreeMap<EntryId, CallError>>,
    /// Entries of which nothing had left before this process, and whose every sending the realm has answered that it is to come again later.
    deferred: Mutex<Vec<EntryId>>,
    /// When entries that are not done have got another number.
    renumbered: Mutex<BTreeMap<EntryId, (u32, Instant)>>,
    /// Entries that this process waits for, and since when.
    waited: Mutex<BTreeMap<EntryId, Instant>>,
}

/// The task that sends what is in the outbox. It ends with the last client that shares it.
#[derive(Debug, Default)]
struct Carrier(Mutex<Option<JoinHandle<()>>>);

impl Drop for Carrier {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.0).take() {
            task.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    /// A client for `profile`. Nothing is sent before the first call; that also sends what is in the outbox.
    pub fn open(profile: Profile, options: Options) -> Result<Self, CallError> {
        Self::open_on(Host::Real, profile, options)
    }

    pub(crate) fn open_on(
        host: Host,
        profile: Profile,
        options: Options,
    ) -> Result<Self, CallError> {
        let target = match &options.server {
            Some(server) => {
                Some(profile.write(|records| state::find_or_add(records, server, options.plain))?)
            }
            None => profile.read(|records| {
                let Some(realm) = state::remembered(records)? else {
                    return Ok(None);
                };
                let server = state::load(records, realm)?.connection_string();
                Ok(server.map(|server| (realm, server)))
            })?,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                host,
                profile,
                options,
                target,
                connection: tokio::sync::Mutex::new(None),
                notices: Mutex::new(Vec::new()),
                added: Notify::new(),
                settled: Notify::new(),
                is_carrier: AtomicBool::new(false),
                heard: AtomicU64::new(0),
                told: AtomicU64::new(0),
                life: Mutex::default(),
                is_answered: AtomicBool::new(false),
                troubles: Mutex::new(BTreeMap::new()),
                deferred: Mutex::new(Vec::new()),
                renumbered: Mutex::new(BTreeMap::new()),
                waited: Mutex::new(BTreeMap::new()),
            }),
            carrier: Arc::default(),
            sending: Sending::default(),
        })
    }

    /// The same client, which sends its commands as `sending` says.
    #[must_use]
    pub fn with(&self, sending: Sending) -> Self {
        Self {
            sending,
            ..self.clone()
        }
    }

    /// The profile.
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// What is known of the realm that this client's commands are for.
    pub fn state(&self) -> Result<State, CallError> {
        self.shared.state()
    }

    /// What is known of the link to the realm.
    pub async fn link_status(&self) -> LinkStatus {
        self.shared.link_status().await
    }

    /// What has happened on the link to the realm, and what it knows of its path; `None` where there is no link.
    pub async fn link_stats(&self) -> Option<LinkStats> {
        self.shared.link_stats().await
    }

    /// What happened beside the answers since the last call. What became of an entry is returned once in all processes of
    /// the profile.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.try_take_notices().unwrap_or_else(|_| {
            // What became of entries, and cannot be read now, is told by the next run.
            std::mem::take(&mut *lock(&self.shared.notices))
        })
    }

    /// The same, for whoever has to know what became of all entries.
    ///
    /// # Errors
    /// When the profile cannot be read and written; nothing is taken then.
    pub fn try_take_notices(&self) -> Result<Vec<Notice>, CallError> {
        let untold = self.shared.untold()?;
        let mut notices = std::mem::take(&mut *lock(&self.shared.notices));
        notices.extend(untold);
        Ok(notices)
    }
}

impl Shared {
    fn note(&self, notice: Notice) {
        lock(&self.notices).push(notice);
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.deadline
    }

    fn target(&self) -> Result<(RealmNumber, &ConnectionString), CallError> {
        let (realm, server) = self.target.as_ref().ok_or(CallError::NoServer)?;
        Ok((*realm, server))
    }

    fn state(&self) -> Result<State, CallError> {
        let (realm, _) = self.target()?;
        Ok(self.profile.read(|records| state::load(records, realm))?)
    }

    /// Who is logged in, or was last.
    fn account(&self) -> Result<Account, CallError> {
        let (realm, _) = self.target()?;
        let username = self.state()?.username.unwrap_or_default();
        Ok(Account { realm, username })
    }

    fn is_carrier(&self) -> bool {
        self.is_carrier.load(Ordering::Relaxed)
    }
}
