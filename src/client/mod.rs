//! The client library for applications. It sends commands to a realm and returns their answers.
//! Each command takes effect exactly once.
//!
//! A [`Profile`] is a directory with a device key and its records. A [`Client`] sends commands for
//! a profile. Several processes may use a profile at once, and a profile may be copied and
//! restored: each command still takes effect once (EXACT-8, EXACT-10).
//!
//! # The outbox
//!
//! Each command that changes something becomes an entry of the profile's outbox before its first
//! byte is sent. The entry remains until its outcome is certain (EXACT-7). The call that added it
//! waits for the answer until [`Options::deadline`], then returns [`CallError::Kept`]. The entry
//! remains, and any later client of the profile sends it again under the same number. So a call
//! that failed with `Kept` must not be repeated: [`Client::outbox_wait`] waits for its entry, and
//! [`Client::outbox_cancel`] cancels it. An entry is given up after 28 days, or when the message's
//! time to live is over.
//!
//! [`Sending`], given to [`Client::with`], changes this. Without `keep`, a command is given up at
//! its deadline. With a [`Token`], a repeated call is the same command, also from another process.
//!
//! Commands with a password are never written to disk. They are tried until the deadline. Then they
//! have certainly not taken effect ([`CallError::Unreachable`]), or their outcome is unknown
//! ([`CallError::OutcomeUnknown`]).
//!
//! Reads are not outbox entries and do not wait for any.
//!
//! # Errors
//!
//! Each call fails with a [`CallError`]. [`CallError::effect`] says what a program needs to know
//! first: whether the command has certainly not taken effect and may be repeated, is kept in the
//! outbox and must not be repeated, or may have taken effect and is not sent again.
//!
//! # The carrier
//!
//! The carrier is a task of the client that sends the outbox. It starts with the first call and
//! ends with the last clone of the client. Of all processes of a profile, one is the carrier at a
//! time. Before a program exits it calls [`Client::drain`], which gives older entries time to be
//! sent.
//!
//! # Notices
//!
//! [`Client::take_notices`] returns events other than answers. The most important is
//! [`Notice::Finished`]: the outcome of an entry for which no call waits any more. Each notice is
//! returned once across all processes of the profile.
//!
//! A message counts as read once the program has called [`Client::shown`] for it. A message that
//! was fetched but not shown is fetched again.
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
//!     // The connection string that `merpati serve` printed. The profile remembers it.
//!     server: Some("merpati://127.0.0.1:6377#qP5…".parse()?),
//!     ..Options::default()
//! };
//! let client = Client::open(profile, options)?;
//! client.register("Ann Example", "id", "ann".parse()?, b"correct horse").await?;
//! match client.send("bob".parse()?, b"hello").await {
//!     Ok(receipt) => println!("{}", receipt.name()),
//!     // The client sends it later: do not repeat the call.
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
//! The futures need a tokio runtime with timers and I/O enabled. One thread is enough.

mod account;
mod answer;
mod ask;
mod calls;
mod carrier;
mod commands;
mod connection;
mod cursors;
mod driver;
mod entries;
mod error;
mod files;
mod life;
mod link_record;
mod message;
mod meter;
mod outbox;
mod paths;
mod peerings;
mod profile;
mod profile_error;
mod progress;
mod reading;
mod realm_address;
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
    collections::BTreeSet,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::rngs::StdRng;
use tokio::{task::JoinHandle, time::Instant};

pub use ask::Status as LinkStatus;
pub use commands::Registration;
use connection::Connection;
pub use entries::{Awaited, OutboxEntry, OutboxState, Withdrawn};
pub use error::{CallError, Effect};
pub use message::{Message, Receipt};
pub use meter::{Meter, Spending, Spent, Traffic};
pub use outbox::{EntryId, InvalidToken, Token};
pub use profile::{Profile, default_home};
pub use profile_error::ProfileError;
pub use reading::{Delivery, DeliveryPage};
pub use realm_address::RealmAddress;
pub use state::State;
#[cfg(test)]
pub(crate) use store::Memory;
pub use unmanaged::{Direct, DirectOutcome};
pub use watching::{WatchEvent, Watching};

pub use crate::link::trace::TARGET as TRACE_TARGET;
pub use crate::link::{
    Counters, DATAGRAM_MIN, LinkParameters, LinkProfile, LinkStats, Losses, PathMemory, Redundancy,
    Silence,
};

use link_record::LinkRecord;
use progress::Progress;
use state::{Account, RealmNumber, Target};

use crate::{
    crypto::{ConnectionString, PublicKey},
    endpoint::LINK_LIFETIME,
    host::Host,
    wire::{Refusal, SessionId},
};

/// The default for how long a call keeps trying.
pub const DEADLINE_DEFAULT: Duration = Duration::from_mins(2);

/// Returns a random number generator seeded by the operating system.
///
/// # Errors
/// If the system provides no randomness.
pub fn system_rng() -> io::Result<StdRng> {
    Host::Real.rng()
}

/// The settings of a client. Fields are added in later versions: name the ones that matter, and
/// take the others from [`Options::default`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The realm. Without it, the realm that the profile remembers.
    pub server: Option<ConnectionString>,
    /// Remember the realm once it has answered: later commands go to it by default. If the profile
    /// remembers no realm yet, it remembers this one in any case.
    pub remember: bool,
    /// Trust on first use: accept the first key seen if the connection string names none.
    pub trust: bool,
    /// Use no encryption, for a realm with a plain listener. Anyone who can see or send packets on
    /// the path can then read and forge everything.
    pub plain: bool,
    /// How long a call keeps trying, 2 minutes by default. [`Sending::keep`] decides what happens
    /// to the command afterwards.
    pub deadline: Duration,
    /// A session to name in full, instead of the profile's own. Its user need not be the
    /// profile's.
    pub session: Option<SessionId>,
    /// Commands may be sent as early data, in the first packet. They are safe against replay, but
    /// have no forward secrecy. Passwords are never sent as early data.
    pub early_data: bool,
    /// The age at which a link in use is replaced by a new one with new keys, 24 hours by default.
    pub lifetime: Duration,
    /// The initial parameters of the link.
    pub link: LinkParameters,
    /// Counts the traffic.
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
            link: LinkParameters::default(),
            meter: Meter::default(),
        }
    }
}

/// An event that a user should see besides the answer. Returned by [`Client::take_notices`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The realm's key was trusted on first use.
    Trusted(PublicKey),
    /// The realm has a new key, and its previous key has vouched for it.
    KeyFollowed {
        /// The previous key.
        from: PublicKey,
        /// The new key.
        to: PublicKey,
    },
    /// An outbox entry finished after its call had stopped waiting. Reported once.
    Finished {
        /// The entry's id in the outbox.
        id: EntryId,
        /// A description of the command for people.
        what: String,
        /// Its outcome.
        end: End,
    },
    /// The realm asked the client to retry later. The call retries.
    AskedToWait(Refusal),
    /// A record of the profile cannot be read: it is damaged, or a newer version wrote it. It is
    /// passed over. Returned once by each process that meets it.
    Damaged {
        /// A description of the record for people.
        what: String,
    },
}

/// The outcome of a command. There are no others: a program decides about each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The command was executed.
    Done(crate::wire::Answer),
    /// The realm refused the command.
    Refused(Refusal),
    /// The command was cancelled. It has not taken effect.
    Cancelled,
    /// The command could not be delivered within its lifetime. It has not taken effect.
    Expired,
    /// The command cannot be read from the profile: it is damaged, or a newer version wrote it. It
    /// has not taken effect, and is not sent.
    Damaged,
    /// The command may have taken effect or not: the realm keeps no record of it any more. It is
    /// not sent again.
    Unknown,
}

/// How commands that change something are sent. Given to [`Client::with`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Keep a command in the outbox if it has no answer at its deadline, and send it again later.
    /// Otherwise it is given up: if it has been sent, it is cancelled once the realm is reachable
    /// (EXACT-11).
    pub keep: bool,
    /// Identifies the command: a call with the same token is the same command and returns its
    /// outcome. The same token with another command is [`CallError::TokenReused`]. Tokens are
    /// remembered for at least 30 days, up to 100,000 of them. A token is free again if its command
    /// was given up, or was refused because nobody was logged in. Commands with a password ignore
    /// it.
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

/// Sends commands for one profile. Clones share one link and one carrier. Calls may run
/// concurrently.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    carrier: Arc<Carrier>,
    sending: Sending,
}

/// The state that calls and the carrier share.
#[derive(Debug)]
struct Shared {
    host: Host,
    profile: Profile,
    options: Options,
    /// The realm that commands go to, and its connection string.
    target: Option<(RealmNumber, ConnectionString)>,
    connection: tokio::sync::Mutex<Option<Connection>>,
    link_record: LinkRecord,
    notices: Mutex<Vec<Notice>>,
    /// Records that cannot be read, as far as the user has been told of them.
    damage: Mutex<BTreeSet<String>>,
    /// True if this process is the carrier.
    is_carrier: AtomicBool,
    progress: Progress,
}

/// The task that sends the outbox. It ends with the last client that shares it.
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
    /// Opens a client for `profile`. Nothing is sent before the first call, which also sends the
    /// outbox.
    ///
    /// # Errors
    /// [`CallError::Profile`] if the profile cannot be used, or if [`Options::server`] has a host
    /// or port that no connection string can have.
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
                Ok(server.map(|server| Target {
                    realm,
                    server,
                    unreadable: Vec::new(),
                }))
            })?,
        };
        let shared = Shared {
            host,
            profile,
            options,
            target: target
                .as_ref()
                .map(|target| (target.realm, target.server.clone())),
            connection: tokio::sync::Mutex::new(None),
            link_record: LinkRecord::default(),
            notices: Mutex::new(Vec::new()),
            damage: Mutex::default(),
            is_carrier: AtomicBool::new(false),
            progress: Progress::default(),
        };
        for what in target.into_iter().flat_map(|target| target.unreadable) {
            shared.note_damage(what);
        }
        Ok(Self {
            shared: Arc::new(shared),
            carrier: Arc::default(),
            sending: Sending::default(),
        })
    }

    /// Returns the same client with other settings for sending.
    #[must_use]
    pub fn with(&self, sending: Sending) -> Self {
        Self {
            sending,
            ..self.clone()
        }
    }

    /// Returns the profile.
    pub fn profile(&self) -> &Profile {
        &self.shared.profile
    }

    /// Returns the stored state of the realm that this client's commands go to.
    ///
    /// # Errors
    /// [`CallError::NoServer`] if the client has no realm, and [`CallError::Profile`] if the
    /// profile cannot be read.
    pub fn state(&self) -> Result<State, CallError> {
        self.shared.state()
    }

    /// Returns the state of the link to the realm.
    pub async fn link_status(&self) -> LinkStatus {
        self.shared.link_status().await
    }

    /// Returns the statistics of the link to the realm and of its path. `None` if there is no link.
    pub async fn link_stats(&self) -> Option<LinkStats> {
        self.shared.link_stats().await
    }

    /// Returns the events besides answers since the last call. The outcome of an entry is returned
    /// once across all processes of the profile.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.try_take_notices().unwrap_or_else(|_| {
            // The next run reports the outcomes that cannot be read now.
            std::mem::take(&mut *lock(&self.shared.notices))
        })
    }

    /// Like [`Client::take_notices`], for callers that need the outcome of every entry.
    ///
    /// # Errors
    /// If the profile cannot be read or written. Nothing is taken then.
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

    /// Tells the user that a record cannot be read and is passed over. `what` describes the record.
    fn note_damage(&self, what: String) {
        if lock(&self.damage).insert(what.clone()) {
            self.note(Notice::Damaged { what });
        }
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

    /// Returns the account that is logged in, or was last.
    fn account(&self) -> Result<Account, CallError> {
        let (realm, _) = self.target()?;
        Ok(Account::new(realm, self.state()?.username))
    }

    fn is_carrier(&self) -> bool {
        self.is_carrier.load(Ordering::Relaxed)
    }
}
