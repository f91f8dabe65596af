//! State that a process loads once, however often it reopens its store: keys, codes, sockets and
//! the running time. Changes to the files take effect at the next start of the process, and no
//! other process gets its addresses.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use rand::CryptoRng;

use super::{Clock, Config, ServerError, config::RegistrationConfig, keys, sockets::Sockets};
use crate::{endpoint::Identity, realm::Registration};

/// The secrets of a realm.
pub struct Secrets {
    pub identity: Identity,
    pub operator_code: String,
    pub registration: Registration,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Reads the secrets, or creates them at the first start.
    pub fn load(config: &Config, rng: &mut impl CryptoRng) -> Result<Self, ServerError> {
        let data = &config.store.path;
        Ok(Self {
            identity: keys::load(data, rng)?,
            operator_code: keys::operator_code(data, rng)?,
            registration: match config.realm.registration {
                RegistrationConfig::Open => Registration::Open,
                RegistrationConfig::Closed => Registration::Closed,
                RegistrationConfig::Code => Registration::Code(keys::registration_code(data, rng)?),
            },
        })
    }
}

/// State that outlives a failed store.
#[derive(Debug)]
pub struct Kept {
    pub secrets: Secrets,
    pub sockets: Vec<Sockets>,
    /// The total running time of the realm when its last clock ended, in seconds. 0 before that.
    ran: AtomicU32,
}

impl Kept {
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
        KeptTime { kept: self, clock }
    }
}

struct KeptTime<'a> {
    kept: &'a Kept,
    clock: Clock,
}

impl Drop for KeptTime<'_> {
    fn drop(&mut self) {
        let running = self.clock.now().running;
        self.kept.ran.fetch_max(running, Ordering::AcqRel);
    }
}
