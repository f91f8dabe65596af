//! The library for applications: ask a realm, and get every answer once, whatever the link does.
//!
//! A [`Profile`] is one account on one realm and is kept in a directory; a [`Client`] speaks for it.
//! Commands that change something are numbered and written down before they leave, so one that is cut
//! off, by a lost answer or by a crash, is finished by the next call and never done twice.
//!
//! ```no_run
//! use merpati::client::{Client, Options, Profile, default_home};
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
//! client.send("bob".parse()?, b"hello").await?;
//! for entry in client.unread(Mailbox::Private).await? {
//!     println!("{}: {}", entry.from, String::from_utf8_lossy(&entry.body));
//!     client.shown(&Mailbox::Private, &entry)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The futures need a tokio runtime with its timers and I/O enabled; one thread is enough.

mod ask;
mod calls;
mod connection;
mod direct;
mod driver;
mod error;
mod finishing;
mod message;
mod meter;
mod profile;
mod route;
mod watchdog;
mod watching;
mod who;

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::rngs::StdRng;
use tokio::time::Instant;

pub use ask::Status as LinkStatus;
use connection::Connection;
pub use direct::{Direct, Outcome};
pub use error::{CallError, ProfileError};
pub use message::Message;
pub use meter::{Meter, Spending, Spent, Traffic};
#[cfg(test)]
pub(crate) use profile::Memory;
pub use profile::{Profile, Shown, State, Unfinished, default_home};
pub use watching::{WatchEvent, Watching};

pub use crate::link::{DATAGRAM_MIN, Kind, Redundancy, Silence, Traits};

use crate::{
    crypto::{ConnectionString, PublicKey},
    endpoint::LINK_LIFETIME,
    host::Host,
    wire::{Answer, Refusal, SessionId},
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
    /// The realm; without it the one that the profile knows.
    pub server: Option<ConnectionString>,
    /// Accept the key of whoever answers first, where the connection string names none.
    pub trust: bool,
    /// Do without encryption, for a realm that listens so. Whoever can see or send packets on the way
    /// can then read and forge everything.
    pub plain: bool,
    /// How long a call goes on trying.
    pub deadline: Duration,
    /// A session to be named in full, instead of the profile's own.
    pub session: Option<SessionId>,
    /// Commands may leave in the first packet. They are safe against being repeated, but have no
    /// forward secrecy; passwords never leave there.
    pub early_data: bool,
    /// A link in use is replaced by a fresh one, with fresh keys, after so long.
    pub lifetime: Duration,
    /// What the link begins with.
    pub traits: Traits,
    /// Counts what is spent.
    pub meter: Meter,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server: None,
            trust: false,
            plain: false,
            deadline: DEADLINE_DEFAULT,
            session: None,
            early_data: true,
            lifetime: LINK_LIFETIME,
            traits: Traits::default(),
            meter: Meter::default(),
        }
    }
}

/// Something a person should hear of, beside the answer to what was asked.
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
    /// A command that an earlier run began is finished.
    Finished {
        /// The command's name.
        command: &'static str,
        /// What the realm answered.
        answer: Answer,
    },
    /// The realm asks to come again later, and the call does.
    AskedToWait(Refusal),
    /// A command that an earlier run began can be finished only with its password: run it again.
    NeedsPassword {
        /// The command's name.
        command: &'static str,
    },
}

/// Speaks for one profile. Calls may be made at the same time.
#[derive(Debug)]
pub struct Client {
    host: Host,
    profile: Profile,
    options: Options,
    connection: tokio::sync::Mutex<Option<Connection>>,
    /// Held by the call that finishes what was begun; others wait, so that nothing overtakes it.
    finishing: tokio::sync::Mutex<()>,
    /// Commands begun and not finished, which nobody is working on.
    orphans: Mutex<Vec<Orphan>>,
    notices: Mutex<Vec<Notice>>,
}

/// A command begun and not finished.
#[derive(Clone, Debug)]
struct Orphan {
    begun: Unfinished,
    /// It was said that its password is needed; once is enough.
    noted: bool,
}

impl From<Unfinished> for Orphan {
    fn from(begun: Unfinished) -> Self {
        Self {
            begun,
            noted: false,
        }
    }
}

impl Client {
    /// A client for `profile`. Nothing is sent before the first call.
    pub fn open(profile: Profile, options: Options) -> Result<Self, CallError> {
        Self::open_on(Host::Real, profile, options)
    }

    pub(crate) fn open_on(
        host: Host,
        mut profile: Profile,
        options: Options,
    ) -> Result<Self, CallError> {
        if let Some(server) = &options.server {
            profile.update(|state| state.move_to(server, options.plain))?;
        }
        let orphans = profile.take_orphans().into_iter().map(Orphan::from);
        Ok(Self {
            host,
            profile,
            options,
            connection: tokio::sync::Mutex::new(None),
            finishing: tokio::sync::Mutex::new(()),
            orphans: Mutex::new(orphans.collect()),
            notices: Mutex::new(Vec::new()),
        })
    }

    /// The profile.
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What happened beside the answers, since this was last asked.
    pub fn take_notices(&self) -> Vec<Notice> {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut notices)
    }

    fn note(&self, notice: Notice) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.push(notice);
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.deadline
    }
}
