//! The identity of an endpoint: its key, and its former keys, over which the current one is told
//! (HS-11).

use crate::crypto::{PublicKey, SecretKey};

/// The keys of one party.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The current key.
    pub current: SecretKey,
    /// The former keys. Links to these are still accepted, and told the current key.
    pub former: Vec<SecretKey>,
    /// A key that never changes. It makes the reset tokens (HS-8).
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
    /// Returns all keys, the current one first.
    pub(super) fn keys(&self) -> Vec<OwnKey> {
        let secrets = core::iter::once(&self.current).chain(&self.former);
        let keys = secrets.map(|secret| OwnKey {
            secret: secret.clone(),
            public: secret.public(),
        });
        keys.collect()
    }
}
