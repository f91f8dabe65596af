//! Who an endpoint is: its key, and the keys it had before, which vouch for it (HS-11).

use crate::crypto::{PublicKey, SecretKey};

/// The keys of one party.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What it is known by.
    pub current: SecretKey,
    /// What it was known by: links to these are still accepted, and told the current one.
    pub former: Vec<SecretKey>,
    /// What stays the same whatever it is known by; makes reset tokens (HS-8).
    pub lasting: SecretKey,
}

impl From<SecretKey> for Identity {
    fn from(key: SecretKey) -> Self {
        Self {
            lasting: key.clone(),
            current: key,
            former: Vec::new(),
        }
    }
}

/// One of the keys of an [`Identity`].
#[derive(Clone, Debug)]
pub(super) struct OwnKey {
    pub secret: SecretKey,
    pub public: PublicKey,
}

impl Identity {
    /// All keys, the current one first.
    pub(super) fn keys(&self) -> Vec<OwnKey> {
        let secrets = core::iter::once(&self.current).chain(&self.former);
        let keys = secrets.map(|secret| OwnKey {
            secret: secret.clone(),
            public: secret.public(),
        });
        keys.collect()
    }
}
