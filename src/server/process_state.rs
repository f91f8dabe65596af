//! State that a process loads once, however often it reopens its store: keys, codes, sockets and
//! the running time. Changes to the files take effect at the next start of the process, and no
//! other process gets its addresses.

use std::{
    fmt,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    Clock, Config, RotatedKey, ServerError, config::RegistrationConfig, keys, sockets::Sockets,
};
use crate::{
    crypto::SecretKey, endpoint::Identity, host::Host, realm::Registration, wire::RealmId,
};

/// The identity of a realm: its name, its keys and its codes. They belong to one store for good.
/// With the same keys over an empty store, recorded commands would take effect again (EXACT-14).
#[non_exhaustive]
pub struct Secrets {
    /// The name by which others know the realm.
    pub id: RealmId,
    /// The realm's keys.
    pub identity: Identity,
    /// The code that makes a session an operator's.
    pub operator_code: String,
    /// Who may register, and the code for that if there is one.
    pub registration: Registration,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Reads the secrets from the data directory of the configuration, which exists, or creates
    /// them at the first start.
    ///
    /// # Errors
    /// Fails if a file cannot be used, or if the system provides no randomness.
    pub fn load(config: &Config) -> Result<Self, ServerError> {
        let data = &config.store.path;
        let rng = &mut Host::Real.rng()?;
        let identity = keys::load(data, rng)?;
        Ok(Self {
            id: match config.realm.id {
                Some(id) => id,
                None => keys::own_id(data, &identity)?,
            },
            identity,
            operator_code: keys::operator_code(data, rng)?,
            registration: match config.realm.registration {
                RegistrationConfig::Open => Registration::Open,
                RegistrationConfig::Closed => Registration::Closed,
                RegistrationConfig::Code => Registration::Code(keys::registration_code(data, rng)?),
            },
        })
    }

    /// Gives the realm in the directory `data` a new key, which takes effect at the next start. The
    /// old key vouches for it.
    ///
    /// # Errors
    /// Fails if there is no key yet, if there are too many former keys, or if a file cannot be
    /// used.
    pub fn rotate_key(data: &Path) -> Result<RotatedKey, ServerError> {
        keys::rotate(data, &mut Host::Real.rng()?)
    }

    /// Draws the secrets of a new realm, and writes them nowhere.
    ///
    /// # Errors
    /// Fails if the system provides no randomness.
    pub fn generate(config: &Config) -> Result<Self, ServerError> {
        let rng = &mut Host::Real.rng()?;
        let current = SecretKey::generate(rng);
        let default_id = || keys::default_id(&current.public());
        Ok(Self {
            id: config.realm.id.unwrap_or_else(default_id),
            identity: Identity {
                current,
                former: Vec::new(),
                lasting: SecretKey::generate(rng),
            },
            operator_code: keys::new_operator_code(rng),
            registration: match config.realm.registration {
                RegistrationConfig::Open => Registration::Open,
                RegistrationConfig::Closed => Registration::Closed,
                RegistrationConfig::Code => Registration::Code(keys::new_registration_code(rng)),
            },
        })
    }
}

/// State that outlives a failed store.
#[derive(Debug)]
pub struct ProcessState {
    pub secrets: Secrets,
    pub sockets: Vec<Sockets>,
    /// The total running time of the realm when its last clock ended, in seconds. 0 before that.
    ran: AtomicU32,
}

impl ProcessState {
    pub const fn new(secrets: Secrets, sockets: Vec<Sockets>) -> Self {
        Self {
            secrets,
            sockets,
            ran: AtomicU32::new(0),
        }
    }

    /// Returns the total running time of the realm when its last clock ended, in seconds, even if
    /// the store did not record that.
    pub fn ran(&self) -> u32 {
        self.ran.load(Ordering::Acquire)
    }

    /// Returns a guard that records the time of `clock` when dropped, however the server ends.
    pub const fn keep_time(&self, clock: Clock) -> impl Drop + '_ {
        KeptTime { state: self, clock }
    }
}

struct KeptTime<'a> {
    state: &'a ProcessState,
    clock: Clock,
}

impl Drop for KeptTime<'_> {
    fn drop(&mut self) {
        let running = self.clock.now().running;
        self.state.ran.fetch_max(running, Ordering::AcqRel);
    }
}
